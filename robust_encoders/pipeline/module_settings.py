"""Settings of a module beside its weights, and their transfer to the module that takes its place.

Settings are what users and the methods of diffusers and transformers change on a module: training mode, trainable
parameters, gradient checkpointing, attention processors and their backends, attention implementation, FreeU, flags of
the configuration. Hooks and replaced ``forward`` methods cannot be transferred; they are named instead.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import NoneType
from typing import Any

import torch
from torch import nn

from robust_encoders.clip.state_dict import unwrapped
from robust_encoders.errors import CompatibilityWarning
from robust_encoders.pipeline.attentions import processor_of
from robust_encoders.pipeline.foreign_code import foreign_hooks, replaced_forwards

_PLAIN = (bool, int, float, str, torch.dtype, NoneType)
_CHECKPOINTING = ("gradient_checkpointing", "_gradient_checkpointing_func")
# Attributes of torch itself and of offloading, and those that bind a module to its own methods.
_BOUND = frozenset(("_hf_hook", "_old_forward", "_compiled_call_impl", "forward", "save_pretrained"))
_NO_SETTINGS = (frozenset(vars(nn.Module())) | _BOUND) - {"training"}
# Diffusers reads use_attention_mask off the configuration: with it, pipelines pass the tokenizer's mask of the padding.
_FLAGS = ("output_attentions", "output_hidden_states", "return_dict", "torchscript", "use_attention_mask")


@dataclass(frozen=True, eq=False)
class _Kept:
    """One object and the plain values among its attributes at one moment.

    Args:
        owner: Part of a module, or its attention processor.
        values: Names and values of its attributes; lists are copied.
    """

    owner: Any
    values: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Settings:
    """Settings of a module at one moment.

    Args:
        parts: Settings of every part, by module path.
        processors: Settings of the attention processors, by the module path of their attention.
        trainable: Names of the parameters, with true for those that require gradients.
        flags: Flags of the configuration, the attention implementation, and whether inputs get gradients.
        hooks: Hooks of other code, as module path, name of the table, and key in the table.
    """

    parts: Mapping[str, _Kept]
    processors: Mapping[str, _Kept]
    trainable: Mapping[str, bool]
    flags: Mapping[str, Any]
    hooks: frozenset[tuple[str, str, int]]


def settings_of(module: nn.Module) -> Settings:
    """Return the present settings of a module, without a ``torch.compile`` wrapper."""
    parts = dict(module.named_modules())
    processors = {name: processor_of(part) for name, part in parts.items()}
    return Settings(
        {name: _Kept(part, _values(part)) for name, part in parts.items()},
        {name: _Kept(one, _values(one)) for name, one in processors.items() if one is not None},
        {name: parameter.requires_grad for name, parameter in module.named_parameters()},
        _flags(module),
        frozenset((name, table, key) for name, table, key, _ in foreign_hooks(module)),
    )


def settings_since(before: Settings, module: nn.Module) -> Settings:
    """Return the settings of a module with those values that :func:`imitate` copies taken from an earlier moment.

    Changes since that moment, on a module that this one replaced, then count as changes of this one.

    Args:
        before: Settings at that moment of the module that was replaced.
        module: Module that imitated it.
    """
    now, names = settings_of(module), ("training", *_CHECKPOINTING)
    parts = {}
    for name, kept in now.parts.items():
        there = before.parts[name].values if name in before.parts else kept.values
        own = {key: value for key, value in kept.values.items() if key not in names}
        parts[name] = _Kept(kept.owner, own | {key: there[key] for key in names if key in there})
    return replace(now, parts=parts, trainable=before.trainable, flags=before.flags)


def _values(owner: Any) -> dict[str, Any]:
    found = getattr(owner, "__dict__", {})
    if type(owner).__module__.partition(".")[0] != "diffusers":  # transformers notes there which hooks it installed
        found = {key: value for key, value in found.items() if key in _CHECKPOINTING or not key.startswith("_")}
    kept = {key: value for key, value in found.items() if key not in _NO_SETTINGS and _is_setting(key, value)}
    return {key: list(value) if isinstance(value, list) else value for key, value in kept.items()}


def _is_setting(key: str, value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(isinstance(one, _PLAIN) for one in value)
    # Another function may be bound to the module whose attribute it is.
    return isinstance(value, _PLAIN) or key in _CHECKPOINTING


def _flags(module: Any) -> dict[str, Any]:
    config: Any = getattr(module, "config", None)
    if not hasattr(module, "set_attn_implementation"):  # no module of transformers
        return {}
    found = {name: getattr(config, name) for name in _FLAGS if hasattr(config, name)}
    # Enabled together with gradient checkpointing, by a hook on the token embeddings.
    found["input_gradients"] = bool(getattr(module, "_require_grads_hook", None))
    return {"attn_implementation": config._attn_implementation, **found}


def _set_flags(module: Any, flags: Mapping[str, Any]) -> None:
    # The implementation comes first, because not every implementation returns attentions.
    if "attn_implementation" in flags:
        module.set_attn_implementation(flags["attn_implementation"])
    if "input_gradients" in flags:
        (module.enable_input_require_grads if flags["input_gradients"] else module.disable_input_require_grads)()
    for name in _FLAGS:
        if name in flags:
            setattr(module.config, name, flags[name])


def imitate(module: nn.Module, model: nn.Module) -> None:
    """Copy the settings of a text encoder to the one that takes its place, name by name.

    Copied are training mode, trainable parameters, gradient checkpointing, attention implementation, and the flags
    for hidden states, attentions, the type of the output and the mask of the padding.

    Args:
        module: New text encoder.
        model: Text encoder that it replaces, without a ``torch.compile`` wrapper. Both have the same class, so their
            parameter names are the same.
    """
    parts = dict(model.named_modules())
    trainable = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    for name, part in module.named_modules():
        there = parts.get(name)
        part.training = (model if there is None else there).training
        if there is not None and hasattr(there, "gradient_checkpointing"):
            _copy(_CHECKPOINTING, there, part)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(trainable.get(name, False))
    flags, own = _flags(model), _flags(module)
    _set_flags(module, {name: value for name, value in flags.items() if own.get(name) != value})


def _copy(names: tuple[str, ...], source: Any, target: Any) -> None:
    for name in names:
        if name in vars(source):
            setattr(target, name, vars(source)[name])


def carry_changes(before: Settings, now: nn.Module, to: nn.Module) -> None:
    """Make the settings that changed on one module since ``before`` the settings of another module, too.

    Args:
        before: Settings of ``now`` at an earlier moment.
        now: Module without a ``torch.compile`` wrapper.
        to: Module with the same parts, for example the one that ``now`` is a copy of.
    """
    targets = dict(to.named_modules())
    for name, part in now.named_modules():
        kept = before.parts.get(name)
        if name in targets and kept is not None and kept.owner is part:
            _carry_values(kept, part, targets[name])
            _carry_processor(before.processors.get(name), part, targets[name])
    parameters = dict(to.named_parameters())
    for name, parameter in now.named_parameters():
        if name in parameters and before.trainable.get(name, parameter.requires_grad) != parameter.requires_grad:
            parameters[name].requires_grad_(parameter.requires_grad)
    flags = _flags(now)
    _set_flags(to, {name: value for name, value in flags.items() if before.flags.get(name) != value})


def _carry_values(kept: _Kept, now: Any, to: Any) -> None:
    values = _values(now)
    for key, value in values.items():
        if key not in kept.values or not _equal(kept.values[key], value):
            vars(to)[key] = value
    # A name that is no longer a plain attribute may have become a submodule, such as an unloaded IP-Adapter's.
    for key in kept.values.keys() - vars(now).keys():
        if not hasattr(now, key):
            vars(to).pop(key, None)


def _equal(one: Any, other: Any) -> bool:
    return one is other or (type(one) is type(other) and bool(one == other))


def _carry_processor(kept: _Kept | None, now: Any, to: Any) -> None:
    processor = processor_of(now)
    if kept is None or processor is None:
        return
    if processor is not kept.owner:
        to.set_processor(processor)
    else:
        _carry_values(kept, processor, to.processor)


def left_behind(before: Settings, now: nn.Module) -> tuple[str, ...]:
    """Return, in words, what was put on a module since ``before`` and cannot be transferred.

    Args:
        before: Settings of ``now`` at an earlier moment.
        now: Module without a ``torch.compile`` wrapper.
    """
    hooked = {name for name, table, key, _ in foreign_hooks(now) if (name, table, key) not in before.hooks}
    found = [f"hooks on {_places(hooked)}"] * bool(hooked)
    if patched := replaced_forwards(now):
        found.append(f"a replaced forward of {_places(set(patched))}")
    if getattr(now, "_compiled_call_impl", None) is not None:
        found.append("a compiled forward")
    return tuple(found)


def warn_of_losses(slot: str, before: Settings, current: nn.Module) -> None:
    """Warn of what is on a module and will not be on the module that takes its place.

    Args:
        slot: Name of the component.
        before: Settings of the module when it was put into the slot.
        current: Module in the slot, perhaps with a ``torch.compile`` wrapper.
    """
    module = unwrapped(current)
    lost = [*left_behind(before, module), *["a torch.compile wrapper"] * (module is not current)]
    if lost:
        warnings.warn(
            f"pipe.{slot} got {' and '.join(lost)} after attaching, which will stay on the module that is taken out; "
            "put the same on the new one",
            CompatibilityWarning,
            stacklevel=2,
        )


def _places(names: set[str]) -> str:
    return ", ".join(name or "the module itself" for name in sorted(names)[:3])
