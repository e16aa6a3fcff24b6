"""Search for objects that still hold a component that was replaced: what they compute goes past the erasure.

The search asks Python's garbage collector who refers to the replaced module, to a part of it or to its parameters, and
compares the memory of traced modules. It finds objects, closures, variables and containers. It cannot see copies of the
weights or embeddings.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from types import BuiltinMethodType, CellType, FrameType, FunctionType, GeneratorType, MethodType, ModuleType
from typing import Any

import torch
from torch import nn

from robust_encoders.pipeline.parts import parts_of
from robust_encoders.pipeline.shared_copy import Original, is_shared_copy

# Objects that only pass a reference on; what holds them is the holder.
_PASSING = (dict, list, tuple, set, frozenset, deque, CellType, MethodType, BuiltinMethodType, partial, Original)
_PACKAGE = __name__.partition(".")[0]
_DEPTH = 8  # steps from a module to its holder, for example through an entry of a list in a dictionary of an object
_MOST = 1000  # containers in one step
_PART = 512  # objects of the heap that are asked at once


def holders_of(modules: Sequence[nn.Module], pipe: Any) -> tuple[str, ...]:
    """Return the objects that hold one of several modules, a part of it or one of its methods, in words.

    Not counted are the modules themselves, the pipeline with its records and components, pipelines with a robust
    encoder or overlays of their own, optimizers, this package, and local variables of running functions. The search
    takes seconds in a large program.

    Args:
        modules: Modules that were replaced.
        pipe: Pipeline that they were replaced in.
    """
    gc.collect()
    return tuple(sorted({*_Search(modules, pipe).run(), *_traced(modules)}))


class _Search:
    """One breadth-first search from replaced modules to their holders.

    Args:
        modules: Modules that were replaced.
        pipe: Pipeline that they were replaced in.
    """

    def __init__(self, modules: Sequence[nn.Module], pipe: Any) -> None:
        parts = [part for module in modules for part in module.modules()]
        self.targets: list[Any] = [*parts, *(parameter for module in modules for parameter in module.parameters())]
        components = [part for part in parts_of(pipe).values() if isinstance(part, nn.Module)]
        known = [pipe, *parts, *(part for component in components for part in component.modules())]
        # Tables of the modules and of the pipeline themselves.
        self.known = {id(one) for one in known} | {id(vars(one)) for one in known}
        self.known |= {id(table) for part in parts for table in vars(part).values()}

    def run(self) -> Iterator[str]:
        """Yield the holders in words, some perhaps more than once."""
        step, seen = self.targets, self.known | {id(self), id(vars(self)), id(self.targets), id(self.known)}
        sources = {id(one) for one in self.targets}
        heap = gc.get_objects()  # what this search makes later is not in it
        for _ in range(_DEPTH):
            found = [one for one in referrers(step, heap) if id(one) not in seen and not _is(one, FrameType)]
            seen |= {id(one) for one in found}
            sources |= {id(one) for one in step}
            yield from (name for one in found if (name := _name_of(one, sources)))
            step = [one for one in found if _passes(one)][:_MOST]
            if not step:
                return


def referrers(objects: Sequence[Any], heap: Sequence[Any]) -> list[Any]:
    """Return the objects of a heap that refer to one of several objects directly.

    The result is that of ``gc.get_referrers``. Its time grows with the number of objects; this one's does not.

    Args:
        objects: Objects that are referred to.
        heap: Objects that may refer to them, for example ``gc.get_objects()``.
    """
    wanted = {id(one) for one in objects}

    def refers(*holders: Any) -> bool:
        return not wanted.isdisjoint(map(id, gc.get_referents(*holders)))

    parts = (heap[start : start + _PART] for start in range(0, len(heap), _PART))
    return [one for part in parts if refers(*part) for one in part if refers(one)]


def _is(one: Any, kinds: type | tuple[type, ...]) -> bool:
    # isinstance would ask proxies of other libraries for their class, and some refuse to answer.
    return issubclass(type(one), kinds)


def _passes(one: Any) -> bool:
    if _is(one, FunctionType):  # torch.compile wraps the methods of a module into functions
        return str(one.__module__).partition(".")[0] == "torch"
    return (_is(one, _PASSING) and not _is_namespace(one)) or (_is(one, nn.Module) and is_shared_copy(one))


def _name_of(holder: Any, held: set[int]) -> str:
    """Return a holder in words; empty for an object that only passes a reference on or does not count."""
    if _is(holder, dict) and _is_namespace(holder):
        return _variables(holder, held)
    kind = holder if _is(holder, type) else type(holder)
    named = holder if _is(holder, (FunctionType, GeneratorType, type)) else kind
    module = _module_of(holder) if _is(holder, (FunctionType, GeneratorType)) else kind.__module__
    if _passes(holder) or _is(holder, ModuleType) or not _counts(holder, module):
        return ""
    return f"{_noun(holder)} {module}.{named.__qualname__}{_attributes(holder, held)}"


def _module_of(one: Any) -> str:
    if _is(one, FunctionType):
        return str(one.__module__)
    return str(one.gi_frame.f_globals.get("__name__", "")) if one.gi_frame is not None else ""


def _counts(holder: Any, module: str) -> bool:
    attached = any(name.startswith(f"_{_PACKAGE}_") for name in _attributes_of(holder))
    idle = _is(holder, torch.optim.Optimizer) or module in ("builtins", "weakref")
    return not (attached or idle or module.partition(".")[0] == _PACKAGE)


def _attributes_of(holder: Any) -> Mapping[str, Any]:
    # Not by getattr, which other libraries override.
    try:
        found: Mapping[str, Any] = object.__getattribute__(holder, "__dict__")
    except AttributeError:
        return {}
    return found


def _noun(holder: Any) -> str:
    if _is(holder, FunctionType):
        return "the function"
    if _is(holder, GeneratorType):
        return "the generator"
    return "the class" if _is(holder, type) else "an object of"


def _is_namespace(one: Any) -> bool:
    return _is(one, dict) and "__builtins__" in one


def _variables(namespace: dict[str, Any], held: set[int]) -> str:
    module = str(namespace.get("__name__", "a program"))
    names = sorted(name for name, value in namespace.items() if id(value) in held)
    return f"the variable {', '.join(names)} of {module}" if names and _counts(namespace, module) else ""


def _attributes(holder: Any, held: set[int]) -> str:
    found = _attributes_of(holder).items()
    names = sorted(name for name, value in found if id(value) in held and not name.startswith("__"))
    return f" ({', '.join(names)})" if names else ""


def _traced(modules: Sequence[nn.Module]) -> Iterator[str]:
    """Yield the traced and scripted modules that use the memory of the replaced modules' parameters."""
    memory = {parameter.data_ptr() for module in modules for parameter in module.parameters()} - {0}
    scripted: Any = torch.jit.ScriptModule
    for one in gc.get_objects():
        if _is(one, scripted) and any(parameter.data_ptr() in memory for parameter in one.parameters()):
            yield f"an object of {type(one).__module__}.{type(one).__qualname__}"
