"""A tiny emoji world: a few icons drawn for the tests, packages that hold them, and a corpus."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robust_encoders.training.worlds.emoji.clip_tokenizer import clip_tokenizer
from robust_encoders.training.worlds.emoji.corpus import EmojiCorpus
from robust_encoders.training.worlds.emoji.icon_sets import IconSet
from robust_encoders.training.worlds.emoji.packages import Package, Sources, integrity_of, npm
from robust_encoders.training.worlds.emoji.rejects import Studio
from robust_encoders.training.worlds.emoji.renders import Renders
from robust_encoders.training.worlds.emoji.scenes import Placement
from robust_encoders.training.worlds.emoji.things import Icon, Thing, Things
from robust_encoders.training.worlds.emoji.vocabulary import STYLE_NAMES
from robust_encoders.training.worlds.pretrain.config import NetworkConfig, Sizes
from robust_encoders.training.worlds.pretrain.loop import Schedule

SHORT = Schedule(steps=2, rate=1e-3, every=1)
SIZES = Sizes(
    pictures=12, autoencoder=SHORT, text=SHORT, unet=SHORT, judge=SHORT,
    autoencoder_batch=2, text_batch=4, unet_batch=2, judge_batch=3, rejects=8, unfinished=3,
)  # fmt: skip
NETWORKS = NetworkConfig(
    side=16, autoencoder_channels=(8, 8), positions=32, text_width=16, text_layers=1, shared_width=8,
    unet_channels=(16, 16), judge_channels=(16, 16), tower_channels=(16, 16),
)  # fmt: skip
# A circle, a bar, a triangle, a frame, and an icon in the set's own ink; each in a view of 8 x 8 units.
BODIES: Mapping[str, str] = {
    "beer-mug": '<circle cx="4" cy="4" r="3" fill="{ink}"/>',
    "glass-of-milk": '<path d="M3 1h2v6h-2z" fill="{ink}"/>',
    "hammer": '<path d="M1 7h6l-3-6z" fill="{ink}"/>',
    "hot-dog": '<path d="M1 1h6v6h-6z M2 2v4h4v-4z" fill="{ink}"/>',
    "owl": '<path d="M1 1h3v3h-3z" fill="{ink}"/>',
    "rose": '<path d="M4 4h3v3h-3z" fill="{ink}"/>',
}
CODES: Mapping[str, str] = {
    "beer-mug": "1f37a", "glass-of-milk": "1f95b", "hammer": "1f528", "hot-dog": "1f32d",
    "owl": "1f989", "rose": "1f339",
}  # fmt: skip
INKS: Mapping[str, str] = dict(zip(STYLE_NAMES, ("#c05010", "#b04020", "#d06020", "currentColor"), strict=True))
CHOSEN = """\
# icon | name | further names | held-out name
beer-mug | | beer | ale
glass-of-milk | | | ~milk
hammer | | | ~claw hammer
hot-dog | | sausage | wiener
"""
KEYWORDS: Mapping[str, tuple[str, int, int, list[str], list[str]]] = {
    "beer-mug": ("beer mug", 4, 47, ["bar", "beer", "drink"], ["beer_mug", "ale", "summer"]),
    "glass-of-milk": ("glass of milk", 4, 47, ["drink", "glass", "milk"], ["glass_of_milk", "cow"]),
    "hammer": ("hammer", 7, 78, ["tool", "repairs"], ["hammer", "claw"]),
    "hot-dog": ("hot dog", 4, 44, ["sausage", "food"], ["hot_dog", "wiener"]),
    "owl": ("owl", 3, 35, ["bird"], ["owl", "wise"]),
    "rose": ("rose", 3, 40, ["flower"], ["rose"]),
}
GROUPS = {
    "groups": {"3": "animals-nature", "4": "food-drink", "7": "objects"},
    "subgroups": {"35": "animal-bird", "40": "plant-flower", "44": "food-prepared", "47": "drink", "78": "tool"},
}
# In CLIP's format: a comment, then merges. It merges "h o" and "ho t", and leaves out the last line.
VOCABULARY = '"bpe_simple_vocab_16e6.txt#version: 0.2\nh o\nho t</w>\nd o\ndo g</w>\nz z'
VOCABULARY_SIZE = 2 * 256 + 4 + 2


def icon_set(style: str) -> dict[str, Any]:
    """Return the content of ``icons.json`` of a style."""
    icons = {name: {"body": body.format(ink=INKS[style])} for name, body in BODIES.items()}
    return {"prefix": style, "icons": icons, "width": 8, "height": 8}


def icon_sets() -> dict[str, IconSet]:
    """Return the icon sets of all styles."""
    names = {code: name for name, code in CODES.items()}
    return {style: IconSet(icon_set(style), names) for style in STYLE_NAMES}


def tiny_things() -> Things:
    """Return four things, an icon for the judge's training and one that only measures it."""
    things = (
        Thing("beer mug", "1f37a", ("beer",), "ale", ("alcohol", "booze", "drink"), ("bar", "summer"), "drink"),
        Thing("glass of milk", "1f95b", (), "milk", ("drink",), ("cow",), "drink"),
        Thing("hammer", "1f528", (), "claw hammer", ("tool",), ("repairs",), "tool"),
        Thing("hot dog", "1f32d", ("sausage",), "wiener", ("food",), (), "food-prepared"),
    )
    return Things(things, (Icon("rose", "1f339"),), (Icon("owl", "1f989"),))


def tiny_studio(side: int = NETWORKS.side) -> Studio:
    """Return the things with their icons, rendered at 24 x 24 pixels."""
    things = tiny_things()
    return Studio(things, Renders.make(icon_sets(), things.codes, 24), side, Placement())


def tiny_corpus() -> EmojiCorpus:
    """Return the world with networks of a few channels, whose stages take two steps."""
    tokenizer = clip_tokenizer(VOCABULARY, positions=NETWORKS.positions, size=VOCABULARY_SIZE)
    files = {"NOTICE": "drawn for the tests\n"}
    return EmojiCorpus(tiny_studio(), tokenizer, NETWORKS, SIZES, {"packages": {"none": 1}}, files)


def write_sources(folder: Path) -> Sources:
    """Write packages with these icons and keywords to a folder, and return them with their hashes."""
    folder.mkdir(parents=True, exist_ok=True)
    data = [
        {"label": label, "hexcode": CODES[name].upper(), "group": group, "subgroup": subgroup, "tags": tags}
        for name, (label, group, subgroup, tags, _) in KEYWORDS.items()
    ]
    more = {chr(int(CODES[name], 16)): words for name, (*_, words) in KEYWORDS.items()}
    about = {"repository": {"url": "git+https://example.org/keywords.git"}}
    return Sources(
        {style: _icons(folder, style) for style in STYLE_NAMES},
        write_npm(folder, "emojilib", {"dist/emoji-en-US.json": more, "package.json": about, "LICENSE": "MIT by A"}),
        write_npm(
            folder,
            "emojibase-data",
            {"en/data.json": data, "meta/groups.json": GROUPS, "package.json": about, "LICENSE": "MIT by B"},
        ),
        write_wheel(folder),
    )


def _icons(folder: Path, style: str) -> Package:
    info = {
        "name": f"{style} icons",
        "author": {"name": f"the author of {style}", "url": "https://example.org"},
        "license": {"title": "MIT", "url": "https://example.org/LICENSE"},
    }
    chars = {code: name for name, code in CODES.items()}
    members = {"icons.json": icon_set(style), "chars.json": chars, "info.json": info}
    return write_npm(folder, f"@icons/{style.replace(' ', '-')}", members)


def write_npm(folder: Path, name: str, members: Mapping[str, Any]) -> Package:
    """Write a package as ``npm pack`` does, and return it with its hash."""
    made = npm(name, "1.0.0", "", "MIT")
    with tarfile.open(folder / made.file, "w:gz") as archive:
        for member, content in members.items():
            data = (content if isinstance(content, str) else json.dumps(content)).encode()
            head = tarfile.TarInfo(f"package/{member}")
            head.size = len(data)
            archive.addfile(head, io.BytesIO(data))
    return npm(name, "1.0.0", integrity_of((folder / made.file).read_bytes()), "MIT")


def write_wheel(folder: Path, name: str = "clip-tiny") -> Package:
    """Write a wheel with a licence, which pip can download, and return it with its hash."""
    plain = name.replace("-", "_")
    file = f"{plain}-1.0.0-py3-none-any.whl"
    about = f"{plain}-1.0.0.dist-info"
    with zipfile.ZipFile(folder / file, "w") as wheel:
        wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0.0\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/LICENSE", "MIT by C")
        wheel.writestr(f"{about}/RECORD", "")
    return Package(name, "1.0.0", integrity_of((folder / file).read_bytes(), "sha256"), "MIT", file)
