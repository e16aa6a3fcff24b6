"""Choices of the UNet's training: its timesteps, and whether it trains compiled."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
from torch import Generator

from robust_encoders.training.worlds.emoji.concepts import emoji_concept
from robust_encoders.training.worlds.emoji.settings import SIZES
from robust_encoders.training.worlds.pretrain.stages import _timesteps, compiles


def test_a_share_of_the_timesteps_is_of_the_noisier_half() -> None:
    plain, all_noisy, half = (_timesteps(4000, 1000, share, Generator().manual_seed(0)) for share in (0.0, 1.0, 0.5))
    assert torch.equal(plain, torch.randint(1000, (4000,), generator=Generator().manual_seed(0)))
    assert (int(all_noisy.min()), int(all_noisy.max())) == (500, 999)
    assert 0.72 < float((half >= 500).float().mean()) < 0.78
    assert 0.47 < float((plain >= 500).float().mean()) < 0.53


def test_without_a_compiler_the_unet_trains_uncompiled_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with caplog.at_level(logging.WARNING):
        assert not compiles(replace(SIZES, compiled=False))
        assert not caplog.records
        assert not compiles(replace(SIZES, compiled=True))
    assert "install g++" in caplog.text
    monkeypatch.setenv("CXX", "sh")  # any program that is there
    assert compiles(replace(SIZES, compiled=True))


def test_a_thing_whose_word_alone_is_learned_is_no_concept() -> None:
    with pytest.raises(ValueError, match="expected a thing that the emoji base draws, found 'tiger'"):
        emoji_concept("tiger")
