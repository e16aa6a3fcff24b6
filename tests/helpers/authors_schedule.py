"""AdvUnlearn's published training schedule, re-created to be timed beside ours. It is no method of this package.

Described in Zhang et al. (NeurIPS 2024) and by the configuration of the authors' code: a fresh guided DDIM run for
every point, batch 1 (guidance makes it 2), the two frozen predictions also where one is unused, gradients for the
UNet's weights that nobody reads, unlearning and retention through the UNet one after the other. What is kinder than
theirs: no activations are computed twice, no second UNet lies in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Generator, Tensor

from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.prompts.layout import PromptLayout
from robust_encoders.training.trainer.parameters import SelectionConfig

GUIDANCE, LAYOUT = 3.0, PromptLayout("prefix", 1)
# Of a prediction beside its forward: to activations, and to the UNet's weights.
BACKWARDS = 2


@dataclass
class AuthorsSchedule:
    """One iteration at a time.

    Args:
        teacher: The base; its UNet collects gradients, its counter counts.
        student: A copy of its text encoder.
        concept: The word.
        retained: Prompts.
        steps: Of a DDIM run (50).
        attack_steps: Of the inner attack (30).
        weight: Of the retain term (0.3).
    """

    teacher: Backbone
    student: Backbone
    concept: str
    retained: Sequence[str]
    steps: int = 50
    attack_steps: int = 30
    weight: float = 0.3

    def __post_init__(self) -> None:
        self.teacher.unet.eval().requires_grad_(True)
        self.parameters = list(SelectionConfig().select(self.student.text_encoder).values())
        self.optimizer = torch.optim.Adam(self.parameters, lr=1e-5)

    def iteration(self, generator: Generator, *, attacked: bool) -> float:
        """Take one training step and return its loss."""
        ids = self.teacher.tokenize([self.concept])
        embeds = self.teacher.embed(ids).detach()
        if attacked:
            adv = self._attack(embeds, ids, generator)
            embeds, ids = LAYOUT.place(embeds, ids, adv, eos_id=self.teacher.tokenizer.eos_token_id)
        k, t = self._level(generator)
        z, null, cond = self._point([self.concept], k, t, generator)
        unlearn = self._loss(z, t, self.student.encode(embeds, ids), 2 * null - cond)
        chosen = [self.retained[i] for i in torch.randperm(len(self.retained), generator=generator)[:5].tolist()]
        z, target = self._retained(chosen, k, t, generator)
        retain = self._loss(z, t, self.student.condition(chosen), target)
        self.optimizer.zero_grad()
        loss: Any = unlearn + self.weight * retain
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def _attack(self, embeds: Tensor, ids: Tensor, generator: Generator) -> Tensor:
        vocabulary = self.teacher.text_encoder.config.vocab_size
        start = self.teacher.embed(torch.randint(vocabulary, (1, 1), generator=generator))
        adv = start.detach().clone().requires_grad_(True)
        optimizer = torch.optim.Adam([adv], lr=1e-3)
        self._train_student(False)
        for _ in range(self.attack_steps):
            k, t = self._level(generator)
            z, _, target = self._point([self.concept], k, t, generator)
            placed = LAYOUT.place(embeds, ids, adv, eos_id=self.teacher.tokenizer.eos_token_id)
            loss: Any = self._loss(z, t, self.student.encode(*placed), target)
            loss.backward()
            optimizer.step()
        self._train_student(True)
        found: Tensor = adv.detach()
        return found

    def _train_student(self, on: bool) -> None:
        for parameter in self.parameters:
            parameter.requires_grad_(on)

    def _level(self, generator: Generator) -> tuple[int, Tensor]:
        """Draw how far a run goes, and a timestep (1,) in the interval after it."""
        k = int(torch.randint(self.steps, (1,), generator=generator))
        width = len(self.teacher.alphas_cumprod) // self.steps
        return k, k * width + torch.randint(width, (1,), generator=generator)

    @torch.no_grad()
    def _run(self, prompts: Sequence[str], k: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Return latents (B, C, h, w) of fresh runs and the conditioning (B, L, D) of their prompts."""
        teacher = self.teacher
        cond, null = teacher.condition(prompts), teacher.condition([""])
        noise = torch.randn((len(prompts), *teacher.latent_shape), generator=generator)
        run = teacher.rollout(cond, null, noise=noise, steps=self.steps, guidance=GUIDANCE)
        # As many steps as theirs: one of the grid is never taken.
        for step in islice(run, self.steps - max(k, 1)):
            noise = step.next
        return noise, cond

    @torch.no_grad()
    def _point(self, prompts: Sequence[str], k: int, t: Tensor, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return latents and the frozen predictions there without and with the prompt, one call each."""
        z, cond = self._run(prompts, k, generator)
        return z, self.teacher.predict(z, t, self.teacher.condition([""])), self.teacher.predict(z, t, cond)

    @torch.no_grad()
    def _retained(self, prompts: Sequence[str], k: int, t: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        z, cond = self._run(prompts, k, generator)
        return z, self.teacher.predict(z, t.expand(len(prompts)), cond)

    def _loss(self, z: Tensor, t: Tensor, cond: Tensor, target: Tensor) -> Tensor:
        predicted = self.teacher.predict(z, t.expand(len(z)), cond)
        self.teacher.unet_calls += BACKWARDS * len(z)
        loss: Tensor = torch.nn.functional.mse_loss(predicted, target)
        return loss
