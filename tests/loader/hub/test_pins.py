"""What is pinned is what is loaded, or nothing is; the file of pins is never half written."""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from robust_encoders import FileRecord, IntegrityError, NotPinnedError, RobustEncoder
from robust_encoders.hub.download import HubOptions
from robust_encoders.hub.load import load
from robust_encoders.hub.pins import Pin, enforce, pins_file, read_pins, remove_pin, write_pin

PIN = Pin(files={"a.bin": FileRecord(sha256="1" * 64, size=3, content_sha256="2" * 64)}, revision="f" * 40)


def see(folder: Path) -> Any:
    return load(folder, subfolder="", variant=None, options=HubOptions(), enforced=False)


def test_pins_come_back_as_they_were_written() -> None:
    assert read_pins() == {}
    write_pin("b", PIN)
    write_pin("a", replace(PIN, revision=""))
    assert read_pins() == {"a": replace(PIN, revision=""), "b": PIN}
    assert [path.name for path in pins_file().parent.iterdir() if not path.name.endswith(".lock")] == ["pins.json"]


def test_a_pin_is_removed_and_no_other() -> None:
    write_pin("b", PIN)
    write_pin("a", replace(PIN, revision=""))
    assert remove_pin("b") == PIN
    assert read_pins() == {"a": replace(PIN, revision="")}
    before = pins_file().read_bytes()
    with pytest.raises(NotPinnedError, match=r"found none at 'b'\. Pinned in .* are: a\."):
        remove_pin("b")
    assert pins_file().read_bytes() == before


def test_a_pin_is_not_replaced_unless_asked() -> None:
    write_pin("a", PIN)
    write_pin("a", replace(PIN, revision="e" * 40))  # the same files
    other = Pin(files={"a.bin": FileRecord(sha256="3" * 64, size=3)})
    with pytest.raises(
        IntegrityError, match=r"(?s)a\.bin: 3 bytes, sha256 1111.*found.*sha256 3333.*pin --replace"
    ) as caught:
        write_pin("a", other)
    assert "e" * 40 in str(caught.value)
    write_pin("a", other, replace=True)
    assert read_pins() == {"a": other}


@pytest.mark.parametrize(
    "change",
    [
        {"sha256": "0" * 64},
        {"size": 4},
        {"content_sha256": "0" * 64},
    ],
)
def test_any_difference_is_refused(change: dict[str, Any]) -> None:
    assert not enforce("a", PIN)
    write_pin("a", PIN)
    assert enforce("a", PIN)
    changed = {"a.bin": replace(PIN.files["a.bin"], **change)}
    with pytest.raises(IntegrityError, match="expected a as pinned"):
        enforce("a", Pin(files=changed))
    assert not enforce("b", Pin(files=changed))


def test_files_that_come_or_go_are_refused() -> None:
    write_pin("a", PIN)
    with pytest.raises(IntegrityError, match=r"found\n  a\.bin: no such file"):
        enforce("a", Pin(files={}))
    with pytest.raises(IntegrityError, match=r"  b\.bin: no such file"):
        enforce("a", Pin(files={**PIN.files, "b.bin": PIN.files["a.bin"]}))


def test_only_contents_that_cannot_be_known_yet_are_not_compared() -> None:
    write_pin("a", PIN)
    without = Pin(files={"a.bin": replace(PIN.files["a.bin"], content_sha256="")})
    assert enforce("a", without, read=False)
    with pytest.raises(IntegrityError, match="expected a as pinned"):
        enforce("a", without)


@pytest.mark.parametrize("pinned", ["both", "neither"])
def test_a_manifest_that_lost_the_hash_of_its_contents_is_refused(
    tiny_encoder: RobustEncoder, tmp_path: Path, pinned: str
) -> None:
    manifest = tiny_encoder.save_pretrained(tmp_path / "artifact")
    lost = {name: replace(record, content_sha256="") for name, record in manifest.files.items()}
    replace(manifest, files=lost).write(tmp_path / "artifact")
    write_pin(str((tmp_path / "artifact").resolve()), Pin(files=manifest.files if pinned == "both" else lost))
    with pytest.raises(IntegrityError, match=r"contents|content hash \(none recorded\)"):
        RobustEncoder.from_pretrained(tmp_path / "artifact")


def test_contents_that_the_pin_does_not_hold_are_computed(tiny_encoder: RobustEncoder, tmp_path: Path) -> None:
    manifest = tiny_encoder.save_pretrained(tmp_path / "artifact")
    lost = {name: replace(record, content_sha256="") for name, record in manifest.files.items()}
    write_pin(str((tmp_path / "artifact").resolve()), Pin(files=lost))
    weights = replace(manifest.files["model.safetensors"], content_sha256="0" * 64)
    replace(manifest, files={**manifest.files, "model.safetensors": weights}).write(tmp_path / "artifact")
    with pytest.raises(IntegrityError, match="content hash 0000"):
        RobustEncoder.from_pretrained(tmp_path / "artifact")


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"a": 3}', '{"a": {"files": {}}}', '{"a": {"files": {"../b": {}}, "revision": ""}}', "[" * 10**5],
)
def test_pins_that_cannot_be_understood_stop_everything(text: str, tiny_encoder: RobustEncoder, tmp_path: Path) -> None:
    tiny_encoder.save_pretrained(tmp_path / "artifact")
    pins_file().write_text(text)
    with pytest.raises(IntegrityError, match=r"expected pins in .*pins\.json, .*pin again what you trust"):
        RobustEncoder.from_pretrained(tmp_path / "artifact")
    with pytest.raises(IntegrityError, match="expected pins"):
        write_pin("a", PIN)
    with pytest.raises(IntegrityError, match="expected pins"):
        remove_pin("a")
    assert pins_file().read_text() == text


def test_a_pinned_folder_loads_until_something_else_is_saved_there(
    tiny_pipe: Any, make_encoder: Any, tmp_path: Path
) -> None:
    first, folder = make_encoder(tiny_pipe, seed=1), tmp_path / "artifact"
    first.save_pretrained(folder)
    found = see(folder)
    write_pin(found.place.key, found.seen)
    assert RobustEncoder.from_pretrained(folder).content_sha256 == first.content_sha256
    make_encoder(tiny_pipe, seed=2).save_pretrained(folder)
    with pytest.raises(IntegrityError, match=r"as pinned in .*pins\.json\n  config\.json"):
        RobustEncoder.from_pretrained(folder)
    found = see(folder)
    write_pin(found.place.key, found.seen, replace=True)
    assert RobustEncoder.from_pretrained(folder).content_sha256 != first.content_sha256


def _pin_many(home: str, name: str) -> None:
    os.environ["ROBUST_ENCODERS_HOME"] = home
    for i in range(10):
        write_pin(f"{name}{i}", PIN)
        write_pin(f"gone-{name}{i}", PIN)
        remove_pin(f"gone-{name}{i}")


def test_two_processes_lose_none_of_each_others_pins(own_home: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_pin_many, args=(str(own_home), name)) for name in "ab"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert sorted(read_pins()) == sorted(f"{name}{i}" for name in "ab" for i in range(10))


def test_a_write_that_fails_leaves_the_old_pins(monkeypatch: pytest.MonkeyPatch) -> None:
    write_pin("a", PIN)
    before = pins_file().read_bytes()

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_pin("b", PIN)
    assert pins_file().read_bytes() == before
    assert not [path for path in pins_file().parent.iterdir() if path.name.startswith(".pins.json-")]
