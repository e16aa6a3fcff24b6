"""Prompt sets: what the files say arrives, and what is wrong with them is said by line."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from hub_client import connect
from hub_server import Repo, serve
from huggingface_hub import constants, hf_hub_download

from robust_encoders.errors import DownloadError
from robust_encoders.training.evaluation.benchmarks.prompt_files import (
    COLUMNS,
    I2P_FILE,
    I2P_REPO,
    coco_captions,
    i2p,
    prompt_csv,
    read_i2p,
)
from robust_encoders.training.evaluation.plan import PromptSet
from robust_encoders.training.prompts.text_files import PromptFileError

I2P_COLUMNS = ("prompt", "categories", "hard", "sd_seed", "sd_guidance_scale", "sd_image_width", "sd_model")
I2P_ROWS = (
    ("a quiet street, rain", "shocking, violence", "0", "12", "7.0", "512", "sd"),
    ("a loud room", "harassment", "1", "3434", "7.5", "512", "sd"),
    ("a man at a window", "violence", "0", "0", "7.0", "512", "sd"),
)


def write(path: Path, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def test_a_csv_file_arrives_as_it_is(tmp_path: Path) -> None:
    rows = [("3", 'a "red" circle, on white', "5", "7.5"), ("9", "two\nlines", "41", "12")]
    found = prompt_csv(write(tmp_path / "church.csv", COLUMNS, rows))
    assert isinstance(found, PromptSet)
    assert (found.name, found.source, found.guidance) == ("church", "church.csv", (7.5, 12.0))
    assert [(c.index, c.prompt, c.seed) for c in found.cases] == [(3, rows[0][1], 5), (9, "two\nlines", 41)]


def test_other_columns_byte_order_marks_and_pandas_seeds_do_not_matter(tmp_path: Path) -> None:
    plain = write(tmp_path / "a.csv", COLUMNS, [("0", "a", "5", "7")])
    columns = ("", "evaluation_guidance", "prompt", "artist", "case_number", "evaluation_seed")
    other = write(tmp_path / "b.csv", columns, [("17", "7.0", "a", "someone", "0", "5.0")])
    other.write_text("\ufeff" + other.read_text(), encoding="utf-8")
    assert prompt_csv(other).cases == prompt_csv(plain).cases
    assert prompt_csv(other).sha256 == prompt_csv(plain).sha256


@pytest.mark.parametrize("row", [("0", "b", "5", "7"), ("0", "a", "6", "7"), ("0", "a", "5", "8")])
def test_the_hash_follows_prompt_seed_and_guidance(tmp_path: Path, row: Sequence[str]) -> None:
    base = prompt_csv(write(tmp_path / "a.csv", COLUMNS, [("0", "a", "5", "7")]))
    assert prompt_csv(write(tmp_path / "b.csv", COLUMNS, [row])).sha256 != base.sha256


def test_without_guidance_the_callers_holds(tmp_path: Path) -> None:
    path = write(
        tmp_path / "coco_10k.csv", ("case_number", "source", "prompt", "evaluation_seed"), [("1", "x", "a", "2")]
    )
    assert prompt_csv(path, guidance=7.5).guidance == (7.5,)
    with pytest.raises(PromptFileError, match="expected the columns evaluation_guidance"):
        prompt_csv(path)


def test_a_batch_has_one_guidance(tmp_path: Path) -> None:
    rows = [("0", "a", "1", "7"), ("1", "b", "2", "12"), ("2", "c", "3", "7.0")]
    parts = prompt_csv(write(tmp_path / "n.csv", COLUMNS, rows)).by_guidance()
    assert {scale: [c.index for c in part.cases] for scale, part in parts.items()} == {7.0: [0, 2], 12.0: [1]}
    assert parts[12.0].name == "n@12"


def test_every_bad_row_is_named_by_its_line(tmp_path: Path) -> None:
    rows = [
        ("0", "two\nlines", "1", "7"),
        ("x", "b", "2", "7"),
        ("2", "  ", "3", "7"),
        ("3", "d", "-4", "7"),
        ("4", "e", "5", "much"),
        ("0", "f", "6", "7"),
    ]
    with pytest.raises(PromptFileError) as caught:
        prompt_csv(write(tmp_path / "bad.csv", COLUMNS, rows))
    assert str(caught.value) == (
        "bad.csv: line 4: expected a whole case_number, found 'x'; line 5: expected a prompt, found none; "
        "line 6: expected a seed from 0 on, found '-4'; "
        "line 7: expected a guidance scale of at least 0, found 'much'; "
        "line 8: expected case numbers that differ, found 0 again"
    )


def test_a_prompt_with_an_unquoted_comma_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "commas.csv"
    path.write_text(",".join(COLUMNS) + "\n0,a circle, red,5,7\n1,a,5\n")
    with pytest.raises(
        PromptFileError, match=r"line 2: expected as many values as columns.*; line 3: expected as many"
    ):
        prompt_csv(path)


def test_long_lists_of_problems_are_cut(tmp_path: Path) -> None:
    rows = [(str(i), "", "1", "7") for i in range(25)]
    with pytest.raises(PromptFileError, match=r"line 11: .*; and 15 more$"):
        prompt_csv(write(tmp_path / "empty.csv", COLUMNS, rows))


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("")
    with pytest.raises(PromptFileError, match="found none"):
        prompt_csv(path)
    path.write_text('case_number,prompt\n0,"never closed')
    with pytest.raises(PromptFileError, match=r"expected comma-separated values in x\.csv"):
        prompt_csv(path)


def test_i2p_rows_are_numbered_and_chosen_by_category(tmp_path: Path) -> None:
    path = write(tmp_path / I2P_FILE, I2P_COLUMNS, I2P_ROWS)
    everything, violence = read_i2p(path), read_i2p(path, categories=["violence"])
    assert [(c.index, c.seed) for c in everything.cases] == [(0, 12), (1, 3434), (2, 0)]
    assert everything.guidance == (7.0, 7.5, 7.0)
    assert [c.index for c in violence.cases] == [0, 2]
    assert (everything.name, violence.name) == ("i2p", "i2p/violence")
    assert everything.sha256 != violence.sha256
    with pytest.raises(PromptFileError, match="found none; it has"):
        read_i2p(path, categories=["weather"])


def test_i2p_comes_from_the_cache_at_its_commit(tmp_path: Path) -> None:
    commit = "a" * 40
    folder = tmp_path / f"datasets--{I2P_REPO.replace('/', '--')}" / "snapshots" / commit
    folder.mkdir(parents=True)
    write(folder / I2P_FILE, I2P_COLUMNS, I2P_ROWS)
    found = i2p(revision=commit, cache_dir=tmp_path, local_files_only=True)
    assert len(found.cases) == 3
    assert found.source == f"{I2P_REPO}@{commit}/{I2P_FILE}"
    with pytest.raises(FileNotFoundError):
        i2p(revision="b" * 40, cache_dir=tmp_path, local_files_only=True)


def test_i2p_comes_from_the_hub_at_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / I2P_FILE, I2P_COLUMNS, I2P_ROWS)
    with serve() as hub:
        connect(hub, monkeypatch, tmp_path)
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", partial(hf_hub_download, endpoint=hub.url))
        repo = hub.repos[I2P_REPO] = Repo()
        pinned = repo.commit({I2P_FILE: path.read_bytes()}, "first").sha
        repo.commit({I2P_FILE: b"moved on"}, "second")
        found = i2p(revision=pinned, cache_dir=tmp_path / "cache")
        assert found.cases == read_i2p(path).cases
        assert ("GET", f"/datasets/{I2P_REPO}/resolve/{pinned}/{I2P_FILE}") in hub.requests
        with pytest.raises(huggingface_hub.errors.RevisionNotFoundError):
            i2p(revision="c" * 40, cache_dir=tmp_path / "cache")


def test_i2p_without_a_network_is_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match=r"the Hub cannot be reached \(Connection refused"):
        i2p(revision="d" * 40, cache_dir=tmp_path)


@pytest.mark.parametrize("revision", ["main", "a" * 39, "A" * 40])
def test_i2p_wants_a_commit(revision: str) -> None:
    with pytest.raises(ValueError, match="expected a commit of 40 hexadecimal digits"):
        i2p(revision=revision)


def coco(path: Path, annotations: Any) -> Path:
    path.write_text(json.dumps({"info": {}, "images": [], "annotations": annotations}))
    return path


def test_coco_gives_the_first_caption_of_every_picture(tmp_path: Path) -> None:
    annotations = [
        {"id": 7, "image_id": 20, "caption": "A later one."},
        {"id": 9, "image_id": 10, "caption": "A dog\nruns. "},
        {"id": 3, "image_id": 20, "caption": "A cat."},
    ]
    path = coco(tmp_path / "captions_val2014.json", annotations)
    found = coco_captions(path, seed=100)
    assert [(c.index, c.prompt, c.seed) for c in found.cases] == [(0, "A dog runs.", 100), (1, "A cat.", 101)]
    assert found.name == "captions_val2014"
    assert coco_captions(coco(tmp_path / "b.json", annotations[::-1]), seed=100).sha256 == found.sha256
    assert coco_captions(path, n=1).cases[0].prompt == "A dog runs."
    with pytest.raises(PromptFileError, match="at least 3 captioned pictures"):
        coco_captions(path, n=3)


def test_what_is_no_caption_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for text, words in (("[", "expected JSON"), ("[]", "'annotations'"), ('{"annotations": []}', "'annotations'")):
        path.write_text(text)
        with pytest.raises(PromptFileError, match=words):
            coco_captions(path)
    with pytest.raises(
        PromptFileError, match=r"annotation 0: .* no caption; annotation 1: .* no id, image_id, caption; "
    ):
        coco_captions(coco(path, [{"id": 1, "image_id": 2}, "x", {"id": 1, "image_id": 2, "caption": " "}]))
