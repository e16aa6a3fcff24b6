"""One card for every encoder of the catalog, in the tree and up to date."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard
from PIL import Image
from tree import ROOT

from robust_encoders import CATALOG, Base, CatalogEntry, Concept, RobustEncoder
from robust_encoders.cli import card_pictures
from robust_encoders.cli.main import main
from robust_encoders.hub import catalog_cards as hub_cards
from robust_encoders.hub import embedded, resolve
from robust_encoders.hub.catalog_cards import card_stem, catalog_cards

CARDS = ROOT / "hub_cards"


@pytest.mark.base
def test_the_cards_of_the_tree_are_up_to_date() -> None:
    expected = catalog_cards()
    found = {path.name: path.read_text(encoding="utf-8") for path in CARDS.glob("*.md") if path.name != "README.md"}
    assert sorted(found) == sorted(expected), "run: robust-encoders cards hub_cards"
    outdated = [name for name, text in expected.items() if found[name] != text]
    assert outdated == [], "run: robust-encoders cards hub_cards"
    shown = {name for text in expected.values() for name in re.findall(r"\]\((pictures/[\w-]+\.png)\)", text)}
    drawn = {f"pictures/{path.name}" for path in (CARDS / "pictures").iterdir()}
    assert shown == drawn, "run: robust-encoders cards hub_cards --pictures"


@pytest.mark.base
@pytest.mark.parametrize("entry", [entry for entry in CATALOG.values() if entry.embedded], ids=lambda entry: entry.name)
def test_the_example_of_an_embedded_card_runs_and_the_first_part_is_short(entry: CatalogEntry) -> None:
    text = (CARDS / f"{card_stem(entry)}.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {}
    exec(example, names)
    pipe = names["pipe"]
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    assert names["image"].size == (side, side)
    assert RobustEncoder.status(pipe).attached or RobustEncoder.status(pipe).overlays
    shown = text[text.index("<!-- robust-encoders: written") :].partition("<details>")[0]
    assert len(shown.splitlines()) <= 60


@pytest.mark.base
def test_the_pictures_are_drawn_by_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(card_pictures, "CATALOG", {"shapes/red": CATALOG["shapes/red"]})
    assert main(["cards", str(tmp_path), "--pictures"]) == 0
    drawn, committed = (Image.open(folder / "pictures" / "shapes-red.png") for folder in (tmp_path, CARDS))
    assert drawn.size == committed.size
    assert str(tmp_path / "pictures" / "shapes-red.png") in capsys.readouterr().out
    far = np.abs(np.asarray(drawn, dtype=float) - np.asarray(committed, dtype=float)).mean()
    assert far < 10, "the committed picture shows another encoder or other prompts"


def test_an_encoder_of_the_other_base_gets_a_card_and_a_picture_of_its_own_base(
    tiny_pipe: Any, make_encoder: Callable[..., RobustEncoder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = CatalogEntry(
        name="emoji/line_art", concept="line art", kind="style", method="advunlearn", base="the embedded emoji base"
    )
    base = Base.from_pipeline(tiny_pipe, family="emoji")
    tiny_pipe.save_pretrained(tmp_path / "emoji" / "base")
    made = make_encoder(tiny_pipe, base=base, concept=Concept(name="line art", kind="style"))
    made.save_pretrained(tmp_path / "emoji" / "encoders" / "line_art")
    for module in (embedded, resolve, hub_cards):
        monkeypatch.setattr(module, "embedded_folder", lambda name: tmp_path / name)
    for known in (card_pictures, hub_cards, resolve):
        monkeypatch.setattr(known, "CATALOG", {entry.name: entry})
    (drawn,) = card_pictures.write_pictures(tmp_path / "out")
    assert (drawn.name, Image.open(drawn).format) == ("emoji-line_art.png", "PNG")
    (text,) = catalog_cards().values()
    assert "![The same prompts and seeds without and with the encoder](pictures/emoji-line_art.png)" in text
    assert 'pipe = embedded_pipeline("emoji")' in text
    assert "The base is a small world of emoji" in text


@pytest.mark.base
def test_every_card_says_licence_and_how_to_load() -> None:
    for entry, text in zip(CATALOG.values(), catalog_cards().values(), strict=True):
        assert f'from_pretrained("{entry.name}")' in text
        assert entry.license in text
        assert entry.terms in text
        data = ModelCard(text).data
        assert data["library_name"] == "robust-encoders"
        assert ("refuses it" in text) == (entry.format == "foreign") == ("```python" not in text)
        assert entry.how in text.replace(entry.how[:1].upper() + entry.how[1:], entry.how)
        assert ("Unpinned" in text) == (not entry.embedded)
        assert ("concept-erasure" in data["tags"]) == (entry.kind != "none")


@pytest.mark.base
def test_the_command_writes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cards", str(tmp_path / "out")]) == 0
    written = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert written == catalog_cards()
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "out" / name) for name in catalog_cards()]
