"""Fingerprints of weights and tokenizers: small enough for a manifest, precise enough to distinguish bases.

A sketch holds 8 evenly spaced values of every tensor. It detects a fused LoRA, which a hash of the small tensors would
miss. It also recognises the same weights in half precision, for which a hash would change.
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
# ASCII only, because the slow and the fast tokenizer treat accents differently, but words and punctuation alike.
PROBE_TEXT = "a photo of 2 red circles, van Gogh's church; isn't it a parachute?"
# Relative tolerance: twice the rounding unit, which covers one rounding on either side.
_TOLERANCE = {torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7, torch.float32: 0.0}
_SMALLEST_HALF = 2.0**-24


@dataclass(frozen=True)
class TensorSketch:
    """Shape, dtype and up to 8 evenly spaced values of one tensor."""

    shape: tuple[int, ...]
    dtype: str
    values: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return {"shape": list(self.shape), "dtype": self.dtype, "values": list(self.values)}


Sketch = Mapping[str, TensorSketch]


@dataclass(frozen=True)
class SketchComparison:
    """Result of the comparison of two sketches.

    Args:
        kind: Verdict: ``"same"``, ``"same up to dtype"`` or ``"differs"``.
        distance: Relative distance, root of sum (a - b)^2 / sum b^2; infinite if names or shapes differ.
        detail: Description of the difference if names or shapes differ; otherwise empty.
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
    """The properties of a tokenizer that determine the token ids of a prompt.

    Args:
        vocabulary_sha256: Hash of the vocabulary without added and special tokens.
        vocabulary_size: Number of tokens in that vocabulary.
        special_ids: Ids of ``bos``, ``eos``, ``pad`` and ``unk``; -1 if the tokenizer has no such token.
        max_length: Length of the longest prompt, in tokens.
        probe_ids: Token ids of the fixed text ``PROBE_TEXT``, without special tokens.
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
    """Return the sketch of a state dict, sorted by name.

    Args:
        tensors: Mapping of names to tensors of any shape and dtype, on any device but ``meta``.
    """
    return {name: _sketch_one(tensors[name]) for name in sorted(tensors)}


def picked(tensors: Mapping[str, Tensor]) -> Tensor:
    """Return the unrounded values of a state dict's sketch, sorted by name, as one float64 tensor (n,).

    Args:
        tensors: Mapping of names to tensors, see :func:`sketch`.
    """
    return torch.cat([_pick(tensors[name]).to("cpu", torch.float64) for name in sorted(tensors)])


def _sketch_one(tensor: Tensor) -> TensorSketch:
    values = _pick(tensor).to("cpu", torch.float64).tolist()
    # Nine digits restore every float32 exactly and keep the manifest short.
    return TensorSketch(tuple(tensor.shape), dtype_name(tensor.dtype), tuple(float(f"{v:.9g}") for v in values))


def _pick(tensor: Tensor) -> Tensor:
    at = torch.tensor(_positions(tensor.numel()), dtype=torch.long, device=tensor.device)
    return tensor.detach().reshape(-1)[at]


@lru_cache(maxsize=1024)
def _positions(n: int) -> tuple[int, ...]:
    count = min(n, VALUES_PER_TENSOR)
    return tuple(round(i * (n - 1) / max(count - 1, 1)) for i in range(count))


def dtype_name(dtype: torch.dtype) -> str:
    """Return the short name of a dtype, for example ``"float32"`` for ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


def compare(found: Sketch, expected: Sketch) -> SketchComparison:
    """Compare two sketches within the rounding tolerance of the coarser of their precisions.

    The precision is derived from the values, not from the dtype. Weights that were stored in half precision and loaded
    as float32 are therefore still the same weights up to dtype.

    Args:
        found: Sketch of the weights that were found.
        expected: Sketch of the expected weights.

    Returns:
        Verdict and distance; the distance is relative to ``expected``.
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
    """Return the SHA-256 of the names, dtypes, shapes and bytes of tensors, in the order of the names.

    Unlike the hash of a safetensors file, it does not depend on the order and the metadata in the file.

    Args:
        tensors: Mapping of names to tensors.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().contiguous().cpu()
        digest.update(f"{name}|{dtype_name(tensor.dtype)}|{list(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def config_sha256(config: Mapping[str, Any]) -> str:
    """Return the SHA-256 of an artifact's configuration, in whatever order its keys stand.

    Args:
        config: Configuration that belongs to the tensors; its provenance, under ``robust_encoders``, does not count.
    """
    own = {key: value for key, value in config.items() if key != "robust_encoders"}
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()


def tokenizer_fingerprint(tokenizer: Any) -> TokenizerFingerprint:
    """Return the fingerprint of a tokenizer.

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
        # Encoded word by word, because the tokenizer warns about a text that exceeds its maximum length.
        probe_ids=tuple(i for word in PROBE_TEXT.split() for i in tokenizer(word, add_special_tokens=False).input_ids),
    )
