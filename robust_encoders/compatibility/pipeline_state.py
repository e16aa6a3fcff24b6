"""Checks of the state a pipeline is in: what would be lost, or was never measured, if an encoder were attached now?"""

from __future__ import annotations

import re
from importlib.metadata import version

from torch import nn

from robust_encoders.artifact.fingerprint import compare, sketch
from robust_encoders.clip.state_dict import module_state
from robust_encoders.compatibility.facts import Facts, unknown
from robust_encoders.compatibility.report import Check
from robust_encoders.pipeline import offload
from robust_encoders.pipeline.bypass import has_adapter

# The oldest generation that the tests run on.
MINIMUM = {"torch": "2.6", "transformers": "4.57", "diffusers": "0.35"}
# Before it a modular pipeline took no component that it had not loaded itself.
MODULAR = {"diffusers": "0.37"}


def other_encoders(facts: Facts) -> Check:
    """Would the concept stay reachable?"""
    return Check(
        "other text encoders",
        not facts.others,
        "warning" if facts.allow_partial else "error",
        "no other text encoder",
        ", ".join(facts.others) or "none",
        "the concept stays reachable through them; pass allow_partial=True to accept that",
    )


def base_fingerprint(facts: Facts) -> Check | None:
    """Is the encoder that is replaced the base's own?"""
    recorded = facts.manifest.base.text_encoder
    if facts.original is None:
        return None
    if recorded is None:
        return unknown("base fingerprint")
    outcome = compare(facts.original_sketch, recorded)
    return Check(
        "base fingerprint",
        outcome.kind != "differs",
        "warning",
        f"the text encoder of {facts.manifest.base.family}, same at least up to dtype",
        str(outcome),
        "this pipeline's text encoder was changed (fine-tuned, fused or edited); attaching drops that change, and how "
        "well the erasure holds on this pipeline was never measured",
    )


def unet_fingerprint(facts: Facts) -> Check | None:
    """Is the UNet the base's own?"""
    recorded = facts.manifest.base.unet
    if facts.unet is None or recorded is None:
        return None
    outcome = compare(sketch(module_state(facts.unet)), recorded)
    return Check(
        "UNet fingerprint",
        outcome.kind != "differs",
        "warning",
        f"the UNet of {facts.manifest.base.family}, same at least up to dtype",
        str(outcome),
        "the encoder was trained against another UNet; measure how well the erasure holds on this one",
    )


def precision(facts: Facts) -> Check | None:
    """Are the weights that are replaced plain floating numbers?"""
    if facts.original is None:
        return None
    dtype = next(facts.original.parameters()).dtype
    quantised = getattr(facts.original, "hf_quantizer", None) is not None or not dtype.is_floating_point
    return Check(
        "precision",
        not quantised,
        "error",
        "a floating dtype, not quantised",
        f"quantised ({dtype})" if quantised else str(dtype),
        "load the pipeline with text_encoder=encoder.text_encoder() instead",
    )


def versions(facts: Facts) -> Check:
    """Are the libraries new enough?"""
    minimum = MINIMUM | (MODULAR if hasattr(facts.pipe, "update_components") else {})
    installed = {name: version(name) for name in minimum}
    old = [name for name, least in minimum.items() if _release(installed[name]) < _release(least)]
    return Check(
        "library versions",
        not old,
        "error",
        ", ".join(f"{name} >= {least}" for name, least in minimum.items()),
        ", ".join(f"{name} {found}" for name, found in installed.items()),
        f"pip install --upgrade {' '.join(old)}",
    )


def _release(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2])


def offloading(facts: Facts) -> Check:
    """Can the way the pipeline is moved around be carried over?"""
    mode = offload.mode_of(facts.pipe, facts.current)
    return Check(
        "offloading",
        mode in offload.SUPPORTED,
        "error",
        ", ".join(offload.SUPPORTED),
        mode,
        "attach before enabling it; a device map is undone by pipe.reset_device_map()",
    )


def hooks(facts: Facts) -> Check | None:
    """Would hooks or a compiled wrapper be left behind?"""
    if facts.current is None:
        return None
    hooked = [name or "the module itself" for name, part in facts.current.named_modules() if _has_hooks(part)]
    # torch.compile(module) wraps it, module.compile() changes it in place.
    wrapped = hasattr(getattr(facts.pipe, facts.manifest.component), "_orig_mod")
    compiled = wrapped or getattr(facts.current, "_compiled_call_impl", None) is not None
    found = [f"hooks on {', '.join(hooked[:3])}"] * bool(hooked) + ["a torch.compile wrapper"] * compiled
    return Check(
        "hooks",
        not found,
        "warning",
        "no forward hooks and no compiled wrapper on the text encoder",
        " and ".join(found) or "none",
        "they stay on the encoder that is replaced; register or compile again after attaching",
    )


def _has_hooks(part: nn.Module) -> bool:
    # Those of transformers itself, which stay after hidden states were asked for once, come again by themselves.
    hooks = [*part._forward_hooks.values(), *part._forward_pre_hooks.values()]
    return any(getattr(hook, "__module__", "").partition(".")[0] != "transformers" for hook in hooks)


def adapters(facts: Facts) -> Check | None:
    """Would half of a LoRA be left behind?"""
    if facts.current is None:
        return None
    loaded = has_adapter(facts.current)
    return Check(
        "adapters",
        not loaded,
        "error",
        "no adapter in the text encoder",
        "a LoRA or another adapter" if loaded else "none",
        "its text half would vanish while its UNet half stays: call pipe.unload_lora_weights() first",
    )


def textual_inversion(facts: Facts) -> Check | None:
    """Do tokens of a textual inversion stay?"""
    if not facts.inversion_rows:
        return None
    return Check(
        "learned tokens",
        False,
        "warning",
        "no token of a textual inversion",
        ", ".join(facts.inversion_tokens),
        "they are kept and work as before, but a learned vector can bring the concept back, and was never measured; "
        "call pipe.unload_textual_inversion() to be rid of them",
    )
