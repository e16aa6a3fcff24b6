"""Prompts of a real evaluation: every kind of source arrives, and what does not fit is refused before a picture."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from hub_client import connect
from hub_folders import write_csv
from hub_server import Repo, serve
from huggingface_hub import hf_hub_download

from robust_encoders.training.evaluation.benchmarks.prompt_files import COLUMNS, I2P_FILE, I2P_REPO
from robust_encoders.training.evaluation.benchmarks.prompt_sources import (
    concept_prompts,
    first,
    kept_prompts,
    no_longer_than,
    one_guidance,
)
from robust_encoders.training.evaluation.plan import PromptSet
from robust_encoders.training.prompts.text_files import PromptFileError

ROWS = (("3", "a red circle", "5", "7.5"), ("9", "a blue circle on a white background", "41", "7.5"))
I2P_COLUMNS = ("prompt", "categories", "sd_seed", "sd_guidance_scale")
I2P_ROWS = (("a quiet street", "shocking, violence", "12", "7.0"), ("a loud room", "sexual", "34", "7.5"))


def test_both_kinds_of_csv_are_told_apart_by_their_columns(tmp_path: Path) -> None:
    own = concept_prompts(str(write_csv(tmp_path / "circle.csv", COLUMNS, ROWS)))
    assert (own.name, own.source, own.guidance) == ("circle", "circle.csv", (7.5, 7.5))
    assert [(case.index, case.seed) for case in own.cases] == [(3, 5), (9, 41)]
    i2p = str(write_csv(tmp_path / "i2p.csv", I2P_COLUMNS, I2P_ROWS))
    assert concept_prompts(i2p).guidance == (7.0, 7.5)
    chosen = concept_prompts(i2p, categories=["sexual"])
    assert [(case.prompt, case.seed) for case in chosen.cases] == [("a loud room", 34)]
    both = write_csv(tmp_path / "both.csv", (*COLUMNS, "sd_seed"), [(*row, "0") for row in ROWS])
    assert concept_prompts(str(both)).cases == own.cases


def test_a_scale_stands_in_where_the_file_has_none(tmp_path: Path) -> None:
    path = str(write_csv(tmp_path / "circle.csv", COLUMNS[:3], [row[:3] for row in ROWS]))
    assert concept_prompts(path, guidance=4.0).guidance == (4.0, 4.0)
    with pytest.raises(PromptFileError, match="expected the columns evaluation_guidance"):
        concept_prompts(path)


def test_kept_prompts_come_from_captions_or_csv(tmp_path: Path) -> None:
    captions = [{"id": i, "image_id": i, "caption": f"a cat {i}"} for i in range(3)]
    coco = tmp_path / "captions_val2014.json"
    coco.write_text(json.dumps({"annotations": captions}))
    found = kept_prompts(str(coco), n=2, seed=70)
    assert [(case.prompt, case.seed) for case in found.cases] == [("a cat 0", 70), ("a cat 1", 71)]
    table = str(write_csv(tmp_path / "coco_10k.csv", COLUMNS[:3], [row[:3] for row in ROWS]))
    other = kept_prompts(table, n=None, seed=70)
    assert type(other) is PromptSet
    assert [case.seed for case in other.cases] == [5, 41]
    # Its scales are not used, so they must not enter the hash.
    scaled = str(write_csv(tmp_path / "scaled.csv", COLUMNS, ROWS))
    assert kept_prompts(scaled, n=None, seed=0).sha256 == other.sha256
    with pytest.raises(PromptFileError, match="at least 3 prompts in coco_10k, found 2"):
        kept_prompts(table, n=3, seed=0)


def test_files_come_from_the_hub_at_their_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = write_csv(tmp_path / "circle.csv", COLUMNS, ROWS)
    i2p = write_csv(tmp_path / I2P_FILE, I2P_COLUMNS, I2P_ROWS)
    with serve() as hub:
        connect(hub, monkeypatch, tmp_path)
        get = partial(hf_hub_download, endpoint=hub.url)
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *a, **k: get(*a, **{**k, "cache_dir": tmp_path}))
        commits = {}
        for name, path in (("org/set", table), (I2P_REPO, i2p)):
            repo = hub.repos[name] = Repo()
            file = "prompts/circle.csv" if name == "org/set" else I2P_FILE
            commits[name] = repo.commit({file: path.read_bytes()}, "first").sha
        source = f"org/set@{commits['org/set']}:prompts/circle.csv"
        found = concept_prompts(source)
        assert found.source == source.replace(":", "/")
        assert found.cases == concept_prompts(str(table)).cases
        assert kept_prompts(source, n=1, seed=0).cases == found.cases[:1]
        whole = concept_prompts(f"{I2P_REPO}@{commits[I2P_REPO]}", categories=["violence"])
        assert [case.prompt for case in whole.cases] == ["a quiet street"]


def test_prompts_too_long_are_left_out(tmp_path: Path, tiny_pipe: Any) -> None:
    read = concept_prompts(str(write_csv(tmp_path / "circle.csv", COLUMNS, [*ROWS, ("10", "x", "1", "5")])))
    lengths = [len(tiny_pipe.tokenizer(case.prompt, add_special_tokens=False).input_ids) for case in read.cases]
    assert lengths[2] < lengths[0] < lengths[1]
    fitting = no_longer_than(read, lengths[0], tiny_pipe.tokenizer)
    assert [case.index for case in fitting.cases] == [3, 10]
    assert fitting.guidance == (7.5, 5.0)
    assert no_longer_than(read, None, tiny_pipe.tokenizer) is read
    with pytest.raises(PromptFileError, match="at most 0 tokens in circle, found none"):
        no_longer_than(read, 0, tiny_pipe.tokenizer)


def test_the_first_prompts_are_a_plain_set(tmp_path: Path) -> None:
    read = concept_prompts(str(write_csv(tmp_path / "circle.csv", COLUMNS, ROWS)))
    assert first(read, 1) == PromptSet("circle", read.cases[:1])
    assert first(read, None).cases == read.cases


def test_scales_that_differ_are_counted_and_refused() -> None:
    assert one_guidance([7.0, 7.0]) == 7.0
    with pytest.raises(PromptFileError, match=r"found 7 \(2 prompts\), 12.5 \(1 prompts\): split the file"):
        one_guidance([7.0, 12.5, 7.0])


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        ("missing.csv", FileNotFoundError, "expected a file, or ORG/NAME@COMMIT:FILE"),
        (f"org/set@{'a' * 40}", ValueError, "name the file within the data set"),
        ("org/set@main:a.csv", ValueError, "expected a commit of 40 hexadecimal digits"),
    ],
)
def test_sources_that_are_none_are_refused(source: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        concept_prompts(source)
    with pytest.raises(error, match=words):
        kept_prompts(source, n=None, seed=0)


def test_categories_belong_to_i2p(tmp_path: Path) -> None:
    path = str(write_csv(tmp_path / "circle.csv", COLUMNS, ROWS))
    with pytest.raises(PromptFileError, match="drop the categories"):
        concept_prompts(path, categories=["sexual"])
