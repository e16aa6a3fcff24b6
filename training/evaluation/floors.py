"""The floors of an evaluation's attacks, beside their rates of success."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from ..types import Result, Verdict
from .chance import CHANCE_METRICS, Chance, Floor, chance_of, pools_of

CHANCE_KEY = "chance"  # setting of a rate of success that holds its floors on the encoder and on the base
_RATES = ("asr_any", "worst_case", "worst_case_embeddings")


def with_floors(records: Sequence[dict[str, Any]], verdicts: Mapping[str, Sequence[Verdict]]) -> list[dict[str, Any]]:
    """Return the records of an evaluation with the floor of chance in the settings of each rate of success.

    A floor is that of an attacker who has as many pictures judged as the attack could. A success ends the judging of a
    case early, so all proposed candidates count, and all pictures that the attack asked for. A worst case may spend
    what all of its attacks may spend. Without the probe ``chance`` nothing changes.

    Args:
        records: Results of the evaluation as JSON values.
        verdicts: Label of an attack to its verdicts, one for each case.
    """
    if not {record["metric"] for record in records}.issuperset(CHANCE_METRICS):
        return list(records)
    encoder, base = pools_of(records)
    budgets = {label: _budget(record) for record in records if len(alone := _labels(record)) == 1 for label in alone}
    found = []
    for record in records:
        labels = _labels(record)
        if labels and all(label in verdicts for label in labels):
            rows = zip(*(verdicts[label] for label in labels), strict=True)
            least = [budgets.get(label, 0) for label in labels]
            tries = [sum(max(allowed(one), n) for one, n in zip(row, least, strict=True)) for row in rows]
            chance = asdict(chance_of(encoder, base, tries))
            record = {**record, "settings": {**record["settings"], CHANCE_KEY: chance}}
        found.append(record)
    return found


def without_floor(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a result as JSON values as it was before it got its floor, as the part of its attack holds it.

    Args:
        record: Result as JSON values.
    """
    settings = {key: value for key, value in record["settings"].items() if key != CHANCE_KEY}
    return {**record, "settings": settings}


def allowed(verdict: Verdict) -> int:
    """Return the number of pictures that an attack could have judged on one case: its candidates and its queries.

    An attack that chooses among drafts could win with any of them, so there are at least as many as drafts.
    """
    judged = (verdict.candidates or 0) + sum(picture.queried for picture in verdict.pictures)
    return max(judged, verdict.drafts or 0)


def _budget(record: Mapping[str, Any]) -> int:
    """Return the number of texts that an attack may try until it wins; 0 for one that tries all that it proposes."""
    return int(record["settings"].get("attack", {}).get("budget", 0))


def _labels(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the labels of the attacks behind a rate of success; empty for other numbers."""
    if record["metric"] not in _RATES:
        return ()
    attack = record["settings"].get("attack", {})
    return tuple(attack.get("attacks", ())) or (attack["label"],)


def chance_in(result: Result) -> Chance | None:
    """Return the floors that a rate of success carries; None if they were not measured."""
    found = result.settings.get(CHANCE_KEY)
    return None if found is None else Chance(_floor(found["encoder"]), _floor(found["base"]))


def _floor(record: Mapping[str, Any]) -> Floor:
    low, high = record["interval"]
    return replace(Floor(**record), interval=(low, high))
