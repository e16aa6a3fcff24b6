"""The catalog says what exists, what it fits and that nobody has pinned it yet."""

from __future__ import annotations

import pytest

from robust_encoders import CATALOG, CatalogEntry
from robust_encoders.catalog import did_you_mean, entry_at

PUBLISHED = ("nudity", "vangogh", "church", "garbage_truck", "parachute", "tench")


def test_the_catalog_names_the_embedded_and_the_published_encoders() -> None:
    assert list(CATALOG) == ["shapes/circle", "shapes/striped", "shapes/red", *PUBLISHED]
    assert all(name == entry.name for name, entry in CATALOG.items())


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_encoders_are_listed_as_what_they_are(name: str) -> None:
    entry = CATALOG[name]
    assert (entry.repo, entry.subfolder) == ("OPTML-Group/AdvUnlearn", f"{name}_unlearned")
    assert (entry.license, entry.format, entry.pin) == ("cc-by-4.0", "pickle", "unpinned")
    assert "CompVis/stable-diffusion-v1-4" in entry.base_ids
    assert not entry.sha256


def test_embedded_encoders_need_no_pin() -> None:
    assert {entry.pin for entry in CATALOG.values() if entry.embedded} == {"embedded"}


def test_a_pin_needs_a_commit_and_hashes() -> None:
    entry = CatalogEntry(name="a", concept="a", kind="style", method="m", base="b", repo="o/r", revision="f" * 40)
    assert entry.pin == "unpinned"
    pinned = CatalogEntry(
        name="a", concept="a", kind="style", method="m", base="b", repo="o/r", revision="f" * 40, sha256={"x": "0" * 64}
    )
    assert pinned.pin == "f" * 40


def test_an_entry_is_found_by_its_place() -> None:
    assert entry_at("OPTML-Group/AdvUnlearn", "tench_unlearned/") is CATALOG["tench"]
    assert entry_at("OPTML-Group/AdvUnlearn", "") is None
    assert entry_at("", "") is None


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("nudty", "'nudity'"),
        ("shapes/circel", "'shapes/circle'"),
        ("circle", "'shapes/circle'"),
        ("Church", "'church'"),
    ],
)
def test_a_near_miss_is_corrected(name: str, meant: str) -> None:
    assert meant in did_you_mean(name)
    assert did_you_mean(name).startswith("Did you mean ")


def test_a_far_miss_lists_every_name() -> None:
    assert all(name in did_you_mean("zzzzzz") for name in CATALOG)
