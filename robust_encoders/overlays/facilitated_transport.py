"""Facilitated transport: computes each prompt's gate for each adapter and carries it from the text to the UNet.

A gate is the strength with which a prompt opens an adapter. It is high for prompts that resemble an erased prompt.

Lyu et al., "One-dimensional Adapter to Rule Them All", CVPR 2024 (arXiv 2312.16145), section 3.4.
"""

from __future__ import annotations

import copy
import warnings
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robust_encoders.clip.state_dict import device_and_dtype
from robust_encoders.errors import CompatibilityWarning
from robust_encoders.overlays.adapters import Gates
from robust_encoders.overlays.gate_memory import Row, Rows, is_guided


@dataclass(frozen=True, eq=False)
class GateTargets:
    """The P prompts that one adapter was trained to erase, encoded, with which other prompts are compared.

    Args:
        conditionings: Flattened conditionings (P, L * D) of norm 1, by the encoder that the adapter was trained with.
        tokens: Token ids of each prompt, without special tokens.
    """

    conditionings: Tensor
    tokens: tuple[frozenset[int], ...]


def encode_targets(prompts: Sequence[str], tokenizer: Any, encoder: nn.Module) -> GateTargets:
    """Encode the erased prompts of an adapter, with which its gate compares other prompts.

    Args:
        prompts: Prompts that the adapter was trained to erase.
        tokenizer: Tokenizer of the pipeline.
        encoder: Text encoder that the adapter was trained with, without anything attached.

    Raises:
        ValueError: If a prompt has only special tokens.
    """
    ids = tokenizer(
        list(prompts), padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    ).input_ids
    tokens = token_sets(ids, special_ids(tokenizer))
    if empty := [prompt for prompt, found in zip(prompts, tokens, strict=True) if not found]:
        raise ValueError(
            f"expected words in every prompt of the adapter, found {empty}, with which no prompt can be compared; "
            "use an adapter file with the prompts of its training"
        )
    with torch.no_grad():
        conditionings = encoder(input_ids=ids.to(device_and_dtype(encoder)[0]))[0]
    return GateTargets(_normalised(conditionings), tokens)


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Return the ids of a tokenizer's special tokens: begin, end, padding."""
    return frozenset(int(i) for i in tokenizer.all_special_ids)


def token_sets(ids: Tensor, special: frozenset[int]) -> tuple[frozenset[int], ...]:
    """Return the token ids (B, L) as one set for each row, without special tokens."""
    return tuple(frozenset(row) - special for row in ids.tolist())


def _normalised(conditionings: Tensor) -> Tensor:
    flat = conditionings.flatten(1)
    return nn.functional.normalize(flat.to(torch.promote_types(flat.dtype, torch.float32)), dim=1)


def cosines(conditionings: Tensor, targets: Sequence[GateTargets]) -> Tensor:
    """Return, for each row and adapter, the largest cosine similarity between the row and the adapter's prompts.

    The cosine is taken over flattened conditionings. A long prompt may be encoded in n parts; the nearest part counts.

    Args:
        conditionings: Conditionings (B, n * L, D).
        targets: Targets of K adapters.

    Returns:
        Cosines (B, K).

    Raises:
        ValueError: If the conditionings have another size.
    """
    size = targets[0].conditionings.shape[1]
    total = conditionings.shape[1] * conditionings.shape[2]
    if total % size:
        raise ValueError(
            f"expected conditionings of {size} values, or several times as many, found {tuple(conditionings.shape)}: "
            "they were not made by a text encoder of this base"
        )
    parts = _normalised(conditionings.reshape(-1, size, 1))  # (B * n, L * D)
    columns = [(parts @ one.conditionings.to(parts).T).amax(dim=1) for one in targets]
    nearest: Tensor = torch.stack(columns, dim=1).reshape(len(conditionings), -1, len(targets)).amax(dim=1)
    return nearest


def overlaps(tokens: Sequence[frozenset[int]], targets: Sequence[GateTargets]) -> Tensor:
    """Return, for each row and adapter, the token overlap of the row's prompt with the adapter's prompts.

    The overlap with one of the adapter's prompts is the share of its tokens that occur in the row's prompt. The
    largest overlap counts.

    Args:
        tokens: Token ids of B prompts, without special tokens.
        targets: Targets of K adapters.

    Returns:
        Overlaps (B, K) in [0, 1], on the CPU.
    """
    shares = [[max(len(row & of) / len(of) for of in one.tokens) for one in targets] for row in tokens]
    return torch.tensor(shares, dtype=torch.float64)


def gates(conditionings: Tensor, ids: Tensor, targets: Sequence[GateTargets], special: frozenset[int]) -> Tensor:
    """Return the gate of each prompt for each adapter: the larger of cosine similarity and token overlap.

    Args:
        conditionings: Conditionings (B, L, D) by the encoder that the adapters were trained with.
        ids: Token ids (B, L) of the same prompts.
        targets: Targets of K adapters.
        special: Ids of the special tokens.

    Returns:
        Gates (B, K).
    """
    found = cosines(conditionings, targets)
    return torch.maximum(found, overlaps(token_sets(ids, special), targets).to(found))


class Carrier:
    """Hooks of a text encoder and of a UNet that carry gates from the encoded text to the adapters.

    Args:
        targets: Targets of the K adapters.
        special: Ids of the tokenizer's special tokens.
        reference: Encoder that the adapters were trained with; None if it is the attached text encoder itself.
        apart: True if something attached to that encoder changes its output, so that computing the gates needs a
            separate pass without it.
    """

    def __init__(
        self, targets: Sequence[GateTargets], special: frozenset[int], *, reference: nn.Module | None, apart: bool
    ) -> None:
        self.targets, self.special = tuple(targets), special
        self.reference, self.apart = reference, apart
        self.text, self.unet = Gates(), Gates()
        self.bare = False  # true during a pass of the text encoder without anything attached
        self._rows = Rows()
        self._last: tuple[weakref.ref[Tensor], int, Tensor] | None = None
        self._pending: Tensor | None = None
        self._warned = False

    def __deepcopy__(self, memo: dict[int, Any]) -> Carrier:
        """Return a carrier for copies of the same components; it has no remembered rows."""
        made = type(self)(self.targets, self.special, reference=None, apart=self.apart)
        memo[id(self)] = made
        made.reference = copy.deepcopy(self.reference, memo)
        made.text, made.unet = copy.deepcopy(self.text, memo), copy.deepcopy(self.unet, memo)
        return made

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to pickle, without remembered rows, which belong to tensors of this process."""
        return {**vars(self), "_rows": Rows(), "_last": None, "_pending": None}

    def before_text(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Set the gates of the text encoder's own adapters, computed from its output without them."""
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
        # The input is token ids only, so a gradient could reach nothing but the reference's own weights.
        with torch.no_grad():
            try:
                self.reference.to(ids.device)
                conditionings: Tensor = self.reference(input_ids=ids, attention_mask=mask)[0]
            finally:
                self.reference.to(place)
        return conditionings

    def after_text(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Remember the gates of every row that the text encoder returns."""
        if self.bare:
            return
        found, self._pending, self.text.value = self._pending, None, None
        if output is None or not self.targets:  # None: the pass raised an error
            return
        if found is None:
            found = gates(output[0], _argument(args, kwargs, 0, "input_ids"), self.targets, self.special)
        # With clip_skip a pipeline takes an earlier layer's output and applies the last norm to it.
        earlier = (getattr(output, "hidden_states", None) or ())[:-1]
        empty = [not tokens for tokens in token_sets(_argument(args, kwargs, 0, "input_ids"), self.special)]
        self._rows.add([output[0], *(final_norm(module)(hidden) for hidden in earlier)], found, empty)

    def before_unet(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Set the gates of the UNet's adapters for every row of the batch."""
        if self.targets:
            self.unet.value = self._of(_argument(args, kwargs, 2, "encoder_hidden_states"))

    def after_unet(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Reset the gates of the UNet's adapters."""
        self.unet.value = None

    def _of(self, conditionings: Tensor) -> Tensor:
        # A denoising loop passes the same tensor at every step.
        if self._last is not None and not conditionings.is_inference():
            tensor, version, known = self._last
            if tensor() is conditionings and version == conditionings._version:
                return known
        rows = self._rows.find(conditionings)
        joined = self._joined(rows, conditionings)
        if self.unet.transport == "official" and is_guided(rows):
            joined = joined[len(joined) // 2 :].repeat(2, 1)
        # Tensors of inference mode have no version counter.
        known_by = None if conditionings.is_inference() else conditionings._version
        self._last = None if known_by is None else (weakref.ref(conditionings), known_by, joined)
        return joined

    def _joined(self, rows: Sequence[Row | None], conditionings: Tensor) -> Tensor:
        """Return each row's own gates (B, K); those of an unknown row come from its cosines alone."""
        if all(row is not None for row in rows):
            return torch.stack([row.gates.to(conditionings.device) for row in rows if row is not None])
        self._warn()
        nearest = cosines(conditionings, self.targets)
        return torch.stack(
            [near if row is None else row.gates.to(near) for row, near in zip(rows, nearest, strict=True)]
        )

    def _warn(self) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                "these prompt_embeds did not come from the pipeline's text encoder unchanged, so the adapters' gates "
                "are computed from the cosine to the erased prompts alone, without the tokens; pass prompts instead",
                CompatibilityWarning,
                stacklevel=2,
            )


def final_norm(text_encoder: Any) -> nn.Module:
    """Return the final layer norm of a CLIP text encoder of any version of transformers."""
    norm: nn.Module = getattr(text_encoder, "text_model", text_encoder).final_layer_norm
    return norm


def _argument(args: tuple[Any, ...], kwargs: dict[str, Any], place: int, name: str) -> Any:
    return args[place] if len(args) > place else kwargs.get(name)
