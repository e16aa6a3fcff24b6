"""Facilitated transport: how strongly each prompt of a batch opens each adapter, from its text to the UNet.

Lyu et al., "One-dimensional Adapter to Rule Them All", CVPR 2024 (arXiv 2312.16145), section 3.4.
"""

from __future__ import annotations

import copy
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robust_encoders.clip.state_dict import device_and_dtype
from robust_encoders.errors import CompatibilityWarning
from robust_encoders.overlays.adapters import Gates

# Rows of conditionings whose gates are known. One takes less than a kilobyte.
_MOST_ROWS = 2**14
# Calls of a text encoder whose gates keep their gradients.
_ATTACHED_CALLS = 4
# Values that tell a row from others: they differ wherever one token does, since later positions see earlier ones.
_VALUES = 64
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True, eq=False)
class GateTargets:
    """What prompts are compared with: the prompts that one adapter was trained to erase.

    Args:
        conditionings: (P, L * D), of norm 1, by the encoder that the adapter was trained with.
        tokens: Ids of each prompt, without special ones.
    """

    conditionings: Tensor
    tokens: tuple[frozenset[int], ...]


def encode_targets(prompts: Sequence[str], tokenizer: Any, encoder: nn.Module) -> GateTargets:
    """Return what an adapter's gate compares prompts with.

    Args:
        prompts: Prompts that the adapter was trained to erase.
        tokenizer: Tokenizer of the pipeline.
        encoder: The text encoder that the adapter was trained with, nothing attached to it.

    Raises:
        ValueError: If a prompt has no token of its own.
    """
    ids = tokenizer(
        list(prompts), padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    ).input_ids
    tokens = token_sets(ids, special_ids(tokenizer))
    if empty := [prompt for prompt, found in zip(prompts, tokens, strict=True) if not found]:
        raise ValueError(
            f"expected words in every prompt of the adapter, found {empty}: nothing can be compared with it"
        )
    with torch.no_grad():
        conditionings = encoder(input_ids=ids.to(device_and_dtype(encoder)[0]))[0]
    return GateTargets(_normalised(conditionings), tokens)


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Return the ids of a tokenizer that are no words: begin, end, padding."""
    return frozenset(int(i) for i in tokenizer.all_special_ids)


def token_sets(ids: Tensor, special: frozenset[int]) -> tuple[frozenset[int], ...]:
    """Return the ids (B, L) of each row as a set, without special ones."""
    return tuple(frozenset(row) - special for row in ids.tolist())


def _normalised(conditionings: Tensor) -> Tensor:
    return nn.functional.normalize(conditionings.flatten(1).float(), dim=1)


def cosines(conditionings: Tensor, targets: Sequence[GateTargets]) -> Tensor:
    """Return, per row and adapter, the largest cosine of flattened conditionings over the adapter's prompts.

    Conditionings of several times the length, of prompts in several parts, count by their nearest part.

    Args:
        conditionings: (B, n * L, D).
        targets: Targets of K adapters.

    Returns:
        (B, K).

    Raises:
        ValueError: If the conditionings are of another size.
    """
    size = targets[0].conditionings.shape[1]
    total = conditionings.shape[1] * conditionings.shape[2]
    if total % size:
        raise ValueError(
            f"expected conditionings of {size} values, or several times as many, found {tuple(conditionings.shape)}: "
            "they were not made by a text encoder of this base"
        )
    parts = _normalised(conditionings.reshape(-1, size, 1))  # (B * n, L * D)
    columns = [(parts @ one.conditionings.to(parts.device).T).amax(dim=1) for one in targets]
    nearest: Tensor = torch.stack(columns, dim=1).reshape(len(conditionings), -1, len(targets)).amax(dim=1)
    return nearest


def overlaps(tokens: Sequence[frozenset[int]], targets: Sequence[GateTargets]) -> Tensor:
    """Return, per row and adapter, the largest share of an adapter's prompt's tokens that occur in the row's prompt.

    Args:
        tokens: Tokens of B prompts, without special ones.
        targets: Targets of K adapters.

    Returns:
        (B, K), on the CPU.
    """
    return torch.tensor([[max(len(row & of) / len(of) for of in one.tokens) for one in targets] for row in tokens])


def gates(conditionings: Tensor, ids: Tensor, targets: Sequence[GateTargets], special: frozenset[int]) -> Tensor:
    """Return how far each prompt opens each adapter: the larger of cosine and token overlap.

    Args:
        conditionings: (B, L, D), by the encoder that the adapters were trained with.
        ids: Token ids (B, L) of the same prompts.
        targets: Targets of K adapters.
        special: Ids that are no words.

    Returns:
        (B, K).
    """
    found = cosines(conditionings, targets)
    return torch.maximum(found, overlaps(token_sets(ids, special), targets).to(found))


class Rows:
    """Rows of conditionings that a text encoder gave, with their gates, found again in whatever batch they come.

    A pipeline repeats, joins and casts conditionings on their way to the UNet; each row's values stay the same.
    """

    def __init__(self) -> None:
        self._gates: OrderedDict[bytes, Tensor] = OrderedDict()
        self._attached: list[list[bytes]] = []  # of the newest calls whose gates carry gradients

    def add(self, layers: Sequence[Tensor], gates: Tensor) -> None:
        """Remember rows of one call, as each of several layers gives them (B, L, D), and their gates (B, K)."""
        added = []
        for conditionings in layers:
            for dtype in _DTYPES:
                keys = _keys(conditionings.to(dtype))
                self._gates.update(zip(keys, gates, strict=True))
                added += keys
        for key in added:
            self._gates.move_to_end(key)
        self._attached.append(added)
        # Whoever keeps gates keeps the graph that made them: no more than those of prompts and negative prompts.
        while len(self._attached) > _ATTACHED_CALLS or (self._attached and not gates.requires_grad):
            self._let_go(self._attached.pop(0))
        while len(self._gates) > _MOST_ROWS * len(_DTYPES):
            self._gates.popitem(last=False)

    def _let_go(self, keys: Sequence[bytes]) -> None:
        for key in keys:
            if key in self._gates:
                self._gates[key] = self._gates[key].detach()

    def find(self, conditionings: Tensor) -> list[Tensor | None]:
        """Return the gates (K,) of each row (B, L, D); None for one that no text encoder gave."""
        keys = _keys(conditionings)
        for key in keys:
            if key in self._gates:
                self._gates.move_to_end(key)
        return [self._gates.get(key) for key in keys]


def _keys(conditionings: Tensor) -> list[bytes]:
    flat = conditionings.detach().flatten(1)
    # Spread over positions and channels alike.
    index = torch.linspace(0, flat.shape[1] - 1, min(_VALUES, flat.shape[1]), device=flat.device).long()
    picked = flat[:, index].float().cpu().numpy()
    kind = str(conditionings.dtype).encode()
    return [kind + row.tobytes() for row in picked]


class Carrier:
    """Takes gates from where text is encoded to where adapters are: hooks of a text encoder and of a UNet.

    Args:
        targets: Targets of the K adapters.
        special: Ids of the tokenizer that are no words.
        reference: The encoder that the adapters were trained with, where it is not the one that text passes through.
        apart: Whether something on that encoder changes what it gives, so that gates need a pass without it.
    """

    def __init__(
        self, targets: Sequence[GateTargets], special: frozenset[int], *, reference: nn.Module | None, apart: bool
    ) -> None:
        self.targets, self.special = tuple(targets), special
        self.reference, self.apart = reference, apart
        self.text, self.unet = Gates(), Gates()
        self.bare = False  # a pass of the text encoder as if nothing were attached
        self._rows = Rows()
        self._last: tuple[weakref.ref[Tensor], int, Tensor] | None = None
        self._pending: Tensor | None = None
        self._warned = False

    def __deepcopy__(self, memo: dict[int, Any]) -> Carrier:
        """Return one for the copies of the same components, which has seen no text yet."""
        made = type(self)(self.targets, self.special, reference=self.reference, apart=self.apart)
        memo[id(self)] = made
        made.text, made.unet = copy.deepcopy(self.text, memo), copy.deepcopy(self.unet, memo)
        return made

    def before_text(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Open the text encoder's own adapters, by what it gives without them."""
        if self.bare:
            return
        ids = _argument(args, kwargs, 0, "input_ids")
        if self.targets and (self.apart or self.reference is not None):
            self._pending = gates(self._unchanged(module, ids, args, kwargs), ids, self.targets, self.special)
        self.text.value = self._pending

    def _unchanged(self, module: nn.Module, ids: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        mask = _argument(args, kwargs, 1, "attention_mask")
        if self.reference is None:
            self.bare = True
            try:
                bare: Tensor = module(input_ids=ids, attention_mask=mask)[0]
            finally:
                self.bare = False
            return bare
        place = device_and_dtype(self.reference)[0]
        # Its input is ids alone: no gradient could reach anything but its own weights.
        with torch.no_grad():
            try:
                self.reference.to(ids.device)
                conditionings: Tensor = self.reference(input_ids=ids, attention_mask=mask)[0]
            finally:
                self.reference.to(place)
        return conditionings

    def after_text(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Remember the gates of every row that the text encoder gives."""
        if self.bare:
            return
        found, self._pending, self.text.value = self._pending, None, None
        if output is None or not self.targets:  # the pass broke off
            return
        if found is None:
            found = gates(output[0], _argument(args, kwargs, 0, "input_ids"), self.targets, self.special)
        # With clip_skip a pipeline takes an earlier layer through the last norm itself.
        earlier = (getattr(output, "hidden_states", None) or ())[:-1]
        self._rows.add([output[0], *(final_norm(module)(hidden) for hidden in earlier)], found)

    def before_unet(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Open the UNet's adapters row by row."""
        if self.targets:
            self.unet.value = self._of(_argument(args, kwargs, 2, "encoder_hidden_states"))

    def after_unet(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Close the UNet's adapters."""
        self.unet.value = None

    def _of(self, conditionings: Tensor) -> Tensor:
        # A denoising loop hands over the same tensor at every step.
        if self._last is not None and not conditionings.is_inference():
            tensor, version, known = self._last
            if tensor() is conditionings and version == conditionings._version:
                return known
        found = self._rows.find(conditionings)
        if any(gate is None for gate in found):
            self._warn()
            nearest = cosines(conditionings, self.targets)
            found = [nearest[i] if gate is None else gate for i, gate in enumerate(found)]
        joined = torch.stack([gate.to(conditionings.device) for gate in found if gate is not None])
        # Tensors of inference mode count no changes.
        known_by = None if conditionings.is_inference() else conditionings._version
        self._last = None if known_by is None else (weakref.ref(conditionings), known_by, joined)
        return joined

    def _warn(self) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                "these prompt_embeds did not come from the pipeline's text encoder as they are: the gates of its "
                "adapters follow from their cosine to the erased prompts alone, not from tokens; pass prompts instead",
                CompatibilityWarning,
                stacklevel=2,
            )


def final_norm(text_encoder: Any) -> nn.Module:
    """Return the last norm of a CLIP text encoder, which its output passes through, of any generation."""
    norm: nn.Module = getattr(text_encoder, "text_model", text_encoder).final_layer_norm
    return norm


def _argument(args: tuple[Any, ...], kwargs: dict[str, Any], place: int, name: str) -> Any:
    return args[place] if len(args) > place else kwargs.get(name)
