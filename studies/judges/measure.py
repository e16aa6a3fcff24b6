"""Measure both judges on pictures that no attack made: ``python studies/judges/measure.py``.

The seeds were not looked at while the limits of the geometry judge were set or the trained judge was trained.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import torch
from strangers import FAMILIES, pictures
from torch import Tensor

from robust_encoders import embedded_pipeline
from robust_encoders.training.detectors.label_judge import LabelJudge
from robust_encoders.training.metrics.rates import wilson_interval
from robust_encoders.training.worlds.pretrain.measure import draw
from robust_encoders.training.worlds.shapes.captions import scene_prompts
from robust_encoders.training.worlds.shapes.geometry import GeometryJudge
from robust_encoders.training.worlds.shapes.judge import load_judge
from robust_encoders.training.worlds.shapes.pictures import render_pictures
from robust_encoders.training.worlds.shapes.vocabulary import FACTORS, NONE, VALUES

RENDERS, DRAWN, STRANGERS = 1000, 300, 200
SEED = 871_000_000
Seen = Mapping[str, Sequence[str]]


def share(k: int, n: int) -> str:
    """Return a share in per cent with its Wilson interval."""
    low, high = wilson_interval(k, n)
    return f"{100 * k / n:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def missed(seen: Seen, expected: Sequence[Mapping[str, str]], factor: str, value: str) -> str:
    """Return the share of pictures of a value in which the judge finds another one, or none."""
    rows = [i for i, one in enumerate(expected) if one.get(factor) == value]
    return share(sum(seen[factor][i] != value for i in rows), len(rows))


def false(seen: Seen, expected: Sequence[Mapping[str, str]], factor: str, value: str) -> str:
    """Return the share of pictures of other values in which the judge finds the value."""
    rows = [i for i, one in enumerate(expected) if factor in one and one[factor] != value]
    return share(sum(seen[factor][i] == value for i in rows), len(rows))


def known() -> dict[str, tuple[Tensor, list[Mapping[str, str]]]]:
    """Return pictures with the values that they should show: renders, and pictures that the base draws."""
    rendered = render_pictures(RENDERS, seed=SEED)
    shown = [dict(zip(FACTORS, row, strict=True)) for row in rendered.labels.tolist()]
    prompts = scene_prompts(DRAWN, seed=SEED)
    drawn = draw(embedded_pipeline(), [prompt.text for prompt in prompts], seed=SEED)
    return {
        "renders": (rendered.images.float() / 255, [{f: VALUES[f][i] for f, i in one.items()} for one in shown]),
        "pictures of the base": (drawn, [dict(prompt.expected) for prompt in prompts]),
    }


def main() -> None:
    """Print a table for each set of pictures."""
    torch.set_num_threads(1)
    judges: Mapping[str, LabelJudge] = {"trained": load_judge(), "geometry": GeometryJudge()}
    lines: list[str] = []
    for name, (images, expected) in known().items():
        seen = {judge: call(images) for judge, call in judges.items()}
        lines += [f"## {name}", "| value | " + " | ".join(f"{j} missed | {j} false" for j in judges) + " |"]
        for factor in FACTORS:
            for value in VALUES[factor]:
                cells = [f(seen[j], expected, factor, value) for j in judges for f in (missed, false)]
                lines.append(f"| {value} | " + " | ".join(cells) + " |")
    lines += ["## no shape of the world", "| family | " + " | ".join(f"{j} names one" for j in judges) + " | both |"]
    for family in FAMILIES:
        images = pictures(family, STRANGERS, seed=SEED)
        named = [[shape != NONE for shape in call(images)["shape"]] for call in judges.values()]
        both = [all(flags) for flags in zip(*named, strict=True)]
        cells = [share(sum(flags), STRANGERS) for flags in (*named, both)]
        lines.append(f"| {family} | " + " | ".join(cells) + " |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
