"""Errors of a method inside another one name the options of the outer one's command line."""

from __future__ import annotations

import pytest

from robust_encoders.errors import TrainingError
from robust_encoders.training.methods.option_names import options_under
from robust_encoders.training.trajectories.store import BankError


def test_dotted_options_get_the_prefix_and_others_stay() -> None:
    with pytest.raises(BankError) as found, options_under("start"):
        raise BankError("a smaller --bank.guidance, or --no-resume, --dtype and a--train.rate")
    assert str(found.value) == "a smaller --start.bank.guidance, or --no-resume, --dtype and a--train.rate"


def test_an_error_without_such_options_is_the_same_object() -> None:
    error = TrainingError("start over with --no-resume")
    with pytest.raises(TrainingError) as found, options_under("start"):
        raise error
    assert found.value is error
