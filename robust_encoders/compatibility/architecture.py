"""Checks of architecture and tokenizer: does the encoder accept this pipeline's tokens, and the UNet its output?"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from robust_encoders.artifact.fingerprint import compare
from robust_encoders.compatibility import slot
from robust_encoders.compatibility.facts import OTHER_BASE, Facts, unknown
from robust_encoders.compatibility.report import Check
from robust_encoders.pipeline.textual_inversion import rows_of

_OTHER_CLASS = "this pipeline needs another kind of encoder, with other outputs; use a pipeline of the base's family"
_CLASS_REMEDIES: Mapping[str, str] = {
    "CLIPTextModelWithProjection": "from this slot the pipeline also reads a pooled vector behind a projection, which "
    "this artifact does not have; use a pipeline of the base's family",
    "CLIPTextModel": "this slot has an encoder without a projection; an encoder for text_encoder_2 of SDXL does not "
    "belong here, so use one that was made for this slot",
    "T5EncoderModel": "no CLIP encoder can take the place of a T5; use a pipeline of the base's family",
}


def unwrapping(slot: str) -> str:
    """Return the remedy for a model of peft around a text encoder.

    Args:
        slot: Name of the slot.
    """
    return (
        f"peft's wrapper is around the text encoder: set pipe.{slot} = pipe.{slot}.unload() first, or "
        f"pipe.{slot}.merge_and_unload() for an encoder with the adapter in its weights, which detach puts back"
    )


def module_class(facts: Facts) -> Check | None:
    """Check that the replaced encoder has the same class."""
    if facts.original is None:
        return None
    kind = type(facts.original)
    library = kind.__module__.partition(".")[0]
    remedy = _CLASS_REMEDIES.get(kind.__name__, _OTHER_CLASS)
    remedy = unwrapping(facts.manifest.component) if library == "peft" else remedy
    return _equal("class", f"transformers.{facts.kind}", f"{library}.{kind.__name__}", remedy)


def width(facts: Facts) -> Check | None:
    """Check that the encoder's width equals the width of the conditioning that the UNet reads."""
    seen = facts.unet_config.get("cross_attention_dim")
    source = "cross_attention_dim of the UNet"
    if facts.original is None and (beside := slot.widths_beside(facts)):
        return slot.room(facts, beside)
    several = sum("text_encoder" in name for name in facts.slots.kinds) > 1
    if facts.original is not None and (seen is None or several):
        seen, source = facts.original_config.get("hidden_size"), "hidden_size of the text encoder"
    if seen is None:
        return None
    widths = sorted(set(seen)) if isinstance(seen, (list, tuple)) else [seen]
    found = facts.config["hidden_size"]
    return Check(
        "width",
        widths == [found],
        "error",
        f"{widths} ({source})",
        str(found),
        OTHER_BASE,
    )


def field(name: str, key: str) -> Callable[[Facts], Check | None]:
    """Return a check that a field of the configuration has the same value in both encoders.

    Args:
        name: Name of the check.
        key: Key of the field in the configuration.
    """

    def question(facts: Facts) -> Check | None:
        expected = facts.original_config.get(key)
        return None if expected is None else _equal(name, expected, facts.config[key], OTHER_BASE)

    return question


def tokenizer_present(facts: Facts) -> Check:
    """Check that the pipeline has a tokenizer."""
    return Check(
        "tokenizer",
        facts.tokenizer is not None,
        "error",
        "a tokenizer of transformers",
        type(facts.slot_tokenizer).__name__ if facts.slot_tokenizer is not None else "none",
        "load the pipeline with its tokenizer; prompts cannot reach the encoder without it",
    )


def vocabulary(facts: Facts) -> Check | None:
    """Check that every id of the tokenizer has a token embedding, and as many as in the replaced encoder."""
    if facts.tokenizer is None:
        return None
    added = set(facts.tokenizer.get_added_vocab()) - set(facts.tokenizer.all_special_tokens)
    remedy = (
        "tokens were added to the tokenizer, perhaps by textual inversion, and not to the text encoder: call "
        "pipe.unload_textual_inversion() first (a learned token can bring an erased concept back)"
    )
    found, needed = facts.config["vocab_size"], facts.needed_rows
    rows = rows_of(facts.original)
    replaced = found if rows is None or _has_spare_rows(facts, rows) else rows
    return _capacity("vocabulary", (found, needed, replaced), facts, remedy if added else OTHER_BASE)


def _has_spare_rows(facts: Facts, rows: int) -> bool:
    """Return true if the replaced encoder's additional token embeddings are only learned vectors, or unloaded ones."""
    recorded, beyond = facts.manifest.base.text_encoder, rows - facts.config["vocab_size"]
    if beyond <= 0:
        return False
    if beyond == facts.inversion_rows:
        return True
    return recorded is not None and compare(facts.original_sketch, recorded).kind != "differs"


def positions(facts: Facts) -> Check | None:
    """Check that the longest prompt fits, and the encoder has as many positions as the replaced one."""
    if facts.tokenizer is None:
        return None
    found, needed = facts.config["max_position_embeddings"], facts.tokenizer.model_max_length
    replaced = facts.original_config.get("max_position_embeddings", found)
    remedy = f"{OTHER_BASE}; if only tokenizer.model_max_length is too large, lower it"
    return _capacity("positions", (found, needed, replaced), facts, remedy)


def _capacity(name: str, sizes: tuple[int, int, int], facts: Facts, remedy: str) -> Check:
    found, needed, replaced = sizes
    expected = f"at least {needed} (tokenizer)"
    if facts.original is not None:
        expected = f"{replaced} (text encoder), {expected}"
    return Check(
        name,
        needed <= found == replaced,
        "error",
        expected,
        str(found),
        remedy,
    )


def _equal(name: str, expected: object, found: object, remedy: str) -> Check:
    return Check(name, expected == found, "error", str(expected), str(found), remedy)


def special_tokens(facts: Facts) -> Check | None:
    """Check that the special tokens (begin, end, padding, unknown) have the same ids as in the base."""
    recorded = facts.manifest.base.tokenizer
    if facts.words is None or recorded is None:
        return None
    return _equal("special tokens", dict(recorded.special_ids), dict(facts.words.special_ids), OTHER_BASE)


def same_tokenizer(facts: Facts) -> Check | None:
    """Check that the tokenizer turns the same words into the same tokens as the base's tokenizer."""
    recorded, found = facts.manifest.base.tokenizer, facts.words
    if found is None:
        return None
    if recorded is None:
        return unknown("tokenizer fingerprint")
    ok = (recorded.vocabulary_sha256, recorded.probe_ids) == (found.vocabulary_sha256, found.probe_ids)
    return Check(
        "tokenizer fingerprint",
        ok,
        "error",
        f"vocabulary {recorded.vocabulary_sha256[:12]} of {recorded.vocabulary_size} tokens",
        f"vocabulary {found.vocabulary_sha256[:12]} of {found.vocabulary_size} tokens",
        "this tokenizer would turn the same words into other tokens; " + OTHER_BASE,
    )
