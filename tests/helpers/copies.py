"""Many equal copies of a pipeline: copying takes a fraction of the time that making another one takes."""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class _Writer(pickle.Pickler):
    """Writes everything but tensors, which it keeps as they are."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self.tensors: list[Tensor] = []
        self._places: dict[int, int] = {}

    def persistent_id(self, found: Any) -> int | None:
        if not isinstance(found, Tensor):
            return None
        if id(found) not in self._places:
            self._places[id(found)] = len(self.tensors)
            self.tensors.append(found)
        return self._places[id(found)]


class _Reader(pickle.Unpickler):
    """Reads what was written, with copies of the tensors; those that shared memory share memory again."""

    def __init__(self, file: io.BytesIO, tensors: Sequence[Tensor]) -> None:
        super().__init__(file)
        self._tensors = tensors
        self._made: dict[int, Tensor] = {}
        self._memory: dict[int, Any] = {}

    def persistent_load(self, place: int) -> Tensor:
        if place not in self._made:
            self._made[place] = self._copied(self._tensors[place])
        return self._made[place]

    def _copied(self, tensor: Tensor) -> Tensor:
        memory: Any = tensor.untyped_storage()
        if memory.data_ptr() not in self._memory:
            self._memory[memory.data_ptr()] = memory.clone()
        copy = torch.empty(0, dtype=tensor.dtype)
        copy.set_(self._memory[memory.data_ptr()], tensor.storage_offset(), tensor.shape, tensor.stride())
        made = nn.Parameter(copy, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copy
        vars(made).update(vars(tensor))
        return made


class Stock:
    """An object of which equal copies are wanted; it must not be changed.

    Args:
        made: A pipeline, or another object that can be pickled. Of its tensors only parameters may need gradients.
    """

    def __init__(self, made: Any) -> None:
        file = io.BytesIO()
        writer = _Writer(file)
        writer.dump(made)
        self._data, self._tensors = file.getvalue(), writer.tensors

    def copy(self) -> Any:
        """Return a copy that shares nothing with the object or with other copies."""
        return _Reader(io.BytesIO(self._data), self._tensors).load()
