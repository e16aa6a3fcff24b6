"""The functions and types that the pickle of a state dict names, with stand-ins that note sizes and build no tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any, NamedTuple

import torch

from robust_encoders.errors import IntegrityError

# Larger numbers can be chosen so that their hashes collide; no checkpoint has such keys.
_LARGEST_KEY = 2**32
_MOST_DIMENSIONS = 16
SIZES = {
    "DoubleStorage": 8, "FloatStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2, "LongStorage": 8, "IntStorage": 4,
    "ShortStorage": 2, "CharStorage": 1, "ByteStorage": 1, "BoolStorage": 1, "UntypedStorage": 1,
}  # fmt: skip
_NO_PLAIN_TENSOR = (
    "_rebuild_sparse_tensor", "_rebuild_qtensor", "_rebuild_meta_tensor_no_storage", "_rebuild_nested_tensor",
    "_rebuild_device_tensor_from_numpy", "_rebuild_device_tensor_from_cpu_tensor",
)  # fmt: skip


class Storage(NamedTuple):
    """A storage that a pickle names.

    Args:
        key: Name of the storage in the file.
        size: Size in bytes that the pickle claims.
        item: Size of one number in bytes.
    """

    key: str
    size: int
    item: int


class View(NamedTuple):
    """A tensor that a pickle would build.

    Args:
        storage: Storage of its numbers.
        shape: Shape of the tensor.
        item: Size of one number in bytes.
    """

    storage: Storage
    shape: tuple[int, ...]
    item: int

    @property
    def size(self) -> int:
        """Size of all numbers in bytes; with a stride of 0 it exceeds the size of the storage."""
        return prod(self.shape) * self.item


class Odd(NamedTuple):
    """An object that is no plain tensor, and that no state dict needs.

    Args:
        words: Description of the object.
    """

    words: str


class Global(NamedTuple):
    """A function or type that a pickle names.

    Args:
        name: Dotted name.
    """

    name: str


class RefusedError(IntegrityError):
    """A pickle holds what no state dict needs; the message is what was found, as a noun phrase.

    Args:
        found: Description of the content, as a noun phrase.
        damaged: True if the file is cut off or was changed on its way, so that another download may help.
    """

    def __init__(self, found: str, *, damaged: bool = False) -> None:
        super().__init__(found)
        self.damaged = damaged


def require_key(key: object) -> None:
    """Refuse a key of a dict that is neither a text nor a small number.

    Args:
        key: Key of a dict.

    Raises:
        RefusedError: If it is another.
    """
    if not (isinstance(key, str) or (type(key) is int and abs(key) < _LARGEST_KEY)):
        raise RefusedError(f"one with a {type(key).__name__} as the key of a dict, not a name")


def is_type(name: str) -> bool:
    """Return true for a dtype or a storage type, which a pickle names but does not call.

    Args:
        name: Dotted name.
    """
    module, _, last = name.rpartition(".")
    if module in ("torch", "torch.storage") and last in SIZES:
        return True
    return module == "torch" and last.startswith(("float", "bfloat", "int", "uint", "bool", "sparse_", "strided"))


def _ordered(pairs: Any = ()) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for key, value in pairs:
        require_key(key)
        if key in found:
            raise RefusedError(f"one that names {str(key)[:80]!r} twice in one dict")
        found[key] = value
    return found


def _view(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> View:
    numbers = (offset, *shape, *stride)
    wrong = any(type(number) is not int or not 0 <= number < 2**62 for number in numbers)
    if not isinstance(storage, Storage) or wrong or len(shape) > _MOST_DIMENSIONS:
        raise RefusedError("one with a tensor of impossible shape")
    return View(storage, tuple(shape), storage.item)


def _dtyped_view(storage: Any, *arguments: Any) -> View:
    offset, shape, stride, _, _, dtype, *_ = arguments
    kind = getattr(torch, dtype.name.rpartition(".")[2], None) if isinstance(dtype, Global) else None
    if not isinstance(kind, torch.dtype):
        raise RefusedError("one with a tensor of no dtype")
    return _view(storage, offset, shape, stride)._replace(item=kind.itemsize)


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _set_of(items: Any) -> list[Any]:
    for item in items:
        require_key(item)
    return list(items)


def _device(*_: Any) -> None:
    return None


def _odd(*_: Any) -> Odd:
    return Odd("a sparse or quantised tensor, or one without values")


CALLS: Mapping[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered,
    "torch._utils._rebuild_tensor": _view,
    "torch._utils._rebuild_tensor_v2": _view,
    "torch._utils._rebuild_tensor_v3": _dtyped_view,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": tuple,
    "torch.device": _device,
    "builtins.set": _set_of,
    "torch.serialization._get_layout": _odd,
    **{f"torch._utils.{name}": _odd for name in _NO_PLAIN_TENSOR},
}
