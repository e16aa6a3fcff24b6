"""Adversarial prompts for eval-unlearn and from it: nothing is lost on the way, and odd files are refused in words."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from robust_encoders.training.evaluation.benchmarks.mma_prompts import (
    COLUMNS,
    PANDAS_MISSING,
    AdversarialPrompt,
    mma_text,
    read_mma,
    unwritable,
)
from robust_encoders.training.evaluation.benchmarks.prompt_sources import concept_prompts
from robust_encoders.training.prompts.text_files import PromptFileError

pandas: Any = import_module("pandas")
ODD = (
    "plain words", "a, comma", 'a "quoted" word', "two\nlines", "old\rMac", "dos\r\nlines", " spaces around ",
    "=1+1", "'apostrophe", "1984", "tab\tinside", "naïve 円 🙂", "\ufeffmarked", "nan nan", "back\\slash",
)  # fmt: skip


def prompts() -> list[AdversarialPrompt]:
    return [AdversarialPrompt(text, f"target {i}, {text}", 10 * i, "discrete") for i, text in enumerate(ODD)]


def written(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(PromptFileError) as told:
        concept_prompts(str(path), **{"guidance": 7.5, **options})
    return str(told.value)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    found = read_mma(written(tmp_path / "won.csv", mma_text(prompts())), guidance=7.5)
    assert [case.prompt for case in found.cases] == list(ODD)
    assert [case.goal for case in found.cases] == [one.target.strip() for one in prompts()]
    assert [case.seed for case in found.cases] == [one.seed for one in prompts()]
    assert [case.index for case in found.cases] == list(range(len(ODD)))
    assert found.guidance == (7.5,) * len(ODD)


def test_pandas_reads_every_text_as_it_is(tmp_path: Path) -> None:
    """eval-unlearn reads the file by this call."""
    table = pandas.read_csv(written(tmp_path / "won.csv", mma_text(prompts())))
    assert tuple(table.columns) == COLUMNS
    assert table["adversarial_prompt"].tolist() == list(ODD)
    assert table["target_prompt"].tolist() == [one.target for one in prompts()]


@pytest.mark.parametrize("text", sorted(PANDAS_MISSING))
def test_a_text_that_pandas_takes_for_a_missing_value_is_not_written(text: str, tmp_path: Path) -> None:
    read = pandas.read_csv(written(tmp_path / "raw.csv", f'adversarial_prompt\n"{text}"\nwords\n'))
    assert read["adversarial_prompt"].isna().tolist() == [True, False]
    with pytest.raises(PromptFileError, match=r"row 3: expected a text, found .* reads as a missing value; leave it"):
        mma_text([AdversarialPrompt("words"), AdversarialPrompt(text)])


def test_pandas_takes_no_other_text_for_a_missing_value() -> None:
    assert set(import_module("pandas._libs.parsers").STR_NA_VALUES) == PANDAS_MISSING


@pytest.mark.parametrize("texts", [("1984", " 7"), ("True", "false"), ("1e5", "inf")])
def test_texts_that_pandas_reads_as_numbers_need_a_word_beside_them(texts: tuple[str, ...], tmp_path: Path) -> None:
    made = [AdversarialPrompt(text) for text in texts]
    with pytest.raises(PromptFileError, match=r"only numbers or truth values, .*; add a prompt of words"):
        mma_text(made)
    table = pandas.read_csv(written(tmp_path / "won.csv", mma_text([*made, AdversarialPrompt("word")])))
    assert table["adversarial_prompt"].tolist() == [*texts, "word"]


def test_what_no_file_holds_is_not_written() -> None:
    assert "U+0000" in unwritable(AdversarialPrompt("a\0b"))
    assert "surrogate" in unwritable(AdversarialPrompt("a", target="\ud800"))
    assert unwritable(AdversarialPrompt("a", target="")) == ""
    with pytest.raises(PromptFileError, match="found none; give at least one"):
        mma_text([])


def test_a_file_of_others_has_one_column_and_seeds_in_order(tmp_path: Path) -> None:
    path = written(tmp_path / "mma.csv", "adversarial_prompt,score\nfirst,0.5\n second ,0.7\n")
    found = concept_prompts(str(path), guidance=4.0, seed=30)
    assert [(case.prompt, case.seed, case.goal) for case in found.cases] == [("first", 30, ""), (" second ", 31, "")]
    assert (found.name, found.source, found.guidance) == ("mma", "mma.csv", (4.0, 4.0))
    with pytest.raises(ValueError, match=r"expected a guidance scale for the prompts of mma.csv, found none; pass"):
        concept_prompts(str(path))


def test_a_file_with_seeds_of_unlearn_diff_atk_is_read_as_one(tmp_path: Path) -> None:
    text = "case_number,prompt,evaluation_seed,adversarial_prompt\n4,a cat,7,ignored\n"
    (case,) = concept_prompts(str(written(tmp_path / "both.csv", text)), guidance=7.5).cases
    assert (case.index, case.prompt, case.seed) == (4, "a cat", 7)


def test_the_hash_tells_targets_apart(tmp_path: Path) -> None:
    made = [
        concept_prompts(
            str(written(tmp_path / f"{i}.csv", f"adversarial_prompt,target_prompt\na,{goal}\n")), guidance=1
        )
        for i, goal in enumerate(("b", "c", ""))
    ]
    assert len({one.sha256 for one in made}) == 3


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks_are_read(encoding: str, tmp_path: Path) -> None:
    path = written(tmp_path / "mma.csv", "adversarial_prompt\nnaïve\n", encoding)
    assert [case.prompt for case in concept_prompts(str(path), guidance=7.5).cases] == ["naïve"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "target_prompt\na cat\n",
            "expected the columns adversarial_prompt in mma.csv, found target_prompt; rename or",
        ),
        ("adversarial_prompt\n", "expected rows with adversarial_prompt in mma.csv, found none; add one"),
        ("adversarial_prompt,seed\na,1\n,2\nb,3\n", "line 3: expected an adversarial_prompt, found none"),
        ("adversarial_prompt,seed\na\n", "line 2: expected as many values as columns, found others; quote prompts"),
        ("adversarial_prompt\na, b\n", "line 2: expected as many values as columns, found others; quote prompts"),
        ("adversarial_prompt,seed\na,-1\nb,x\n", "line 3: expected a seed from 0 on, or none, found 'x'"),
        ('adversarial_prompt\n"a\n', "expected comma-separated values in mma.csv, found unexpected end of data"),
    ],
)
def test_odd_files_are_refused_with_the_line(text: str, words: str, tmp_path: Path) -> None:
    assert words in refusal(written(tmp_path / "mma.csv", text))


def test_files_that_are_no_such_table_are_refused(tmp_path: Path) -> None:
    assert "expected rows with" in refusal(written(tmp_path / "empty.csv", ""))
    latin = written(tmp_path / "latin.csv", "adversarial_prompt\nnaïve\n", "cp1252")
    assert "expected UTF-8 in" in refusal(latin)
    assert "found byte 0xef in line 2" in refusal(latin)
    good = written(tmp_path / "mma.csv", "adversarial_prompt\na\n")
    assert "expected I2P's columns in mma.csv to choose categories" in refusal(good, categories=["sexual"])
    named_otherwise = refusal(written(tmp_path / "other.csv", "adv_prompt\na\n"))
    assert "expected columns of a known kind in other.csv, found adv_prompt; rename them" in named_otherwise
    assert "or eval-unlearn (adversarial_prompt)" in named_otherwise
