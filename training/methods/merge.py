"""One encoder of several that erased one concept each: task arithmetic and TIES, baselines of joint training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from robust_encoders.artifact.fingerprint import compare, sketch
from robust_encoders.clip.state_dict import nested_state
from robust_encoders.concepts import Concept
from robust_encoders.loaded import LoadedArtifact
from robust_encoders.pipeline.textual_inversion import first_rows

from ..artifact import to_encoder
from ..types import Edit

Rule = Literal["task_arithmetic", "ties"]


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Adds up what several encoders changed of one base.

    Args:
        rule: ``task_arithmetic`` (Ilharco et al., ICLR 2023, arXiv 2212.04089, Eq. 1): the base plus the sum of all
            changes. ``ties`` (Yadav et al., NeurIPS 2023, arXiv 2306.01708, Algorithm 1): of each change the largest
            values alone, of these, value by value, those of the sign that has more mass, and their mean.
        scale: Factor of the joint change (lambda in both papers).
        density: Share of values that ``ties`` keeps of each change, over all its tensors.

    Raises:
        ValueError: If the rule is unknown, or the density is not in (0, 1].
    """

    name: ClassVar[str] = "merge"
    rule: Rule = "task_arithmetic"
    scale: float = 1.0
    density: float = 0.2

    def __post_init__(self) -> None:
        if self.rule not in ("task_arithmetic", "ties"):
            raise ValueError(f"expected rule 'task_arithmetic' or 'ties', found {self.rule!r}")
        if not 0 < self.density <= 1:
            raise ValueError(f"expected a density in (0, 1], found {self.density}: the share of values that is kept")

    def joined(self, base: Mapping[str, Tensor], others: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Return the tensors of the joint encoder.

        Args:
            base: Names to tensors that all of them started from.
            others: The same names to what each of them became.
        """
        changes = [{name: other[name].float() - tensor.float() for name, tensor in base.items()} for other in others]
        if self.rule == "ties":
            changes = [_trimmed(change, self.density) for change in changes]
        joint = {name: self._one([change[name] for change in changes]) for name in base}
        return {name: (tensor.float() + self.scale * joint[name]).to(tensor.dtype) for name, tensor in base.items()}

    def _one(self, changes: Sequence[Tensor]) -> Tensor:
        stacked = torch.stack(list(changes))  # (N, ...)
        if self.rule == "task_arithmetic":
            return stacked.sum(dim=0)
        elected = stacked.sum(dim=0).sign()
        agreeing = stacked * (stacked.sign() == elected)
        return agreeing.sum(dim=0) / (agreeing != 0).sum(dim=0).clamp(min=1)


def _trimmed(change: Mapping[str, Tensor], density: float) -> dict[str, Tensor]:
    """Return a change with all but its largest values set to zero."""
    sizes = torch.cat([tensor.abs().flatten() for tensor in change.values()])
    kept = max(1, round(density * len(sizes)))
    least = sizes.kthvalue(len(sizes) - kept + 1).values
    return {name: torch.where(tensor.abs() >= least, tensor, 0.0) for name, tensor in change.items()}


def merge(encoders: Sequence[LoadedArtifact], pipe: Any, method: Merge | None = None) -> LoadedArtifact:
    """Return one encoder of several, in memory.

    Args:
        encoders: Whole text encoders, at least two, all made from the text encoder of ``pipe``.
        pipe: Their base, nothing attached to it.
        method: How; by default task arithmetic.

    Raises:
        ValueError: Naming every encoder that is of another form or base, or if there are fewer than two.
    """
    method = method or Merge()
    base = nested_state(pipe.text_encoder)
    _require_same_base(encoders, pipe, base)
    # Two seeds of one concept are a merge of that concept.
    erased: dict[str, Concept] = {}
    for one in (encoder.manifest.concept for encoder in encoders):
        for part in one.parts or (one,):
            erased.setdefault(part.name, part)
    concept = Concept.joint(list(erased.values()))
    tensors = method.joined(base, [encoder.tensors for encoder in encoders])
    parts = [
        {"concept": encoder.manifest.concept.name, "content_sha256": encoder.content_sha256} for encoder in encoders
    ]
    first = encoders[0].manifest
    return to_encoder(
        Edit("weights", "text_encoder", tensors, pipe.text_encoder.config.to_dict()),
        concept=concept,
        method=method,
        pipe=pipe,
        recipe={"name": "merge", "encoders": parts},
        family=first.base.family,
        ids=first.base.ids,
        revision=first.base.revision,
        license=first.license if len({encoder.manifest.license for encoder in encoders}) == 1 else "",
    )


def _require_same_base(encoders: Sequence[LoadedArtifact], pipe: Any, base: Mapping[str, Tensor]) -> None:
    if len(encoders) < 2:
        raise ValueError(f"expected at least two encoders to merge, found {len(encoders)}")
    found = sketch(first_rows(base, pipe.text_encoder.config.vocab_size))
    problems = []
    for encoder in encoders:
        made_from = encoder.manifest.base.text_encoder
        if encoder.manifest.form != "weights":
            problems.append(
                f"{encoder.label}: form {encoder.manifest.form!r}; adapters and projections are attached together"
            )
        elif made_from is None or compare(found, made_from).kind == "differs":
            problems.append(f"{encoder.label}: made from another text encoder, or from one that it does not record")
        elif encoder.tensors.keys() != base.keys():
            problems.append(f"{encoder.label}: other tensors")
    if problems:
        raise ValueError("expected whole text encoders of this base, found " + "; ".join(problems))
