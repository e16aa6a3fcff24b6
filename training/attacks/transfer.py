"""Prompts that another attack found, on the base or on any model, typed again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..diffusion.backbone import Backbone
from ..diffusion.target import TargetModel
from ..types import AttackResult, AttackUse, Candidate, Case


@dataclass(frozen=True)
class Recorded:
    """What was found for one case.

    Args:
        index: Of the case.
        prompt: Unattacked.
        seed: Of its picture.
        found: Texts or token ids, in the order found.
    """

    index: int
    prompt: str
    seed: int
    found: tuple[str | tuple[int, ...], ...]


@dataclass(frozen=True)
class Transfer:
    """Replays prompts case by case, at no look at the model.

    Papers print such static sets in one column with attacks that were optimised against the model itself; they are a
    smoke test, and a low rate says nothing about robustness. The search was paid for where it was made: its UNet calls
    are not counted again.

    Args:
        source: What found the prompts, and on which model, for example ``unlearn_diff_atk on the base``.
        recorded: What it found.
    """

    name: ClassVar[str] = "transfer"
    tier: ClassVar[str] = "T2"
    joint: ClassVar[bool] = False
    deterministic: ClassVar[bool] = True
    uses: ClassVar[tuple[AttackUse, ...]] = ()

    source: str
    recorded: tuple[Recorded, ...]

    def __post_init__(self) -> None:
        if not self.source or not self.recorded:
            raise ValueError(f"expected a source and its recorded prompts, found {self}")
        empty = [one.index for one in self.recorded if not one.found]
        if empty:
            raise ValueError(
                f"expected a text or token ids for every case, found none for cases {empty}: leave them out"
            )

    @classmethod
    def of(cls, source: str, cases: Sequence[Case], results: Sequence[AttackResult]) -> Transfer:
        """Return what an attack found for ``cases``, ready to be replayed.

        Raises:
            ValueError: If a candidate is no text, and so cannot be typed.
        """
        kinds = {candidate.kind for result in results for candidate in result.candidates} - {"text"}
        if kinds:
            raise ValueError(
                f"expected texts, found candidates of kind {sorted(kinds)}: what cannot be typed does not transfer as "
                "a prompt; record an attack that proposes texts"
            )
        rows = zip(cases, results, strict=True)
        return cls(source, tuple(_recorded(case, [str(c.value) for c in result.candidates]) for case, result in rows))

    @classmethod
    def from_records(cls, source: str, records: Sequence[Mapping[str, Any]]) -> Transfer:
        """Return what ``dataclasses.asdict`` and JSON made of recorded prompts."""
        rows = (
            {**one, "found": tuple(tuple(f) if isinstance(f, list) else f for f in one["found"])} for one in records
        )
        return cls(source, tuple(Recorded(**row) for row in rows))

    @classmethod
    def read(cls, path: Path, source: str) -> Transfer:
        """Return the prompts in a cell that an evaluation wrote, ``cells/attack-<label>.json``.

        A cell holds one text per case: the first that succeeded, or else the last. Cases that succeeded there without
        an attack were not searched, and are left out.

        Raises:
            ValueError: If the file is no attack's cell, or the attack proposed no texts.
        """
        value = json.loads(path.read_text(encoding="utf-8")).get("value", {})
        if "verdicts" not in value:
            raise ValueError(
                f"expected verdicts in {path}, found {sorted(value)}: name a file cells/attack-<label>.json"
            )
        searched: list[Mapping[str, Any]] = [verdict for verdict in value["verdicts"] if not verdict["before"]]
        silent = [verdict["index"] for verdict in searched if not verdict["text"]]
        if silent or not searched:
            raise ValueError(
                f"expected a text for every case searched in {path}, found none for cases {silent} of "
                f"{len(searched)} searched: record an attack that proposes texts, on cases that need one"
            )
        return cls(source, tuple(Recorded(v["index"], v["prompt"], v["seed"], (v["text"],)) for v in searched))

    def run(self, target: Backbone, cases: Sequence[Case], *, seed: int) -> list[AttackResult]:
        """Return what was recorded for every case.

        Args:
            target: Only its tokenizer is used, and only for token ids.
            cases: Those that were recorded, or some of them.
            seed: Unused, nothing is random.

        Returns:
            One result per case with the recorded texts, in their order.

        Raises:
            ValueError: If a case was not recorded, or with another prompt or seed.
        """
        known = {(one.index, one.prompt, one.seed): one for one in self.recorded}
        missing = [case.index for case in cases if _key(case) not in known]
        if missing:
            raise ValueError(
                f"expected a recorded prompt for every case, found none with the same index, prompt and seed for cases "
                f"{missing} among the {len(known)} of {self.source!r}: run that attack on this prompt set with "
                "every case, and record it by Transfer.of"
            )
        return [_replayed(target, known[_key(case)]) for case in cases]


@dataclass(frozen=True)
class OnBase:
    """Searches on the model before the erasure, and replays on the target what it found there.

    What a static set of adversarial prompts is made by. The target itself is not looked at.

    Args:
        attack: The search; it must propose texts.
    """

    name: ClassVar[str] = "transfer"
    tier: ClassVar[str] = "T2"
    joint: ClassVar[bool] = False
    deterministic: ClassVar[bool] = True
    uses: ClassVar[tuple[AttackUse, ...]] = ("base",)

    attack: Any  # an Attack, which is a protocol, and no hint that a run can be rebuilt from

    @property
    def source(self) -> str:
        """What found the prompts, and on which model."""
        return f"{self.attack.name} on the base"

    def search(self, base: Backbone, cases: Sequence[Case], *, seed: int) -> Transfer:
        """Return what the search finds on the base, ready to be replayed."""
        return Transfer.of(self.source, cases, self.attack.run(base, cases, seed=seed))

    def run(self, target: TargetModel, cases: Sequence[Case], *, seed: int) -> list[AttackResult]:
        """Attack every case; the UNet calls of the search on the base are not counted.

        Args:
            target: The model under attack, with its base.
            cases: Prompts with their reference latents.
            seed: Of the search.

        Returns:
            One result per case with the texts found on the base, in their order.

        Raises:
            ValueError: If the target comes without its base, or the search proposes no texts.
        """
        return self.search(target.base, cases, seed=seed).run(target, cases, seed=seed)


def _key(case: Case) -> tuple[int, str, int]:
    return case.index, case.prompt, case.seed


def _recorded(case: Case, found: Sequence[str]) -> Recorded:
    return Recorded(*_key(case), tuple(found))


def _replayed(target: Backbone, one: Recorded) -> AttackResult:
    texts = [f if isinstance(f, str) else target.tokenizer.decode(list(f)).strip() for f in one.found]
    candidates = tuple(Candidate("text", text, i + 1) for i, text in enumerate(texts))
    return AttackResult(candidates, queries=0, unet_calls=0)
