"""SPM: one-dimensional adapters that erase a concept, on the UNet, on the text encoder, or on both."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Generator, Tensor, nn

from robust_encoders.artifact.adapter_file import require_storable
from robust_encoders.overlays.adapters import ALPHA, DOWN, LAYERS, TEXT_PREFIX, UNET_PREFIX, UP, Adapter, Gates, hook

from ..diffusion.backbone import Backbone
from ..diffusion.memory import activation_checkpointing
from ..distributed import Shard
from ..objectives.spm import SPMObjective, Where
from ..trainer.loop import TrainingConfig, finetune
from ..trainer.run_record import run_identity, run_record
from ..trajectories.config import BankConfig
from ..types import Edit
from ..workspace import Workspace

if TYPE_CHECKING:
    from typing import Self

    from robust_encoders.concepts import Concept


@dataclass(frozen=True, kw_only=True)
class SPMTrainingConfig(TrainingConfig):
    """The gradient loop's settings; the release's by default, with Adam in place of its 8-bit AdamW.

    Args:
        iterations: Optimizer steps.
        rate: Adam's largest learning rate.
        schedule: ``cosine`` falls from it to zero ``cycles`` times.
        warmup: Iterations in which the rate rises to it first.
        cycles: Of the cosine.
    """

    iterations: int = 3000
    rate: float = 1e-4
    schedule: Literal["constant", "cosine"] = "cosine"
    warmup: int = 500
    cycles: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.warmup < self.iterations or self.cycles < 1:
            raise ValueError(f"expected 0 <= warmup < iterations and cycles >= 1, found {self}")

    def rate_at(self, iteration: int) -> float:
        """Return the learning rate of one iteration."""
        if iteration < self.warmup:
            return self.rate * iteration / self.warmup
        if self.schedule == "constant":
            return self.rate
        done = (iteration - self.warmup) / (self.iterations - self.warmup)
        return self.rate * 0.5 * (1 + math.cos(math.pi * (self.cycles * done % 1)))


@dataclass(frozen=True, kw_only=True)
class SPM:
    """One-dimensional adapters with latent anchoring (Lyu et al., CVPR 2024, arXiv 2312.16145). Defaults: its release.

    Erasing (Eq. 5): with the adapters the UNet shall predict on a prompt with the concept what the frozen one predicts
    on its anchor, led away from the concept by eta. Anchoring (Eq. 6): on other conditionings it predicts as before.
    Random ones of the concept's norm stand for them; the release computes four and uses two of them, here all are used.
    They never pass through a text encoder, so adapters there are anchored by prompts, which are ours to choose.

    Args:
        where: On the UNet, as published: every linear layer and convolution of its spatial transformers. On the text
            encoder: attention and MLP projections, a variant of ours.
        rank: Of each adapter.
        alpha: Each is scaled by alpha / rank.
        batch: Prompts with the concept per iteration.
        eta: Negative guidance away from the concept.
        anchors: Random conditionings per iteration, where the UNet is trained.
        retain: Prompts that shall stay as they are; needed where the text encoder is trained.
        retain_batch: Of them per iteration.
        anchor_weight: Of the anchoring terms (the paper's lambda).
        rollout: ``student`` draws every latent anew by DDIM with the adapters on, as published. ``bank`` takes it from
            trajectories of the frozen model, a departure that saves nine tenths of the work.
        train: Iterations, rates, precision.
        bank: DDIM steps and guidance of the latents, and trajectories of the bank.

    Raises:
        ValueError: A count below 1, or no retain prompts for a text encoder.
    """

    name: ClassVar[str] = "spm"
    uses_workspace: ClassVar[bool] = True
    where: Where = "unet"
    rank: int = 1
    alpha: float = 1.0
    batch: int = 1
    eta: float = 1.0
    anchors: int = 4
    retain: tuple[str, ...] = ()
    retain_batch: int = 4
    anchor_weight: float = 1000.0
    rollout: Literal["student", "bank"] = "student"
    train: SPMTrainingConfig = field(default_factory=SPMTrainingConfig)
    bank: BankConfig = field(default_factory=lambda: BankConfig(steps=30))

    def __post_init__(self) -> None:
        if min(self.rank, self.batch, self.anchors, self.retain_batch) < 1:
            raise ValueError(f"expected rank, batch, anchors and retain_batch of at least 1, found {self}")

    @classmethod
    def standard(cls, retained: tuple[str, ...]) -> Self:
        """Return the release's settings with these retain prompts."""
        return cls(retain=retained)

    @property
    def retained(self) -> tuple[str, ...]:
        """The prompts that stay as they are."""
        return self.retain

    @property
    def wants_retained(self) -> bool:
        """Whether it cannot do without retain prompts."""
        return self.where != "unet"

    def retaining(self, prompts: tuple[str, ...]) -> Self:
        """Return the same with other retain prompts."""
        return replace(self, retain=prompts)

    def for_processes(self, n: int) -> Self:
        """Return the same with n times the batches, for n processes to share."""
        return replace(self, batch=n * self.batch, anchors=n * self.anchors, retain_batch=n * self.retain_batch)

    @property
    def prefixes(self) -> tuple[str, ...]:
        """The components that get adapters, by the prefixes of their keys."""
        both = {"unet": (UNET_PREFIX,), "text_encoder": (TEXT_PREFIX,), "both": (UNET_PREFIX, TEXT_PREFIX)}
        return both[self.where]

    def erase(
        self, backbone: Backbone, concept: Concept, *, generator: Generator, workspace: Workspace | None = None
    ) -> Edit:
        """Train adapters; ``backbone`` is left as it was.

        Args:
            backbone: The base.
            concept: Its prompts (its words, where it has none) are erased towards the anchored ones; its words are what
                gates compare prompts with.
            generator: All randomness but the bank's.
            workspace: Checkpoints, bank cache and progress.

        Raises:
            ValueError: No retain prompts for a text encoder, a prompt that names the concept by none of its words, or a
                word with a comma in it.
            RuntimeError: The loss is not finite, or the checkpoint belongs to another run.
        """
        if self.wants_retained and not self.retain:
            raise ValueError("expected retain prompts, found none: adapters on a text encoder are anchored by prompts")
        require_storable(concept.words())
        started, workspace = time.monotonic(), workspace or Workspace()
        teacher = backbone.sharing(precision=self.train.precision)
        identity = run_identity(self, teacher, concept, generator)
        tensors = self._fresh(teacher, generator)
        trained = {name: one for name, one in tensors.items() if isinstance(one, nn.Parameter)}
        adapter = Adapter(tensors, concept.words(), self.rank, self.alpha)
        twice = (teacher.unet, teacher.text_encoder) if workspace.gradient_checkpointing else ()
        with teacher.frozen(), activation_checkpointing(*twice), _hooked(teacher, adapter) as gates:
            objective = SPMObjective(self, teacher, concept, gates, workspace)
            bank_calls, teacher.unet_calls = teacher.unet_calls, 0
            log = finetune(trained, objective, self.train, generator=generator, workspace=workspace, identity=identity)
        calls = Shard.current().total(torch.tensor([teacher.unet_calls, bank_calls], device=teacher.device)).tolist()
        record = run_record(log, *calls, seconds=time.monotonic() - started, precision=teacher.computes_in)
        finished = {name: one.detach().cpu().contiguous() for name, one in tensors.items()}
        config = {"prompts": list(adapter.prompts), "rank": self.rank, "alpha": self.alpha}
        return Edit("adapter", "text_encoder" if self.where == "text_encoder" else "unet", finished, config, record)

    def _fresh(self, backbone: Backbone, generator: Generator) -> dict[str, Tensor]:
        """Return adapters that change nothing yet: down vectors at random (Kaiming, a = sqrt 5), up vectors zero."""
        tensors: dict[str, Tensor] = {}
        for prefix in self.prefixes:
            root = _component(backbone, prefix)
            for stem, path in LAYERS[prefix](root).items():
                weight: Any = root.get_submodule(path).weight
                out, width, *tail = weight.shape
                down = torch.empty(self.rank, width, *tail).uniform_(-(width**-0.5), width**-0.5, generator=generator)
                tensors[prefix + stem + DOWN] = nn.Parameter(down.to(weight.device))
                tensors[prefix + stem + UP] = nn.Parameter(torch.zeros(out, self.rank, *tail, device=weight.device))
                tensors[prefix + stem + ALPHA] = torch.tensor(self.alpha)
        return tensors


def _component(backbone: Backbone, prefix: str) -> nn.Module:
    found: nn.Module = backbone.unet if prefix == UNET_PREFIX else backbone.text_encoder
    return found


@contextmanager
def _hooked(backbone: Backbone, adapter: Adapter) -> Iterator[Mapping[str, Gates]]:
    """Hook an adapter into the components of a backbone, open, for the time of the context; yield the gates."""
    gates = {prefix: Gates(everywhere=True) for prefix in (UNET_PREFIX, TEXT_PREFIX)}
    with ExitStack() as stack:
        for prefix, one in gates.items():
            one.value = torch.ones(1, 1, device=backbone.device)
            for handle in hook(_component(backbone, prefix), [adapter], prefix, one):
                stack.callback(handle.remove)
        yield gates
