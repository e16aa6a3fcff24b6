"""The list of things is made from packages, and breaks no rule."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_emoji import CHOSEN, CODES, icon_sets, tiny_things, write_sources

from robust_encoders.errors import IntegrityError
from robust_encoders.training.worlds.emoji.choose import HERE, Chosen, choose, made, read_chosen
from robust_encoders.training.worlds.emoji.keywords import Entry, read_entries
from robust_encoders.training.worlds.emoji.things import Things


def test_the_same_packages_give_the_same_list(tmp_path: Path) -> None:
    one, other = (made(tmp_path / name, write_sources(tmp_path / name), CHOSEN, "") for name in ("a", "b"))
    assert one["things.json"] == other["things.json"]
    assert Things.from_json(one["things.json"]) == tiny_things()


def test_the_attributions_name_authors_licences_and_versions(tmp_path: Path) -> None:
    text = made(tmp_path, write_sources(tmp_path), CHOSEN, "")["NOTICE"]
    for part in ("the author of noto", "the author of line art", "MIT by A", "MIT by B", "MIT by C", "emojilib@1.0.0"):
        assert part in text
    assert "git+" not in text


def test_an_icon_that_a_set_lacks_is_refused(tmp_path: Path) -> None:
    entries, sets = read_entries(tmp_path, write_sources(tmp_path)), icon_sets()
    del sets["fluent"].data["icons"]["hammer"]
    with pytest.raises(ValueError, match="expected icons that all sets have, found hammer; take them out"):
        choose(read_chosen(CHOSEN), entries, sets)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("owl | | hooter | wise", "'hooter' for owl, which is no keyword of it"),
        ("owl | | | bird drink", "'bird drink' for owl, which is no keyword of it"),
        ("owl | | | +beer", "'beer' for beer-mug and owl"),
        ("rose | | | !flower\nowl | | | flower", "'flower' for rose and owl"),
        ("owl | | | +drink", "the held-out 'drink' for owl, which is a keyword of beer-mug, glass-of-milk too"),
        ("owl | | bird | wise bird", "the held-out 'wise bird' for owl, which holds 'bird' or lies in it"),
        ("owl | | wise bird | bird", "the held-out 'bird' for owl, which holds 'wise bird' or lies in it"),
    ],
)
def test_names_that_break_a_rule_are_refused(tmp_path: Path, line: str, problem: str) -> None:
    entries = read_entries(tmp_path, write_sources(tmp_path))
    with pytest.raises(ValueError, match=problem):
        choose(read_chosen(f"{CHOSEN}\n{line}"), entries, icon_sets())


def test_an_icon_that_people_call_by_a_name_of_a_thing_is_no_other_icon(tmp_path: Path) -> None:
    entries = dict(read_entries(tmp_path, write_sources(tmp_path)))
    entries[CODES["owl"]] = replace(entries[CODES["owl"]], keywords=("owl", "sausage"))
    things = choose(read_chosen(CHOSEN), entries, icon_sets())
    assert [icon.label for icon in (*things.others, *things.unknown)] == ["rose"]


def test_the_base_may_draw_some_of_the_chosen_things(tmp_path: Path) -> None:
    drawn = "# the base draws these\nhot dog\n\nbeer mug\n"
    text = made(tmp_path, write_sources(tmp_path), CHOSEN, drawn)["things.json"]
    things = Things.from_json(text)
    assert things.names == ("beer mug", "hot dog")
    assert things.pretrained == tiny_things().things
    assert things.wide == tiny_things()
    assert [icon.label for icon in things.strangers] == ["rose", "glass of milk", "hammer"]
    assert sorted(things.codes) == sorted(tiny_things().codes)
    assert things.to_json() == text


def test_a_drawn_thing_that_is_not_chosen_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected names of things of chosen\.txt, found owl, rose; take them out of"):
        made(tmp_path, write_sources(tmp_path), CHOSEN, "owl\nhammer\nrose")


def test_a_line_states_its_mark() -> None:
    assert Chosen.parse("bow | | a, b c | ~d e") == Chosen("bow", "", ("a", "b c"), "d e", "~")


def test_split_keywords_state_their_phrase() -> None:
    entry = Entry("1", "seal", "", "", ("seal", "sea", "lion", "merry-go"))
    assert entry.states("sea lion")
    assert entry.states("seal")
    assert entry.states("lion of sea")
    assert not entry.states("tiger sea")
    assert not entry.states("go")  # a part of a keyword alone is no keyword


def test_packages_with_other_content_are_refused(tmp_path: Path) -> None:
    sources = write_sources(tmp_path)
    (tmp_path / sources.emojilib.file).write_bytes(b"changed")
    with pytest.raises(IntegrityError, match=r"found none with the right hash for emojilib-1\.0\.0\.tgz; fetch them"):
        made(tmp_path, sources, CHOSEN)


def test_the_script_says_which_packages_are_missing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "robust_encoders.training.worlds.emoji.choose", str(tmp_path), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode
    assert f"robust-encoders emoji fetch --out {tmp_path}" in done.stderr


def test_the_committed_list_has_the_form_that_the_script_writes(tmp_path: Path) -> None:
    text = made(tmp_path, write_sources(tmp_path), CHOSEN, "hot dog")["things.json"]
    packaged = (HERE / "things.json").read_text(encoding="utf-8")
    assert [*json.loads(text)] == ["things", "others", "unknown", "drawn"] == [*json.loads(packaged)]
    assert Things.from_json(packaged).to_json() == packaged
