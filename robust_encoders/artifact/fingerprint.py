"""Fingerprints of weights and tokenizers: small enough for a manifest, sharp enough to tell bases apart.

A sketch holds 8 strided values of every tensor. A hash of the small tensors would miss a fused LoRA and would change
with half precision; a sketch shows both for what they are.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

VALUES_PER_TENSOR = 8
# ASCII only: how accents are folded differs between the slow and the fast tokenizer, words and marks do not.
PROBE_TEXT = "a photo of 2 red circles, van Gogh's church; isn't it a parachute?"
# Twice the rounding unit, so that one rounding on either side stays inside.
_TOLERANCE = {torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7, torch.float32: 0.0}
_SMALLEST_HALF = 2.0**-24


@dataclass(frozen=True)
class TensorSketch:
    """Shape, dtype and a few strided values of one tensor."""

    shape: tuple[int, ...]
    dtype: str
    values: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return {"shape": list(self.shape), "dtype": self.dtype, "values": list(self.values)}


Sketch = Mapping[str, TensorSketch]


@dataclass(frozen=True)
class SketchComparison:
    """How alike two sketches are.

    Args:
        kind: ``"same"``, ``"same up to dtype"`` or ``"differs"``.
        distance: Relative distance, root of sum (a - b)^2 / sum b^2; infinite where names or shapes differ.
        detail: Difference, where names or shapes differ.
    """

    kind: Literal["same", "same up to dtype", "differs"]
    distance: float
    detail: str = ""

    def __str__(self) -> str:
        if self.kind != "differs":
            return self.kind
        return f"differs: {self.detail}" if self.detail else f"differs by {self.distance:.3g} (relative)"


@dataclass(frozen=True)
class TokenizerFingerprint:
    """What decides which ids a tokenizer gives to a prompt.

    Args:
        vocabulary_sha256: Hash of the vocabulary without added and special tokens.
        vocabulary_size: Number of these tokens.
        special_ids: Ids of ``bos``, ``eos``, ``pad`` and ``unk``; -1 where there is none.
        max_length: Longest prompt in tokens.
        probe_ids: Ids of a fixed text, without special tokens.
    """

    vocabulary_sha256: str
    vocabulary_size: int
    special_ids: Mapping[str, int]
    max_length: int
    probe_ids: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return {
            "vocabulary_sha256": self.vocabulary_sha256,
            "vocabulary_size": self.vocabulary_size,
            "special_ids": dict(self.special_ids),
            "max_length": self.max_length,
            "probe_ids": list(self.probe_ids),
        }


def sketch(tensors: Mapping[str, Tensor]) -> Sketch:
    """Return the sketch of a state dict, names sorted.

    Args:
        tensors: Names to tensors of any shape, dtype and device but ``meta``.
    """
    return {name: _sketch_one(tensors[name]) for name in sorted(tensors)}


def picked(tensors: Mapping[str, Tensor]) -> Tensor:
    """Return the values that the sketch of a state dict holds, unrounded, names sorted, (n,) float64.

    Args:
        tensors: Names to tensors, as for :func:`sketch`.
    """
    return torch.cat([_pick(tensors[name]).to("cpu", torch.float64) for name in sorted(tensors)])


def _sketch_one(tensor: Tensor) -> TensorSketch:
    values = _pick(tensor).to("cpu", torch.float64).tolist()
    # Nine digits give every float32 back exactly and keep the manifest short.
    return TensorSketch(tuple(tensor.shape), dtype_name(tensor.dtype), tuple(float(f"{v:.9g}") for v in values))


def _pick(tensor: Tensor) -> Tensor:
    at = torch.tensor(_positions(tensor.numel()), dtype=torch.long, device=tensor.device)
    return tensor.detach().reshape(-1)[at]


@lru_cache(maxsize=1024)
def _positions(n: int) -> tuple[int, ...]:
    count = min(n, VALUES_PER_TENSOR)
    return tuple(round(i * (n - 1) / max(count - 1, 1)) for i in range(count))


def dtype_name(dtype: torch.dtype) -> str:
    """Return ``"float32"`` for ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


def compare(found: Sketch, expected: Sketch) -> SketchComparison:
    """Compare two sketches within the tolerance of the coarser precision their values are held in.

    The precision is read off the values, not the dtype: weights stored in half precision and loaded as float32 are
    still the same weights up to dtype.

    Args:
        found: Sketch of what is there.
        expected: Sketch of what should be there.

    Returns:
        The verdict; its distance is relative to ``expected``.
    """
    detail = _structure(found, expected)
    if detail:
        return SketchComparison("differs", math.inf, detail)
    a = _values(found)  # (n,)
    b = _values(expected)  # (n,)
    distance = _relative(a, b)
    if torch.equal(a, b):
        same_dtype = all(found[name].dtype == expected[name].dtype for name in expected)
        return SketchComparison("same" if same_dtype else "same up to dtype", distance)
    tolerance = max(_TOLERANCE[_precision(a)], _TOLERANCE[_precision(b)])
    close = bool(((a - b).abs() <= tolerance * b.abs() + (_SMALLEST_HALF if tolerance else 0.0)).all())
    return SketchComparison("same up to dtype" if close else "differs", distance)


def _structure(found: Sketch, expected: Sketch) -> str:
    parts = []
    if missing := sorted(expected.keys() - found.keys()):
        parts.append(f"{len(missing)} tensors missing ({missing[0]}, ...)")
    if extra := sorted(found.keys() - expected.keys()):
        parts.append(f"{len(extra)} tensors too many ({extra[0]}, ...)")
    both = sorted(found.keys() & expected.keys())
    if shapes := [name for name in both if found[name].shape != expected[name].shape]:
        name = shapes[0]
        parts.append(f"{len(shapes)} shapes ({name}: {found[name].shape} instead of {expected[name].shape}, ...)")
    return "; ".join(parts)


def _values(sketched: Sketch) -> Tensor:
    values = [v for name in sorted(sketched) for v in sketched[name].values]
    return torch.tensor(values, dtype=torch.float32).double()  # nine digits are exact only as float32


def _relative(a: Tensor, b: Tensor) -> float:
    difference, size = float((a - b).square().sum()), float(b.square().sum())
    if difference == 0.0:
        return 0.0
    return math.sqrt(difference / size) if size else math.inf


def _precision(values: Tensor) -> torch.dtype:
    for dtype in (torch.bfloat16, torch.float16):
        if torch.equal(values.to(dtype).double(), values):
            return dtype
    return torch.float32


def content_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Return a hash of names, dtypes, shapes and bytes, in order of name.

    Unlike the hash of a safetensors file it does not depend on how the file was written.

    Args:
        tensors: Names to tensors.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().contiguous().cpu()
        digest.update(f"{name}|{dtype_name(tensor.dtype)}|{list(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def tokenizer_fingerprint(tokenizer: Any) -> TokenizerFingerprint:
    """Return what decides which ids ``tokenizer`` gives to a prompt.

    Args:
        tokenizer: A transformers tokenizer, slow or fast.
    """
    special = set(tokenizer.all_special_tokens)
    apart = special | set(tokenizer.get_added_vocab())
    words = {token: index for token, index in tokenizer.get_vocab().items() if token not in apart}
    text = json.dumps(sorted(words.items()), ensure_ascii=False, separators=(",", ":"))
    ids = {kind: getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad", "unk")}
    return TokenizerFingerprint(
        vocabulary_sha256=hashlib.sha256(text.encode()).hexdigest(),
        vocabulary_size=len(words),
        special_ids={kind: -1 if index is None else int(index) for kind, index in ids.items()},
        max_length=int(tokenizer.model_max_length),
        # Word by word: the whole text may be longer than the maximum, which the tokenizer would warn about.
        probe_ids=tuple(i for word in PROBE_TEXT.split() for i in tokenizer(word, add_special_tokens=False).input_ids),
    )
