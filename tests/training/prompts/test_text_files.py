"""The one reader of prompt files: every encoding is read exactly, or refused with file, line and remedy."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from robust_encoders.errors import RobustEncodersError
from robust_encoders.training.prompts.text_files import PromptFileError, read_prompts, read_text

LINES = ("a red circle", "a café circle", "円, a circle")
TEXT = "\n".join(LINES) + "\n"


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_every_encoding_with_a_mark_and_utf_8_give_the_same_prompts(tmp_path: Path, codec: str) -> None:
    assert read_prompts(written(tmp_path / "prompts.txt", TEXT.encode(codec))) == LINES


def test_utf_16_of_both_byte_orders_is_read(tmp_path: Path) -> None:
    for mark, codec in (("\ufeff", "utf-16-le"), ("\ufeff", "utf-16-be"), ("\ufeff", "utf-32-be")):
        assert read_prompts(written(tmp_path / "prompts.txt", (mark + TEXT).encode(codec))) == LINES


@pytest.mark.parametrize(
    "text",
    [
        "a ring\r\na star\r\n",
        "a ring\ra star",
        "\n\n  a ring \t\n\n   \na star\x0c\n\n",
        "a ring\n\ufeffa star\n\u200b\n",  # two files with marks, joined by cat
        "\ufeff\ufeffa ring\na star",
    ],
)
def test_line_ends_spaces_and_blank_lines_change_nothing(tmp_path: Path, text: str) -> None:
    assert read_prompts(written(tmp_path / "prompts.txt", text.encode())) == ("a ring", "a star")


def test_only_line_ends_part_prompts(tmp_path: Path) -> None:
    path = written(tmp_path / "prompts.txt", "a ring\u2028and a star\na\x85cross\n".encode())
    assert read_prompts(path) == ("a ring\u2028and a star", "a\x85cross")


REFUSED = {
    "Windows-1252": (TEXT[:40].encode("cp1252", "ignore"), ("line 2", "0xe9", "'a café circle'", "iconv")),
    "Latin-1 after a carriage return": (b"a ring\r\na star\ra caf\xe9", ("line 3", "0xe9")),
    "UTF-16 without a mark": (TEXT.encode("utf-16-le"), ("zero byte", "line 1", "UTF-16 without")),
    "ASCII as UTF-16 without a mark": ("a ring\na star".encode("utf-16-be"), ("zero byte", "UTF-16 without")),
    "UTF-16 cut off": (b"\xff\xfe" + "a ring\na star".encode("utf-16-le")[:-1], ("UTF-16", "line 2")),
    "UTF-16 with a lone surrogate": (b"\xff\xfea\0\n\0\x00\xd8a\0", ("UTF-16", "line 2")),
    "UTF-8 cut off": ("a ring\na café".encode()[:-1], ("line 2", "0xc3")),
    "a mark and then Windows-1252": (b"\xef\xbb\xbfa ring\ncaf\xe9 x", ("UTF-8", "byte order mark", "line 2")),
    "a zero byte": (b"a ring\na\0star\n", ("zero byte", "line 2")),
    "a control character": (b"a ring\n\x1b[31ma star\n", ("U+001B", "line 2")),
    "a picture": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", ("binary", "line 3")),
    "nothing": (b"", ("at least one prompt",)),
    "blank lines": (b"\n  \n\t\n", ("at least one prompt",)),
    "a mark alone": (b"\xef\xbb\xbf", ("at least one prompt",)),
    "a character that was lost before": ("a ring\na caf\ufffd".encode(), ("U+FFFD", "line 2")),
}


@pytest.mark.parametrize(("data", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_prompt_is_refused_with_file_and_line(tmp_path: Path, data: bytes, said: tuple[str, ...]) -> None:
    path = written(tmp_path / "prompts.txt", data)
    with pytest.raises(PromptFileError) as refused:
        read_prompts(path)
    assert str(path) in str(refused.value)
    assert [text for text in said if text not in str(refused.value)] == []


def test_a_missing_file_a_folder_and_a_pipe_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, said in (
        (tmp_path / "none.txt", "nothing at"),
        (tmp_path, "a folder"),
        (tmp_path / "pipe", "no regular file"),
        (tmp_path / ("long" * 100), "cannot read"),
        (Path("\0"), "a"),
    ):
        with pytest.raises(PromptFileError, match=said):
            read_text(path)


@pytest.mark.parametrize("name", ["set.csv", "set.JSON", "set.xlsx"])
def test_a_table_is_no_file_of_lines(tmp_path: Path, name: str) -> None:
    with pytest.raises(PromptFileError, match=r"\.txt"):
        read_prompts(written(tmp_path / name, b"case_number,prompt\n1,a ring\n"))


def test_the_error_is_one_of_this_package() -> None:
    assert issubclass(PromptFileError, RobustEncodersError)
