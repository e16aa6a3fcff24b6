"""Replayed prompts: those of the record, for the case they were found for, and none for another."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from attack_helpers import make_cases, make_target, texts

from robust_encoders.training.attacks import ATTACKS, ContinuousPrefix, RandomPrefix, Transfer
from robust_encoders.training.attacks.transfer import Recorded
from robust_encoders.training.diffusion.target import TargetModel
from robust_encoders.training.protocols import Attack
from robust_encoders.training.types import Case, JudgedPicture, Verdict


@pytest.fixture
def target(tiny_pipe: Any) -> TargetModel:
    return make_target(tiny_pipe)


def write_cell(path: Path, verdicts: list[Verdict]) -> Path:
    path.write_text(json.dumps({"key": "k", "seconds": 1.0, "value": {"verdicts": [asdict(v) for v in verdicts]}}))
    return path


def verdict(case: Case, text: str, *, before: bool = False) -> Verdict:
    return Verdict(case.index, case.prompt, case.seed, before, any=True, last=True, step=1, text=text)


def test_what_an_attack_found_is_replayed_in_order(target: TargetModel) -> None:
    cases = make_cases(target)
    found = RandomPrefix(candidates=3).run(target, cases, seed=0)
    attack = Transfer.of("random_prefix on the base", cases, found)
    replayed = attack.run(target, cases[::-1], seed=5)
    assert [texts(result) for result in replayed] == [texts(result) for result in found[::-1]]
    assert all((r.queries, r.unet_calls, [c.step for c in r.candidates]) == (0, 0, [1, 2, 3]) for r in replayed)


def test_an_evaluations_cell_is_read(target: TargetModel, tmp_path: Path) -> None:
    first, second, third, _ = make_cases(target)
    path = write_cell(
        tmp_path / "c.json", [verdict(first, "x circle"), verdict(second, "b", before=True), verdict(third, "y")]
    )
    attack = Transfer.read(path, "discrete on the base")
    assert [texts(r) for r in attack.run(target, [third, first], seed=0)] == [["y"], ["x circle"]]
    with pytest.raises(ValueError, match=r"for cases \[1\] among the 2 of 'discrete on the base'"):
        attack.run(target, [first, second], seed=0)


def test_a_case_that_the_empty_prompt_won_is_replayed(target: TargetModel, tmp_path: Path) -> None:
    case = make_cases(target)[0]
    picture = JudgedPicture(0, 0, "text", "", (), case.seed, {"judge": 0.5}, hit=True)
    won = replace(verdict(case, ""), pictures=(picture,), best=0)
    attack = Transfer.read(write_cell(tmp_path / "c.json", [won]), "word_swap_caption")
    assert texts(attack.run(target, [case], seed=0)[0]) == [""]
    soft = replace(won, pictures=(replace(picture, kind="token_embeddings"),))
    with pytest.raises(ValueError, match=r"none for cases \[0\]"):
        Transfer.read(write_cell(tmp_path / "d.json", [soft]), "shared")


def test_token_ids_are_typed_as_text(target: TargetModel) -> None:
    case = make_cases(target)[0]
    ids = tuple(target.tokenizer("striped ball", add_special_tokens=False).input_ids)
    attack = Transfer("a record", (Recorded(case.index, case.prompt, case.seed, (ids, "a disc")),))
    assert texts(attack.run(target, [case], seed=0)[0]) == ["striped ball", "a disc"]


@pytest.mark.parametrize("change", [{"index": 9}, {"prompt": "a square"}, {"seed": 9}])
def test_another_case_is_refused(target: TargetModel, change: dict[str, Any]) -> None:
    cases = make_cases(target)
    attack = Transfer.of("r", cases, RandomPrefix(candidates=1).run(target, cases, seed=0))
    other = replace(cases[2], **change)
    with pytest.raises(ValueError, match=rf"same index, prompt and seed for cases \[{other.index}\].*record it"):
        attack.run(target, [cases[0], other], seed=0)


def test_what_cannot_be_typed_or_was_not_searched_is_refused(target: TargetModel, tmp_path: Path) -> None:
    cases = make_cases(target)
    with pytest.raises(ValueError, match=r"found candidates of kind \['token_embeddings'\]"):
        Transfer.of("soft", cases, ContinuousPrefix(steps=1).run(target, cases, seed=0))
    with pytest.raises(ValueError, match=r"none for cases \[0\] of 1 searched"):
        Transfer.read(write_cell(tmp_path / "a.json", [verdict(cases[0], "")]), "soft")
    with pytest.raises(ValueError, match="of 0 searched"):
        Transfer.read(write_cell(tmp_path / "b.json", [verdict(cases[0], "a", before=True)]), "x")
    (tmp_path / "c.json").write_text('{"value": {"flags": []}}')
    with pytest.raises(ValueError, match=r"found \['flags'\]: give a file cells/attack"):
        Transfer.read(tmp_path / "c.json", "plain")


def test_an_empty_record_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a source and its recorded prompts"):
        Transfer("nothing", ())
    with pytest.raises(ValueError, match=r"none for cases \[4\]"):
        Transfer("x", (Recorded(4, "a", 0, ()),))


def test_registered_and_of_the_protocol() -> None:
    assert ATTACKS["transfer"] is Transfer
    assert isinstance(Transfer("x", (Recorded(0, "a", 0, ("b",)),)), Attack)
    assert Transfer.tier == "T2"
