"""What a pickle of ``torch.save`` would build, found without building it.

A small machine runs the opcodes that ``torch.load(weights_only=True)`` accepts. In place of tensors it makes notes of
their storages, shapes and strides. So sizes can be checked before any memory is taken. torch alone would allocate what
a pickle asks for: ``bytearray(10**10)`` is a pickle of 40 bytes.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from io import BytesIO
from math import prod
from typing import Any, NamedTuple

import torch

from robust_encoders.errors import IntegrityError

# A pickle of SDXL as a single file has 0.4 MB and 70,000 opcodes. Each opcode builds an object of about 100 bytes.
MOST_PICKLE = 2**22
MOST_STEPS = 2**19
# Larger numbers can be chosen so that their hashes collide; no checkpoint has such keys.
_LARGEST_KEY = 2**32
_MOST_DIMENSIONS = 16
_SIZES = {
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


class Listing(NamedTuple):
    """The content of a pickle.

    Args:
        root: Plain containers and values, with :class:`View` in place of tensors.
        storages: Mapping of keys to storages.
    """

    root: Any
    storages: dict[str, Storage]


class _Global(NamedTuple):
    name: str


class RefusedError(IntegrityError):
    """A pickle holds what no state dict needs; the message is what was found, as a noun phrase.

    Args:
        found: What was found.
        damaged: True if the file is cut off or was changed on its way, so that another download may help.
    """

    def __init__(self, found: str, *, damaged: bool = False) -> None:
        super().__init__(found)
        self.damaged = damaged


def listing(data: BytesIO) -> Listing:
    """Return what a pickle would build; afterwards ``data`` stands behind the pickle.

    Args:
        data: Bytes that begin with a pickle.

    Raises:
        RefusedError: If the pickle is damaged, asks for code, or takes more memory than a state dict can need.
    """
    machine = _Machine()
    try:
        for opcode, value, _ in pickletools.genops(data):
            machine.step(opcode.name, value)
        return Listing(machine.stack.pop(), machine.storages)
    except RefusedError:
        raise
    except Exception as error:
        # A hostile pickle can break the machine at any place, for example by an empty stack.
        raise RefusedError(f"a damaged one ({type(error).__name__}: {str(error)[:100]})", damaged=True) from error


class _Machine:
    """A stack machine for the opcodes of a state dict."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.storages: dict[str, Storage] = {}
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._cost = 0

    def step(self, name: str, value: Any) -> None:
        self._spend(1)
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _VALUES:
            self.stack.append(value)
        elif name in _STEPS:
            _STEPS[name](self, value)
        else:
            raise RefusedError(f"one with the opcode {name}, which torch.save with its default protocol does not write")

    def _spend(self, cost: int) -> None:
        self._cost += cost
        if self._cost > MOST_STEPS:
            raise RefusedError(f"one of more than {MOST_STEPS} steps, which no text encoder needs")

    def _mark(self, _: Any) -> None:
        self._below.append(self.stack)
        self.stack = []

    def _marked(self) -> list[Any]:
        found, self.stack = self.stack, self._below.pop()
        return found

    def _put(self, index: int) -> None:
        self._memo[index] = self.stack[-1]

    def _get(self, index: int) -> None:
        self.stack.append(self._memo[index])

    def _tuple(self, _: Any) -> None:
        found = self._marked()
        self.stack.append(tuple(found))

    def _tuple_of(self, count: int) -> None:
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def _extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise RefusedError("one that appends to something else than a list")
        self.stack[-1].extend(items)

    def _set(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise RefusedError("one that sets items of something else than a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            _require_key(key)
            if key in target:
                raise RefusedError(f"one that names {str(key)[:80]!r} twice in one dict")
            target[key] = value

    def _pair(self, _: Any) -> None:
        pair = [self.stack.pop(-2), self.stack.pop()]
        self._set(pair)

    def _global(self, value: str) -> None:
        name = value.replace(" ", ".").replace("__builtin__.", "builtins.", 1)
        if name not in _CALLS and not _is_type(name):
            raise RefusedError(f"one that asks for {name[:100]}")
        self.stack.append(_Global(name))

    def _reduce(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, _Global) or function.name not in _CALLS or type(arguments) is not tuple:
            raise RefusedError("one that calls what is no function of a state dict")
        # A call copies its arguments, and a short pickle can pass the same large list to many calls.
        self._spend(sum(len(one) for one in arguments if isinstance(one, str | bytes | list | tuple | dict)))
        self.stack.append(_CALLS[function.name](*arguments))

    def _build(self, _: Any) -> None:
        state = self.stack.pop()
        if type(self.stack[-1]) is not dict or type(state) is not dict:
            raise RefusedError("one that sets attributes of something else than an OrderedDict")
        # torch copies the state into the attributes of the OrderedDict, again for every such opcode.
        self._spend(len(state))

    def _storage(self, _: Any) -> None:
        kind, of, key, _, numel, *view = self.stack.pop()
        if kind != "storage" or not isinstance(of, _Global) or type(key) is not str or type(numel) is not int:
            raise RefusedError("one that names something else than a storage")
        if numel < 0 or view not in ([], [None]):
            raise RefusedError("one with a storage of negative size, or with a view of another storage")
        item = _SIZES.get(of.name.rpartition(".")[2])
        if item is None:
            raise RefusedError(f"one with a storage of type {of.name}")
        found = Storage(key, numel * item, item)
        if self.storages.setdefault(key, found).size != found.size:
            raise RefusedError(f"one that claims two sizes for the storage {key[:40]!r}")
        self.stack.append(found)


def _require_key(key: object) -> None:
    if not (isinstance(key, str) or (type(key) is int and abs(key) < _LARGEST_KEY)):
        raise RefusedError(f"one with a {type(key).__name__} as the key of a dict, not a name")


def _is_type(name: str) -> bool:
    """Return true for a dtype or a storage type, which a pickle names but does not call."""
    module, _, last = name.rpartition(".")
    if module in ("torch", "torch.storage") and last in _SIZES:
        return True
    return module == "torch" and last.startswith(("float", "bfloat", "int", "uint", "bool", "sparse_", "strided"))


def _ordered(pairs: Any = ()) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for key, value in pairs:
        _require_key(key)
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


def _dtyped_view(storage: Any, offset: Any, shape: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Any) -> View:
    kind = getattr(torch, dtype.name.rpartition(".")[2], None) if isinstance(dtype, _Global) else None
    if not isinstance(kind, torch.dtype):
        raise RefusedError("one with a tensor of no dtype")
    return _view(storage, offset, shape, stride)._replace(item=kind.itemsize)


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _set_of(items: Any) -> list[Any]:
    for item in items:
        _require_key(item)
    return list(items)


def _device(*_: Any) -> None:
    return None


def _odd(*_: Any) -> Odd:
    return Odd("a sparse or quantised tensor, or one without values")


_CALLS: Mapping[str, Callable[..., Any]] = {
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
_CONSTANTS: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False, "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": list,
}  # fmt: skip
_VALUES = ("BININT", "BININT1", "BININT2", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "LONG1")
_STEPS: Mapping[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, value: None,
    "STOP": lambda machine, value: None,
    "MARK": _Machine._mark,
    "BINPUT": _Machine._put,
    "LONG_BINPUT": _Machine._put,
    "BINGET": _Machine._get,
    "LONG_BINGET": _Machine._get,
    "TUPLE": _Machine._tuple,
    "TUPLE1": lambda machine, _: machine._tuple_of(1),
    "TUPLE2": lambda machine, _: machine._tuple_of(2),
    "TUPLE3": lambda machine, _: machine._tuple_of(3),
    "APPEND": lambda machine, _: machine._extend([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine._extend(machine._marked()),
    "SETITEM": _Machine._pair,
    "SETITEMS": lambda machine, _: machine._set(machine._marked()),
    "GLOBAL": _Machine._global,
    "REDUCE": _Machine._reduce,
    "BUILD": _Machine._build,
    "BINPERSID": _Machine._storage,
}


def odd_entries(root: Any) -> list[str]:
    """Return the entries of a listing that are no plain tensors and values, as ``'name': what it is``.

    Args:
        root: Content of a pickle, see :class:`Listing`.
    """
    found: list[str] = []
    left: list[tuple[str, Any]] = [("", root)]
    seen: set[int] = set()
    while left:
        where, value = left.pop()
        if isinstance(value, Odd):
            found.append(f"{where!r}: {value.words}")
        elif isinstance(value, View):
            # A stride of 0 lets one stored number stand for thousands of millions; no checkpoint is stored like that.
            if value.size > value.storage.size:
                found.append(f"{where!r}: shape {value.shape}, but {value.storage.size} bytes")
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            # A container can hold itself, or one other container a thousand times.
            seen.add(id(value))
            pairs = value.items() if isinstance(value, dict) else ((where, one) for one in value)
            left += [(str(name)[:80], one) for name, one in pairs]
    return sorted(found)
