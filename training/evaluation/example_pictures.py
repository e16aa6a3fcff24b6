"""Example pictures of the report: the same prompts and seeds before and after, each with the detector's score."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from PIL import Image
from torch import Tensor

from ..types import Case, JudgedPicture
from .plan import Plan

PICTURES_PART = "pictures"  # the part of an evaluation that holds them
SHOWN = 4  # pictures in each group
_LARGEST = 256  # pixels; larger pictures are made smaller for the page
Kind = Literal["plain", "attack", "kept"]


@dataclass(frozen=True)
class Group:
    """Prompts that are shown together.

    Args:
        kind: ``plain`` for unattacked prompts with the concept, ``attack`` for prompts that an attack found, ``kept``
            for prompts without the concept.
        name: Name of the prompt set, or the label of the attack.
        cases: Prompts and seeds to draw.
        originals: Prompts that the attack started from; empty without an attack.
        won: One flag for each case, True if the attack succeeded with this picture; empty without an attack.
        kept: Judged pictures that an attack made without a text; they are read, because they cannot be drawn again.
    """

    kind: Kind
    name: str
    cases: tuple[Case, ...]
    originals: tuple[str, ...] = ()
    won: tuple[bool, ...] = ()
    kept: tuple[JudgedPicture, ...] = ()

    def described(self) -> dict[str, Any]:
        """Return the inputs of this group's pictures as JSON values."""
        shown = [[case.prompt, case.seed, dict(case.expected)] for case in self.cases]
        kept = {"kept": [[one.picture, one.sha256] for one in self.kept]} if self.kept else {}
        return {"kind": self.kind, "name": self.name, "shown": shown, "won": list(self.won), **kept}


@dataclass(frozen=True)
class Picture:
    """One picture as the report shows it.

    Args:
        png: Bytes of a PNG file in base64.
        score: Score of the detector.
        found: True if the score reaches the detector's threshold.
        instead: Description of what the picture shows instead of the requested values; empty if it is as requested,
            None if that was not checked.
    """

    png: str
    score: float
    found: bool
    instead: str | None = None


def groups_of(plan: Plan, verdicts: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Group]:
    """Return the groups of the report: the first cases of every prompt set, and texts that attacks found.

    Cases that an attack won come before cases that it lost. Cases that succeed without the attack are left out. An
    attack that finds no texts shows the pictures that were judged.

    Args:
        plan: Plan of the evaluation.
        verdicts: Label of an attack to its verdicts as JSON values, one for each case of the first prompt set.
    """
    plain = [Group("plain", prompts.name, prompts.cases[:SHOWN]) for prompts in plan.plain]
    attacked = [_attacked(label, plan.plain[0].cases, found) for label, found in verdicts.items()]
    kept = Group("kept", plan.kept.name, plan.kept.cases[:SHOWN])
    return [*plain, *(group for group in attacked if group.cases), kept]


def _attacked(label: str, cases: Sequence[Case], verdicts: Sequence[Mapping[str, Any]]) -> Group:
    open_rows = [(case, v) for case, v in zip(cases, verdicts, strict=True) if not v["before"]]
    texts = [(case, v) for case, v in open_rows if v["text"]]
    rows = texts or [(case, v) for case, v in open_rows if _textless(v) is not None]
    chosen = sorted(rows, key=lambda row: not row[1]["any"])[:SHOWN]  # stable: otherwise in the order of the cases
    kept = [] if texts else [_textless(verdict) for _, verdict in chosen]
    return Group(
        "attack",
        label,
        tuple(replace(case, prompt=str(verdict["text"] or case.prompt)) for case, verdict in chosen),
        tuple(case.prompt for case, _ in chosen),
        tuple(bool(verdict["any"]) for _, verdict in chosen),
        tuple(one for one in kept if one is not None),
    )


def _textless(verdict: Mapping[str, Any]) -> JudgedPicture | None:
    """Return the kept picture of the best candidate if no text made it."""
    if verdict.get("best") is None:
        return None
    found = JudgedPicture.from_record(verdict["pictures"][verdict["best"]])
    return found if found.kind != "text" and found.picture else None


def with_kept(images: Tensor, groups: Sequence[Group], read: Callable[[Sequence[JudgedPicture]], Tensor]) -> Tensor:
    """Return pictures with the kept ones in the places of those groups that have them.

    Args:
        images: Pictures (N, 3, H, W) in [0, 1] of all cases of all groups, in order.
        groups: Groups whose cases were drawn.
        read: Function that returns kept pictures (B, 3, H, W) in [0, 1].
    """
    found, start = images.clone(), 0
    for group in groups:
        if group.kept:
            found[start : start + len(group.kept)] = read(group.kept).to(found)
        start += len(group.cases)
    return found


def to_pictures(plan: Plan, images: Tensor, groups: Sequence[Group]) -> list[list[dict[str, Any]]]:
    """Return the pictures of each group as JSON values.

    Args:
        plan: Plan with the detector and, optionally, the function that compares pictures with their prompts.
        images: Pictures (N, 3, H, W) in [0, 1] of all cases of all groups, in order.
        groups: Groups whose cases were drawn.
    """
    scores, made, start = plan.detector(images).tolist(), [], 0
    for group in groups:
        mine = slice(start, start + len(group.cases))
        start = mine.stop
        instead: Sequence[str | None] = [None] * len(group.cases)
        if group.kind == "kept" and plan.instead is not None:
            instead = plan.instead(images[mine], group.cases)
        rows = zip(images[mine], scores[mine], instead, strict=True)
        made.append([_picture(image, score, plan.detector.threshold, text) for image, score, text in rows])
    return made


def _picture(image: Tensor, score: float, threshold: float, instead: str | None) -> dict[str, Any]:
    return asdict(Picture(_png(image), round(score, 4), score >= threshold, instead))


def _png(image: Tensor) -> str:
    """Return a picture (3, H, W) in [0, 1] as a PNG file in base64, at most 256 pixels large."""
    pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    made = Image.fromarray(pixels)
    made.thumbnail((_LARGEST, _LARGEST), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    made.save(file, format="PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def gallery(
    groups: Sequence[Group], before: list[list[dict[str, Any]]], after: list[list[dict[str, Any]]] | None
) -> dict[str, Any]:
    """Return the value of the part that holds the pictures.

    Args:
        groups: Groups whose cases were drawn.
        before: Pictures of the base, group by group.
        after: Pictures with the encoder, or None if the base itself was evaluated.
    """
    return {
        "groups": [
            {
                "kind": group.kind,
                "name": group.name,
                "rows": _rows(group, before[i], None if after is None else after[i]),
            }
            for i, group in enumerate(groups)
        ]
    }


def _rows(group: Group, before: list[dict[str, Any]], after: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    return [
        {
            "prompt": case.prompt,
            "seed": case.seed,
            "original": group.originals[i] if group.originals else "",
            "textless": bool(group.kept),
            "won": group.won[i] if group.won else None,
            "before": before[i],
            "after": None if after is None else after[i],
        }
        for i, case in enumerate(group.cases)
    ]
