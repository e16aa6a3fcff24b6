"""S-GRACE's loss: attacked prompts of words near the concept lose their likeness to it, and other text stays.

Yin et al., "Rethinking Robust Adversarial Concept Erasure in Diffusion Models", 2025 (arXiv 2510.27285). The feature f
of a prompt is the text encoder's output at the end token, after the final layer norm, and after the text projection if
the text encoder has one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from ..diffusion.backbone import Backbone
from ..distributed import Shard
from ..losses import squared_error, weighted_sum
from ..prompts.adversarial_words import AdversarialWords, AdversarialWordsConfig, WordGroup
from ..prompts.encoded import EncodedPrompts, conditionings
from ..prompts.layout import prompt_lengths
from ..prompts.synonyms import SynonymConfig, nearest_words
from ..trajectories.bank import BankBatch
from ..workspace import Workspace
from .captured_output import captured, final_norm
from .embedding_ball import AttackTarget, attack_aim

if TYPE_CHECKING:
    from robust_encoders.concepts import Concept

_RELATED = 50  # number of related words of each concept, in the paper
_TIMES = 1000  # timesteps of the noise schedule that ``timesteps`` counts in


class SGRACEConfig(Protocol):
    """The settings of ``SGRACE`` that the loss reads; ``SGRACE`` documents them."""

    @property
    def retain(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def related(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def attack(self) -> AdversarialWordsConfig: ...  # noqa: D102
    @property
    def attack_target(self) -> AttackTarget: ...  # noqa: D102
    @property
    def timesteps(self) -> tuple[int, int]: ...  # noqa: D102
    @property
    def ddim_steps(self) -> int: ...  # noqa: D102
    @property
    def guidance(self) -> float: ...  # noqa: D102
    @property
    def round_length(self) -> int: ...  # noqa: D102
    @property
    def meaning_weight(self) -> float: ...  # noqa: D102
    @property
    def retain_weight(self) -> float: ...  # noqa: D102
    @property
    def retain_batch(self) -> int: ...  # noqa: D102


class Encoded(NamedTuple):
    """Outputs of the text encoder for prompts.

    Args:
        cond: Conditionings (B, L, D).
        features: Features (B, P) at the end tokens.
    """

    cond: Tensor
    features: Tensor


def encoded(backbone: Backbone, embeds: Tensor, ids: Tensor, given: Tensor | None = None) -> Encoded:
    """Encode token embeddings (B, L, D) of prompts with ids (B, L), and return conditionings and features.

    Args:
        backbone: Base with the text encoder.
        embeds: Token embeddings (B, L, D).
        ids: Token ids (B, L); the feature is taken at the first end token.
        given: Part of the conditionings that other text encoders give; None without such encoders.
    """
    text_encoder = backbone.text_encoder
    with captured(final_norm(text_encoder)) as seen:
        cond = backbone.encode(embeds, ids, given)
    hidden, ends = seen[-1], prompt_lengths(ids, int(backbone.tokenizer.eos_token_id)) + 1
    if hidden.ndim == 3:
        hidden = hidden[torch.arange(len(ids), device=hidden.device), ends.to(hidden.device)]
    projection = getattr(text_encoder, "text_projection", None)
    return Encoded(cond, (hidden if projection is None else projection(hidden)).float())


def related_words(backbone: Backbone, concept: Concept, given: Sequence[str]) -> tuple[WordGroup, ...]:
    """Return the words of each part of a concept, with words related to it.

    Without given words, these are the synonyms and the words of the vocabulary nearest to the concept, 50 at most.

    Args:
        backbone: Frozen base.
        concept: Concept to erase, single or joint.
        given: Words related to a single concept; empty finds them.

    Raises:
        ValueError: If words are given for a joint concept.
    """
    if given and concept.parts:
        raise ValueError(
            f"expected no related words for a joint concept, found {len(given)} for {concept.name!r}: leave `related` "
            "out, so that each part gets its own"
        )
    groups = []
    for part in concept.parts or (concept,):
        found = given or part.words()[1:]
        if not given:
            near = nearest_words(backbone, part, SynonymConfig(k=_RELATED, threshold=-1.0))
            found = tuple(dict.fromkeys((*found, *(one.word for one in near))))[:_RELATED]
        groups.append(WordGroup(part.name, tuple(found) or part.words()))
    return tuple(groups)


@torch.no_grad()
def noisy_point(
    teacher: Backbone, prompt: str, *, timesteps: tuple[int, int], steps: int, guidance: float, generator: Generator
) -> BankBatch:
    """Return one point (B = 1) on a DDIM run of the frozen model for a prompt.

    Args:
        teacher: Frozen base.
        prompt: Prompt of the run.
        timesteps: Smallest and largest timestep, counted as if the noise schedule had 1,000.
        steps: Number of steps of a whole run.
        guidance: Classifier-free guidance scale.
        generator: Generator of the step and of the noise.

    Raises:
        ValueError: If the grid of the run has no such timestep.
    """
    scale = len(teacher.alphas_cumprod) / _TIMES
    low, high = (bound * scale for bound in timesteps)
    inside = [i for i, t in enumerate(teacher.timesteps(steps).tolist()) if low <= t <= high]
    if not inside:
        raise ValueError(
            f"expected a timestep from {timesteps[0]} to {timesteps[1]} on a run of {steps} steps, found none: raise "
            "ddim_steps, or widen timesteps"
        )
    stop = inside[int(torch.randint(len(inside), (), generator=generator))]
    noise = torch.randn((1, *teacher.latent_shape), generator=generator).to(teacher.device)
    run = teacher.rollout(teacher.condition([prompt]), teacher.null(), noise=noise, steps=steps, guidance=guidance)
    step = next(one for i, one in enumerate(run) if i == stop)
    assert step.pred_null is not None
    index = torch.zeros(1, dtype=torch.long)
    return BankBatch(step.latents, step.t, index, step.pred_null, step.pred_cond, start=noise)


class SemanticErasure:
    """The loss that ``finetune`` minimises for S-GRACE, without the distance from the first parameters.

    Each round draws and attacks prompts; the iterations of a round then train on them.

    Args:
        method: Settings of the method.
        teacher: Frozen base, whose ``unet_calls`` counts the UNet calls of the attack.
        student: Base with the text encoder in training.
        concept: Concept to erase.
        generator: Generator of the latent.
        workspace: Largest number of latents in the UNet at once.

    Raises:
        ValueError: If no retain prompts are given, related words do not fit, or no timestep lies in the range.
    """

    def __init__(
        self, method: SGRACEConfig, teacher: Backbone, student: Backbone, concept: Concept, *,
        generator: Generator, workspace: Workspace,
    ) -> None:  # fmt: skip
        self.method, self.teacher, self.student = method, teacher, student
        self.micro_batch, self.shard = workspace.micro_batch, Shard.current()
        groups = related_words(teacher, concept, method.related)
        self.words = AdversarialWords(method.attack, teacher, groups)
        names = EncodedPrompts.read(teacher, [group.name for group in groups])
        with torch.no_grad():
            self.concepts = encoded(teacher, names.embeds, names.ids, names.given).features[self.words.part]
        self.given = None if names.given is None else names.given[self.words.part]
        self.point = noisy_point(
            teacher, concept.name, timesteps=method.timesteps, steps=method.ddim_steps, guidance=method.guidance,
            generator=generator,
        )  # fmt: skip
        self.aim = attack_aim(method.attack_target, self.point, teacher)
        self.retained = EncodedPrompts.read(teacher, method.retain)
        self.kept = conditionings(teacher, method.retain).float()
        self.before = self._before()

    def __call__(self, iteration: int, generator: Generator) -> tuple[Tensor, dict[str, float]]:
        """Return this process's share of the loss (), and of each term by name."""
        others: dict[str, float] = {}
        if iteration % self.method.round_length == 0:
            self.words.refresh(generator)
            if self.method.attack.steps:
                others["attack"] = self.words.attack(self.attack_loss, self.micro_batch)
            self.before = self._before()
        total, means = weighted_sum(self._terms(generator))
        n = self.shard.count
        return total / n, {name: value / n for name, value in {**means, **others}.items()}

    def attack_loss(self, embeds: Tensor, rows: slice) -> Tensor:
        """Return the attack's loss (s,) at embeddings (s, L, D) of some of the prompts.

        It is ``mean (aim - e'(x_t, E'(p), t))^2 + similarity (1 - cos(f'(p), f(concept)))`` at the one latent x_t.

        Args:
            embeds: Token embeddings (s, L, D).
            rows: The rows of the prompts that they belong to.
        """
        given = None if self.given is None else self.given[rows]
        found, n = encoded(self.student, embeds, self.words.ids[rows], given), len(embeds)
        latents, aim = (one.expand(n, *one.shape[1:]) for one in (self.point.latents, self.aim))
        prediction = self.student.predict(latents, self.point.t.expand(n), found.cond)
        self.teacher.unet_calls += 2 * n  # one forward and one backward pass
        apart = 1 - F.cosine_similarity(found.features, self.concepts[rows], dim=1)
        return squared_error(prediction, aim) + self.method.attack.similarity * apart

    def state(self) -> dict[str, Tensor]:
        """Return the adversarial prompts, and the number of UNet calls."""
        calls = torch.tensor(self.teacher.unet_calls, device=self.teacher.device)
        return {**self.words.state(), "unet_calls": calls}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore the tensors of ``state``."""
        self.words.load_state(state)
        self.teacher.unet_calls = int(state["unet_calls"])
        self.before = self._before()

    def _terms(self, generator: Generator) -> dict[str, tuple[float, Tensor]]:
        """Return weight and losses (B,) of each term by name."""
        method = self.method
        found = encoded(self.student, self.words.embeds, self.words.ids, self.given).features
        index = torch.randperm(len(self.kept), generator=generator)[: method.retain_batch].to(self.kept.device)
        given = None if self.retained.given is None else self.retained.given[index]
        retained = self.student.encode(self.retained.embeds[index], self.retained.ids[index], given)
        return {
            "likeness": (1.0, 1 + F.cosine_similarity(found, self.concepts, dim=1)),
            "meaning": (method.meaning_weight, 1 - F.cosine_similarity(found, self.before, dim=1)),
            "retain": (method.retain_weight, squared_error(retained, self.kept[index])),
        }

    @torch.no_grad()
    def _before(self) -> Tensor:
        """Return the frozen features (S, P) of the adversarial prompts."""
        return encoded(self.teacher, self.words.embeds, self.words.ids, self.given).features
