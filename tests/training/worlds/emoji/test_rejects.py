"""Pictures for the judge that lack a value, and what their labels say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_emoji import tiny_studio
from torch import Generator

from robust_encoders.training.worlds.emoji.rejects import _MAKERS, Studio
from robust_encoders.training.worlds.emoji.vocabulary import COLOURS
from robust_encoders.training.worlds.pretrain.corpus import UNSTATED


@pytest.fixture(scope="module")
def studio() -> Studio:
    return tiny_studio()


def test_scenes_show_their_labels(studio: Studio) -> None:
    made = studio.scenes(300, Generator().manual_seed(0))
    assert made.images.shape == (300, 3, 16, 16)
    sizes = (4, 4, len(COLOURS))
    for i, size in enumerate(sizes):
        assert {*made.labels[:, i].tolist()} == {*range(size)}
    white = made.images[made.labels[:, 2] == list(COLOURS).index("white")].float()
    assert float(white.amax((2, 3)).mean()) > 240


def test_every_reject_lacks_a_value_and_none_is_beyond_the_answers(studio: Studio) -> None:
    made = studio.rejects(400, Generator().manual_seed(0))
    none = torch.tensor([studio.none(label) for label in ("thing", "style", "background")])
    assert none.tolist() == [4, 4, 6]
    assert bool((made.labels == none).any(1).all())
    assert bool(((made.labels >= UNSTATED) & (made.labels <= none)).all())
    assert made.images.shape == (400, 3, 16, 16)


def test_equal_seeds_give_equal_rejects(studio: Studio) -> None:
    one, same, other = (studio.rejects(40, Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one.images, same.images)
    assert torch.equal(one.labels, same.labels)
    assert not torch.equal(one.images, other.images)


@pytest.mark.parametrize("maker", list(_MAKERS), ids=lambda maker: maker.__name__)
def test_each_kind_of_reject_can_be_made_in_any_number(studio: Studio, maker: Any) -> None:
    for n in (0, 1, 7):
        made = maker(studio, n, Generator().manual_seed(0))
        assert made.images.shape == (n, 3, 16, 16)
        assert made.labels.shape == (n, 3)


@pytest.mark.parametrize("drawn", [(), ("hammer", "hot dog")], ids=["all are drawn", "some are drawn"])
def test_training_never_shows_the_icons_that_only_measure(studio: Studio, drawn: tuple[str, ...]) -> None:
    shown = studio.things.drawing(drawn)
    studio = replace(studio, things=shown, renders=studio.renders.ordered(shown.codes))
    things, others = len(studio.things.things), len(studio.things.strangers)
    assert things + others == 5
    pictures = studio.renders.pictures.clone()
    pictures[: things + others] = 0  # only the measuring icons are visible
    marked = replace(studio, renders=replace(studio.renders, pictures=pictures))
    for made in (marked.scenes(100, Generator().manual_seed(0)), marked.rejects(100, Generator().manual_seed(0))):
        spread = made.images.float().flatten(2).std(2).amax(1)
        assert float(spread.max()) == 0  # all pictures are of one colour
    unknown = marked.unknown(20, Generator().manual_seed(0))
    assert float(unknown.images.float().flatten(2).std(2).amax(1).min()) > 0
    assert {*unknown.labels[:, 0].tolist()} == {studio.none("thing")}
