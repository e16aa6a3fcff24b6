"""A small machine that runs the opcodes of a state dict's pickle, and builds notes in place of tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from robust_encoders.conversion.pickle_calls import CALLS, SIZES, Global, RefusedError, Storage, is_type, require_key

# OpenCLIP-G's text encoder has 516 tensors; its pickle has 66 kB and 15,500 opcodes. An opcode builds an object of
# about 100 bytes at most.
MOST_PICKLE = 2**22
MOST_STEPS = 2**18


class Machine:
    """A stack machine for the opcodes of a state dict.

    Its ``stack`` ends with the content of the pickle, and ``storages`` holds every storage that was named.
    """

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.storages: dict[str, Storage] = {}
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._cost = 0

    def step(self, name: str, value: Any) -> None:
        """Run one opcode.

        Args:
            name: Name of the opcode, as in ``pickletools``.
            value: Argument of the opcode.

        Raises:
            RefusedError: If no state dict needs the opcode, or the pickle has too many.
        """
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
            require_key(key)
            if key in target:
                raise RefusedError(f"one that names {str(key)[:80]!r} twice in one dict")
            target[key] = value

    def _pair(self, _: Any) -> None:
        pair = [self.stack.pop(-2), self.stack.pop()]
        self._set(pair)

    def _global(self, value: str) -> None:
        name = value.replace(" ", ".").replace("__builtin__.", "builtins.", 1)
        if name not in CALLS and not is_type(name):
            raise RefusedError(f"one that asks for {name[:100]}")
        self.stack.append(Global(name))

    def _reduce(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Global) or function.name not in CALLS or type(arguments) is not tuple:
            raise RefusedError("one that calls what is no function of a state dict")
        # A call copies its arguments, and a short pickle can pass the same large list to many calls.
        self._spend(sum(len(one) for one in arguments if isinstance(one, str | bytes | list | tuple | dict)))
        self.stack.append(CALLS[function.name](*arguments))

    def _build(self, _: Any) -> None:
        state = self.stack.pop()
        if type(self.stack[-1]) is not dict or type(state) is not dict:
            raise RefusedError("one that sets attributes of something else than an OrderedDict")
        # torch copies the state into the attributes of the OrderedDict, again for every such opcode.
        self._spend(len(state))

    def _storage(self, _: Any) -> None:
        kind, of, key, _, numel, *view = self.stack.pop()
        if kind != "storage" or not isinstance(of, Global) or type(key) is not str or type(numel) is not int:
            raise RefusedError("one that names something else than a storage")
        if numel < 0 or view not in ([], [None]):
            raise RefusedError("one with a storage of negative size, or with a view of another storage")
        item = SIZES.get(of.name.rpartition(".")[2])
        if item is None:
            raise RefusedError(f"one with a storage of type {of.name}")
        found = Storage(key, numel * item, item)
        if self.storages.setdefault(key, found).size != found.size:
            raise RefusedError(f"one that claims two sizes for the storage {key[:40]!r}")
        self.stack.append(found)


_CONSTANTS: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False, "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": list,
}  # fmt: skip
_VALUES = ("BININT", "BININT1", "BININT2", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "LONG1")
_STEPS: Mapping[str, Callable[[Machine, Any], None]] = {
    "PROTO": lambda machine, value: None,
    "STOP": lambda machine, value: None,
    "MARK": Machine._mark,
    "BINPUT": Machine._put,
    "LONG_BINPUT": Machine._put,
    "BINGET": Machine._get,
    "LONG_BINGET": Machine._get,
    "TUPLE": Machine._tuple,
    "TUPLE1": lambda machine, _: machine._tuple_of(1),
    "TUPLE2": lambda machine, _: machine._tuple_of(2),
    "TUPLE3": lambda machine, _: machine._tuple_of(3),
    "APPEND": lambda machine, _: machine._extend([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine._extend(machine._marked()),
    "SETITEM": Machine._pair,
    "SETITEMS": lambda machine, _: machine._set(machine._marked()),
    "GLOBAL": Machine._global,
    "REDUCE": Machine._reduce,
    "BUILD": Machine._build,
    "BINPERSID": Machine._storage,
}
