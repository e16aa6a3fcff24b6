"""One card for every encoder of the catalog, in the tree and up to date."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from tree import ROOT

from robust_encoders import CATALOG
from robust_encoders.cli.main import main
from robust_encoders.hub.catalog_cards import catalog_cards

CARDS = ROOT / "hub_cards"


@pytest.mark.base
def test_the_cards_of_the_tree_are_up_to_date() -> None:
    expected = catalog_cards()
    found = {path.name: path.read_text(encoding="utf-8") for path in CARDS.glob("*.md") if path.name != "README.md"}
    assert sorted(found) == sorted(expected), "run: robust-encoders cards hub_cards"
    outdated = [name for name, text in expected.items() if found[name] != text]
    assert outdated == [], "run: robust-encoders cards hub_cards"


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
