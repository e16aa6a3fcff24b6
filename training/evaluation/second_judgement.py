"""The judgement of a finished evaluation by another detector, from its kept pictures and without drawing any.

Candidates after the first success were never drawn. Where the other detector rejects that success, nobody knows what it
would have found among the rest. So its rates are lower bounds, and each says for how many cases.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from robust_encoders.errors import IntegrityError
from robust_encoders.utils.home import expanded

from ..attacks.none import NoAttack
from ..metrics.rates import judged, margins_of, rate
from ..protocols import Detector
from ..provenance import judging_versions, write_json
from ..types import JudgedPicture, Result, Verdict
from .floors import CHANCE_KEY
from .judged_pictures import PictureReader, missing_pictures, require_pictures
from .judging import best_of
from .recorded import (
    BEST,
    GROUPS_PART,
    KeptPictures,
    RecordedAttack,
    chunks_of,
    recorded_attacks,
    recorded_groups,
    recorded_unattacked,
)
from .results import CELLS, RESULTS_NAME, Evaluation, result_from_record
from .single_detectors import SINGLES_KEY, rates_of_verdicts, union_by_detector, with_singles
from .worst_case import union

AGAIN_KEY = "judged_again"  # setting of a result that another detector judged
Margins = Mapping[str, Mapping[str, float]]  # reference of a picture to the margins of the single detectors
Unattacked = Mapping[str, Sequence[JudgedPicture]]  # name of a prompt set to its judged unattacked pictures


@dataclass(frozen=True)
class SecondJudgement:
    """What another detector finds in the pictures of an evaluation.

    Args:
        before: The evaluation as it was recorded.
        after: Its success rates by the other detector; other numbers are left out.
        verdicts: Label of an attack to its verdicts by the other detector.
        kept: ``all`` if every judged picture was there, ``best`` if only the best of each case was.
        pictures: Number of pictures that were judged.
        seconds: Seconds that reading and judging took.
        groups: Name of a prompt set to the sub-groups of its cases, as the evaluation records them.
    """

    before: Evaluation
    after: Evaluation
    verdicts: Mapping[str, Sequence[Verdict]]
    kept: KeptPictures
    pictures: int
    seconds: float
    groups: Mapping[str, Sequence[Mapping[str, str]]] = field(default_factory=dict)

    def write(self, out: str | Path) -> None:
        """Write the results and the verdicts of each attack into a folder that other commands can read.

        Raises:
            FileExistsError: If the folder holds results already.
        """
        out = expanded(out)
        if (out / RESULTS_NAME).exists():
            raise FileExistsError(f"expected a folder without {RESULTS_NAME}, found one in {out}; choose another one")
        records = self.after.records()
        for label, verdicts in self.verdicts.items():
            results = [r for r in records if r["settings"].get("attack", {}).get("label") == label]
            value = {"verdicts": [asdict(one) for one in verdicts], "results": results, "pictures": self.kept}
            part = next(r["settings"][AGAIN_KEY]["part"] for r in results)
            stored = {"key": "", "seconds": self.seconds, "value": value}
            write_json(out / CELLS / f"{part}.json", stored, compact=True)
        if self.groups:
            sets = {"sets": {name: list(rows) for name, rows in self.groups.items()}}
            write_json(out / CELLS / f"{GROUPS_PART}.json", {"key": "", "seconds": 0.0, "value": sets}, compact=True)
        self.after.write(out / RESULTS_NAME)


def judge_again(folder: str | Path, detector: Detector) -> SecondJudgement:
    """Judge the kept pictures of a finished evaluation by another detector.

    Pictures are judged in the same batches as before, so that the same detector gives the same verdicts.

    Args:
        folder: Folder of the evaluation.
        detector: Detector of the same concept.

    Raises:
        IntegrityError: If pictures are missing or changed, or none were recorded.
        FileNotFoundError: If there are no results.
        ValueError: If the results have another schema.
    """
    start, folder = time.monotonic(), expanded(folder)
    before = Evaluation.read(folder)
    records = before.records()
    attacks = [one for one in recorded_attacks(folder) if all(r in records for r in one.results)]
    plain = {r.prompt_set: r for r in before.results if r.metric == "pre_asr"}
    unattacked = {name: pictures for name, (_, pictures) in recorded_unattacked(folder).items() if name in plain}
    pictures = list(_pictures(attacks, unattacked))
    _require(folder, pictures, attacks)
    margins = _margins(chunks_of(folder), pictures, detector)
    verdicts = {one.label: [_again(verdict, margins) for verdict in one.verdicts] for one in attacks}
    scored = {name: [_scored(one, margins) for one in rows] for name, rows in unattacked.items()}
    results = _Results(detector, attacks, verdicts, scored).of(before.results)
    after = replace(before, results=tuple(results), seconds={"judge": round(time.monotonic() - start, 3)})
    kept = BEST if any(one.kept == BEST for one in attacks) else "all"
    groups = recorded_groups(folder)
    return SecondJudgement(before, after, verdicts, kept, len(margins), time.monotonic() - start, groups)


def _pictures(attacks: Iterable[RecordedAttack], unattacked: Unattacked) -> Iterator[JudgedPicture]:
    for rows in unattacked.values():
        yield from rows
    for attack in attacks:
        for verdict in attack.verdicts:
            yield from ([] if verdict.unattacked is None else [verdict.unattacked])
            yield from verdict.pictures


def _require(folder: Path, pictures: Sequence[JudgedPicture], attacks: Sequence[RecordedAttack]) -> None:
    silent = [one.label for one in attacks if any(verdict.unattacked is None for verdict in one.verdicts)]
    if silent or not pictures:
        what = f"none of {', '.join(silent)}" if silent else "none"
        raise IntegrityError(
            f"expected the judged pictures of an evaluation in {folder}, found {what}: suite version 1 kept no "
            "pictures; evaluate again"
        )
    require_pictures(chunks_of(folder), missing_pictures(chunks_of(folder), pictures))


def _margins(chunks: Path, pictures: Sequence[JudgedPicture], detector: Detector) -> Margins:
    """Return the margins of every different picture, judged in the batches of the evaluation."""
    batches: dict[tuple[str, bool, int], dict[str, JudgedPicture]] = {}
    for one in pictures:
        archive, _, name = one.picture.rpartition("/")
        # A text that comes again has a later place, but its picture was judged at the place in its name.
        place = int(name.rpartition("-")[2].removeprefix("q").partition(".")[0])
        batches.setdefault((archive, one.queried, place), {})[one.picture] = one
    reader = PictureReader(chunks)
    found: dict[str, dict[str, float]] = {}
    for batch in batches.values():
        images = reader.read(list(batch.values()))
        if not (reader.missing or reader.changed):
            margins = {name: values.tolist() for name, values in margins_of(detector, images).items()}
            found |= {ref: {name: margins[name][i] for name in margins} for i, ref in enumerate(batch)}
    reader.require()
    return found


def _scored(picture: JudgedPicture, margins: Margins) -> JudgedPicture:
    found = margins[picture.picture]
    return replace(picture, margins=found, hit=all(margin >= 0 for margin in found.values()))


def _again(verdict: Verdict, margins: Margins) -> Verdict:
    """Return the verdict on the same pictures with other margins."""
    unattacked = None if verdict.unattacked is None else _scored(verdict.unattacked, margins)
    pictures = tuple(_scored(one, margins) for one in verdict.pictures)
    own = [one for one in pictures if not one.queried]
    first = next((one for one in own if one.hit), None)
    before = verdict.before if unattacked is None else unattacked.hit
    last = bool(own) and own[-1].hit and own[-1].place + 1 == verdict.candidates
    shown = first or (own[-1] if own else None)
    return replace(
        verdict,
        before=before,
        any=before or first is not None,
        last=before or last,
        step=0 if before else None if first is None else first.step,
        text=verdict.text if shown is None else shown.text,
        pictures=pictures,
        unattacked=unattacked,
        best=best_of(pictures),
    )


def undrawn(verdict: Verdict) -> bool:
    """Return True if a case is not lost and has candidates whose pictures were never drawn."""
    places = {one.place for one in verdict.pictures if not one.queried}
    return not verdict.any and len(places) < (verdict.candidates or 0)


@dataclass(frozen=True)
class _Results:
    """The success rates of an evaluation, counted from other verdicts."""

    detector: Detector
    attacks: Sequence[RecordedAttack]
    verdicts: Mapping[str, Sequence[Verdict]]
    unattacked: Unattacked

    def of(self, before: Sequence[Result]) -> Iterator[Result]:
        """Yield the rates in the order of the recorded ones."""
        for result in before:
            if result.metric == "pre_asr" and result.prompt_set in self.unattacked:
                yield self._plain(result)
            elif result.metric == "asr_any" and _label(result) in self.verdicts:
                yield from self._attacked(_label(result))
            elif result.metric.startswith("worst_case") and self._labels(result) <= self.verdicts.keys():
                yield self._worst(result)

    def _plain(self, result: Result) -> Result:
        rows = self.unattacked[result.prompt_set]
        flags = {name: [one.margins[name] >= 0 for one in rows] for name in rows[0].margins}
        found = with_singles(rate(result.metric, [one.hit for one in rows]), flags)
        return self._record(found, result, {})

    def _attacked(self, label: str) -> Iterator[Result]:
        attack, verdicts = next(one for one in self.attacks if one.label == label), self.verdicts[label]
        recorded = {str(record["metric"]): result_from_record(record) for record in attack.results}
        about = {"part": attack.part, "undrawn": sum(self._undrawn(label))}
        for found in rates_of_verdicts(verdicts, attack.clusters):
            # The last candidate is not the best one, so the small set does not hold it.
            if attack.kept != BEST or found.metric != "asr_last":
                yield self._record(found, recorded[found.metric], about)

    def _worst(self, result: Result) -> Result:
        labels = tuple(result.settings["attack"]["attacks"])
        flags = union(self.verdicts, labels)
        missed = zip(flags, zip(*map(self._undrawn, labels), strict=True), strict=True)
        about = {"undrawn": sum(not won and any(rows) for won, rows in missed)}
        found = with_singles(rate(result.metric, flags), union_by_detector(self.verdicts, labels))
        return self._record(found, result, about)

    def _undrawn(self, label: str) -> list[bool]:
        """Return one flag for each case: True if pictures of an attack are missing that could still change it."""
        attack = next(one for one in self.attacks if one.label == label)
        # The only candidate without an attack is the prompt, whose picture is there.
        plain = attack.results[0]["settings"]["attack"].get("name") == NoAttack.name
        return [undrawn(verdict) and not plain for verdict in self.verdicts[label]]

    @staticmethod
    def _labels(result: Result) -> set[str]:
        return {*result.settings.get("attack", {}).get("attacks", ())}

    def _record(self, found: Result, before: Result, about: Mapping[str, Any]) -> Result:
        """Return a new rate with everything of the recorded one that still holds."""
        kept = {key: value for key, value in before.settings.items() if key not in (SINGLES_KEY, CHANCE_KEY)}
        again = {AGAIN_KEY: {"before": before.detector, **about}}
        counted = replace(before, value=found.value, n=found.n, interval=found.interval, versions=judging_versions())
        return judged(replace(counted, settings={**kept, **found.settings, **again}), self.detector)


def _label(result: Result) -> str:
    return str(result.settings.get("attack", {}).get("label", ""))
