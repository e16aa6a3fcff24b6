"""The catalog says what exists, what it fits and that nobody has pinned it yet."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from robust_encoders import CATALOG, CatalogEntry, ConversionNeededError, ManifestError, RobustEncoder
from robust_encoders.cli.main import main
from robust_encoders.hub.catalog import announce, did_you_mean, entry_at
from robust_encoders.hub.pins import read_pins

PUBLISHED = ("nudity", "vangogh", "church", "garbage_truck", "parachute", "tench")
OTHERS = ("safe-clip", "safe-clip-h", "safe-clip-sd20", "safer-clip", "sage", "leaf", "clip-gmp", "clip-sae")


def test_the_catalog_names_the_embedded_and_the_published_encoders() -> None:
    concepts = ("circle", "striped", "red")
    small = [
        f"shapes/{name}{method}" for methods in (("",), ("-spm", "-rece")) for name in concepts for method in methods
    ]
    assert list(CATALOG) == [*small, *PUBLISHED, *OTHERS]
    assert all(name == entry.name for name, entry in CATALOG.items())


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_encoders_are_listed_as_what_they_are(name: str) -> None:
    entry = CATALOG[name]
    assert (entry.repo, entry.subfolder) == ("OPTML-Group/AdvUnlearn", f"{name}_unlearned")
    assert (entry.license, entry.format, entry.pin) == ("cc-by-4.0", "pickle", "unpinned")
    assert "CompVis/stable-diffusion-v1-4" in entry.base_ids
    assert not entry.sha256


def test_an_embedded_encoder_is_named_after_its_base() -> None:
    circle, nudity = CATALOG["shapes/circle-spm"], CATALOG["nudity"]
    assert (circle.embedded_base, circle.short_name) == ("shapes", "circle-spm")
    assert (nudity.embedded_base, nudity.short_name) == ("", "nudity")


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


@pytest.mark.parametrize("name", OTHERS)
def test_other_encoders_are_refused_with_what_to_do_and_their_licence(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *args, **options: pytest.fail("nothing to fetch"))
    entry = CATALOG[name]
    assert (entry.format, entry.pin, entry.revision) == ("foreign", "unpinned", "")
    for given in (name, entry.repo):
        with pytest.raises(ConversionNeededError) as caught:
            RobustEncoder.from_pretrained(given)
        for words in (entry.repo, f"licence {entry.licence}", entry.note, entry.how):
            assert words in str(caught.value)


def test_what_a_licence_asks_is_said() -> None:
    restricted = {name for name, entry in CATALOG.items() if entry.terms}
    assert restricted == {"safe-clip", "safe-clip-h", "safe-clip-sd20", "safer-clip", "sage"}
    assert all("non-commercial" in CATALOG[name].terms for name in restricted)
    assert "contradictory" in CATALOG["sage"].licence
    assert all("-nc-" not in entry.license for name, entry in CATALOG.items() if name not in restricted)


def test_controls_claim_no_erasure() -> None:
    controls = {name for name, entry in CATALOG.items() if entry.kind == "none"}
    assert controls == {"leaf", "clip-gmp", "clip-sae"}
    assert {CATALOG[name].concept for name in controls} == {"nothing: a control"}


def test_the_licence_is_logged_on_load(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "robust_encoders.hub.catalog"):
        announce("nudity", "")
        announce("OPTML-Group/AdvUnlearn", "tench_unlearned")
        announce("./nudity", "")
        announce(Path("nudity"), "")
    assert caplog.messages == ["nudity: licence cc-by-4.0", "tench: licence cc-by-4.0"]


@pytest.mark.parametrize("name", OTHERS)
def test_no_command_fetches_what_the_catalog_only_lists(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("robust_encoders.hub.load.fetch_artifact", lambda *_, **__: pytest.fail("nothing to fetch"))
    entry = CATALOG[name]
    named = f"{entry.name!r} is published in {entry.repo}"
    commands = [["verify", entry.name], ["pin", entry.name], ["verify", entry.repo, *_within(entry)]]
    commands += [["pin", entry.repo, *_within(entry)], ["ready", entry.repo, *_within(entry)]]
    commands += [["convert", entry.name, str(tmp_path / "out")]]
    commands += [["export", entry.name, "--to", "comfyui", "--out", str(tmp_path / "out")]]
    for command in commands:
        assert main(command) == 1
        out, err = capsys.readouterr()
        assert (out, named in err, entry.how in err) == ("", True, True)
    assert main(["verify", entry.name, "--json"]) == 1
    assert named in json.loads(capsys.readouterr().out)["problem"]
    assert not (tmp_path / "out").exists()
    assert read_pins() == {}


def _within(entry: CatalogEntry) -> list[str]:
    return ["--subfolder", entry.subfolder] if entry.subfolder else []


def test_a_folder_of_that_name_is_not_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Adeely93" / "SAGE").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ManifestError, match="found nothing"):
        RobustEncoder.from_pretrained("Adeely93/SAGE")


def test_a_control_erases_nothing() -> None:
    controls = [entry for entry in CATALOG.values() if entry.kind == "none"]
    assert {entry.name for entry in controls} == {"leaf", "clip-gmp", "clip-sae"}
    for entry in CATALOG.values():
        if entry in controls:
            with pytest.raises(ValueError, match="the control"):
                entry.erased()
        else:
            assert entry.erased().name == entry.concept
