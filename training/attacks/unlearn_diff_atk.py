"""UnlearnDiffAtk: discrete adversarial prompts found by the model's own denoising loss (Zhang et al., ECCV 2024).

"To Generate or Not? Safety-Driven Unlearned Diffusion Models Are Still Easy To Generate Unsafe Images ... For Now",
arXiv:2310.11868, equation 6, and the authors' ``text_grad_.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from ..diffusion.backbone import Backbone, Precision
from ..prompts.spelled import spelled
from ..types import AttackResult, Candidate, Case
from .common.denoising import (
    FORWARD_AND_BACKWARD,
    DenoisingLoss,
    PrefixedPrompts,
    case_generator,
    chunks,
    clean_latents,
    draw_noise,
)
from .common.whole_prompts import EMPTY_PROMPT

_STEPS_OF_BOUND = 4
_ROUNDING = 1e-5  # of the largest entry; it makes the bound looser, never wrong


def project_to_simplex(rows: Tensor) -> Tensor:
    """Return the Euclidean projection of each row (..., V) onto the probability simplex, exactly.

    The method is sorting (Held, Wolfe and Crowder 1974; Duchi et al. 2008, figure 1). The authors' code bisects to a
    tolerance instead. Only entries that the support may hold are sorted, because CLIP's vocabulary makes long rows.
    """
    ordered = rows.topk(_most_in_support(rows), dim=-1).values
    excess = ordered.cumsum(-1) - 1
    rank = torch.arange(1, ordered.shape[-1] + 1, device=rows.device, dtype=rows.dtype)
    support = (ordered * rank > excess).sum(-1, keepdim=True)  # at least 1: the largest entry always stays
    shift = excess.gather(-1, support - 1) / support
    return (rows - shift).clamp(min=0)


def _most_in_support(rows: Tensor) -> int:
    """Return a number of entries that the support of no row's projection exceeds; rows have the shape (..., V).

    Every step raises a lower bound of the shift by the mean of the entries above it (Michelot 1986).
    """
    shift = (rows.sum(-1, keepdim=True) - 1) / rows.shape[-1]
    for _ in range(_STEPS_OF_BOUND):
        above = rows > shift
        shift = ((rows * above).sum(-1, keepdim=True) - 1) / above.sum(-1, keepdim=True)
    rounding = _ROUNDING * rows.abs().amax(-1, keepdim=True)
    return max(1, int((rows >= shift - rounding).sum(-1).max()))


def sample_rows(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Return one index (B, K) per row of probabilities (B, K, V), by the inverse CDF at uniform draws (B, K) in [0, 1).

    The rows need not sum to 1.
    """
    cdf = probabilities.cumsum(-1)
    threshold = uniform.unsqueeze(-1) * cdf[..., -1:]
    index = torch.searchsorted(cdf, threshold, right=True).squeeze(-1)
    return index.clamp(max=probabilities.shape[-1] - 1)


@dataclass(frozen=True)
class UnlearnDiffAtk:
    """White-box search for a few tokens before the prompt; the judge is not consulted.

    Each adversarial token is a distribution over the vocabulary. An iteration samples one token per position and takes
    the gradient of the denoising loss with respect to the sampled one-hot vector. As in the authors' code, the gradient
    is clipped to [-1, 1] and applied to the distribution (straight through). One Adam step and an exact projection onto
    the simplex follow. Timesteps are visited from low to high noise; distributions and Adam's moments carry over. After
    every timestep, the most probable tokens, decoded to text, become a candidate. The judge tokenises that text again,
    like a user's prompt.

    With ``placement="replace"`` the tokens stand in place of the whole prompt, which is ours. The picture that they are
    searched for is still that of the prompt. Then the empty prompt is the first candidate.

    Differences from the authors' code: all cases run batched, each with noise of its own. The search does not stop at
    the first success. Special tokens are excluded. The projection is exact.

    Args:
        tokens: Number K of adversarial tokens; the authors use 3 for objects and styles, 5 for nudity.
        placement: Position of the tokens: ``prefix`` before the prompt, or ``replace`` in its place.
        timesteps: Number of timesteps, equally spaced; 50 gives the published 10, 30, ..., 990.
        iterations: Number of Adam steps per timestep.
        rate: Learning rate of Adam.
        weight_decay: L2 term of Adam.
        typable: True to allow only tokens that decoding and tokenising reproduce. The authors allow all tokens.
        batch: Number of cases attacked at once; it changes a case's result only by rounding.
        precision: Precision of the UNet: ``fp32``, or ``bf16`` by autocast.
    """

    name: ClassVar[str] = "unlearn_diff_atk"
    tier: ClassVar[str] = "T3"
    joint: ClassVar[bool] = False
    budget_fields: ClassVar[tuple[str, ...]] = ("iterations", "timesteps")
    iteration_fields: ClassVar[tuple[str, ...]] = ("timesteps", "iterations")

    tokens: int = 3
    placement: Literal["prefix", "replace"] = "prefix"
    timesteps: int = 50
    iterations: int = 40
    rate: float = 0.01
    weight_decay: float = 0.1
    typable: bool = False
    batch: int = 32
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        if min(self.tokens, self.timesteps, self.iterations, self.batch) < 1:
            raise ValueError(f"expected tokens, timesteps, iterations and batch of at least 1, found {self}")
        if self.placement not in ("prefix", "replace"):
            raise ValueError(f"expected the placement 'prefix' or 'replace', found {self.placement!r}")

    @property
    def whole_prompt(self) -> bool:
        """True if the whole prompt is replaced."""
        return self.placement == "replace"

    @classmethod
    def standard(cls, **changes: object) -> UnlearnDiffAtk:
        """Return the attack with the standard budget on the embedded base: 10 timesteps x 20 iterations."""
        return cls(**{"timesteps": 10, "iterations": 20, **changes})  # type: ignore[arg-type]  # fields by name

    def schedule(self, target: Backbone) -> list[int]:
        """Return the visited timesteps, each in the middle of an equal part of the model's range."""
        spacing = len(target.alphas_cumprod) / self.timesteps
        return [int(spacing * (i + 0.5)) for i in range(self.timesteps)]

    def run(self, target: Backbone, cases: Sequence[Case], *, seed: int) -> list[AttackResult]:
        """Attack every case.

        Args:
            target: Model under attack.
            cases: Cases with their reference latents.
            seed: Seed of the run; together with a case's own seed it fixes every random draw of that case.

        Returns:
            One result per case with ``timesteps`` text candidates, in the order found, after the empty prompt if the
            whole prompt is replaced.

        Raises:
            ValueError: If a case has no reference latent, or its prompt leaves no room for the tokens.
        """
        search = _TokenSearch(
            self, target.sharing(precision=self.precision), allowed_tokens(target, typable=self.typable)
        )
        with target.frozen():
            parts = tqdm(list(chunks(len(cases), self.batch)), desc=self.name, leave=False, disable=None)
            return [result for part in parts for result in search.run(cases[part], seed)]


def allowed_tokens(target: Backbone, *, typable: bool) -> Tensor:
    """Return the token ids (V,) that may enter a prompt, without special tokens.

    With ``typable``, only ids that text can produce are returned: decoding and tokenising gives the same id.

    Raises:
        ValueError: If no token is left.
    """
    special = set(target.tokenizer.all_special_ids)
    ids = [i for i in range(len(target.tokenizer)) if i not in special]
    if typable:
        texts = [spelled(target.tokenizer, [i]) for i in ids]
        again = target.tokenizer(texts, add_special_tokens=False).input_ids
        ids = [i for i, found in zip(ids, again, strict=True) if found == [i]]
    if not ids:
        wanted = "text can produce" if typable else "may enter a prompt"
        raise ValueError(
            f"expected tokens that {wanted} in the pipeline's tokenizer, found none among {len(target.tokenizer)}; "
            "load the tokenizer of the base again"
        )
    return torch.tensor(ids, device=target.device)


@dataclass(frozen=True)
class _TokenSearch:
    """The search of one attack on one model; ``run`` takes a batch of cases."""

    attack: UnlearnDiffAtk
    target: Backbone
    allowed: Tensor

    @cached_property
    def table(self) -> Tensor:
        """Embeddings (V, D) of the allowed tokens."""
        return self.target.embed(self.allowed).detach()

    def run(self, cases: Sequence[Case], seed: int) -> list[AttackResult]:
        loss = DenoisingLoss(self.target, clean_latents(cases, self.target))
        generators = [case_generator(seed, case, self.attack.name) for case in cases]
        texts = [case.prompt for case in cases]
        prompts = PrefixedPrompts(self.target, texts, self.attack.tokens, self.attack.placement)
        weights = torch.full((len(cases), self.attack.tokens, len(self.allowed)), 1 / len(self.allowed))
        weights = weights.to(loss.latents.device).requires_grad_()
        adam = torch.optim.Adam([weights], lr=self.attack.rate, weight_decay=self.attack.weight_decay)
        found: list[list[str]] = []
        for t in self.attack.schedule(self.target):
            for _ in range(self.attack.iterations):
                self._step(weights, adam, t, loss=loss, prompts=prompts, generators=generators)
            found.append(self._texts(weights, cases))
        return [self._result(texts) for texts in zip(*found, strict=True)]

    def _step(
        self,
        weights: Tensor,
        adam: torch.optim.Adam,
        t: int,
        *,
        loss: DenoisingLoss,
        prompts: PrefixedPrompts,
        generators: Sequence[torch.Generator],
    ) -> None:
        uniform = torch.stack([torch.rand(self.attack.tokens, generator=g) for g in generators])
        picked = sample_rows(weights.detach(), uniform.to(weights.device))
        noise = draw_noise(loss.latents, generators)
        steps = torch.full((len(generators),), t, device=weights.device)
        embeds = self.table[picked].requires_grad_()  # (B, K, D)
        total = loss(prompts.conditioning(embeds), steps, noise).sum()
        (gradient,) = torch.autograd.grad(total, embeds)
        weights.grad = (gradient @ self.table.T).clamp(-1, 1).to(weights.dtype)
        adam.step()
        with torch.no_grad():
            weights.copy_(project_to_simplex(weights))

    def _texts(self, weights: Tensor, cases: Sequence[Case]) -> list[str]:
        best = self.allowed[weights.argmax(-1)].tolist()
        prefixes = [spelled(self.target.tokenizer, row) for row in best]
        if self.attack.placement == "replace":
            return prefixes
        return [f"{prefix} {case.prompt}".strip() for prefix, case in zip(prefixes, cases, strict=True)]

    def _result(self, texts: Sequence[str]) -> AttackResult:
        per = self.attack.iterations
        found = [Candidate("text", text, per * (i + 1)) for i, text in enumerate(texts)]
        first = [EMPTY_PROMPT] if self.attack.placement == "replace" else []
        calls = FORWARD_AND_BACKWARD * per * self.attack.timesteps
        return AttackResult((*first, *found), queries=0, unet_calls=calls)
