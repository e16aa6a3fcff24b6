"""DoCo's losses of one iteration: the discriminator's step, the erasing loss and the preserving loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Generator, Tensor

from ..diffusion.backbone import Backbone
from ..losses import squared_error
from ..prompts.anchor_pairs import AnchorPair, anchor_pairs
from ..trainer.surgery import LossPair
from ..trajectories.clean import Picture, clean_latents
from ..trajectories.config import BankConfig
from ..workspace import Workspace
from .patch_discriminator import Adversary

if TYPE_CHECKING:
    from robust_encoders.concepts import Concept


class DoCoConfig(Protocol):
    """The settings of ``DoCo`` that the losses read; ``DoCo`` documents them."""

    @property
    def anchors(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def retain(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def pictures(self) -> int: ...  # noqa: D102
    @property
    def batch(self) -> int: ...  # noqa: D102
    @property
    def warmup(self) -> int: ...  # noqa: D102
    @property
    def discriminator_rate(self) -> float: ...  # noqa: D102
    @property
    def surgery(self) -> float: ...  # noqa: D102
    @property
    def prior_weight(self) -> float: ...  # noqa: D102
    @property
    def preserves(self) -> bool: ...  # noqa: D102
    @property
    def bank(self) -> BankConfig: ...  # noqa: D102


@dataclass(frozen=True)
class CleanPictures:
    """Clean latents of pictures by the frozen model, and the prompts that they were drawn for.

    Args:
        latents: Clean latents (N, C, h, w), on the CPU.
        pairs: The N prompts, each with the prompts that state the concept in its place.
    """

    latents: Tensor
    pairs: tuple[AnchorPair, ...]

    @classmethod
    def draw(
        cls, teacher: Backbone, pairs: Sequence[AnchorPair], n: int, bank: BankConfig, workspace: Workspace
    ) -> CleanPictures:
        """Draw n pictures of the anchor prompts, which take turns."""
        listed = [pairs[i % len(pairs)] for i in range(n)]
        pictures = [Picture(pair.anchor, i // len(pairs)) for i, pair in enumerate(listed)]
        latents = clean_latents(teacher, pictures, bank, cache_dir=workspace.cache_dir, progress=workspace.progress)
        return cls(latents, tuple(listed))

    def together(self, others: CleanPictures) -> CleanPictures:
        """Return the pictures of both."""
        return CleanPictures(torch.cat([self.latents, others.latents]), self.pairs + others.pairs)


class NoisedBatch(NamedTuple):
    """A batch of noised pictures.

    Args:
        latents: Noised latents (B, C, h, w).
        t: Timesteps (B,).
        target: Training target (B, C, h, w) of the UNet: the noise, or the velocity.
        pairs: Prompts of the B pictures.
    """

    latents: Tensor
    t: Tensor
    target: Tensor
    pairs: list[AnchorPair]


def predicted_clean(backbone: Backbone, latents: Tensor, t: Tensor, prediction: Tensor) -> Tensor:
    """Return the clean latents (B, C, h, w) that a prediction implies.

    DoCo's X is ``(x_t - sqrt(1 - a) e) / sqrt(a)`` for predicted noise e. For predicted velocity v it is ``sqrt(a) x_t
    - sqrt(1 - a) v``. The cumulative product of the noise schedule at t is a.

    Args:
        backbone: Base, whose noise schedule and kind of prediction are used.
        latents: Noised latents x_t (B, C, h, w).
        t: Timesteps (B,).
        prediction: Prediction (B, C, h, w) of the UNet there.
    """
    level = backbone.alphas_cumprod.to(latents.device)[t].view(-1, 1, 1, 1).to(latents.dtype)
    signal, sigma = level.sqrt(), (1 - level).sqrt()
    if backbone.prediction_type == "epsilon":
        return (latents - sigma * prediction) / signal
    return signal * latents - sigma * prediction


class DoCoLosses:
    """The two losses that the training minimises for DoCo, and the discriminator that it trains on the way.

    Args:
        method: Settings of the method.
        teacher: Frozen base, whose ``unet_calls`` counts the UNet calls of the training.
        student: Base with the component in training.
        anchored: Pictures of the anchor prompts.
        prior: Pictures of the preserving loss.
        adversary: Discriminator in training.
    """

    def __init__(
        self,
        method: DoCoConfig,
        *,
        teacher: Backbone,
        student: Backbone,
        anchored: CleanPictures,
        prior: CleanPictures,
        adversary: Adversary,
    ) -> None:
        self.method, self.teacher, self.student = method, teacher, student
        self.anchored, self.prior, self.adversary = anchored, prior, adversary

    @classmethod
    def prepare(
        cls,
        method: DoCoConfig,
        concept: Concept,
        models: tuple[Backbone, Backbone],
        *,
        generator: Generator,
        workspace: Workspace,
    ) -> DoCoLosses:
        """Make the prompts, draw the pictures, and start a discriminator.

        Args:
            method: Settings of the method.
            concept: Concept to erase.
            models: Frozen base, and base with the component in training.
            generator: Generator of the discriminator's first weights.
            workspace: Folder of the cache of pictures, and the progress switch.

        Raises:
            ValueError: If there are no anchor prompts and none can be made.
        """
        teacher, student = models
        pairs = anchor_pairs(concept, method.anchors)[: method.bank.limit]
        anchored = CleanPictures.draw(teacher, pairs, method.pictures, method.bank, workspace)
        prior = anchored
        if method.retain:
            kept = [AnchorPair(prompt, ()) for prompt in method.retain[: method.bank.limit]]
            prior = anchored.together(CleanPictures.draw(teacher, kept, method.pictures, method.bank, workspace))
        shape = (int(anchored.latents.shape[1]), int(anchored.latents.shape[2]), int(anchored.latents.shape[3]))
        adversary = Adversary(shape, method.discriminator_rate, generator=generator, device=teacher.device)
        return cls(method, teacher=teacher, student=student, anchored=anchored, prior=prior, adversary=adversary)

    def __call__(self, iteration: int, generator: Generator) -> tuple[Tensor, dict[str, float]]:
        """Return the erasing loss () and the weighted preserving loss together, and the parts by name."""
        pair = self.pair(iteration, generator)
        return pair.erase + pair.share * pair.preserve, pair.parts

    def pair(self, iteration: int, generator: Generator) -> LossPair:
        """Train the discriminator for one step, and return both losses; during the warm-up these have no gradient."""
        erases, zero = iteration >= self.method.warmup, torch.zeros((), device=self.teacher.device)
        batch = self._noised(self.anchored, generator)
        prior = self._noised(self.prior, generator)
        targets = [pair.targets[self._pick(len(pair.targets), generator)] for pair in batch.pairs]
        with torch.no_grad():
            frozen = self._clean(self.teacher, batch, [pair.anchor for pair in batch.pairs])
        with torch.set_grad_enabled(erases):
            student = self._clean(self.student, batch, targets)
        parts = {"discriminator": self.adversary.step(frozen, student)}
        self.teacher.unet_calls += (2 if erases else 1) * len(batch.t)
        rule = {"strength": self.method.surgery, "share": self.method.prior_weight}
        if not erases:
            return LossPair(zero, zero, parts, **rule)
        erase, preserve = self.adversary.fooled(student), zero
        parts["erase"] = float(erase.detach())
        if self.method.preserves:
            preserve = self._prior(prior)
            parts["prior"] = float(preserve.detach())
        return LossPair(erase, preserve, parts, **rule)

    def state(self) -> dict[str, Tensor]:
        """Return the discriminator, the moments of its optimizer, and the number of UNet calls."""
        calls = torch.tensor(self.teacher.unet_calls, device=self.teacher.device)
        return {**self.adversary.state(), "unet_calls": calls}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore the tensors of ``state``."""
        self.adversary.load_state(state)
        self.teacher.unet_calls = int(state["unet_calls"])

    def _noised(self, pictures: CleanPictures, generator: Generator) -> NoisedBatch:
        """Draw pictures, timesteps (uniformly) and noise."""
        n, steps = self.method.batch, len(self.teacher.alphas_cumprod)
        index = torch.randint(len(pictures.pairs), (n,), generator=generator)
        t = torch.randint(steps, (n,), generator=generator)
        clean = pictures.latents[index]
        noise = torch.randn(clean.shape, generator=generator)
        clean, noise, t = (one.to(self.teacher.device) for one in (clean, noise, t))
        latents, target = self.teacher.add_noise(clean, noise, t), self.teacher.target(clean, noise, t)
        return NoisedBatch(latents, t, target, [pictures.pairs[i] for i in index.tolist()])

    def _clean(self, model: Backbone, batch: NoisedBatch, prompts: Sequence[str]) -> Tensor:
        prediction = model.predict(batch.latents, batch.t, model.condition(prompts)).float()
        return predicted_clean(model, batch.latents, batch.t, prediction)

    def _prior(self, batch: NoisedBatch) -> Tensor:
        self.teacher.unet_calls += 2 * len(batch.t)  # one forward and one backward pass
        cond = self.student.condition([pair.anchor for pair in batch.pairs])
        return squared_error(self.student.predict(batch.latents, batch.t, cond), batch.target).mean()

    def _pick(self, n: int, generator: Generator) -> int:
        return int(torch.randint(n, (), generator=generator))
