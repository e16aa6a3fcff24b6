"""The force of negative prompts, which also pass through the encoder under test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from torch import Tensor

from ...diffusion.sampling import SamplingConfig, draw
from ...metrics.paired_tests import paired_test
from ...metrics.rates import detect, judged, rate
from ...protocols import Detector
from ...types import Result
from ..plan import PromptSet


def negative_force(
    pipe: Any,
    prompts: PromptSet,
    detector: Detector,
    *,
    negative: str,
    sampling: SamplingConfig,
    conditioning: Tensor | None = None,
) -> list[Result]:
    """Measure how often naming the concept in the negative prompt removes it from a picture that shows it.

    Every prompt is drawn twice from the same seed, without and with the negative prompt. An eraser that maps the
    concept's word to nothing also prevents a user from removing the concept by a negative prompt.

    Args:
        pipe: Pipeline under test; the negative prompt passes through its encoder.
        prompts: Captions that leave the concept open.
        detector: Detector of the concept in a picture.
        negative: Negative prompt.
        sampling: Sampling settings of all pictures; without guidance there is no negative prompt.
        conditioning: Conditioning (N, L, D) of the prompts by the frozen base, so that the positive side is the same
            for every encoder; by default the pipeline's own.

    Returns:
        ``negative_without`` and ``negative_with``, the rates of pictures that show the concept. If any picture shows it
        without the negative prompt, also ``negative_removed``: the share of those pictures from which the negative
        prompt removed it. The last number alone is misleading if a negative prompt only changes pictures. Therefore
        ``negative_with`` also counts pictures that newly show the concept, and ``settings["paired"]`` tests both rates
        on the same pictures.

    Raises:
        ValueError: If the sampling has no guidance, or the negative prompt is empty.
    """
    if sampling.guidance <= 1 or not negative:
        raise ValueError(
            f"expected guidance above 1 and a negative prompt, found {sampling.guidance} and {negative!r}; "
            "without them nothing is pushed away"
        )
    texts: Sequence[str] | Tensor = [c.prompt for c in prompts.cases] if conditioning is None else conditioning
    seeds = [case.seed for case in prompts.cases]
    plain, pushed = (detect(detector, draw(pipe, texts, seeds, sampling, negative=words)) for words in ("", negative))
    results = [rate("negative_without", plain), rate("negative_with", pushed)]
    shown = [not after for before, after in zip(plain, pushed, strict=True) if before]
    results += [rate("negative_removed", shown)] if shown else []
    about = {"negative": negative, "positive": "own" if conditioning is None else "given"}
    paired = asdict(paired_test(plain, pushed))
    return [judged(replace(result, settings={**about, "paired": paired}), detector) for result in results]
