"""Losses of conditionings that aim at the mechanism of a defence, without UNet calls.

A conditioning is compared with the goal, the base's conditioning of the prompt that names the concept. The losses
differ in what they know of the defence (Tramer et al., "On Adaptive Attacks to Adversarial Example Defenses", NeurIPS
2020): nothing, the conditioning that it sends the concept to, or the gate that opens an adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from robust_encoders.artifact.forms import adapter_of
from robust_encoders.overlays.adapters import DEFAULT_TRANSPORT, DOWN, TEXT_PREFIX, UNET_PREFIX, UP, Adapter
from robust_encoders.overlays.facilitated_transport import GateTargets, encode_targets, gates, special_ids
from robust_encoders.overlays.projection import key_value_layers

from ...diffusion.backbone import Backbone
from ...diffusion.target import TargetModel
from ...types import Case
from .seen_distance import energy, seen_distance

if TYPE_CHECKING:
    from robust_encoders.loaded import LoadedArtifact

MechanismName = Literal["none", "margin", "gate"]
# Function from token embeddings (N, L, D), their ids (N, L) and the number of the case of each row (N,) to losses (N,).
EmbeddingLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
# A trained encoder sends the concept elsewhere. So does a projection, but there the margin won fewer prompts than the
# distance alone. Deltas and erasers act inside the UNet, after the text.
_OF_FORM: Mapping[str, MechanismName] = {"weights": "margin", "adapter": "gate"}


def mechanism_of(artifact: LoadedArtifact | None) -> MechanismName:
    """Return the mechanism of an artifact by its form; ``none`` if no loss here knows how it acts."""
    return "none" if artifact is None else _OF_FORM.get(artifact.manifest.form, "none")


@dataclass(frozen=True)
class SeenLoss:
    """The distance to the goal as the UNet sees it, relative to the goal; see ``seen_distance``.

    Args:
        target: Model under attack.
        gram: Matrix G (D, D).
        goal: The base's conditionings (B, L, D) of the prompts that name the concept.
    """

    target: Backbone
    gram: Tensor
    goal: Tensor

    def __call__(self, embeds: Tensor, ids: Tensor, index: Tensor) -> Tensor:
        """Return the losses (N,)."""
        return seen_distance(self.target.encode(embeds, ids), self.goal[index], self.gram)


@dataclass(frozen=True)
class MarginLoss:
    """The distance to the goal, plus the margin between the goal and the place where the defence sends the concept.

    That place is the attacked conditioning of the prompt that names the concept, so no manifest has to name it. The
    margin is ``(|c - goal|^2 - |c - sent|^2) / |goal - sent|^2`` in the UNet's metric. It is 1 for what the defence
    sends, and -1 for the goal. It changes only along the direction that the defence removes, and that at a constant
    rate: for a projection, it is the part of that direction that survives.

    Args:
        target: Model under attack.
        gram: Matrix G (D, D).
        goal: The base's conditionings (B, L, D) of the prompts that name the concept.
        sent: The attacked conditionings (B, L, D) of the same prompts.
        weight: Factor of the margin.
    """

    target: Backbone
    gram: Tensor
    goal: Tensor
    sent: Tensor
    weight: float

    def __call__(self, embeds: Tensor, ids: Tensor, index: Tensor) -> Tensor:
        """Return the losses (N,)."""
        found, goal, sent = self.target.encode(embeds, ids), self.goal[index], self.sent[index]
        near, far = energy(found - goal, self.gram), energy(found - sent, self.gram)
        removed = energy(goal - sent, self.gram)
        # Where the defence changes nothing, the margin is 0.
        margin = (near - far) / removed.clamp(min=torch.finfo(removed.dtype).tiny)
        return near / energy(goal, self.gram) + self.weight * margin


@dataclass(frozen=True)
class GateLoss:
    """The distance to the goal as the UNet sees it through open adapters on its keys and values, plus the gate.

    An adapter of gate g adds ``a U D c`` to ``W c`` in a key or value layer W, with ``a = g^2 alpha / rank`` as SPM's
    release computes it. The loss is the sum of ``|W (c - goal) + a U D c|^2`` over these layers, relative to that of
    ``|W goal|^2``. Adapters on other layers act on pictures, and the gate alone speaks for them.

    Args:
        target: Model under attack.
        base: The model before the erasure; its text encoder computes the gates.
        gram: Matrix G (D, D).
        goal: The base's conditionings (B, L, D) of the prompts that name the concept.
        adapter: The adapter.
        weight: Factor of the gate.
    """

    target: Backbone
    base: Backbone
    gram: Tensor
    goal: Tensor
    adapter: Adapter
    weight: float

    def __call__(self, embeds: Tensor, ids: Tensor, index: Tensor) -> Tensor:
        """Return the losses (N,)."""
        found, goal = self.target.encode(embeds, ids), self.goal[index]
        bare = self.base.encode(embeds, ids) if self.adapter.stems(TEXT_PREFIX) else found
        gate = gates(bare, ids, [self._targets], special_ids(self.target.tokenizer))[:, 0]  # (N,)
        strength = (gate * gate if DEFAULT_TRANSPORT == "official" else gate) * self.adapter.scale
        apart, (down, up, gram) = found - goal, self._layers
        inner, outer = found @ down.T, apart @ up.T  # (N, L, R)
        added = 2 * strength * (inner * outer).sum((1, 2)) + strength.square() * energy(inner, gram)
        return (energy(apart, self.gram) + added) / energy(goal, self.gram) + self.weight * gate

    @cached_property
    def _targets(self) -> GateTargets:
        return encode_targets(self.adapter.prompts, self.target.tokenizer, self.base.text_encoder)

    @cached_property
    def _layers(self) -> tuple[Tensor, Tensor, Tensor]:
        """All D (R, D) of keys and values, all ``U^T W`` (R, D), and all ``U^T U`` as one block matrix (R, R)."""
        none = self.goal.new_zeros(0, self.goal.shape[2])
        found: list[tuple[Tensor, Tensor, Tensor]] = [(none, none, none[:, :0])]  # an adapter may lie elsewhere
        for name, layer in key_value_layers(self.target.unet).items():
            stem = UNET_PREFIX + name.replace(".", "_")
            if stem + DOWN in self.adapter.tensors:
                down, up = (self.adapter.tensors[stem + end].flatten(1).to(self.goal) for end in (DOWN, UP))
                found.append((down, up.T @ layer.weight.detach().to(self.goal), up.T @ up))
        downs, ups, grams = zip(*found, strict=True)
        joined: Tensor = torch.block_diag(*grams)  # type: ignore[no-untyped-call]  # torch has no types for it
        return torch.cat(downs), torch.cat(ups), joined


@torch.no_grad()
def loss_of(target: TargetModel, cases: Sequence[Case], name: MechanismName, weight: float) -> EmbeddingLoss:
    """Return the loss of a mechanism on a batch of cases.

    Args:
        target: Model under attack, with its base, and for ``gate`` with its artifact.
        cases: B cases.
        name: Name of the mechanism.
        weight: Factor of the mechanism's term.

    Raises:
        ValueError: If the target has no base, or ``gate`` is asked for and no adapter is attached.
    """
    gram, wanted = target.text_gram(), [case.wanted for case in cases]
    goal = target.base.condition(wanted)
    if name == "margin":
        return MarginLoss(target, gram, goal, target.condition(wanted), weight)
    if name == "gate":
        return GateLoss(target, target.base, gram, goal, _adapter(target), weight)
    return SeenLoss(target, gram, goal)


def _adapter(target: TargetModel) -> Adapter:
    artifact = target.artifact
    if artifact is None or artifact.manifest.form != "adapter":
        found = "no artifact" if artifact is None else f"the form {artifact.manifest.form!r}"
        raise ValueError(
            f"expected a target with an adapter for the mechanism 'gate', found {found}: choose the mechanism 'auto'"
        )
    return adapter_of(artifact.tensors, artifact.config)
