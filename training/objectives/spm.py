"""SPM's loss of one iteration: one part erases the concept, the other anchors all other conditionings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import Generator, Tensor

from robust_encoders.overlays.adapters import Gates

from ..diffusion.backbone import Backbone
from ..distributed import Shard
from ..losses import negative_guidance_target, squared_error
from ..prompts.concept_words import anchor_prompts
from ..trainer.surgery import LossPair
from ..trajectories.config import BankConfig
from ..trajectories.resample import open_source
from ..workspace import Workspace

if TYPE_CHECKING:
    from robust_encoders.concepts import Concept

Where = Literal["unet", "text_encoder", "both"]

# Smallest and largest norm of a random anchor, as factors of the norm of the concept's conditioning (the release's).
_NORMS = (0.8, 1.2)


class SPMConfig(Protocol):
    """The settings of ``SPM`` that the objective reads; ``SPM`` documents them."""

    @property
    def where(self) -> Where: ...  # noqa: D102
    @property
    def batch(self) -> int: ...  # noqa: D102
    @property
    def eta(self) -> float: ...  # noqa: D102
    @property
    def anchors(self) -> int: ...  # noqa: D102
    @property
    def retain(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def retain_batch(self) -> int: ...  # noqa: D102
    @property
    def anchor_weight(self) -> float: ...  # noqa: D102
    @property
    def rollout(self) -> Literal["student", "bank"]: ...  # noqa: D102
    @property
    def bank(self) -> BankConfig: ...  # noqa: D102


class SPMObjective:
    """The loss that ``finetune`` minimises for SPM.

    Of several processes, each draws the rows of all from an equal generator and computes its own part.

    Args:
        method: Settings of the method.
        backbone: Base with the adapters hooked in.
        concept: Concept to erase.
        gates: Gates of the adapters' hooks, by the key prefix of the component. They are open; this class closes them
            for predictions of the frozen model.
        workspace: Folder of the bank cache, and the progress switch.
    """

    def __init__(
        self, method: SPMConfig, backbone: Backbone, concept: Concept, gates: Mapping[str, Gates], workspace: Workspace
    ) -> None:
        self.method, self.backbone, self.gates = method, backbone, gates
        self.shard = Shard.current()
        self.texts = (concept.prompts or concept.words())[: method.bank.limit]
        self.anchored = tuple(anchor_prompts(self.texts, concept))
        self.bank = None
        if method.rollout == "bank":
            with self._frozen():
                self.bank = open_source(
                    backbone, self.texts, method.bank.for_concept(), anchors=self.anchored,
                    cache_dir=workspace.cache_dir, progress=workspace.progress, shard=self.shard,
                )  # fmt: skip

    def __call__(self, iteration: int, generator: Generator) -> tuple[Tensor, dict[str, float]]:
        """Return the loss () of this process's rows, and its parts by name."""
        pair = self.pair(iteration, generator)
        return pair.erase + pair.preserve, pair.parts

    def pair(self, iteration: int, generator: Generator) -> LossPair:
        """Return the erasing loss and the weighted anchoring loss of this process's rows."""
        n = self.method.batch
        index = torch.randint(len(self.texts), (n,), generator=generator)
        latents, t, target = self._points(index, generator)
        own = self.shard.part(n)
        texts = [self.texts[i] for i in index.tolist()]
        predicted = self._student(latents[own], t[own], self._encoded(texts[own]))
        erase = squared_error(predicted, target[own]).sum() / n
        terms = []
        if self.method.where != "text_encoder":
            terms.append(self._kept(latents, t, self.method.anchors, self._random(texts, generator)))
        if self.method.retain:
            chosen = torch.randint(len(self.method.retain), (self.method.retain_batch,), generator=generator).tolist()
            prompts = [self.method.retain[i] for i in chosen]
            terms.append(self._kept(latents, t, len(prompts), lambda rows: self._both(prompts[rows])))
        anchor = torch.stack(terms).mean()
        parts = {"erase": float(erase.detach()), "anchor": float(anchor.detach())}
        return LossPair(erase, self.method.anchor_weight * anchor, parts)

    def state(self) -> dict[str, Tensor]:
        """Return the number of UNet calls of all processes, the only state between iterations."""
        calls = torch.tensor(self.backbone.unet_calls, device=self.backbone.device)
        return {"unet_calls": self.shard.total(calls)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore the number of UNet calls, in the main process alone."""
        self.backbone.unet_calls = int(state["unet_calls"]) if self.shard.main else 0

    def _points(self, index: Tensor, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return latents (B, C, h, w), timesteps (B,) and the student's target predictions there (B, C, h, w)."""
        if self.bank is not None:
            drawn = self.bank.sample(len(index), generator, prompt_index=index)
            if drawn.pred_anchor is None:
                raise ValueError("expected points with anchor predictions, found none: open the source with anchors")
            return drawn.latents, drawn.t, negative_guidance_target(drawn.pred_anchor, drawn.pred_cond, self.method.eta)
        texts, anchored = ([where[i] for i in index.tolist()] for where in (self.texts, self.anchored))
        with torch.no_grad():
            latents, t = self._rolled_out(texts, generator)
        with self._frozen():
            towards = self.backbone.predict(latents, t, self.backbone.condition(anchored))
            away = self.backbone.predict(latents, t, self.backbone.condition(texts))
        return latents, t, negative_guidance_target(towards, away, self.method.eta)

    def _rolled_out(self, texts: Sequence[str], generator: Generator) -> tuple[Tensor, Tensor]:
        """Run 1 to S - 1 of S DDIM steps with the adapters on, and return the latents and the next timestep."""
        settings, backbone = self.method.bank, self.backbone
        noise = torch.randn(len(texts), *backbone.latent_shape, generator=generator).to(backbone.device)
        stop = int(torch.randint(1, settings.steps, (1,), generator=generator))
        cond, null = self._encoded(texts), self._encoded([""] * len(texts))
        latents, grid = noise, backbone.timesteps(settings.steps)
        for t in grid[:stop]:
            joint = self._student(torch.cat([latents] * 2), t.expand(2 * len(texts)), torch.cat([null, cond]))
            pred_null, pred_cond = joint.chunk(2)
            latents = backbone.ddim_step(pred_null, pred_cond, t, latents, settings.guidance)
        return latents, grid[stop].expand(len(texts))

    def _random(self, texts: Sequence[str], generator: Generator) -> Callable[[slice], tuple[Tensor, Tensor]]:
        """Draw random conditionings of about the concept's norm, equal for student and frozen model.

        The returned function takes a slice of rows and returns their conditionings for both.
        """
        with self._frozen():
            like = self.backbone.condition(texts[:1])  # (1, L, D)
        n = self.method.anchors
        directions = torch.randn(n, *like.shape[1:], generator=generator).to(like)
        low, high = _NORMS
        factors = (low + (high - low) * torch.rand(n, 1, 1, generator=generator)).to(like)
        norms = directions.flatten(1).norm(dim=1).view(-1, 1, 1)
        drawn = factors * like.norm() * directions / norms
        return lambda rows: (drawn[rows], drawn[rows])

    def _both(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return the prompts' conditionings (n, L, D), by the student and by the frozen model."""
        with self._frozen():
            frozen = self.backbone.condition(prompts)
        return self._encoded(prompts), frozen

    def _kept(
        self, latents: Tensor, t: Tensor, n: int, conditionings: Callable[[slice], tuple[Tensor, Tensor]]
    ) -> Tensor:
        """Return this process's share of the mean error () on n conditionings; the latents are used in turn."""
        rows = self.shard.part(n)
        turns = torch.arange(n, device=latents.device)[rows] % len(latents)
        if not len(turns):
            return latents.new_zeros(())
        student, frozen = conditionings(rows)
        with self._frozen():
            wanted = self.backbone.predict(latents[turns], t[turns], frozen)
        return squared_error(self._student(latents[turns], t[turns], student), wanted).sum() / n

    def _student(self, latents: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return self.backbone.predict(latents, t, cond)

    def _encoded(self, texts: Sequence[str]) -> Tensor:
        return self.backbone.condition(texts)

    @contextmanager
    def _frozen(self) -> Iterator[None]:
        """Switch the adapters and gradients off inside the context, so that predictions are the frozen model's.

        Outside of it the adapters stay on, also while a backward pass computes activations again.
        """
        opened = [(gates, gates.value) for gates in self.gates.values()]
        try:
            for gates, _ in opened:
                gates.value = None
            with torch.no_grad():
                yield
        finally:
            for gates, value in opened:
                gates.value = value
