"""Ctrl-C ends a command with one line that says how to go on."""

from __future__ import annotations

import re

import pytest

from robust_encoders.cli import main as cli
from robust_encoders.cli.interrupted import EXIT_INTERRUPTED, way_on


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "esd", "--out", "runs/a"], "run the same command again to go on: .* kept in runs/a.work"),
        (["train", "esd", "--out=runs/a/"], "run the same command again to go on: .* kept in runs/a.work"),
        (["train", "esd", "--out", "a", "--no-resume"], "again, without --no-resume, to go on"),
        (["evaluate", "base", "--out", "runs/e"], "again to go on: the finished parts are kept in runs/e"),
        (["shapes", "build", "--out", "b"], "again to go on from the newest checkpoint in b"),
        (["emoji", "build", "--out", "b", "--work", "w/"], "again to go on from the newest checkpoint in w"),
        (["convert", "a.pt", "b"], "run the same command again, which starts it anew"),
        (["list"], "run the same command again, which starts it anew"),
        (["train", "esd", "--out"], "kept in the folder of --out.work"),
    ],
)
def test_the_way_on_of_a_command(arguments: list[str], words: str) -> None:
    assert re.search(words, way_on(arguments))


def test_one_line_and_the_code_of_sigint(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run", interrupt)
    assert cli.main(["verify", "shapes/circle"]) == EXIT_INTERRUPTED == 130
    assert capsys.readouterr().err == "robust-encoders: stopped; run the same command again, which starts it anew\n"
