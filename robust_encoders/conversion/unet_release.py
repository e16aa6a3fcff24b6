"""Conversion of published changes of a UNet to an artifact of this package.

Four layouts are known, and recognised by their content:

- UNet parameters under the names of diffusers, in one safetensors file or pickle: ESD, UCE;
- the same under the entry ``unet`` of a pickle, with other components beside it: Ablating Concepts;
- one entry for each spatial transformer with the four tensors of a module, in a pickle: Receler.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from robust_encoders.artifact.base import Base
from robust_encoders.artifact.fingerprint import content_sha256
from robust_encoders.artifact.forms import configuration, require_tensors
from robust_encoders.artifact.manifest import Manifest
from robust_encoders.artifact.reader import Artifact
from robust_encoders.conversion.convert import NOT_STATED, Origin
from robust_encoders.conversion.files import Content, names_of, read_file, weights_in
from robust_encoders.conversion.formats import LAYOUTS
from robust_encoders.conversion.state_dicts import entry_of, plain, require_no_more
from robust_encoders.conversion.text_config import family_of
from robust_encoders.conversion.wrappers import unwrapped_name
from robust_encoders.errors import IntegrityError
from robust_encoders.overlays.eraser import cross_attentions
from robust_encoders.overlays.values import shown
from robust_encoders.utils.bounded_files import read_small
from robust_encoders.utils.versions import version

logger = logging.getLogger(__name__)
ERASER_CONFIG = "eraser_config.json"
Kind = Literal["delta", "parts", "eraser"]
_UNET = re.compile(r"(down_blocks|mid_block|up_blocks|conv_in|conv_out|conv_norm_out|time_embedding|add_embedding)\.")
_BLOCK = re.compile(r"(down_blocks\.\d+|mid_block|up_blocks\.\d+)\.attentions\.\d+")
_KEY_VALUE = re.compile(r".+\.attn2\.to_[kv]\.weight")
_LAYOUT_NAMES: Mapping[Kind, str] = {
    "delta": "UNet parameters of diffusers",
    "parts": "one state dict for each component (Ablating Concepts)",
    "eraser": "Receler",
}


@dataclass(frozen=True, eq=False)
class UNetRelease:
    """A published change of a UNet, read from a file.

    Args:
        path: File that was read.
        content: Content of the file.
        kind: Layout of the file.
        text_encoder: True if the file also holds a changed text encoder.
    """

    path: Path
    content: Content
    kind: Kind
    text_encoder: bool

    @property
    def data(self) -> Any:
        """Plain containers and tensors of the file."""
        return self.content.data


def find_unet_release(source: Path) -> UNetRelease | None:
    """Return the change of a UNet in a file or folder; None if it holds something else, for example a text encoder.

    Args:
        source: Path of a file of weights, or of a folder with exactly one.

    Raises:
        IntegrityError: If a pickle holds other objects than tensors and containers, or if a folder does not have
            exactly one file of weights.
    """
    path = weights_in(source)
    if path.suffix == ".safetensors" and not _names_a_unet(path):
        return None
    content = read_file(path)
    kind = _kind_of(content.data)
    return None if kind is None else UNetRelease(path, content, kind, _has_text_encoder(content.data, kind))


def _names_a_unet(path: Path) -> bool:
    try:
        return any(map(_UNET.match, names_of(path)))
    except IntegrityError:
        return False  # the reader of text encoders says what is wrong


def _kind_of(data: Any) -> Kind | None:
    if not isinstance(data, Mapping) or not all(isinstance(name, str) for name in data):
        return None
    if isinstance(data.get("unet"), Mapping) and data["unet"]:
        return "parts"
    if any(_BLOCK.fullmatch(name) and isinstance(value, Mapping) for name, value in data.items()):
        return "eraser"
    return "delta" if any(map(_UNET.match, map(unwrapped_name, data))) else None


def _has_text_encoder(data: Mapping[str, Any], kind: Kind) -> bool:
    if kind == "parts":
        return bool(data.get("text_encoder"))
    return kind == "delta" and any(layout.holds(name) for layout in LAYOUTS for name in map(unwrapped_name, data))


def unet_artifact(found: UNetRelease, pipe: Any, *, origin: Origin | None = None) -> Artifact:
    """Return the artifact of a published change of a UNet, in memory; its fit to the pipeline is not checked here.

    Args:
        found: Published change.
        pipe: Pipeline that the change was made from, without anything attached. The file does not name it; its
            fingerprints go into the manifest.
        origin: Facts about the origin of the change; only a Receler release names its method itself.

    Raises:
        IntegrityError: If the tensors are no such change, or the files of a Receler release do not belong together.
    """
    origin = origin or Origin()
    form: Literal["delta", "eraser"] = "eraser" if found.kind == "eraser" else "delta"
    tensors = _eraser_tensors(found, pipe.unet) if found.kind == "eraser" else _delta_tensors(found)
    require_tensors(form, tensors, {})
    if form == "delta" and origin.method == NOT_STATED:
        _say_unnamed(found, tensors)
    unnamed = "receler" if form == "eraser" else NOT_STATED
    manifest = Manifest(
        concept=origin.concept,
        form=form,
        component="unet",
        method={"name": unnamed if origin.method == NOT_STATED else origin.method},
        base=Base.from_pipeline(
            pipe,
            family=origin.family or family_of(pipe.text_encoder.config.to_dict()),
            ids=origin.base_ids,
            with_unet=True,
        ),
        recipe=_recipe(found, origin),
        versions={name: version(name) for name in ("torch", "transformers", "diffusers", "safetensors")},
        license=origin.license,
    )
    return Artifact(manifest, tensors, configuration(form, tensors, {}), content_sha256(tensors))


def _recipe(found: UNetRelease, origin: Origin) -> dict[str, Any]:
    source = {
        "file": found.path.name,
        "size": found.content.record.size,
        "sha256": found.content.record.sha256,
        "layout": _LAYOUT_NAMES[found.kind],
        "publisher": origin.publisher,
        "revision": origin.revision or NOT_STATED,
    }
    return {"name": "convert", "source": source}


def _say_unnamed(found: UNetRelease, tensors: Mapping[str, Tensor]) -> None:
    only = all(map(_KEY_VALUE.fullmatch, tensors))
    known = "UCE, ESD-x-strict and Ablating Concepts" if only else "ESD and others"
    logger.info("%s does not name its method: %s write such files; state it by --method NAME", found.path, known)


def _delta_tensors(found: UNetRelease) -> dict[str, Tensor]:
    if found.kind == "delta" and found.text_encoder:
        raise IntegrityError(
            f"expected the parameters of one component in {found.path}, found those of a UNet and of a text encoder; "
            "save them in two files and convert each"
        )
    if found.kind == "delta":
        return _owned(plain(found.data, found.path), found)
    if other := sorted(name for name, value in found.data.items() if value and name not in ("unet", "text_encoder")):
        raise IntegrityError(
            f"expected entries for the unet and the text_encoder in {found.path}, found {', '.join(other)[:200]}, too; "
            "save the unet's entry alone"
        )
    return _owned(plain(entry_of(found.data, "unet", found.path), found.path), found)


def _owned(tensors: Mapping[str, Tensor], found: UNetRelease) -> dict[str, Tensor]:
    """Return tensors that own all of their storage, because safetensors refuses to write shared storage."""
    require_no_more(tensors, found.content.size, found.path)
    owned: dict[str, Tensor] = {}
    known: set[int] = set()
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        alone = storage.nbytes() == tensor.nbytes and storage.data_ptr() not in known
        known.add(storage.data_ptr())
        owned[name] = tensor if alone else tensor.clone()
    return owned


def _eraser_tensors(found: UNetRelease, unet: nn.Module) -> dict[str, Tensor]:
    paths = list(cross_attentions(unet))
    tensors: dict[str, Tensor] = {}
    problems = []
    for block, module in found.data.items():
        here = [path for path in paths if path.startswith(f"{block}.")]
        if len(here) != 1:
            problems.append(f"{block!r} with {len(here)} cross-attentions in the UNet")
            continue
        tensors |= {f"{here[0]}.{name}": tensor for name, tensor in plain(module, found.path).items()}
    if problems:
        raise IntegrityError(
            f"expected one cross-attention of the UNet for each entry of {found.path}, found {shown(problems)}; pass "
            "the pipeline that the eraser was trained on as --base"
        )
    tensors = _owned(tensors, found)
    require_tensors("eraser", tensors, {})
    _require_config(found.path.parent / ERASER_CONFIG, configuration("eraser", tensors, {})["rank"])
    return tensors


def _require_config(path: Path, rank: int) -> None:
    """Check that the configuration beside a Receler release, if there is one, describes its tensors."""
    if not path.is_file():
        return
    try:
        config = json.loads(read_small(path))
    except (OSError, ValueError, RecursionError) as error:
        raise IntegrityError(f"expected JSON in {path}, cannot read it: {error}; fetch the release again") from error
    wanted = {"eraser_type": "adapter", "eraser_rank": rank}
    stated = {name: config.get(name) for name in wanted} if isinstance(config, Mapping) else config
    if stated != wanted:
        raise IntegrityError(
            f"expected {wanted} in {path}, found {str(stated)[:200]}; put the configuration of these weights there"
        )
