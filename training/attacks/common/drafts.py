"""Drafts: pictures of few denoising steps, which choose the texts that are drawn whole.

A draft has the text and the seed of the whole picture. On the embedded base a draft of 4 steps in place of 15 ranks
texts well enough that one of the best four wins where any text wins (``studies/drafts``). So an attack can propose many
texts, and draw few. A draft decides nothing else: success is judged on the whole picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...diffusion.target import TargetModel
from ...types import Case

_SHARE = 4 / 15  # share of the steps of a whole picture, as the study measured it


@dataclass(frozen=True)
class Screened:
    """The texts of one case that are to be drawn whole, and what their choice cost.

    Args:
        places: Places of the chosen texts among those of the case, the best draft first.
        unet_calls: Number of UNet forward passes on one latent for the drafts of the case.
    """

    places: tuple[int, ...]
    unet_calls: int = 0


def draft_steps_for(steps: int) -> int:
    """Return the number of steps of a draft for whole pictures of ``steps`` steps."""
    return max(1, round(steps * _SHARE))


def best_by_draft(
    target: TargetModel, texts: Sequence[Sequence[str]], cases: Sequence[Case], *, steps: int, whole: int
) -> list[Screened]:
    """Draw a draft of every text, all cases together, and choose the texts of each case with the highest margins.

    Texts that the pipeline reads as the same share one draft, and only the first of them is chosen. No draft is drawn
    for a case that is settled, or that has no more texts than are chosen; the order of its texts stays.

    Args:
        target: Model under attack with its draft function.
        texts: Texts of each case.
        cases: Cases.
        steps: Number of denoising steps of a draft; 0 chooses all texts without drafts.
        whole: Largest number of texts chosen for each case.

    Returns:
        The chosen texts of each case.

    Raises:
        ValueError: If a draft is needed and the target draws none.
    """
    if not steps:
        return [Screened(tuple(range(len(row)))) for row in texts]
    drawn = [len(row) > whole and not target.is_settled(case) for row, case in zip(texts, cases, strict=True)]
    rows = [(i, place) for i, row in enumerate(texts) if drawn[i] for place in range(len(row))]
    if not rows:
        return [Screened(tuple(range(min(whole, len(row))))) for row in texts]
    scores = target.draft([texts[i][place] for i, place in rows], [cases[i] for i, _ in rows], steps)
    found: list[list[tuple[float, int]]] = [[] for _ in texts]
    spent = [0] * len(texts)
    for (i, place), margin, calls in zip(rows, scores.margins.tolist(), scores.unet_calls, strict=True):
        spent[i] += calls
        found[i] += [(margin, place)] if calls else []
    # The sort is stable: of equal drafts the earlier text leads.
    ranked = [[place for _, place in sorted(row, key=lambda one: -one[0])] for row in found]
    orders = [order if done else range(len(row)) for order, done, row in zip(ranked, drawn, texts, strict=True)]
    return [Screened(tuple(order[:whole]), calls) for order, calls in zip(orders, spent, strict=True)]
