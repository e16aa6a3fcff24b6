"""Distances in batches and parts are those of one prompt at a time, in the metric of the attacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from robust_encoders.training.attacks.common.seen_distance import seen_distance
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.evaluation.cache import Cache
from robust_encoders.training.evaluation.certificate.config import CertificateConfig
from robust_encoders.training.evaluation.certificate.prompts import ShortPrompts, single_prompts, texts_of
from robust_encoders.training.evaluation.certificate.ranking import ConceptDistance, Encoding, ranked, root_of


def test_the_ranking_is_that_of_single_prompts(tiny_pipe: Any, make_encoder: Any, tmp_path: Path) -> None:
    words = ("circle", "disc")
    base = Backbone.from_pipeline(tiny_pipe)
    distance, gram = ConceptDistance.of(base, words), base.text_gram()
    with torch.no_grad():
        wanted = [base.condition([word]) for word in words]
    singles = single_prompts(tiny_pipe.tokenizer)[::12]
    prompts = ShortPrompts(singles, torch.cartesian_prod(singles[:3], singles[:3]))
    with make_encoder(tiny_pipe).attached(tiny_pipe):
        backbone = Backbone.from_pipeline(tiny_pipe)
        config = CertificateConfig(batch=3, part=8)
        encoding = Encoding(backbone, distance, Cache(tmp_path, {}), config)
        found = encoding.distances(prompts, range(len(prompts)), "all")
        naive = []
        for text in texts_of(tiny_pipe.tokenizer, prompts.ids(range(len(prompts)))):
            with torch.no_grad():
                own = backbone.condition([text]).double()
            naive.append(min(float(seen_distance(own, one.double(), gram)) for one in wanted))
    assert found.tolist() == pytest.approx(naive, rel=1e-4)
    assert ranked(found).tolist() == sorted(range(len(naive)), key=found.tolist().__getitem__)
    assert len(list(tmp_path.glob("encoded-all-*"))) == -(-len(prompts) // 8)


def test_equal_distances_keep_their_order() -> None:
    assert ranked(torch.tensor([2.0, 1.0, 2.0, 1.0])).tolist() == [1, 3, 0, 2]


def test_the_root_gives_the_gram_matrix_again() -> None:
    half = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    root = root_of(half.T @ half)
    assert torch.allclose(root.T @ root, half.T @ half, atol=1e-10)
