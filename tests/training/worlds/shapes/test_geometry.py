"""The judge that learns nothing: its scores, its contours and waves, and what it says of renders and of strangers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from robust_encoders.training.worlds.deviations import scores
from robust_encoders.training.worlds.shapes.contours import closed, find_contour, find_ground
from robust_encoders.training.worlds.shapes.geometry import GeometryJudge
from robust_encoders.training.worlds.shapes.outlines import directions, polygon_profile, shape_profile
from robust_encoders.training.worlds.shapes.patterns import find_waves
from robust_encoders.training.worlds.shapes.pictures import render_pictures
from robust_encoders.training.worlds.shapes.rejects import reject_pictures
from robust_encoders.training.worlds.shapes.render import corners
from robust_encoders.training.worlds.shapes.vocabulary import FACTORS, NONE, VALUES, VERDICTS

JUDGE = GeometryJudge()


def disc(radius: float, x: float, y: float, *, stretch: float = 1.0) -> Tensor:
    """Return a red disc, or an ellipse, on white (3, 32, 32) in [0, 1]; its edge is one pixel wide."""
    rows, columns = torch.meshgrid(torch.arange(32).float(), torch.arange(32).float(), indexing="ij")
    distance = torch.hypot(columns - x, (rows - y) * stretch)
    mask = (radius + 0.5 - distance).clamp(0, 1)
    red, white = torch.tensor([0.84, 0.1, 0.12]), torch.tensor([0.96, 0.96, 0.96])
    return mask * red[:, None, None] + (1 - mask) * white[:, None, None]


def test_scores_are_what_their_definition_says() -> None:
    deviation = torch.rand(200, 5, generator=torch.Generator().manual_seed(0)) * 3
    found = scores(deviation)
    for row, given in zip(found.tolist(), deviation.tolist(), strict=True):
        for place, one in enumerate(given):
            rival = min(other for i, other in enumerate(given) if i != place)
            assert row[place] == pytest.approx(2 ** -max(one, one / rival), rel=1e-4)
            assert (row[place] >= 0.5) == (one <= 1 and one <= rival)
        assert row[-1] == pytest.approx(1 - max(row[:-1]), abs=1e-6)


def test_a_larger_deviation_never_raises_a_score() -> None:
    base = torch.tensor([[0.4, 0.9, 2.0]])
    falling = [float(scores(base + torch.tensor([[step, 0.0, 0.0]]))[0, 0]) for step in (0.0, 0.2, 0.5, 1.0, 5.0)]
    assert falling == sorted(falling, reverse=True)


def test_nothing_measured_is_none_of_the_values() -> None:
    assert scores(torch.full((1, 3), math.inf)).tolist() == [[0.0, 0.0, 0.0, 1.0]]


def test_scores_lie_in_their_range_and_name_every_answer() -> None:
    images = torch.cat([render_pictures(8, seed=3).images, reject_pictures(8, seed=4).images]).float() / 255
    for factor, found in JUDGE.probabilities(images).items():
        assert found.shape == (16, len(VERDICTS[factor]))
        assert bool(((found >= 0) & (found <= 1)).all())


def test_it_reads_renders() -> None:
    rendered = render_pictures(150, seed=5_000_017)
    seen = JUDGE(rendered.images.float() / 255)
    for column, factor in enumerate(FACTORS):
        shown = [VALUES[factor][i] for i in rendered.labels[:, column].tolist()]
        assert sum(a == b for a, b in zip(seen[factor], shown, strict=True)) >= 140


def test_it_says_none_to_most_unknown_shapes() -> None:
    rejects = reject_pictures(200, seed=5_000_018)
    unknown = rejects.labels[:, 0] == len(VALUES["shape"])
    seen = JUDGE(rejects.images[unknown].float() / 255)["shape"]
    assert len(seen) > 100
    assert seen.count(NONE) >= 0.85 * len(seen)


def test_a_disc_is_a_red_plain_circle_wherever_it_stands() -> None:
    images = torch.stack([disc(9, 15.5, 15.5), disc(10.2, 13.1, 17.7), disc(7, 18.0, 12.4)])
    seen = JUDGE(images)
    assert {factor: set(names) for factor, names in seen.items()} == {
        "shape": {"circle"}, "colour": {"red"}, "background": {"white"}, "style": {"plain"},
    }  # fmt: skip


def test_the_score_of_circle_falls_as_a_disc_is_stretched() -> None:
    images = torch.stack([disc(10, 15.5, 15.5, stretch=s) for s in (1.0, 1.15, 1.3, 1.6)])
    found = JUDGE.probabilities(images)["shape"][:, VALUES["shape"].index("circle")].tolist()
    assert found == sorted(found, reverse=True)
    assert found[0] > 0.6
    assert max(found[2:]) < 0.5


def test_a_picture_without_a_shape_shows_only_its_background() -> None:
    seen = JUDGE(torch.full((1, 3, 32, 32), 0.96))
    assert {factor: names[0] for factor, names in seen.items()} == {
        "shape": NONE, "colour": NONE, "background": "white", "style": NONE,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("images", "message"),
    [(torch.zeros(1, 3, 64, 64), r"found \(1, 3, 64, 64\)"), (torch.full((1, 3, 32, 32), 2.0), r"in \[0, 1\]")],
)
def test_it_refuses_what_it_cannot_read(images: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JUDGE(images)


def test_the_contour_of_a_disc_has_its_centre_and_radius() -> None:
    images = torch.stack([disc(9, 15.5, 15.5), disc(7.5, 13.2, 17.9)])
    contour = find_contour(find_ground(images))
    torch.testing.assert_close(contour.centre, torch.tensor([[15.5, 15.5], [13.2, 17.9]]), atol=0.15, rtol=0)
    torch.testing.assert_close(contour.size, torch.tensor([9.0, 7.5]), atol=0.35, rtol=0)
    assert float((contour.radii.std(1) / contour.size).max()) < 0.02
    assert bool((contour.waves < 0.02).all())


def test_closing_a_contour_fills_narrow_notches_only() -> None:
    radii = 8 + torch.rand(3, 96, generator=torch.Generator().manual_seed(1))
    radii[0, 10:13] = 2  # three directions wide: filled
    radii[1, 40:50] = 2  # ten directions wide: kept
    found = closed(radii)
    around = [[(i + j) % 96 for j in range(-2, 3)] for i in range(96)]
    for row, kept in zip(radii.tolist(), found.tolist(), strict=True):
        grown = [max(row[j] for j in near) for near in around]
        assert kept == pytest.approx([min(grown[j] for j in near) for near in around])
    assert float(found[0].min()) >= 8
    assert float(found[1].min()) == 2


def test_stripes_are_one_wave_and_dots_are_two() -> None:
    rows, columns = torch.meshgrid(torch.arange(32).float(), torch.arange(32).float(), indexing="ij")
    stripes = (2 * math.pi * (rows + columns) / math.sqrt(2) / 5).cos() / 4 + 0.5
    dots = ((2 * math.pi * rows / 5).cos() + (2 * math.pi * columns / 5).cos()) / 8 + 0.5
    region = disc(11, 15.5, 15.5)[1] < 0.5
    images = torch.stack([stripes, dots])[:, None].expand(2, 3, 32, 32)
    waves = find_waves(images, region.expand(2, -1, -1))
    assert waves.first[0] > 0.9 > 0.6 > waves.first[1]
    assert waves.across[0] < 0.1
    assert waves.first[1] + waves.across[1] > 0.8
    torch.testing.assert_close(waves.contrast[0], stripes[region].std(correction=0))


def test_the_profile_of_a_square_is_that_of_its_sides() -> None:
    angles = directions()
    side = 0.85 / np.maximum(np.abs(np.cos(angles)), np.abs(np.sin(angles)))
    np.testing.assert_allclose(polygon_profile(corners("square")), side, atol=2e-3)
    np.testing.assert_array_equal(shape_profile("ring"), np.ones(len(angles)))
