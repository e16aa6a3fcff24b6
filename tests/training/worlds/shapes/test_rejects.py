"""Pictures that lack a value: their labels say which, and equal seeds give equal pictures."""

from __future__ import annotations

import numpy as np
import torch

from robust_encoders.training.worlds.pretrain.corpus import UNSTATED
from robust_encoders.training.worlds.shapes.rejects import reject_pictures
from robust_encoders.training.worlds.shapes.render import COLOURS, LARGE, SIZE, shrink
from robust_encoders.training.worlds.shapes.unknown_styles import textured
from robust_encoders.training.worlds.shapes.vocabulary import FACTORS, VALUES, VERDICTS


def test_every_picture_lacks_a_value_and_every_label_is_an_answer() -> None:
    found = reject_pictures(120, seed=0)
    assert found.images.shape == (120, 3, SIZE, SIZE)
    assert found.images.dtype == torch.uint8
    nothing = torch.tensor([len(VALUES[factor]) for factor in FACTORS])
    assert bool((found.labels >= UNSTATED).all())
    assert bool((found.labels <= nothing).all())
    # Two scenes that are mixed may agree in all but their place, which their shape's label covers.
    assert bool((found.labels == nothing).any(1).all())
    for column, factor in enumerate(FACTORS):
        answers = set(found.labels[:, column].tolist())
        assert len(VERDICTS[factor]) - 1 in answers
        assert len(answers - {UNSTATED}) > 2


def test_equal_seeds_give_equal_pictures_and_others_do_not() -> None:
    one, same, other = (reject_pictures(6, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(one.images, same.images)
    assert torch.equal(one.labels, same.labels)
    assert not torch.equal(one.images, other.images)


def test_textures_vary_a_colour_without_leaving_the_range() -> None:
    rng = np.random.default_rng(0)
    for colour in COLOURS.values():
        drawn = textured(np.asarray(colour, dtype=np.float64), rng)
        assert drawn.shape == (LARGE, LARGE, 3)
        assert 0 <= drawn.min() <= drawn.max() <= 255
        assert shrink(drawn).std() > 3
