"""Merging of several encoders, each with one erased concept, into one: task arithmetic and TIES.

Both are baselines for training on all concepts jointly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from robust_encoders.artifact.fingerprint import Sketch, compare, sketch
from robust_encoders.clip.state_dict import nested_state
from robust_encoders.concepts import Concept
from robust_encoders.loaded import LoadedArtifact
from robust_encoders.pipeline.textual_inversion import first_rows
from robust_encoders.utils.encoder_names import refuse_names

from ..artifact import to_encoder
from ..types import Edit

Rule = Literal["task_arithmetic", "ties"]


@dataclass(frozen=True, kw_only=True)
class Merge:
    """A rule that joins the changes which several encoders made to one base.

    Args:
        rule: Rule of the merge. ``task_arithmetic`` (Ilharco et al., ICLR 2023, arXiv 2212.04089, Eq. 1) adds the sum
            of all changes to the base. ``ties`` (Yadav et al., NeurIPS 2023, arXiv 2306.01708, Algorithm 1) keeps only
            the largest values of each change. For each parameter it then takes the sign of the sum of the changes, and
            the mean of the changes that have this sign.
        scale: Factor of the joint change (lambda in both papers).
        density: Share, in (0, 1], of the values of each change that ``ties`` keeps, over all its tensors.

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
            raise ValueError(f"expected a density in (0, 1], found {self.density}: give the share of values to keep")

    def joined(self, base: Mapping[str, Tensor], others: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Return the tensors of the joint encoder.

        Args:
            base: Tensors of the common base, by name.
            others: Tensors of each encoder to merge, by the same names.
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
    """Merge several encoders into one, in memory.

    Args:
        encoders: Whole text encoders, at least two, all made from the text encoder of ``pipe``.
        pipe: Pipeline of their base, with nothing attached to it.
        method: Rule of the merge; None is task arithmetic.

    Raises:
        ValueError: If there are fewer than two encoders, or if one is of another form or base. The message names every
            such encoder.
        EncoderNameError: If a name was passed, not a loaded encoder.
    """
    refuse_names(*([encoders] if isinstance(encoders, str) else encoders))
    method = method or Merge()
    base = nested_state(pipe.text_encoder)
    _require_same_base(encoders, pipe, base)
    # Encoders of the same concept count as one part, for example if they differ only in their seed.
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


def merge_problems(encoders: Sequence[LoadedArtifact]) -> list[str]:
    """Return why encoders cannot be merged, as far as their manifests tell it without the base.

    Args:
        encoders: Encoders to merge.
    """
    if len(encoders) < 2:
        return [_too_few(encoders)]
    known = [one for one in encoders if one.manifest.base.text_encoder is not None]
    found = [text for one in encoders if (text := _form_problem(one))]
    found += [
        f"{one.label} ({one.manifest.base.family}): made from another text encoder than {known[0].label} "
        f"({known[0].manifest.base.family})"
        for one in known[1:]
        if _differ(known[0].manifest.base.text_encoder, one.manifest.base.text_encoder)
    ]
    return [f"expected whole text encoders of one base, found {'; '.join(found)}"] if found else []


def _require_same_base(encoders: Sequence[LoadedArtifact], pipe: Any, base: Mapping[str, Tensor]) -> None:
    if len(encoders) < 2:
        raise ValueError(_too_few(encoders))
    found = sketch(first_rows(base, pipe.text_encoder.config.vocab_size))
    problems = []
    for encoder in encoders:
        if text := _form_problem(encoder):
            problems.append(text)
        elif _differ(found, encoder.manifest.base.text_encoder):
            problems.append(f"{encoder.label}: made from another text encoder, or from one that its manifest omits")
        elif encoder.tensors.keys() != base.keys():
            problems.append(f"{encoder.label}: other tensor names")
    if problems:
        raise ValueError("expected whole text encoders of this base, found " + "; ".join(problems))


def _too_few(encoders: Sequence[LoadedArtifact]) -> str:
    return f"expected at least two encoders to merge, found {len(encoders)}"


def _form_problem(encoder: LoadedArtifact) -> str:
    """Return why an artifact's form cannot be merged; empty for a whole text encoder."""
    form = encoder.manifest.form
    if form == "weights":
        return ""
    return f"{encoder.label}: form {form!r}; attach adapters and projections together instead"


def _differ(one: Sketch | None, other: Sketch | None) -> bool:
    return one is None or other is None or compare(one, other).kind == "differs"
