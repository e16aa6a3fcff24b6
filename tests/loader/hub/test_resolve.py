"""Names resolve in one order: package, catalog, folder, Hub."""

from __future__ import annotations

from pathlib import Path

import pytest

from robust_encoders import CATALOG, AssetsMissingError, CatalogEntry, CompatibilityWarning, UnknownNameError
from robust_encoders.hub import catalog, resolve
from robust_encoders.hub.resolve import Location


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, with an embedded encoder "shapes/circle" beside it."""
    package = tmp_path / "package"
    (package / "encoders" / "circle").mkdir(parents=True)
    monkeypatch.setattr(resolve, "embedded_folder", lambda base: package if base == "shapes" else tmp_path / base)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


def find(name: str | Path, subfolder: str = "", revision: str | None = None) -> Location:
    return resolve.resolve(name, subfolder=subfolder, revision=revision)


def test_embedded_names_never_leave_the_package(here: Path) -> None:
    packaged = Location(here.parent / "package" / "encoders" / "circle")
    assert find("shapes/circle") == packaged
    (here / "shapes" / "circle").mkdir(parents=True)
    with pytest.warns(CompatibilityWarning, match=r"is both an encoder of the package .* Write '\./shapes/circle'"):
        assert find("shapes/circle") == packaged
    assert find("./shapes/circle") == Location(Path("./shapes/circle"))


@pytest.mark.parametrize("name", ["shapes/mine", "shapes/circel", "emoji/mine"])
def test_a_folder_with_an_embedded_name_is_found_as_the_error_says(here: Path, name: str) -> None:
    (here.parent / "emoji" / "base").mkdir(parents=True)
    with pytest.raises(UnknownNameError) as unknown:
        find(name)
    assert "write './" not in str(unknown.value)
    (here / name).mkdir(parents=True)
    with pytest.raises(UnknownNameError, match=f"found '{name}'; write './{name}' for the folder of that name here"):
        find(name)
    assert find(f"./{name}") == Location(Path(f"./{name}"))


def test_an_embedded_encoder_that_is_not_installed_is_named(here: Path) -> None:
    with pytest.raises(AssetsMissingError, match=r"shapes/red inside the package, .* found shapes/circle there"):
        find("shapes/red")


@pytest.mark.parametrize("name", ["shapes/circel", "shapes/../circle", "shapes/"])
def test_a_wrong_embedded_name_is_corrected(here: Path, name: str) -> None:
    with pytest.raises(UnknownNameError, match="found 'shapes/"):
        find(name)


def test_names_of_the_other_base_resolve_likewise(here: Path) -> None:
    assets = here.parent / "emoji"
    with pytest.raises(
        AssetsMissingError, match=r"'emoji' for emoji/alcohol, .*reinstall robust-encoders from a wheel$"
    ):
        find("emoji/alcohol")
    (here / "emoji" / "alcohol").mkdir(parents=True)  # a folder of this name is never taken
    with pytest.raises(AssetsMissingError, match=r"reinstall robust-encoders from a wheel; write '\./emoji/alcohol'"):
        find("emoji/alcohol")
    (here / "emoji" / "alcohol").rmdir()
    (assets / "base").mkdir(parents=True)
    (assets / "encoders" / "alcohol").mkdir(parents=True)
    assert find("emoji/alcohol") == Location(assets / "encoders" / "alcohol")
    with pytest.raises(UnknownNameError, match=r"encoder \(emoji/alcohol\), found 'emoji/../alcohol'"):
        find("emoji/../alcohol")


@pytest.mark.parametrize("name", [n for n, e in CATALOG.items() if not e.embedded and e.format != "foreign"])
def test_published_encoders_are_found_by_name_and_by_place(here: Path, name: str) -> None:
    entry = CATALOG[name]
    assert find(name) == find(entry.repo, entry.subfolder) == Location(None, entry.repo, entry.subfolder)
    assert find(name).entry is entry
    assert find(name).key == f"{entry.repo}/{entry.subfolder}".strip("/")


def test_a_folder_has_no_entry_and_its_own_key(here: Path) -> None:
    (here / "a").mkdir()
    assert find("./a").entry is None
    assert find("./a").key == str(here.resolve() / "a")


def test_a_folder_that_shadows_a_catalog_name_warns(here: Path) -> None:
    (here / "nudity").mkdir()
    with pytest.warns(CompatibilityWarning, match=r"Write '\./nudity'"):
        assert find("nudity").repo == CATALOG["nudity"].repo
    assert find("./nudity") == Location(Path("./nudity"))
    assert find(Path("nudity"), "sub") == Location(Path("nudity/sub"))


def test_a_catalogued_encoder_is_fetched_at_its_pin(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = CatalogEntry(
        name="new", concept="new", kind="style", method="m", base="b", repo="o/r", subfolder="s", revision="f" * 40
    )
    monkeypatch.setattr(resolve, "CATALOG", {**catalog.CATALOG, "new": entry})
    assert find("new") == Location(None, "o/r", "s", "f" * 40)
    assert find("new", revision="main").revision == "main"


def test_a_folder_wins_over_the_hub(here: Path) -> None:
    (here / "org" / "name").mkdir(parents=True)
    assert find("org/name").folder == Path("org/name")
    assert find("org/other", "sub", "v1") == Location(None, "org/other", "sub", "v1")


@pytest.mark.parametrize("name", ["nudty", "./org/name", "a/b/c", "", Path("org/name"), "~/no/such/folder"])
def test_a_name_of_nothing_is_refused(here: Path, name: str | Path) -> None:
    with pytest.raises(UnknownNameError, match="expected an encoder's name, an existing folder or a repository"):
        find(name)
