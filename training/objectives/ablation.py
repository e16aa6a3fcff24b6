"""The loss of Ablating Concepts: prompts with the concept shall give the noise prediction of the anchor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import torch
from torch import Generator, Tensor, nn

from robust_encoders.overlays.projection import key_value_layers

from ..diffusion.backbone import Backbone
from ..losses import squared_error
from ..prompts.anchor_pairs import AnchorPair, PairRule, anchor_pairs
from ..trajectories.clean import Picture, clean_latents
from ..trajectories.config import BankConfig
from ..workspace import Workspace

if TYPE_CHECKING:
    from robust_encoders.concepts import Concept

TargetSource = Literal["current", "frozen", "noise"]


class AblationConfig(Protocol):
    """The settings of ``Ablation`` that the objective reads; ``Ablation`` documents them."""

    @property
    def parameters(self) -> str: ...  # noqa: D102
    @property
    def target(self) -> TargetSource: ...  # noqa: D102
    @property
    def anchor_prompts(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def pairs(self) -> PairRule: ...  # noqa: D102
    @property
    def pictures(self) -> int: ...  # noqa: D102
    @property
    def avoid(self) -> bool: ...  # noqa: D102
    @property
    def batch(self) -> int: ...  # noqa: D102
    @property
    def prior_weight(self) -> float: ...  # noqa: D102
    @property
    def retain(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def retain_batch(self) -> int: ...  # noqa: D102
    @property
    def retain_weight(self) -> float: ...  # noqa: D102
    @property
    def bank(self) -> BankConfig: ...  # noqa: D102


@contextmanager
def first_token_detached(unet: nn.Module) -> Iterator[None]:
    """Stop gradients through keys and values of the first (BOS) token in every cross-attention, inside the context.

    The predictions stay as they are. The key and value of the first token pass no gradient on, neither to the
    conditioning nor to the weights of K and V (Kumari et al. 2023, the authors' code). Every prompt has the same first
    token, so a change through it would change every prompt.

    Raises:
        ValueError: If the UNet's K and V layers cannot be identified.
    """

    def detach(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return torch.cat([output[:, :1].detach(), output[:, 1:]], dim=1)  # (B, L, width of the layer)

    with ExitStack() as stack:
        for layer in key_value_layers(unet).values():
            stack.callback(layer.register_forward_hook(detach).remove)
        yield


class NoisedPictures(NamedTuple):
    """Clean latents x0, and the noisy latents x_t made of them by ``Backbone.add_noise``.

    Args:
        clean: Clean latents (B, C, h, w).
        noise: Noise (B, C, h, w).
        t: Timesteps (B,).
        noisy: Noisy latents (B, C, h, w).
    """

    clean: Tensor
    noise: Tensor
    t: Tensor
    noisy: Tensor


class Term(NamedTuple):
    """One part of the loss.

    Args:
        name: Name of its curve in the log.
        weight: Factor of its mean squared error.
        at: Noised pictures of its B rows.
        texts: Prompts of the student, one for each row.
        target: Predictions (B, C, h, w) that the student shall make.
    """

    name: str
    weight: float
    at: NoisedPictures
    texts: Sequence[str]
    target: Tensor


@dataclass(frozen=True)
class AblationObjective:
    """The loss that ``finetune`` minimises for Ablating Concepts.

    With x_t a noised picture of the anchor's prompt c, and c* the same prompt with the concept:

        || e'(x_t, c*, t) - target ||^2 + prior_weight || eps - e'(x'_t, c, t) ||^2
            + retain_weight || e'(y_t, r, t) - e(y_t, r, t) ||^2

    The target is sg[e'(x_t, c, t)] by the model in training (``current``), e(x_t, c, t) by the frozen model
    (``frozen``), or the training target of the UNet, eps (``noise``). Pictures x' are drawn anew for the prior. The
    last term is an addition of this package: y_t is a noised picture of a retain prompt r. Each error is a mean over
    all latent values.

    Args:
        method: Settings of the method.
        teacher: Frozen base.
        student: Base with the component in training.
        pairs: P pairs of prompts.
        pictures: Clean latents (N, C, h, w) of the anchors' prompts, on the CPU; picture j is of the pair j mod P.
        kept: Clean latents (M, C, h, w) of the first M retain prompts, on the CPU; None without retain prompts.
    """

    method: AblationConfig
    teacher: Backbone
    student: Backbone
    pairs: tuple[AnchorPair, ...]
    pictures: Tensor
    kept: Tensor | None = None

    @classmethod
    def of(
        cls, method: AblationConfig, teacher: Backbone, student: Backbone, *, concept: Concept, workspace: Workspace
    ) -> AblationObjective:
        """Make the prompts, and draw the frozen model's pictures of the anchors and of the retain prompts.

        Raises:
            ValueError: If no pairs can be made, see ``anchor_pairs``.
        """
        pairs = anchor_pairs(concept, method.anchor_prompts, method.pairs)[: method.bank.limit]
        negative = ", ".join(concept.words()) if method.avoid else ""

        def drawn(listed: Sequence[Picture], negative: str = "") -> Tensor:
            return clean_latents(
                teacher, listed, method.bank,
                negative=negative, cache_dir=workspace.cache_dir, progress=workspace.progress,
            )  # fmt: skip

        pictures = drawn(pictures_of([pair.anchor for pair in pairs], method.pictures), negative)
        # Token embeddings in training leave out all tokens of the retain prompts, so a term on these would be zero.
        retained = () if method.parameters == "embedding" else method.retain[: method.bank.limit]
        kept = drawn([Picture(text, 0) for text in retained]) if retained else None
        return cls(method, teacher, student, pairs, pictures, kept)

    def __call__(self, iteration: int, generator: Generator) -> tuple[Tensor, dict[str, float]]:
        """Return the loss () of one iteration, and its parts by name."""
        terms = [self._erase(generator)]
        if self.method.prior_weight:
            terms.append(self._prior(generator))
        if self.kept is not None:
            terms.append(self._retain(self.kept, generator))
        cond = self.student.condition([text for term in terms for text in term.texts])
        noisy, t = (torch.cat(parts) for parts in ([term.at.noisy for term in terms], [term.at.t for term in terms]))
        predicted = self.student.predict(noisy, t, cond)
        self.teacher.unet_calls += len(noisy)  # the backward pass
        errors = squared_error(predicted, torch.cat([term.target for term in terms]))
        means = [part.mean() for part in torch.split(errors, [len(term.texts) for term in terms])]
        total = torch.stack([term.weight * mean for term, mean in zip(terms, means, strict=True)]).sum()
        return total, {term.name: float(mean.detach()) for term, mean in zip(terms, means, strict=True)}

    @property
    def unet_calls(self) -> int:
        """Number of UNet calls so far, by frozen model and student together."""
        return self.teacher.unet_calls + self.student.unet_calls

    def state(self) -> dict[str, Tensor]:
        """Return the number of UNet calls, the only state between iterations."""
        return {"unet_calls": torch.tensor(self.unet_calls)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore the number of UNet calls."""
        self.teacher.unet_calls, self.student.unet_calls = int(state["unet_calls"]), 0

    def _erase(self, generator: Generator) -> Term:
        index, at = self._noised(self.pictures, self.method.batch, generator)
        chosen = [self.pairs[i % len(self.pairs)] for i in index]
        turns = torch.rand(len(chosen), generator=generator).tolist()
        texts = [pair.targets[int(turn * len(pair.targets))] for pair, turn in zip(chosen, turns, strict=True)]
        return Term("erase", 1.0, at, texts, self._target(at, [pair.anchor for pair in chosen]))

    def _target(self, at: NoisedPictures, anchors: Sequence[str]) -> Tensor:
        if self.method.target == "noise":
            return self.teacher.target(at.clean, at.noise, at.t)
        return _prediction(self.student if self.method.target == "current" else self.teacher, at, anchors)

    def _prior(self, generator: Generator) -> Term:
        index, at = self._noised(self.pictures, self.method.batch, generator)
        texts = [self.pairs[i % len(self.pairs)].anchor for i in index]
        return Term("prior", self.method.prior_weight, at, texts, self.teacher.target(at.clean, at.noise, at.t))

    def _retain(self, kept: Tensor, generator: Generator) -> Term:
        index, at = self._noised(kept, self.method.retain_batch, generator)
        texts = [self.method.retain[i] for i in index]
        return Term("retain", self.method.retain_weight, at, texts, _prediction(self.teacher, at, texts))

    def _noised(self, latents: Tensor, n: int, generator: Generator) -> tuple[list[int], NoisedPictures]:
        """Draw n pictures with noise and timesteps, and return their indices and the noised pictures."""
        index = torch.randint(len(latents), (n,), generator=generator)
        t = torch.randint(len(self.teacher.alphas_cumprod), (n,), generator=generator).to(self.teacher.device)
        noise = torch.randn(n, *latents.shape[1:], generator=generator).to(self.teacher.device)
        clean = latents[index].to(self.teacher.device)
        return index.tolist(), NoisedPictures(clean, noise, t, self.teacher.add_noise(clean, noise, t))


def pictures_of(prompts: Sequence[str], n: int) -> list[Picture]:
    """Return n pictures; prompts take turns, and each picture of a repeated prompt has its own seed."""
    seen: dict[str, int] = {}
    listed = []
    for j in range(n):
        prompt = prompts[j % len(prompts)]
        listed.append(Picture(prompt, seen.get(prompt, 0)))
        seen[prompt] = seen.get(prompt, 0) + 1
    return listed


@torch.no_grad()
def _prediction(model: Backbone, at: NoisedPictures, texts: Sequence[str]) -> Tensor:
    return model.predict(at.noisy, at.t, model.condition(texts))
