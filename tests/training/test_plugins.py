"""Registries: names to classes, by plain assignment or from other installed packages."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from importlib import metadata
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from robust_encoders.training import plugins
from robust_encoders.training.plugins import Registry

GROUP = "robust_encoders.toys"


class Ours:
    """A class of this package."""


class Theirs:
    """A class of another package."""


@pytest.fixture
def registry() -> Registry[type]:
    return Registry(GROUP, {"ours": Ours})


def offer(monkeypatch: pytest.MonkeyPatch, *points: EntryPoint) -> list[str]:
    """Let packages offer entry points; return the groups that were asked for."""
    asked: list[str] = []

    def entry_points(*, group: str) -> list[EntryPoint]:
        asked.append(group)
        return [point for point in points if point.group == group]

    monkeypatch.setattr(plugins, "entry_points", entry_points)
    return asked


def entry_point(name: str, value: str, owner: str | None = "their-package") -> EntryPoint:
    """Return an entry point as an installed package has it."""
    point = EntryPoint(name, value, GROUP)
    if owner is not None:
        vars(point)["dist"] = SimpleNamespace(name=owner)
    return point


@pytest.fixture
def their_module(monkeypatch: pytest.MonkeyPatch) -> str:
    module: Any = ModuleType("their_toys")
    module.Theirs = Theirs
    monkeypatch.setitem(sys.modules, "their_toys", module)
    return "their_toys"


def test_names_come_in_the_order_of_registration(registry: Registry[type]) -> None:
    registry["first"] = Theirs
    registry["second"] = Theirs
    assert list(registry) == ["ours", "first", "second"]
    assert len(registry) == 3
    assert dict(registry) == {"ours": Ours, "first": Theirs, "second": Theirs}
    assert repr(registry) == "Registry('robust_encoders.toys': ours, first, second)"


def test_a_plain_assignment_registers_and_replaces(registry: Registry[type]) -> None:
    assert "theirs" not in registry
    registry["theirs"] = Theirs
    assert registry["theirs"] is Theirs
    registry["ours"] = Theirs
    assert registry["ours"] is Theirs
    assert list(registry) == ["ours", "theirs"]


def test_what_is_deleted_is_gone_until_it_is_assigned_again(registry: Registry[type]) -> None:
    del registry["ours"]
    assert "ours" not in registry
    assert list(registry) == []
    with pytest.raises(KeyError, match="ours"):
        registry["ours"]
    with pytest.raises(KeyError, match="ours"):
        del registry["ours"]
    registry["ours"] = Ours
    assert registry["ours"] is Ours


def test_a_name_of_ours_that_comes_back_stands_where_it_stood() -> None:
    registry: Registry[type] = Registry(GROUP, {"first": Ours, "second": Ours})
    registry["theirs"] = Theirs
    registry["first"] = registry.pop("first")
    assert list(registry) == ["first", "second", "theirs"]


def test_a_registry_keeps_names_of_its_own() -> None:
    ours = {"ours": Ours}
    registry: Registry[type] = Registry(GROUP, ours)
    registry["theirs"] = Theirs
    assert ours == {"ours": Ours}


def test_an_unknown_name_is_a_key_error(registry: Registry[type]) -> None:
    with pytest.raises(KeyError, match="theirs"):
        registry["theirs"]
    assert registry.get("theirs") is None


def test_entry_points_of_its_group_are_offered_and_imported_when_asked_for(
    registry: Registry[type], their_module: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    other = EntryPoint("elsewhere", "no_such_module:X", "robust_encoders.others")
    asked = offer(monkeypatch, entry_point("theirs", f"{their_module}:Theirs"), other)
    assert list(registry) == ["ours", "theirs"]
    assert "theirs" in registry
    assert "elsewhere" not in registry
    assert len(registry) == 2
    assert set(asked) == {GROUP}
    with caplog.at_level(logging.INFO, plugins.__name__):
        assert registry["theirs"] is Theirs
        assert registry["theirs"] is Theirs
    assert [record.getMessage() for record in caplog.records] == [f"{GROUP}: theirs from their-package"], "once"


def test_no_entry_point_takes_the_place_of_one_of_ours(
    registry: Registry[type], their_module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, entry_point("ours", f"{their_module}:Theirs"))
    assert registry["ours"] is Ours
    assert list(registry) == ["ours"]


def test_an_entry_point_can_be_deleted_and_assigned_over(
    registry: Registry[type], their_module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, entry_point("theirs", f"{their_module}:Theirs"))
    del registry["theirs"]
    assert "theirs" not in registry
    assert list(registry) == ["ours"]
    registry["theirs"] = Ours
    assert registry["theirs"] is Ours


def test_a_broken_entry_point_names_itself_and_its_package(
    registry: Registry[type], their_module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(
        monkeypatch,
        entry_point("absent", "no_such_module:X"),
        entry_point("misspelled", f"{their_module}:Thiers"),
        entry_point("nameless", "no_such_module:X", owner=None),
    )
    assert list(registry) == ["ours", "absent", "misspelled", "nameless"], "listing imports nothing"
    for name, value in (("absent", "no_such_module:X"), ("misspelled", f"{their_module}:Thiers")):
        message = f"expected {value} of their-package for '{name}' in {GROUP}, cannot import it: .*"
        with pytest.raises(ImportError, match=f"{message}; mend or uninstall their-package"):
            registry[name]
    with pytest.raises(ImportError, match="of an installed package for 'nameless'"):
        registry["nameless"]
    assert registry["ours"] is Ours, "the others stay usable"


def install(site: Path, package: str, name: str) -> Path:
    """Write what an installed package leaves of itself beside its code; return the folder."""
    info = site / f"{package}-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = {package}:Toy\n", encoding="utf-8")
    return info


def test_packages_are_read_once_and_again_when_one_comes_or_goes(
    registry: Registry[type], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times, whole = [0], metadata.entry_points

    def counted() -> Any:
        times[0] += 1
        return whole()

    monkeypatch.setattr(metadata, "entry_points", counted)
    first = install(tmp_path / "site", "first-toys", "first")
    monkeypatch.syspath_prepend(tmp_path / "site")
    for _ in range(3):
        assert list(registry) == ["ours", "first"]
        assert "first" in registry
    assert times == [1]
    install(tmp_path / "site", "second-toys", "second")
    assert set(registry) == {"ours", "first", "second"}
    assert times == [2]
    shutil.rmtree(first)
    assert list(registry) == ["ours", "second"]
    monkeypatch.undo()
    assert list(registry) == ["ours"]


def test_packages_are_read_again_when_their_entry_points_change(
    registry: Registry[type], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package that is developed in place keeps its folder, whose time does not change."""
    site = tmp_path / "site"
    info = install(site, "toys", "first")
    monkeypatch.syspath_prepend(site)
    assert list(registry) == ["ours", "first"]
    before = os.stat(site)
    (info / "entry_points.txt").write_text(f"[{GROUP}]\nanother = toys:Toy\n", encoding="utf-8")
    os.utime(site, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert list(registry) == ["ours", "another"]


def test_packages_that_come_within_one_tick_of_the_clock_are_read(
    registry: Registry[type], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    install(site, "first-toys", "first")
    monkeypatch.syspath_prepend(site)
    assert list(registry) == ["ours", "first"]
    before = os.stat(site)
    install(site, "second-toys", "second")
    os.utime(site, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert set(registry) == {"ours", "first", "second"}


def test_a_folder_that_is_old_is_listed_once(
    registry: Registry[type], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, listed, whole = tmp_path / "site", list[str](), os.listdir

    def counted(place: Any) -> list[str]:
        listed.append(str(place))
        return whole(place)

    install(site, "toys", "first")
    os.utime(site, ns=(0, 0))
    monkeypatch.syspath_prepend(site)
    monkeypatch.setattr(os, "listdir", counted)
    for _ in range(3):
        assert list(registry) == ["ours", "first"]
    assert listed.count(str(site)) <= 2, "once here, and once by importlib.metadata"
    (site / "file").write_text("", encoding="utf-8")
    assert list(registry) == ["ours", "first"]
    assert listed.count(str(site)) > 2


def test_a_folder_of_the_same_relative_name_is_another_one(
    registry: Registry[type], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("first", "second"):
        install(tmp_path / name / "site", "toys", name)
        os.utime(tmp_path / name / "site", ns=(0, 0))
    monkeypatch.setattr(sys, "path", ["site", *sys.path])
    for name in ("first", "second"):
        monkeypatch.chdir(tmp_path / name)
        assert list(registry) == ["ours", name]
