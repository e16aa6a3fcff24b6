"""Checks of shape and words: would the encoder compute the right thing from this pipeline's tokens?"""

from __future__ import annotations

from collections.abc import Callable

from robust_encoders.artifact.fingerprint import compare
from robust_encoders.compatibility.facts import OTHER_BASE, Facts, unknown
from robust_encoders.compatibility.report import Check
from robust_encoders.pipeline.textual_inversion import rows_of


def module_class(facts: Facts) -> Check | None:
    """Is the encoder that is replaced of the same class?"""
    if facts.original is None:
        return None
    kind = type(facts.original)
    return _equal(
        "class",
        "transformers.CLIPTextModel",
        f"{kind.__module__.partition('.')[0]}.{kind.__name__}",
        "this slot needs another kind of encoder, with other outputs; use a pipeline of the base's family",
    )


def width(facts: Facts) -> Check | None:
    """Is it as wide as what the UNet reads?"""
    seen = facts.unet_config.get("cross_attention_dim")
    source = "cross_attention_dim of the UNet"
    if seen is None or facts.others:
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
    """Return the question whether a field of the configuration is the same."""

    def question(facts: Facts) -> Check | None:
        expected = facts.original_config.get(key)
        return None if expected is None else _equal(name, expected, facts.config[key], OTHER_BASE)

    return question


def tokenizer_present(facts: Facts) -> Check:
    """Is there a tokenizer at all?"""
    return Check(
        "tokenizer",
        facts.tokenizer is not None,
        "error",
        "a tokenizer of transformers",
        type(facts.slot_tokenizer).__name__ if facts.slot_tokenizer is not None else "none",
        "load the pipeline with its tokenizer: without it prompts never reach the encoder",
    )


def vocabulary(facts: Facts) -> Check | None:
    """Does every id the tokenizer can give have an embedding, as in the encoder that is replaced?"""
    if facts.tokenizer is None:
        return None
    added = set(facts.tokenizer.get_added_vocab()) - set(facts.tokenizer.all_special_tokens)
    remedy = (
        "tokens were added, by textual inversion perhaps, and not to the text encoder: call "
        "pipe.unload_textual_inversion() first (a learned token can bring an erased concept back)"
    )
    found, needed = facts.config["vocab_size"], facts.needed_rows
    rows = rows_of(facts.original)
    replaced = found if rows is None or _has_spare_rows(facts, rows) else rows
    return _capacity("vocabulary", (found, needed, replaced), facts, remedy if added else OTHER_BASE)


def _has_spare_rows(facts: Facts, rows: int) -> bool:
    """Return whether the encoder that is replaced only has learned vectors, or what is left of them, beyond ours."""
    recorded, beyond = facts.manifest.base.text_encoder, rows - facts.config["vocab_size"]
    if beyond <= 0:
        return False
    if beyond == facts.inversion_rows:
        return True
    return recorded is not None and compare(facts.original_sketch, recorded).kind != "differs"


def positions(facts: Facts) -> Check | None:
    """Does the longest prompt fit, as in the encoder that is replaced?"""
    if facts.tokenizer is None:
        return None
    found, needed = facts.config["max_position_embeddings"], facts.tokenizer.model_max_length
    replaced = facts.original_config.get("max_position_embeddings", found)
    remedy = f"{OTHER_BASE}, or lower tokenizer.model_max_length if that is what is too large"
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
    """Are start, end and padding the same tokens?"""
    recorded = facts.manifest.base.tokenizer
    if facts.words is None or recorded is None:
        return None
    return _equal("special tokens", dict(recorded.special_ids), dict(facts.words.special_ids), OTHER_BASE)


def same_tokenizer(facts: Facts) -> Check | None:
    """Do the same words become the same tokens?"""
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
        "the same words would become other tokens; " + OTHER_BASE,
    )
