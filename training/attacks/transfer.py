"""Replay of prompts that another attack found, on the base or on any other model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from robust_encoders.utils.extras import OptionalPackage

from ..diffusion.backbone import Backbone
from ..diffusion.target import TargetModel
from ..prompts.spelled import spelled
from ..types import AttackResult, AttackUse, Candidate, Case, Verdict


@dataclass(frozen=True)
class Recorded:
    """The prompts that an attack found for one case.

    Args:
        index: Index of the case.
        prompt: Prompt of the case, without the attack.
        seed: Seed of the case's picture.
        found: Texts or token ids, in the order found.
    """

    index: int
    prompt: str
    seed: int
    found: tuple[str | tuple[int, ...], ...]


@dataclass(frozen=True)
class Transfer:
    """Attack that replays recorded prompts case by case, without access to the model.

    Papers print the results of such static prompt sets beside attacks that are optimised against the model itself. A
    static set is only a smoke test: a low success rate says nothing about robustness. The UNet calls of the original
    search are not counted again.

    Args:
        source: Attack that found the prompts and the model it ran on, for example ``unlearn_diff_atk on the base``.
        recorded: Prompts that this attack found, one entry per case.
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
                f"expected a text or token ids for every case, found none for cases {empty}: remove these cases"
            )

    @classmethod
    def of(cls, source: str, cases: Sequence[Case], results: Sequence[AttackResult]) -> Transfer:
        """Return the prompts that an attack found for ``cases``, ready to be replayed.

        Raises:
            ValueError: If a candidate is not a text.
        """
        kinds = {candidate.kind for result in results for candidate in result.candidates} - {"text"}
        if kinds:
            raise ValueError(
                f"expected texts, found candidates of kind {sorted(kinds)}: only text can be replayed as a prompt; "
                "record an attack that proposes texts"
            )
        rows = zip(cases, results, strict=True)
        return cls(source, tuple(_recorded(case, [str(c.value) for c in result.candidates]) for case, result in rows))

    @classmethod
    def from_records(cls, source: str, records: Sequence[Mapping[str, Any]]) -> Transfer:
        """Return the attack from recorded prompts that went through ``dataclasses.asdict`` and JSON."""
        rows = (
            {**one, "found": tuple(tuple(f) if isinstance(f, list) else f for f in one["found"])} for one in records
        )
        return cls(source, tuple(Recorded(**row) for row in rows))

    @classmethod
    def read(cls, path: Path, source: str) -> Transfer:
        """Return the attack from a file that an evaluation wrote, ``cells/attack-<label>.json``.

        Such a file holds one text per case: the first text that succeeded, or the last text if none did. Cases that
        succeeded without an attack are omitted, since the attack did not search on them.

        Raises:
            ValueError: If the file is not of this kind, or the attack proposed no texts.
        """
        value = json.loads(path.read_text(encoding="utf-8")).get("value", {})
        if "verdicts" not in value:
            raise ValueError(
                f"expected verdicts in {path}, found {sorted(value)}: give a file cells/attack-<label>.json"
            )
        searched = [verdict for verdict in map(Verdict.from_record, value["verdicts"]) if not verdict.before]
        silent = [verdict.index for verdict in searched if not _typed(verdict)]
        if silent or not searched:
            raise ValueError(
                f"expected a text for every case searched in {path}, found none for cases {silent} of "
                f"{len(searched)} searched: record an attack that proposes texts, on cases that do not succeed without "
                "an attack"
            )
        return cls(source, tuple(Recorded(v.index, v.prompt, v.seed, (v.text,)) for v in searched))

    def run(self, target: Backbone, cases: Sequence[Case], *, seed: int) -> list[AttackResult]:
        """Return the recorded prompts of every case.

        Args:
            target: Model under attack; only its tokenizer is used, and only for recorded token ids.
            cases: Recorded cases, all or some of them.
            seed: Unused; nothing is random.

        Returns:
            One result per case with the recorded texts, in their order.

        Raises:
            ValueError: If a case was not recorded, or was recorded with another prompt or seed.
        """
        known = {(one.index, one.prompt, one.seed): one for one in self.recorded}
        missing = [case.index for case in cases if _key(case) not in known]
        if missing:
            raise ValueError(
                f"expected a recorded prompt for every case, found none with the same index, prompt and seed for cases "
                f"{missing} among the {len(known)} of {self.source!r}: run that attack on every case of this prompt "
                "set, and record it by Transfer.of"
            )
        return [_replayed(target, known[_key(case)]) for case in cases]


@dataclass(frozen=True)
class OnBase:
    """Attack that searches on the model before the erasure and replays the found prompts on the target.

    Static sets of adversarial prompts are made in this way. The search does not use the target itself.

    Args:
        attack: Attack that searches; it must propose texts.
    """

    name: ClassVar[str] = "transfer"
    tier: ClassVar[str] = "T2"
    joint: ClassVar[bool] = False
    deterministic: ClassVar[bool] = True
    uses: ClassVar[tuple[AttackUse, ...]] = ("base",)

    attack: Any  # an Attack; but a run cannot be rebuilt from the type hint of a Protocol

    @property
    def source(self) -> str:
        """Attack that found the prompts, and the model it ran on."""
        return f"{self.attack.name} on the base"

    @property
    def packages(self) -> tuple[OptionalPackage, ...]:
        """Optional packages of the attack that searches."""
        found: tuple[OptionalPackage, ...] = getattr(self.attack, "packages", ())
        return found

    def search(self, base: Backbone, cases: Sequence[Case], *, seed: int) -> Transfer:
        """Return the prompts that the search finds on the base, ready to be replayed."""
        return Transfer.of(self.source, cases, self.attack.run(base, cases, seed=seed))

    def run(self, target: TargetModel, cases: Sequence[Case], *, seed: int) -> list[AttackResult]:
        """Attack every case; the UNet calls of the search on the base are not counted.

        Args:
            target: Model under attack, with its base.
            cases: Cases with their reference latents.
            seed: Seed of the search.

        Returns:
            One result per case with the texts found on the base, in their order.

        Raises:
            ValueError: If the target has no base, or the search proposes no texts.
        """
        return self.search(target.base, cases, seed=seed).run(target, cases, seed=seed)


def _typed(verdict: Verdict) -> bool:
    """Return True if a text was tried; the empty prompt is one, if its picture is on record."""
    return bool(verdict.text) or any(one.kind == "text" for one in verdict.pictures)


def _key(case: Case) -> tuple[int, str, int]:
    return case.index, case.prompt, case.seed


def _recorded(case: Case, found: Sequence[str]) -> Recorded:
    return Recorded(*_key(case), tuple(found))


def _replayed(target: Backbone, one: Recorded) -> AttackResult:
    texts = [f if isinstance(f, str) else spelled(target.tokenizer, list(f)) for f in one.found]
    candidates = tuple(Candidate("text", text, i + 1) for i, text in enumerate(texts))
    return AttackResult(candidates, queries=0, unet_calls=0)
