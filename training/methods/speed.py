"""SPEED: a closed form in the null space of preserved prompts, for the value matrices or as one matrix."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Generator, Tensor

from robust_encoders.overlays.projection import key_value_layers, multiplied

from ..types import Component
from .closed_form import Moments, free_below, invariant_edit, most_changed
from .closed_method import ClosedForm, ErasureInputs, Problem, Solution
from .token_vectors import Tokens
from .uce import UCE

if TYPE_CHECKING:
    from typing import Self

_CENTRES = 3  # of the empty prompt's tokens behind the first; the authors' number
_ROUNDS = 100  # of k-means, which stops as soon as no token changes its centre


@dataclass(frozen=True, kw_only=True)
class PriorConfig:
    """What SPEED does to the preserved token vectors of each value matrix; defaults are its authors'.

    Args:
        filter: Switch that keeps only vectors which an unconstrained edit would change more than on average.
        copies: Number of noisy copies of each kept vector. The noise lies along the direction that the matrix passes
            on least, its last right singular vector. With ``filter``, copies are filtered, too.

    Raises:
        ValueError: If the number of copies is negative.
    """

    filter: bool = True
    copies: int = 10

    def __post_init__(self) -> None:
        if self.copies < 0:
            raise ValueError(f"expected at least 0 copies, found {self.copies}")


@dataclass(frozen=True, kw_only=True)
class SPEED(ClosedForm):
    """SPEED (Li et al., ICLR 2026, arXiv 2503.07392): an edit in the null space of what is preserved.

    The edit of a matrix moves the concept's token vectors to those of its anchor. It lies in the directions in which
    preserved vectors have little energy, and leaves the empty prompt as it is; see ``closed_form.invariant_edit``. T
    and the cross sums are means over the edited prompts.

    ``component="unet"`` is the published method: it edits the value matrices alone (V), each with its own filtered
    preserved vectors, as a delta of the UNet. ``component="text_encoder"`` is this package's variant. Without filter
    and copies all matrices have the same preserved vectors, so the edit of keys and values (K and V) equals one matrix
    on the text encoder's output, which changes the keys as well.

    The code here was written from the equations. The centres of the empty prompt are found by k-means from evenly
    spaced tokens, not from random ones.

    Args:
        component: Component to edit: ``unet``, as published, or ``text_encoder``, see above.
        texts: Texts to edit. ``words`` edits the concept's name and synonyms, ``prompts`` its captions, if it has any.
            Without an anchor, a style is mapped to ``art`` and any other concept to the empty prompt.
        tokens: Positions whose token vectors are edited: ``last`` for the concept's last token, ``after_start`` for all
            but the begin token, as the authors do for nudity, or ``from_last``, see ``UCE``.
        preserve: Preserved prompts. Without any, all positions of the empty prompt but the first are preserved.
        kept_tokens: Positions of preserved prompts: their ``last`` tokens, as published, or ``all``.
        threshold: Bound of the eigenvalues of the mean of ``q q^T`` over preserved vectors q. Directions below it are
            free.
        retain_scale: Weight of the size of the edit, above 0.
        lamb: Slack of the empty prompt; 0 keeps it exactly.
        prior: Filter and copies of the preserved vectors, with component ``unet``.
        batch: Number of prompts encoded at once. It changes results by rounding only.

    Raises:
        ValueError: If a number is outside its range, or a setting has no effect.
    """

    name: ClassVar[str] = "speed"
    component: Literal["unet", "text_encoder"] = "unet"
    texts: Literal["words", "prompts"] = "words"
    tokens: Literal["last", "from_last", "after_start"] = "last"
    preserve: tuple[str, ...] = ()
    kept_tokens: Literal["last", "all"] = "last"
    threshold: float = 0.1
    retain_scale: float = 1.0
    lamb: float = 0.0
    prior: PriorConfig = field(default_factory=PriorConfig)
    batch: int = 64

    def __post_init__(self) -> None:
        infinite = float("inf")
        if not (0 < self.threshold < infinite and 0 < self.retain_scale < infinite and 0 <= self.lamb < infinite):
            raise ValueError(
                "expected finite threshold > 0, retain_scale > 0 and lamb >= 0, found "
                f"{self.threshold}, {self.retain_scale} and {self.lamb}"
            )
        if self.batch < 1:
            raise ValueError(f"expected a batch of at least 1 prompt, found {self.batch}")
        if self.component == "text_encoder" and self.prior != PriorConfig():
            raise ValueError(
                "expected no prior settings beside component 'text_encoder', found some: filter and copies belong to "
                "single matrices, so leave them out or choose component 'unet'"
            )

    def for_component(self, component: Component) -> Self:
        """Return a copy that edits another component; one that SPEED does not know leaves it as it is."""
        if component == "unet":
            return replace(self, component="unet")
        return replace(self, component="text_encoder", prior=PriorConfig()) if component == "text_encoder" else self

    def by_captions(self) -> Self:
        """Return the method with the concept's captions as its texts, and with all tokens of preserved prompts.

        These are the settings of its recipes on the embedded base. The tokens after the concept's word are edited, too.
        """
        return replace(self, texts="prompts", tokens="from_last", kept_tokens="all")

    def problem(self, inputs: ErasureInputs) -> Problem:
        """Read the moved and the kept token vectors, and those of the empty prompt."""
        targets = UCE(texts=self.texts, batch=self.batch).targets(inputs.concept)
        vectors = inputs.vectors(self.batch, inputs.concept.words())
        moved = vectors.moved(targets, self.tokens).scaled(1 / len(targets))
        kept_tokens: Tokens = self.kept_tokens if self.preserve else "after_start"
        kept = vectors.read(self.preserve or ("",), kept_tokens)  # (N, D)
        invariants = unchanged_rows(vectors.read(("",), "all"))

        def solve() -> Solution:
            if self.component == "text_encoder":
                return Solution(self.matrix(moved, kept, invariants))
            edited = {}
            for name, layer in key_value_layers(inputs.backbone.unet).items():
                if name.endswith("to_v"):
                    weight = layer.weight.detach().to("cpu", torch.float64)
                    own = self.preserved(kept, moved, weight, generator=inputs.generator)
                    edited[f"{name}.weight"] = multiplied(layer.weight, self.matrix(moved, own, invariants))
            return Solution(edited)

        return Problem(moved, Moments.of(kept), solve)

    def matrix(self, moved: Moments, kept: Tensor, invariants: Tensor) -> Tensor:
        """Return the matrix M (D, D) of the edit W M.

        Args:
            moved: Moments of the token vectors to move, divided by the number of prompts.
            kept: Preserved token vectors (N, D).
            invariants: Token vectors (4, D) of the empty prompt, see ``unchanged_rows``.

        Raises:
            ValueError: If the preserved vectors leave no direction free.
        """
        free = free_below(kept.T @ kept / len(kept), self.threshold)
        return invariant_edit(moved, free, invariants, retain_scale=self.retain_scale, lamb=self.lamb)

    def preserved(self, kept: Tensor, moved: Moments, weight: Tensor, *, generator: Generator) -> Tensor:
        """Return the preserved token vectors (N', D) of one value matrix: filtered, with their copies.

        Args:
            kept: Preserved token vectors (N, D).
            moved: Moments of the token vectors to move, divided by the number of prompts.
            weight: Value matrix W (out, D), float64.
            generator: Generator of the noise.
        """
        chosen = most_changed(kept, moved, weight) if self.prior.filter else kept
        if not self.prior.copies:
            return chosen
        direction = torch.linalg.svd(weight, full_matrices=False).Vh[-1]  # (D,)
        copies = chosen.repeat(self.prior.copies, 1)
        noise = torch.randn(len(copies), 1, generator=generator, device=generator.device).to(copies)
        copies = copies + noise * direction
        return torch.cat([chosen, most_changed(copies, moved, weight) if self.prior.filter else copies])


def unchanged_rows(empty: Tensor) -> Tensor:
    """Return the vectors (4, D) that SPEED keeps exactly: the empty prompt's begin token and three centres of the rest.

    Args:
        empty: Token vectors (L, D) of the empty prompt, at least four.
    """
    rest = empty[1:]
    centres = rest[torch.linspace(0, len(rest) - 1, _CENTRES).round().long()]
    nearest = torch.cdist(rest, centres).argmin(dim=1)
    for _ in range(_ROUNDS):
        centres = torch.stack(
            [rest[nearest == i].mean(0) if bool((nearest == i).any()) else one for i, one in enumerate(centres)]
        )
        found = torch.cdist(rest, centres).argmin(dim=1)
        if torch.equal(found, nearest):
            break
        nearest = found
    return torch.cat([empty[:1], centres])
