"""The facts about an artifact and a pipeline that the compatibility checks read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from robust_encoders.artifact.fingerprint import Sketch, TokenizerFingerprint, sketch, tokenizer_fingerprint
from robust_encoders.artifact.manifest import Manifest
from robust_encoders.clip.state_dict import nested_state
from robust_encoders.compatibility.report import Check
from robust_encoders.pipeline.bypass import other_text_encoders
from robust_encoders.pipeline.parts import part_of
from robust_encoders.pipeline.slots import SECOND, Slots
from robust_encoders.pipeline.textual_inversion import first_rows, highest_id, inversion_rows, inversion_tokens

OTHER_BASE = "load the base that the encoder was made for (manifest.base), or an encoder made for this base"


@dataclass(frozen=True)
class Facts:
    """Facts about an artifact and a pipeline that the checks read.

    Args:
        pipe: Pipeline that is checked.
        manifest: Manifest of the artifact.
        config: Configuration of the encoder.
        current: Encoder in the pipeline now, without a ``torch.compile`` wrapper; None if its slot is empty.
        original: Encoder that the pipeline had before any robust encoder; equals ``current`` if none is attached.
        allow_partial: True if the caller accepts that other text encoders stay as they are.
        others: Names of the pipeline's other text encoders.
        slots: Slots of the pipeline's text encoders.
        original_config: Configuration of the original encoder; empty if it has none.
        unet: UNet of the pipeline, or None.
        unet_config: Configuration of the UNet; empty if it has none.
        slot_tokenizer: Object in the pipeline's tokenizer slot, or None.
        tokenizer: The same object if it is a tokenizer; None otherwise, for example for a processor.
        embeddings: Token embeddings (V, D) of the encoder; None for an overlay.
        allow_large_vectors: True if the caller accepts learned vectors of any finite norm.
    """

    pipe: Any
    manifest: Manifest
    config: Mapping[str, Any]
    current: Any
    original: Any
    allow_partial: bool
    others: tuple[str, ...]
    slots: Slots
    original_config: Mapping[str, Any]
    unet: Any
    unet_config: Mapping[str, Any]
    slot_tokenizer: Any
    tokenizer: Any
    embeddings: Tensor | None = None
    allow_large_vectors: bool = False

    @classmethod
    def gather(
        cls, pipe: Any, manifest: Manifest, config: Mapping[str, Any], *, current: Any, original: Any, partial: bool
    ) -> Facts:
        """Look up the facts that every check may need; costly ones are computed later, when a check reads them."""
        from transformers import PreTrainedTokenizerBase

        unet = part_of(pipe, "unet")
        slot_tokenizer = part_of(pipe, manifest.component.replace("text_encoder", "tokenizer"))
        return cls(
            pipe=pipe,
            manifest=manifest,
            config=config,
            current=current,
            original=original,
            allow_partial=partial,
            others=other_text_encoders(pipe, manifest.component),
            slots=Slots.of(pipe, manifest.component, manifest.concept.name),
            original_config=config_of(original),
            unet=unet,
            unet_config=config_of(unet),
            slot_tokenizer=slot_tokenizer,
            tokenizer=slot_tokenizer if isinstance(slot_tokenizer, PreTrainedTokenizerBase) else None,
        )

    @property
    def kind(self) -> str:
        """Class of transformers that the artifact's encoder has."""
        return "CLIPTextModelWithProjection" if self.manifest.component == SECOND else "CLIPTextModel"

    @cached_property
    def words(self) -> TokenizerFingerprint | None:
        """Fingerprint of the tokenizer."""
        return None if self.tokenizer is None else tokenizer_fingerprint(self.tokenizer)

    @cached_property
    def needed_rows(self) -> int:
        """Number of token embeddings that the encoder itself must have for the tokenizer, without learned vectors."""
        return 1 - self.inversion_rows + highest_id(self.tokenizer)

    @property
    def inversion_tokens(self) -> tuple[str, ...]:
        """Tokens of textual inversion, whose ids lie beyond the encoder's vocabulary."""
        return inversion_tokens(self.tokenizer, self.config["vocab_size"])

    @cached_property
    def inversion_rows(self) -> int:
        """Number of textual inversion vectors that the encoder would take over from the current one."""
        return inversion_rows(self.tokenizer, self.current, self.config["vocab_size"])

    @cached_property
    def original_sketch(self) -> Sketch:
        """Sketch (a few values of every tensor) of the original encoder, without learned token embeddings."""
        return sketch(first_rows(nested_state(self.original), self.config["vocab_size"]))


def config_of(module: Any) -> Mapping[str, Any]:
    """Return a component's configuration as a mapping; empty if it has none."""
    config = getattr(module, "config", None)
    if config is None:
        return {}
    found: Mapping[str, Any] = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    return found


def unknown(name: str) -> Check:
    """Return a warning that the manifest records no value to compare with."""
    return Check(
        name,
        False,
        "warning",
        "a value recorded in the manifest",
        "none in the manifest",
        "record the base: `robust-encoders annotate FOLDER --base PIPELINE_FOLDER`; if the encoder is not yours, ask "
        "its publisher to run that",
    )
