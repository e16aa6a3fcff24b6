"""Bars show a sign of life while one step takes long, in log files too, and end with their block."""

from __future__ import annotations

import io
import threading
import time

import pytest

from robust_encoders.training.progress import ProgressBar, announce, duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def beats() -> int:
    return sum(thread.name.startswith("progress") for thread in threading.enumerate())


def test_a_log_file_gets_a_line_while_one_step_takes_long() -> None:
    file = io.StringIO()
    with ProgressBar(total=4, desc="bank", beat=0.05, file=file) as bar:
        bar.update()
        time.sleep(0.4)
        during = file.getvalue().splitlines()
    assert len(during) >= 4
    assert all(line.startswith("bank: 1 of 4, ") for line in during[2:])
    assert "\r" not in file.getvalue()


def test_a_terminals_line_is_written_again_while_one_step_takes_long() -> None:
    file = Terminal()
    with ProgressBar(total=4, desc="bank", beat=0.05, file=file):
        before = file.getvalue().count("\r")
        time.sleep(0.4)
        assert file.getvalue().count("\r") >= before + 4


def test_an_error_in_the_block_ends_the_signs_of_life() -> None:
    file = io.StringIO()

    def fail() -> None:
        with ProgressBar(total=4, beat=0.05, file=file):
            assert beats() == 1
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    said = file.getvalue()
    time.sleep(0.2)
    assert beats() == 0
    assert file.getvalue() == said


def test_a_bar_that_is_switched_off_has_no_thread_and_writes_nothing() -> None:
    file = io.StringIO()
    with ProgressBar(total=4, beat=0.01, file=file, disable=True) as bar:
        bar.update()
        time.sleep(0.05)
        assert beats() == 0
    assert file.getvalue() == ""


def test_the_end_is_shown() -> None:
    file = io.StringIO()
    with ProgressBar(total=2, desc="train", file=file) as bar:
        bar.update(2)
        bar.set_postfix_str("loss 1")
    assert file.getvalue().rstrip().splitlines()[-1].startswith("train: 2 of 2, ")


def test_an_announcement_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    announce("bank: 3 trajectories")
    announce("nothing", shown=False)
    assert capsys.readouterr().err == "bank: 3 trajectories\n"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0, "1 second"), (41.2, "41 seconds"), (89, "89 seconds"), (90, "2 minutes"), (3 * 3600, "3 hours"),
     (5399, "90 minutes"), (5400, "2 hours"), (5 * 86400, "5 days")],
)  # fmt: skip
def test_a_length_of_time_is_said_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words
