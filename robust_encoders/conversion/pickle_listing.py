"""What a pickle of ``torch.save`` would build, found without building it.

A small machine runs the opcodes that ``torch.load(weights_only=True)`` accepts. In place of tensors it makes notes of
their storages, shapes and strides. So sizes can be checked before any memory is taken. torch alone would allocate what
a pickle asks for: ``bytearray(10**10)`` is a pickle of 40 bytes.
"""

from __future__ import annotations

import pickletools
from io import BytesIO
from typing import Any, NamedTuple

from robust_encoders.conversion.pickle_calls import Odd, RefusedError, Storage, View
from robust_encoders.conversion.pickle_machine import Machine


class Listing(NamedTuple):
    """The content of a pickle.

    Args:
        root: Plain containers and values, with :class:`View` in place of tensors.
        storages: Mapping of keys to storages.
    """

    root: Any
    storages: dict[str, Storage]


def listing(data: BytesIO) -> Listing:
    """Return what a pickle would build; afterwards ``data`` stands behind the pickle.

    Args:
        data: Bytes that begin with a pickle.

    Raises:
        RefusedError: If the pickle is damaged, asks for code, or takes more memory than a state dict can need.
    """
    machine = Machine()
    try:
        for opcode, value, _ in pickletools.genops(data):
            machine.step(opcode.name, value)
        return Listing(machine.stack.pop(), machine.storages)
    except RefusedError:
        raise
    except Exception as error:
        # A hostile pickle can break the machine at any place, for example by an empty stack.
        raise RefusedError(f"a damaged one ({type(error).__name__}: {str(error)[:100]})", damaged=True) from error


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
