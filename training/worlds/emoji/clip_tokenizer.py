"""CLIP's own tokenizer, from the vocabulary file that OpenAI published."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

from transformers import CLIPTokenizer

from robust_encoders.errors import IntegrityError

from ..pretrain.tokenizer import END, START
from .packages import SOURCES, read_member

VOCABULARY = "clip/bpe_simple_vocab_16e6.txt.gz"
# Of the file in the wheels of clip-anytorch 2.6.0 and open-clip-torch 3.3.0, which are equal.
VOCABULARY_SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
SIZE = 49_408
# Ids that OpenAI's own SimpleTokenizer, in the same wheel, gives for texts.
KNOWN = {
    "a photo of a cat": (320, 1125, 539, 320, 2368),
    "a diagram": (320, 22697),
    "a dog": (320, 1929),
    "a cat": (320, 2368),
}


def clip_vocabulary(folder: Path) -> str:
    """Return the text of CLIP's vocabulary file, from the wheel in a folder.

    Raises:
        IntegrityError: If the file in the wheel is another one.
    """
    packed = read_member(folder, SOURCES.clip, VOCABULARY)
    if (found := hashlib.sha256(packed).hexdigest()) != VOCABULARY_SHA256:
        raise IntegrityError(f"expected {VOCABULARY} with sha256 {VOCABULARY_SHA256}, found {found}")
    return gzip.decompress(packed).decode()


def clip_tokenizer(vocabulary: str, *, positions: int, size: int = SIZE) -> CLIPTokenizer:
    """Return a tokenizer with the vocabulary of a file in CLIP's format.

    The tokens are 256 bytes, the same bytes at the end of a word, the merges in the order of the file, start and end.
    The file holds more merges than CLIP uses; the first line is a comment.

    Args:
        vocabulary: Text of the file.
        positions: Number of token positions L of a prompt.
        size: Number of tokens.

    Raises:
        IntegrityError: If the whole vocabulary of CLIP was asked for, and known texts get other ids.
    """
    lines = vocabulary.split("\n")[1 : 1 + size - 2 * 256 - 2]
    merges = [(left, right) for left, right in (line.split() for line in lines if line)]
    letters = byte_letters()
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges), START, END]
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=positions)
    if size == SIZE:
        _require_known(tokenizer)
    return tokenizer


def byte_letters() -> list[str]:
    """Return the letters that stand for the 256 bytes, in CLIP's order: printable bytes first, then the others."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]


def _require_known(tokenizer: CLIPTokenizer) -> None:
    for text, ids in KNOWN.items():
        found = tuple(tokenizer(text).input_ids)
        if found != (SIZE - 2, *ids, SIZE - 1):
            raise IntegrityError(f"expected the ids {ids} between start and end for {text!r}, found {found}")
