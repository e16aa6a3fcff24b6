"""The base pipeline that an artifact was made from: its Hub ids, which may move, and its fingerprints, which do not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from robust_encoders.artifact.fingerprint import (
    Sketch,
    TensorSketch,
    TokenizerFingerprint,
    sketch,
    tokenizer_fingerprint,
)
from robust_encoders.clip.state_dict import nested_state
from robust_encoders.utils.json_fields import Column, Fields


@dataclass(frozen=True, kw_only=True)
class Base:
    """The pipeline that an artifact was made from and fits.

    Args:
        family: Short name of the family of bases, for example ``"shapes"`` or ``"sd1"``.
        ids: Hub ids of the base; hints only, because repositories move.
        revision: Revision of the first id; empty if unknown.
        text_encoder: Sketch of the base's text encoder under ``text_model.*`` names; None if unknown. Of several, it is
            the one that the artifact changes.
        tokenizer: Fingerprint of the tokenizer of that text encoder; None if unknown.
        unet: Sketch of the base's UNet; None if the artifact does not depend on it.
    """

    family: str
    ids: tuple[str, ...] = ()
    revision: str = ""
    text_encoder: Sketch | None = None
    tokenizer: TokenizerFingerprint | None = None
    unet: Sketch | None = None

    @classmethod
    def from_pipeline(
        cls,
        pipe: Any,
        *,
        family: str,
        ids: tuple[str, ...] = (),
        revision: str = "",
        with_unet: bool = False,
        component: str = "text_encoder",
    ) -> Base:
        """Fingerprint a diffusers pipeline.

        Args:
            pipe: A pipeline with a text encoder and its tokenizer, not offloaded sequentially.
            family: Short name of the family of bases.
            ids: Hub ids of the base.
            revision: Revision of the first id.
            with_unet: True to sketch the UNet, too, for artifacts that depend on it.
            component: Text encoder that the artifact changes.
        """
        return cls(
            family=family,
            ids=ids,
            revision=revision,
            text_encoder=sketch(nested_state(getattr(pipe, component))),
            tokenizer=tokenizer_fingerprint(getattr(pipe, component.replace("text_encoder", "tokenizer"))),
            unet=sketch(pipe.unet.state_dict()) if with_unet else None,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return {
            "family": self.family,
            "ids": list(self.ids),
            "revision": self.revision,
            "text_encoder": _sketch_to_dict(self.text_encoder),
            "tokenizer": None if self.tokenizer is None else self.tokenizer.to_dict(),
            "unet": _sketch_to_dict(self.unet),
        }


def _sketch_to_dict(sketched: Sketch | None) -> dict[str, Any] | None:
    return None if sketched is None else {name: tensor.to_dict() for name, tensor in sketched.items()}


def read_base(fields: Fields) -> Base:
    """Read the ``base`` object of a manifest; problems are added to ``fields``."""
    base = Base(
        family=fields.text("family"),
        ids=fields.strings("ids"),
        revision=fields.text("revision", empty=True),
        text_encoder=_read_sketch(fields, "text_encoder"),
        tokenizer=None if fields.is_null("tokenizer") else _read_tokenizer(fields.child("tokenizer")),
        unet=_read_sketch(fields, "unet"),
    )
    fields.no_others()
    return base


def _read_sketch(fields: Fields, key: str) -> Sketch | None:
    if fields.is_null(key):
        return None
    columns: Mapping[str, Column] = {"shape": Fields.integers, "dtype": Fields.text, "values": Fields.numbers}
    return {
        name: TensorSketch(tuple(row["shape"]), row["dtype"], tuple(row["values"]))
        for name, row in fields.table(key, columns).items()
    }


def _read_tokenizer(fields: Fields) -> TokenizerFingerprint:
    ids = fields.child("special_ids")
    read = TokenizerFingerprint(
        vocabulary_sha256=fields.digest("vocabulary_sha256"),
        vocabulary_size=fields.number("vocabulary_size"),
        special_ids={name: ids.number(name) for name in ids.names()},
        max_length=fields.number("max_length"),
        probe_ids=tuple(fields.integers("probe_ids")),
    )
    fields.no_others()
    return read
