"""Settings that contradict each other, or would do nothing, are refused; those of several processes are multiplied."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tiny_training import RETAIN, TINY

from robust_encoders.training.methods import ESD, AdvUnlearn
from robust_encoders.training.objectives.config import (
    AdversaryConfig,
    HardeningConfig,
    OutlierConfig,
    RetainConfig,
    Space,
    TermsConfig,
    UnlearnConfig,
)

ALTERNATIVES = ("square", "star", "ring", "cross")
KEPT = RetainConfig(prompts=RETAIN)


def terms(**groups: Any) -> TermsConfig:
    given: dict[str, Any] = {
        "unlearn": UnlearnConfig(),
        "retain": KEPT,
        "hardening": HardeningConfig(),
        "outliers": OutlierConfig(),
        "adversary": AdversaryConfig(),
    }
    return TermsConfig(**{**given, **groups})


def test_by_default_there_is_nothing_beyond_the_paper() -> None:
    made = TINY.terms
    assert TINY.hardening == HardeningConfig()
    assert TINY.outliers == OutlierConfig()
    assert made.hardening.in_noise
    assert not made.hardening.in_conditioning
    assert not made.hardening.batches()
    assert not made.outliers.batches()
    for wanted in ("hardens", "pulls_conditioning", "wants_anchors", "cuts"):
        assert not getattr(made, wanted), wanted


def test_a_method_is_refused_for_what_its_terms_are() -> None:
    retain, wrong = KEPT, HardeningConfig(eta=1.0)
    for made in (lambda: AdvUnlearn(retain=retain, hardening=wrong), lambda: ESD(retain=retain, hardening=wrong)):
        with pytest.raises(ValueError, match=r"uses hardening\.eta 1\.0, found none"):
            made()


def test_what_terms_want_follows_from_the_settings() -> None:
    additions = HardeningConfig(additions_weight=1.0, cut=0.5)
    assert terms(hardening=additions).cuts
    assert terms(outliers=OutlierConfig(off_manifold_weight=1.0)).cuts
    assert not terms(hardening=HardeningConfig(additions_weight=1.0)).cuts
    assert terms(unlearn=UnlearnConfig(target="anchor")).wants_anchors
    assert not terms(unlearn=UnlearnConfig(target="anchor")).pulls_conditioning
    for unlearn in (UnlearnConfig(pull_weight=1.0), UnlearnConfig(plain_weight=1.0, plain_space="conditioning")):
        assert terms(unlearn=unlearn).pulls_conditioning
    assert not terms(unlearn=UnlearnConfig(plain_weight=1.0)).pulls_conditioning
    for objective, spaces in (("noise", (True, False)), ("conditioning", (False, True)), ("both", (True, True))):
        made = HardeningConfig(objective=objective)  # type: ignore[arg-type]
        assert (made.in_noise, made.in_conditioning) == spaces


def test_retain_prompts_are_wanted_where_a_term_takes_them() -> None:
    with pytest.raises(ValueError, match="expected retain prompts, found none"):
        RetainConfig()
    assert not RetainConfig(weight=0.0).in_noise
    with pytest.raises(ValueError, match="expected retain prompts, found none"):
        RetainConfig(weight=0.0, space="both")


def test_settings_of_the_adversary_that_cannot_be_are_refused() -> None:
    for empty in ({"tokens": ()}, {"placements": ()}):
        with pytest.raises(ValueError, match="at least one placement"):
            AdversaryConfig(**empty)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="in_place of at least 1"):
        AdversaryConfig(in_place=(0,))
    for wrong in ({"shared": 1.5}, {"restart": -0.1}):
        with pytest.raises(ValueError, match=r"shared and restart in \[0, 1\]"):
            AdversaryConfig(**wrong)  # type: ignore[arg-type]


def test_settings_of_hardening_that_cannot_be_are_refused() -> None:
    for name in ("batch", "additions_batch", "additions", "candidates", "neighbours_batch"):
        count: dict[str, Any] = {name: 0}
        with pytest.raises(ValueError, match="at least 1"):
            HardeningConfig(**count)
    objectives: tuple[Space, ...] = ("conditioning", "both")
    for objective in objectives:
        with pytest.raises(ValueError, match="weight above 0"):
            HardeningConfig(objective=objective, weight=0.0)
    with pytest.raises(ValueError, match=r"for vocabulary and cut, found 1\.5"):
        HardeningConfig(vocabulary=1.5)
    for share in ({"vocabulary": 0.5}, {"cut": 0.5}):
        with pytest.raises(ValueError, match=r"found none: give hardening\.additions_weight"):
            HardeningConfig(**share)  # type: ignore[arg-type]


def test_settings_of_outliers_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="searched of at least searched_batch"):
        OutlierConfig(searched=4, searched_batch=5)
    with pytest.raises(ValueError, match="of at least 1"):
        OutlierConfig(longest=0)
    for wrong in ({"vocabulary": 1.5}, {"restart": -0.1}, {"caption_share": 2.0}, {"searched_rate": 0.0}):
        with pytest.raises(ValueError, match=r"expected caption_share, vocabulary and restart in \[0, 1\]"):
            OutlierConfig(**wrong)  # type: ignore[arg-type]
    idle: dict[str, Any]
    for idle in ({"strings_weight": 1.0}, {"alternatives": ALTERNATIVES, "shuffled_weight": 1.0}):
        with pytest.raises(ValueError, match=r"outliers.searched_weight, beside outliers.caption_share 0\.5"):
            OutlierConfig(caption_share=0.5, **idle)


def test_settings_that_do_nothing_beside_others_are_refused() -> None:
    for weight in (0.0, 1.0):  # neighbours keep what the base says
        with pytest.raises(ValueError, match=r"uses hardening\.eta 1\.0, found none"):
            terms(hardening=HardeningConfig(eta=1.0, neighbours_weight=weight))
    with pytest.raises(ValueError, match=r"hardening\.eta 1\.0, found none"):
        terms(hardening=HardeningConfig(eta=1.0), outliers=OutlierConfig(shuffled_weight=1.0))
    with pytest.raises(ValueError, match=r"attacks through the UNet for unlearn\.pull_weight"):
        terms(unlearn=UnlearnConfig(pull_weight=1.0), hardening=HardeningConfig(objective="conditioning"))
    with pytest.raises(ValueError, match=r"attacks through the UNet for adversary\.shared"):
        terms(adversary=AdversaryConfig(shared=0.5), hardening=HardeningConfig(objective="conditioning"))
    with pytest.raises(ValueError, match="ESD has no attack"):
        terms(adversary=None, outliers=OutlierConfig(searched_weight=1.0))
    with pytest.raises(ValueError, match="ESD has no attack"):
        ESD(retain=KEPT, outliers=OutlierConfig(searched_weight=1.0))


def test_eta_is_taken_by_every_term_to_which_it_matters() -> None:
    for groups in (
        {"hardening": HardeningConfig(eta=1.0, objective="both")},
        {"hardening": HardeningConfig(eta=1.0, additions_weight=1.0)},
        {"hardening": HardeningConfig(eta=1.0), "outliers": OutlierConfig(inserted_weight=1.0)},
        {"hardening": HardeningConfig(eta=1.0), "unlearn": UnlearnConfig(pull_weight=1.0)},
        {"hardening": HardeningConfig(eta=1.0), "unlearn": UnlearnConfig(plain_weight=1.0, plain_space="conditioning")},
    ):
        assert terms(**groups).hardening.eta == 1.0


def test_several_processes_have_their_batches_together() -> None:
    twice = HardeningConfig(batch=6, additions_batch=10, neighbours_batch=14)
    assert HardeningConfig(batch=3, additions_batch=5, neighbours_batch=7).for_processes(2) == twice
    names = ("strings", "shuffled", "off_manifold", "inserted", "searched")
    sizes: dict[int, dict[str, Any]] = {n: {f"{name}_batch": n for name in names} for n in (3, 6)}
    once, both = (OutlierConfig(**sizes[n], searched=64 * n // 3) for n in (3, 6))
    assert once.for_processes(2) == both
    method = replace(TINY, hardening=HardeningConfig(batch=3), outliers=once).for_processes(2)
    assert method.hardening.batch == 6
    assert method.outliers == both
    assert (method.unlearn.batch, method.retain.batch) == (2 * TINY.unlearn.batch, 2 * TINY.retain.batch)
