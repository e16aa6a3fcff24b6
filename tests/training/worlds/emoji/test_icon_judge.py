"""The judge that compares pictures with icons: what it names, what it refuses, and where its icons come from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_emoji import tiny_corpus, tiny_studio, tiny_things
from torch import Generator, Tensor

from robust_encoders.errors import AssetsMissingError, IntegrityError
from robust_encoders.hub import embedded
from robust_encoders.training.detectors import JudgeDetector
from robust_encoders.training.worlds.emoji.icon_judge import (
    ICONS_NAME,
    IconJudge,
    distinct,
    icon_deviations,
    load_icon_judge,
)
from robust_encoders.training.worlds.emoji.rejects import Studio, _nothing, _scrambled, _unknown_background
from robust_encoders.training.worlds.emoji.scenes import Placement
from robust_encoders.training.worlds.pretrain.corpus import Pictures

SIDE = 64
LABELS = ("thing", "style", "background")


@pytest.fixture(scope="module")
def studio() -> Studio:
    return tiny_studio(SIDE)


@pytest.fixture(scope="module")
def judge(studio: Studio) -> IconJudge:
    return IconJudge(studio.renders.shrunk(4, 32), studio.things, "test", SIDE)


def right(judge: IconJudge, made: Pictures) -> dict[str, float]:
    """Return the share of right answers by label."""
    found, shares = judge(made.images.float() / 255), {}
    for i, label in enumerate(LABELS):
        places = torch.tensor([judge.values[label].index(one) for one in found[label]])
        shares[label] = float((places == made.labels[:, i]).float().mean())
    return shares


def test_it_names_what_renders_show_wherever_they_are_placed(studio: Studio, judge: IconJudge) -> None:
    found = right(judge, studio.scenes(60, Generator().manual_seed(1)))
    assert found["thing"] >= 0.95
    assert found["background"] == 1
    assert found["style"] >= 0.9  # the inks of the tiny sets differ by a few percent


def test_it_finds_larger_turns_than_it_begins_with(studio: Studio, judge: IconJudge) -> None:
    turned = replace(studio, placement=Placement(turn=15.0, smallest=0.6, largest=0.7))
    assert right(judge, turned.scenes(40, Generator().manual_seed(2)))["thing"] >= 0.95


def test_it_refuses_pieces_and_empty_pictures_but_still_names_the_background(studio: Studio, judge: IconJudge) -> None:
    for made in (_scrambled(studio, 20, Generator().manual_seed(3)), _nothing(studio, 20, Generator().manual_seed(3))):
        found = right(judge, made)
        assert found["thing"] >= 0.9  # their label is none
        assert found["background"] == 1


def test_an_unknown_ground_hides_no_thing(studio: Studio, judge: IconJudge) -> None:
    found = right(judge, _unknown_background(studio, 20, Generator().manual_seed(4)))
    assert found["background"] == 1  # their label is none
    assert found["thing"] >= 0.95


def test_a_share_counts_by_its_ratio_to_that_of_the_next_thing() -> None:
    left = torch.tensor([[[0.2, 0.3], [0.4, 0.8], [torch.inf, torch.inf]]])
    expected = torch.tensor([[[0.2 / 4, 0.3 * 0.5625], [0.4 * 4, 0.8 * 16], [torch.inf, torch.inf]]])
    torch.testing.assert_close(distinct(left), expected)
    alone = torch.tensor([[[0.5, torch.inf]]])  # no icon leaves all unexplained
    torch.testing.assert_close(distinct(alone), torch.tensor([[[0.125, torch.inf]]]))
    alike = torch.full((1, 2, 1), 0.1)
    torch.testing.assert_close(distinct(alike), alike)
    assert bool(distinct(torch.full((1, 2, 2), torch.inf)).isinf().all())
    assert not bool(distinct(torch.zeros(1, 2, 1)).isnan().any())


def test_a_picture_fits_by_its_share_or_by_the_ratio_but_not_by_the_ratio_alone() -> None:
    far = torch.inf
    rows = {"near": (0.13, 0.13), "blurred": (0.3, 0.7), "unclear": (0.3, 0.5), "nothing like it": (0.52, far)}
    fits = icon_deviations(torch.tensor([[[one], [other]] for one, other in rows.values()]))[:, 0, 0] <= 1
    assert dict(zip(rows, fits.tolist(), strict=True)) == {
        "near": True, "blurred": True, "unclear": False, "nothing like it": False,
    }  # fmt: skip


def test_noise_is_refused(judge: IconJudge) -> None:
    noise = torch.rand((8, 3, SIDE, SIDE), generator=Generator().manual_seed(5))
    assert {*judge(noise)["thing"]} == {"none"}
    assert {*judge(noise)["background"]} == {"none"}


def test_its_scores_serve_a_detector(studio: Studio, judge: IconJudge) -> None:
    made = studio.scenes(40, Generator().manual_seed(6))
    images = made.images.float() / 255
    detector = JudgeDetector(judge, "hammer")
    seen = detector(images) >= detector.threshold
    assert float((seen == (made.labels[:, 0] == 2)).float().mean()) >= 0.95
    assert all(bool(((s >= 0) & (s <= 1)).all()) for s in judge.probabilities(images).values())


def test_equal_pictures_get_equal_scores_in_any_company(studio: Studio, judge: IconJudge) -> None:
    images = studio.scenes(9, Generator().manual_seed(7)).images.float() / 255
    together = judge.probabilities(images)
    for label, alone in judge.probabilities(images[4:5]).items():
        torch.testing.assert_close(alone[0], together[label][4])


@pytest.mark.parametrize("wrong", [torch.zeros(2, 3, 32, 32), torch.full((2, 3, SIDE, SIDE), 1.5)])
def test_other_pictures_are_refused(judge: IconJudge, wrong: Tensor) -> None:
    with pytest.raises(ValueError, match="expected pictures"):
        judge(wrong)


def test_the_build_ships_its_icons(tmp_path: Path) -> None:
    corpus = tiny_corpus()
    corpus.write_files(tmp_path)
    judge = load_icon_judge(tmp_path / ICONS_NAME, things=tiny_things(), side=16)
    assert judge.values["thing"] == ("beer mug", "glass of milk", "hammer", "hot dog", "none")
    assert right(judge, corpus.pictures(30, seed=8))["background"] == 1
    assert judge.version.startswith("2-")


def test_icons_of_other_things_are_refused(tmp_path: Path, studio: Studio) -> None:
    studio.renders.shrunk(3, 32).save(tmp_path / ICONS_NAME)
    with pytest.raises(IntegrityError, match="or build your own base again by `robust-encoders emoji build --out"):
        load_icon_judge(tmp_path / ICONS_NAME, things=tiny_things())


def test_without_the_base_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere: Any = lambda base: tmp_path / base  # noqa: E731
    monkeypatch.setattr(embedded, "embedded_folder", nowhere)
    with pytest.raises(AssetsMissingError, match="reinstall robust-encoders from a wheel"):
        load_icon_judge()
