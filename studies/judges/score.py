"""Compare the judges with the labels of both passes: ``python studies/judges/score.py``.

A line of ``labels-1.txt`` or ``labels-2.txt`` has the number of a picture and the letters of what a person saw in it:
``c`` for a circle, ``r`` for red, ``s`` for stripes, ``-`` for none of them. A picture on which both passes agree
counts; any other is left out of the rates for that question.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from sheets import pictures
from torch import Tensor

from robust_encoders.training.detectors.agreement import Agreement
from robust_encoders.training.detectors.label_judge import JudgeDetector
from robust_encoders.training.metrics.rates import detect, wilson_interval
from robust_encoders.training.worlds.shapes.geometry import GeometryJudge
from robust_encoders.training.worlds.shapes.judge import load_judge

HERE = Path(__file__).parent
LETTERS = {"circle": "c", "red": "r", "striped": "s"}
Flags = Sequence[bool]


def labels(path: Path) -> dict[int, str]:
    """Return number of a picture to the letters of a pass.

    Raises:
        ValueError: If a line has other letters, or a number stands there twice.
    """
    found: dict[int, str] = {}
    for line in path.read_text().split("\n"):
        if not line:
            continue
        number, letters = line.split()
        if not set(letters) <= set("crs-") or int(number) in found:
            raise ValueError(f"expected one line of the letters c, r, s or - for every picture, found {line!r}")
        found[int(number)] = letters
    return found


def as_tensor() -> Tensor:
    """Return the sampled pictures (N, 3, 32, 32) in [0, 1]."""
    return torch.from_numpy(np.stack([np.asarray(one) for one in pictures()])).permute(0, 3, 1, 2).float() / 255


def found_by(images: Tensor, value: str) -> Mapping[str, Flags]:
    """Return what each judge finds, and what both agree on, by name."""
    members = [JudgeDetector(judge, value) for judge in (load_judge(), GeometryJudge())]
    return {
        "trained": detect(members[0], images),
        "geometry": detect(members[1], images),
        "agreed": detect(Agreement(members), images),
    }


def share(wrong: int, n: int) -> str:
    """Return a share with its count and the upper end of its Wilson interval."""
    return f"{wrong} of {n}, at most {wilson_interval(wrong, n)[1]:.3f}" if n else "none"


def main() -> None:
    """Print agreement and error rates."""
    one, two = (labels(HERE / f"labels-{number}.txt") for number in (1, 2))
    origins = json.loads((HERE / "origins.json").read_text())
    if set(one) != set(two) or set(one) != set(range(len(origins))):
        raise ValueError("expected a label for every picture in both passes")
    images, lines = as_tensor(), []
    for value, letter in LETTERS.items():
        first, second = ([letter in pass_[i] for i in range(len(origins))] for pass_ in (one, two))
        same = [a == b for a, b in zip(first, second, strict=True)]
        lines.append(f"## {value}: passes agree on {sum(same)} of {len(same)}, seen in {sum(first)} and {sum(second)}")
        for judge, flags in found_by(images, value).items():
            lines.append(_rates(judge, flags, first, same))
        lines += _by_way(found_by(images, value)["agreed"], first, same, origins)
    sys.stdout.write("\n".join(lines) + "\n")


def _rates(judge: str, flags: Flags, truth: Flags, counts: Flags) -> str:
    rows = [(flag, seen) for flag, seen, counted in zip(flags, truth, counts, strict=True) if counted]
    false = sum(flag and not seen for flag, seen in rows)
    missed = sum(seen and not flag for flag, seen in rows)
    here = sum(seen for _, seen in rows)
    return (
        f"{judge}: false positives {share(false, len(rows) - here)}; missed {share(missed, here)}; "
        f"wrong among found {share(false, sum(flag for flag, _ in rows))}"
    )


def _by_way(flags: Flags, truth: Flags, counts: Flags, origins: Sequence[Mapping[str, str]]) -> list[str]:
    """Return a line for each concept and way with errors of the agreed judges."""
    groups: dict[tuple[str, str], list[tuple[bool, bool]]] = defaultdict(list)
    for flag, seen, counted, origin in zip(flags, truth, counts, origins, strict=True):
        if counted:
            groups[origin["concept"], origin["way"]].append((flag, seen))
    return [
        f"  {concept}, {way}: seen {sum(s for _, s in rows)} of {len(rows)}, "
        f"false {sum(f and not s for f, s in rows)}, missed {sum(s and not f for f, s in rows)}"
        for (concept, way), rows in sorted(groups.items())
    ]


if __name__ == "__main__":
    main()
