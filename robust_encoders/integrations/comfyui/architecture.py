"""Checks of architecture, tokenizer and precision: does the encoder fit into the text encoder of the connected CLIP?"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from transformers.activations import ACT2FN

from robust_encoders.artifact.fingerprint import tokenizer_fingerprint
from robust_encoders.clip.state_dict import PREFIX
from robust_encoders.compatibility.report import Check
from robust_encoders.compatibility.slot import trained_on
from robust_encoders.integrations.comfyui.subject import Subject
from robust_encoders.pipeline.slots import OUTPUTS

_OTHER_MODEL = "load a checkpoint of the base that the encoder was made for, or an encoder made for this base"
_TOKENS, _POSITIONS = (f"{PREFIX}embeddings.{name}_embedding.weight" for name in ("token", "position"))
_FORWARD, _QUERY = (f"{PREFIX}encoder.layers.0.{name}.weight" for name in ("mlp.fc1", "self_attn.q_proj"))


def _sized(name: str, field: str, tensor: str, axis: int) -> Callable[[Subject], Check]:
    def question(subject: Subject) -> Check:
        expected, shape = subject.artifact.config[field], subject.shape(tensor)
        found = shape[axis] if shape else "none"
        return Check(name, found == expected, "error", str(expected), str(found), _OTHER_MODEL)

    return question


def _layers(subject: Subject) -> Check:
    models, expected = subject.models, subject.artifact.config["num_hidden_layers"]
    ok = models.depth == expected or models.has_surplus_layer
    found = f"{models.depth}, the last of which is not read" if models.has_surplus_layer else str(models.depth)
    return Check("layers", ok, "error", str(expected), found, _OTHER_MODEL)


def _output(subject: Subject) -> Check:
    # Of a family that is not known, the last hidden state: that is what pipelines of Stable Diffusion 1 and 2 read.
    expected, models = trained_on(subject.manifest) or "last", subject.models
    found = OUTPUTS.get(models.reading, f"the output of layer {models.read_layers}")
    return Check(
        "output",
        models.reading == expected,
        "warning",
        OUTPUTS[expected],
        found,
        "the erasure was neither trained nor measured on it; remove the node CLIP Set Last Layer if there is one",
    )


def _heads(subject: Subject) -> Check | None:
    return _of_the_module(subject, "heads", "num_attention_heads", lambda layer: layer.self_attn.heads)


def _activation(subject: Subject) -> Check | None:
    wanted, at = subject.artifact.config["hidden_act"], torch.tensor([-1.0, 0.5, 2.0])

    def found(layer: Any) -> str:
        with torch.no_grad():
            values = {name: ACT2FN[name](at) for name in dict.fromkeys((wanted, "quick_gelu", "gelu"))}
            seen = layer.mlp.activation(at.clone())
        return next((name for name, value in values.items() if torch.allclose(seen, value, atol=1e-6)), "another one")

    return _of_the_module(subject, "activation", "hidden_act", found)


def _of_the_module(subject: Subject, name: str, field: str, look: Callable[[Any], Any]) -> Check | None:
    expected = subject.artifact.config[field]
    try:
        found = look(subject.models.encoder.transformer.text_model.encoder.layers[0])
    except (AttributeError, IndexError, TypeError):  # a version of ComfyUI with other attributes
        return None
    return Check(name, found == expected, "error", str(expected), str(found), _OTHER_MODEL)


def _padded(words: Any, pad: int) -> Any:
    """Return a tokenizer with another padding token, which counts as no word; the given one stays as it is.

    The published tokenizers of SD 2 and SDXL pad with an exclamation mark. ComfyUI pads by the same id, but its
    tokenizer does not say so.

    Args:
        words: A tokenizer of transformers.
        pad: Id of the padding token; negative to keep that of the tokenizer.
    """
    if pad < 0 or words.pad_token_id == pad:
        return words
    made = copy.deepcopy(words)
    made.pad_token = made.convert_ids_to_tokens(pad)
    return made


def tokenizer(subject: Subject) -> Check | None:
    """Check that ComfyUI's tokenizer turns the same words into the same tokens as the base's tokenizer."""
    recorded = subject.manifest.base.tokenizer
    of_the_slot = getattr(getattr(subject.models.clip, "tokenizer", None), subject.models.slot, None)
    words = getattr(of_the_slot, "tokenizer", None)
    if recorded is None or words is None:
        return None
    found = tokenizer_fingerprint(_padded(words, recorded.special_ids.get("pad", -1)))
    return Check(
        "tokenizer",
        (found.vocabulary_sha256, found.probe_ids) == (recorded.vocabulary_sha256, recorded.probe_ids),
        "error",
        f"vocabulary {recorded.vocabulary_sha256[:12]} of {recorded.vocabulary_size} tokens",
        f"vocabulary {found.vocabulary_sha256[:12]} of {found.vocabulary_size} tokens",
        f"the same words would become other tokens; {_OTHER_MODEL}",
    )


def precision(subject: Subject) -> Check:
    """Check that the weights are plain floating-point numbers, not quantised."""
    keys = subject.models.text_keys
    dtypes = {subject.models.text.stored(key).dtype for key in keys.values()}
    coarse = [dtype for dtype in dtypes if not dtype.is_floating_point or dtype.itemsize < 2]
    scales = [name for name in keys if not name.endswith((".weight", ".bias"))]
    found = ", ".join(sorted(map(str, coarse or dtypes))).replace("torch.", "")
    return Check(
        "precision",
        not coarse and not scales,
        "error",
        "a text encoder in half or full precision",
        f"{found}, with {scales[0]}" if scales else found,
        "load the checkpoint that it was made from; start ComfyUI without an option that stores text encoders in fp8",
    )


WHOLE: tuple[Callable[[Subject], Check | None], ...] = (
    _sized("width", "hidden_size", _QUERY, 1),
    _layers,
    _heads,
    _sized("feed-forward width", "intermediate_size", _FORWARD, 0),
    _activation,
    _sized("vocabulary", "vocab_size", _TOKENS, 0),
    _sized("positions", "max_position_embeddings", _POSITIONS, 0),
    _output,
)
