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
from ..trainer.storage import Stored, StoredTrajectories
from ..trajectories.config import BankConfig
from ..types import Component, Edit
from ..workspace import Workspace
from .retaining import RetainsField

if TYPE_CHECKING:
    from typing import Self

    from robust_encoders.concepts import Concept


@dataclass(frozen=True, kw_only=True)
class SPMTrainingConfig(TrainingConfig):
    """Settings of the gradient loop. Defaults are those of SPM's release, with Adam in place of its 8-bit AdamW.

    Args:
        iterations: Number of optimizer steps.
        rate: Largest learning rate of Adam.
        schedule: Learning rate after the warm-up. ``constant`` stays at ``rate``. ``cosine`` falls from ``rate`` to
            zero, ``cycles`` times.
        warmup: Number of warm-up iterations. In these the learning rate rises from 0 to ``rate``.
        cycles: Number of falls to zero of the cosine schedule.
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
class SPM(RetainsField):
    """SPM: one-dimensional adapters with latent anchoring (Lyu et al., CVPR 2024, arXiv 2312.16145).

    The loss has two parts. Erasing (Eq. 5): for a prompt with the concept, the UNet with adapters shall make the
    frozen UNet's prediction for the anchored prompt, moved away from the concept by ``eta``. Anchoring (Eq. 6): for
    other conditionings, the UNet with adapters shall predict the same as before.

    Random conditionings with the concept's norm stand for the other ones. The release computes four and uses two of
    them; here all are used. Random conditionings do not pass through the text encoder. Adapters on the text encoder are
    therefore anchored by retain prompts. The default settings are those of SPM's release.

    Args:
        where: Model that gets adapters. ``unet``, as published: every linear layer and convolution of its spatial
            transformers. ``text_encoder``, a departure: its attention and MLP projections. ``both`` adapts both models.
        rank: Rank of each adapter; 1 makes it one-dimensional, as published.
        alpha: Numerator of each adapter's scale, which is alpha / rank.
        batch: Number of prompts with the concept per iteration.
        eta: Strength of negative guidance. The target is the frozen UNet's prediction for the anchored prompt, moved
            away from the concept by ``eta`` times the difference between the two predictions. With 0 it is not moved.
        anchors: Number of random conditionings per iteration. They are used if the UNet has adapters.
        retain: Retain prompts, which keep their meaning. They are required if the text encoder has adapters.
        retain_batch: Number of retain prompts per iteration.
        anchor_weight: Weight of the anchoring part (the paper's lambda).
        rollout: Source of the latents. ``student`` draws each by a new DDIM run with the adapters on, as published.
            ``bank`` takes them from stored trajectories of the frozen model, a departure that saves nine tenths of the
            work.
        train: Iterations, learning rates and precision.
        bank: DDIM steps and guidance of the latents, and settings of the stored trajectories.

    Raises:
        ValueError: If a count is below 1.
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

    @property
    def component(self) -> Component:
        """Component that gets adapters; the UNet if both do."""
        return "text_encoder" if self.where == "text_encoder" else "unet"

    @property
    def wants_retained(self) -> bool:
        """True if the text encoder gets adapters, because these need retain prompts."""
        return self.where != "unet"

    def for_processes(self, n: int) -> Self:
        """Return a copy with n times the batch sizes, for n processes to share."""
        return replace(self, batch=n * self.batch, anchors=n * self.anchors, retain_batch=n * self.retain_batch)

    @property
    def prefixes(self) -> tuple[str, ...]:
        """Key prefixes of the components that get adapters."""
        both = {"unet": (UNET_PREFIX,), "text_encoder": (TEXT_PREFIX,), "both": (UNET_PREFIX, TEXT_PREFIX)}
        return both[self.where]

    def stored(self, concept: Concept) -> Stored:
        """Return what a run writes to disk."""
        texts = StoredTrajectories(self.bank.for_concept(), len(concept.prompts or concept.words()), 4)
        return Stored((texts,) if self.rollout == "bank" else ())

    def erase(
        self, backbone: Backbone, concept: Concept, *, generator: Generator, workspace: Workspace | None = None
    ) -> Edit:
        """Train adapters and return them as an edit; ``backbone`` stays unchanged.

        Args:
            backbone: Base to erase the concept from.
            concept: Concept to erase. Its prompts, or its words if it has no prompts, are erased towards the anchored
                prompts. The adapters' gates compare later prompts with its words.
            generator: Generator of all random draws except the bank's.
            workspace: Folders of checkpoints and bank cache, and the progress switch.

        Raises:
            ValueError: If the text encoder gets adapters and there are no retain prompts, if a prompt has no word of
                the concept, or if a word has a comma.
            RuntimeError: If the loss is not finite, or the checkpoint belongs to another run.
        """
        if self.wants_retained and not self.retain:
            raise ValueError(
                "expected retain prompts, found none: give some, because they anchor adapters on a text encoder"
            )
        if self.train.precision == "fp16" and self.where != "text_encoder":
            raise ValueError(
                "expected precision fp32 or bf16 for adapters on the UNet, found fp16: its loss scaling needs a UNet "
                "without trained parameters; choose bf16"
            )
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
        """Return adapters that change nothing yet: random down vectors (Kaiming, a = sqrt 5) and zero up vectors."""
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
    """Hook an adapter into a backbone's components inside the context, and yield its gates, all open."""
    gates = {prefix: Gates(everywhere=True) for prefix in (UNET_PREFIX, TEXT_PREFIX)}
    with ExitStack() as stack:
        for prefix, one in gates.items():
            one.value = torch.ones(1, 1, device=backbone.device)
            for handle in hook(_component(backbone, prefix), [adapter], prefix, one):
                stack.callback(handle.remove)
        yield gates
