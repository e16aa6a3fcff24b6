"""Checks of shape and words: would the encoder compute the right thing from this pipeline's tokens?"""

from __future__ import annotations

from collections.abc import Callable

from robust_encoders.artifact.fingerprint import compare
from robust_encoders.compatibility.facts import OTHER_BASE, Facts, unknown
from robust_encoders.compatibility.report import Check
from robust_encoders.pipeline.textual_inversion import rows_of


def module_class(subject: Facts) -> Check | None:
    """Is the encoder that is replaced of the same class?"""
    if subject.original is None:
        return None
    kind = type(subject.original)
    return _equal(
        "class",
        "transformers.CLIPTextModel",
        f"{kind.__module__.partition('.')[0]}.{kind.__name__}",
        "this slot needs another kind of encoder, with other outputs; use a pipeline of the base's family",
    )


def width(subject: Facts) -> Check | None:
    """Is it as wide as what the UNet reads?"""
    seen = subject.unet_config.get("cross_attention_dim")
    source = "cross_attention_dim of the UNet"
    if seen is None or subject.others:
        seen, source = subject.original_config.get("hidden_size"), "hidden_size of the text encoder"
    if seen is None:
        return None
    widths = sorted(set(seen)) if isinstance(seen, (list, tuple)) else [seen]
    found = subject.config["hidden_size"]
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

    def question(subject: Facts) -> Check | None:
        expected = subject.original_config.get(key)
        return None if expected is None else _equal(name, expected, subject.config[key], OTHER_BASE)

    return question


def tokenizer_present(subject: Facts) -> Check:
    """Is there a tokenizer at all?"""
    return Check(
        "tokenizer",
        subject.tokenizer is not None,
        "error",
        "a tokenizer of transformers",
        type(subject.slot_tokenizer).__name__ if subject.slot_tokenizer is not None else "none",
        "load the pipeline with its tokenizer: without it prompts never reach the encoder",
    )


def vocabulary(subject: Facts) -> Check | None:
    """Does every id the tokenizer can give have an embedding, as in the encoder that is replaced?"""
    if subject.tokenizer is None:
        return None
    added = set(subject.tokenizer.get_added_vocab()) - set(subject.tokenizer.all_special_tokens)
    remedy = (
        "tokens were added, by textual inversion perhaps, and not to the text encoder: call "
        "pipe.unload_textual_inversion() first (a learned token can bring an erased concept back)"
    )
    found, needed = subject.config["vocab_size"], subject.needed_rows
    rows = rows_of(subject.original)
    replaced = found if rows is None or _has_spare_rows(subject, rows) else rows
    return _capacity("vocabulary", (found, needed, replaced), subject, remedy if added else OTHER_BASE)


def _has_spare_rows(subject: Facts, rows: int) -> bool:
    """Return whether the encoder that is replaced only has learned vectors, or what is left of them, beyond ours."""
    recorded, beyond = subject.manifest.base.text_encoder, rows - subject.config["vocab_size"]
    if beyond <= 0:
        return False
    if beyond == subject.carried:
        return True
    return recorded is not None and compare(subject.original_sketch, recorded).kind != "differs"


def positions(subject: Facts) -> Check | None:
    """Does the longest prompt fit, as in the encoder that is replaced?"""
    if subject.tokenizer is None:
        return None
    found, needed = subject.config["max_position_embeddings"], subject.tokenizer.model_max_length
    replaced = subject.original_config.get("max_position_embeddings", found)
    remedy = f"{OTHER_BASE}, or lower tokenizer.model_max_length if that is what is too large"
    return _capacity("positions", (found, needed, replaced), subject, remedy)


def _capacity(name: str, sizes: tuple[int, int, int], subject: Facts, remedy: str) -> Check:
    found, needed, replaced = sizes
    expected = f"at least {needed} (tokenizer)"
    if subject.original is not None:
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


def special_tokens(subject: Facts) -> Check | None:
    """Are start, end and padding the same tokens?"""
    recorded = subject.manifest.base.tokenizer
    if subject.words is None or recorded is None:
        return None
    return _equal("special tokens", dict(recorded.special_ids), dict(subject.words.special_ids), OTHER_BASE)


def same_tokenizer(subject: Facts) -> Check | None:
    """Do the same words become the same tokens?"""
    recorded, found = subject.manifest.base.tokenizer, subject.words
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
