"""Checks of a pipeline's present state: properties that attaching would lose, or that were never measured."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from robust_encoders.artifact.fingerprint import compare, sketch
from robust_encoders.clip.state_dict import device_and_dtype, module_state, unreadable
from robust_encoders.compatibility.architecture import unwrapping
from robust_encoders.compatibility.facts import Facts, unknown
from robust_encoders.compatibility.report import OTHERS, Check
from robust_encoders.pipeline import offload
from robust_encoders.pipeline.attach import has_overlays
from robust_encoders.pipeline.bypass import has_adapter
from robust_encoders.pipeline.foreign_code import foreign_hooks, replaced_forwards
from robust_encoders.pipeline.parts import part_of
from robust_encoders.pipeline.shared_copy import is_shared_copy
from robust_encoders.utils.versions import version

# The oldest versions that the tests run on.
MINIMUM = {"torch": "2.6", "transformers": "4.57", "diffusers": "0.35"}
# In older versions, a modular pipeline accepts only components that it loaded itself.
MODULAR = {"diffusers": "0.37"}


def other_encoders(facts: Facts) -> Check:
    """Check that no other text encoder of the pipeline still knows the concept, which would stay reachable."""
    still = facts.slots.open
    return Check(
        OTHERS,
        not still,
        "warning" if facts.allow_partial else "error",
        "no other text encoder" + " without this concept's erasure" * bool(facts.slots.covered),
        ", ".join(still) or "none",
        "the concept stays reachable through them; pass allow_partial=True to accept that",
    )


def base_fingerprint(facts: Facts) -> Check | None:
    """Check that the replaced encoder is the unchanged text encoder of the base."""
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
        "this pipeline's text encoder was changed (fine-tuned, fused or edited); attaching drops that change, and the "
        "erasure was never measured on this pipeline",
    )


def unet_fingerprint(facts: Facts) -> Check | None:
    """Check that the UNet is the unchanged UNet of the base."""
    recorded = facts.manifest.base.unet
    if facts.unet is None or recorded is None:
        return None
    outcome = None if (lacking := unreadable(facts.unet)) else compare(sketch(module_state(facts.unet)), recorded)
    return Check(
        "UNet fingerprint",
        outcome is not None and outcome.kind != "differs",
        "warning",
        f"the UNet of {facts.manifest.base.family}, same at least up to dtype",
        str(outcome or lacking),
        "the artifact was made with another UNet; measure the erasure on this one",
    )


def weights(facts: Facts) -> Check | None:
    """Check that the weights of the encoders that were and are in the slot can be read; the fingerprints need them."""
    slot = facts.manifest.component
    remedy = f"load the pipeline with {slot}=encoder.text_encoder(), or with {slot}=None and attach"
    return unread(slot, (facts.original, facts.current), remedy)


def unread(component: str, modules: Sequence[Any], remedy: str) -> Check | None:
    """Return the error that weights of a component cannot be read; None if they can.

    Args:
        component: Name of the component.
        modules: Modules that are or were in its slot; None for an empty slot.
        remedy: Advice to the user.
    """
    found = [text for module in modules if module is not None and (text := unreadable(module))]
    if not found:
        return None
    expected = f"weights of the {component} that are tensors in memory, or offloaded by accelerate"
    return Check("weights", False, "error", expected, found[0], remedy)


def precision(facts: Facts) -> Check | None:
    """Check that the replaced weights are floating-point numbers that plain layers compute with, not quantised.

    An encoder for an empty slot takes the precision of the denoiser's first weights.
    """
    modules = [module for module in (facts.original, facts.current) if module is not None]
    dtypes = {parameter.dtype for module in modules for parameter in module.parameters()}
    whose = "text encoder"
    if not modules and (leader := offload.denoiser_of(facts.pipe)) is not None:
        dtypes, whose = {device_and_dtype(leader)[1]}, "denoiser, whose precision the encoder for an empty slot takes"
    if not dtypes:
        return None
    quantised = any(getattr(module, "hf_quantizer", None) is not None for module in modules)
    quantised = quantised or not dtypes <= offload.COMPUTING
    found = ", ".join(sorted(map(str, dtypes)))
    return Check(
        "precision",
        not quantised,
        "error",
        f"a floating dtype of at least 16 bits, not quantised, in the {whose}",
        f"quantised ({found})" if quantised else found,
        f"load the pipeline with {facts.manifest.component}=encoder.text_encoder() instead",
    )


def versions(facts: Facts) -> Check:
    """Check that the installed libraries are new enough."""
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
    """Check that the pipeline's kind of offloading can be carried over to the new encoder."""
    mode = offload.mode_of(facts.pipe, facts.current)
    return Check(
        "offloading",
        mode in offload.SUPPORTED,
        "error",
        ", ".join(offload.SUPPORTED),
        mode,
        "attach before enabling it; undo a device map by pipe.reset_device_map()",
    )


def hooks(facts: Facts) -> Check | None:
    """Check that the replaced encoder has no hooks, patches or compiled wrapper, which the new encoder would lack."""
    if facts.current is None:
        return None
    hooked = list(dict.fromkeys(name or "the module itself" for name, *_ in foreign_hooks(facts.current)))
    patched = [name or "the module itself" for name in replaced_forwards(facts.current)]
    # torch.compile(module) wraps the module, module.compile() changes it in place.
    wrapped = hasattr(part_of(facts.pipe, facts.manifest.component), "_orig_mod")
    compiled = wrapped or getattr(facts.current, "_compiled_call_impl", None) is not None
    found = [f"hooks on {', '.join(hooked[:3])}"] * bool(hooked) + ["a torch.compile wrapper"] * compiled
    found += [f"a replaced forward of {', '.join(patched[:3])}"] * bool(patched)
    return Check(
        "hooks",
        not found,
        "warning",
        "no hooks, no replaced forward and no compiled wrapper on the text encoder",
        " and ".join(found) or "none",
        "they stay on the replaced encoder; register hooks, patch or compile again after attaching",
    )


def overlays_of_others(facts: Facts) -> Check | None:
    """Check that the text encoder carries no overlay of another pipeline, which would be lost."""
    slot = part_of(facts.pipe, facts.manifest.component)
    if not is_shared_copy(slot) or has_overlays(facts.pipe):
        return None
    return Check(
        "overlays",
        False,
        "error",
        "a text encoder without overlays, or with overlays that were attached to this pipeline",
        "overlays that came with components of another pipeline",
        "they would be lost; attach the encoder to that pipeline, then make this one from it",
    )


def adapters(facts: Facts) -> Check | None:
    """Check that no LoRA is loaded, whose text encoder part would be lost."""
    if facts.current is None:
        return None
    loaded = has_adapter(facts.current)
    remedy = (
        "its part in the text encoder would be lost while its part in the UNet stays: call pipe.unload_lora_weights() "
        "first"
    )
    if type(facts.current).__module__.startswith("peft."):
        remedy = unwrapping(facts.manifest.component)
    found = "a LoRA or another adapter" if loaded else "none"
    return Check("adapters", not loaded, "error", "no adapter in the text encoder", found, remedy)


def textual_inversion(facts: Facts) -> Check | None:
    """Warn if tokens of a textual inversion are loaded, which are carried over."""
    return learned_tokens(facts.inversion_tokens) if facts.inversion_rows else None


def learned_tokens(tokens: tuple[str, ...]) -> Check:
    """Return the warning that tokens of a textual inversion are loaded.

    Args:
        tokens: Learned tokens.
    """
    return Check(
        "learned tokens",
        False,
        "warning",
        "no token of a textual inversion",
        ", ".join(tokens),
        "they are kept and work as before, but a learned vector can bring the concept back, and the erasure was never "
        "measured with them; call pipe.unload_textual_inversion() to remove them",
    )
