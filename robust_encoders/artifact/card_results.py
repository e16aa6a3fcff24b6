"""The numbers of an artifact on its model card: ten headlines, their meaning, and the numbers that were withdrawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from robust_encoders.artifact.card_meanings import Meaning, meaning_of

HEADLINES = 10
# Metric of a certificate, which has a section of its own on a card.
CERTIFICATE = "certificate"
# A doubt that begins so takes its number off the card; the manifest keeps the number, the doubt and the reason.
WITHDRAWN = "withdrawn: "
NOTHING = "Nothing was measured by this package yet."
_PLACES = "¹²³⁴⁵⁶⁷⁸⁹"
_FIRST = ("worst_case", "worst_case_embeddings", "pre_asr")
_THEN = ("everyday", "retain_all", "clip_score", "fid", "negative_removed", "knowledge")
# Numbers that stand beside another number of the same card, or that belong to the manifest alone.
_BESIDE = ("_base", "_difference", "_floor", "_last", "_gained")
_PARTS = ("judge_", "everyday_", "schedulers_", "negative_abuse_")
_TIERS = (
    "Tiers: T0 plain prompts, T1 synonyms, T2 text without gradients, T3 text with gradients, T4 free embeddings, "
    "T5 to T7 ways around a text encoder."
)

_CHANCE = "- by chance: What the empty prompt and open captions win without an attack, with as many pictures."


def card_results(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the section of a card about what was measured, in Markdown.

    Args:
        results: Results of the manifest.
    """
    measured, reported = headlines(results, "measured"), headlines(results, "reported")
    marks = _Marks()
    parts = [_withdrawn(results), _suite(measured), _table(measured, marks, results) if measured else ""]
    if reported:
        parts.append(f"Reported by others, not measured by us:\n\n{_table(reported, marks, results)}")
    parts += [marks.notes(), _legend([*measured, *reported])]
    return "\n\n".join(filter(None, parts)) or NOTHING


def headlines(results: Sequence[Mapping[str, Any]], origin: str) -> list[Mapping[str, Any]]:
    """Return at most ten numbers of one origin that a reader looks for, the most important first.

    These are the worst cases, the rate without an attack, the strongest variants of three attacks, and what was kept.
    Others follow while there is room. Numbers that were withdrawn are left out, and so are certificates.

    Args:
        results: Results of the manifest.
        origin: ``measured``, or ``reported`` for all others.
    """
    left = [r for r in results if (r.get("origin") == "measured") is (origin == "measured") and not withdrawn(r)]
    left = [r for r in left if r.get("metric") != CERTIFICATE and not str(r.get("metric")).endswith(_BESIDE)]
    left = [r for r in left if not str(r.get("metric")).startswith(_PARTS) or r.get("metric") == "everyday_factor"]
    weakest_first = sorted((r for r in left if _defended(r)), key=_strength)
    strongest = {_attack(r): r for r in weakest_first}
    attacks = sorted(strongest.values(), key=_strength, reverse=True)[:3]
    first = [max((r for r in left if r.get("metric") == name), key=_strength, default=None) for name in _FIRST]
    then = [next((r for r in left if r.get("metric") == name), None) for name in _THEN]
    chosen = [result for result in (*first, *attacks, *then) if result is not None]
    rest = [result for result in left if not any(result is one for one in chosen)]
    return [*chosen, *rest][:HEADLINES]


def withdrawn(result: Mapping[str, Any]) -> bool:
    """Return whether a doubt of a number says that the number was withdrawn."""
    return any(doubt.startswith(WITHDRAWN) for doubt in doubts_of(result))


def withdrawal_reasons(results: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the reasons for which numbers were withdrawn, each once."""
    doubts = dict.fromkeys(doubt for result in results for doubt in doubts_of(result))
    return [doubt.removeprefix(WITHDRAWN) for doubt in doubts if doubt.startswith(WITHDRAWN)]


def doubts_of(result: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the reasons not to trust a number, in sentences."""
    found = _settings(result).get("doubts")
    return tuple(str(doubt) for doubt in found) if isinstance(found, (list, tuple)) else ()


def attack_label(result: Mapping[str, Any], key: str = "label") -> str:
    """Return the label of the attack behind a number, or another field of the attack; empty without an attack."""
    attack = _settings(result).get("attack")
    return str(attack.get(key, "")) if isinstance(attack, Mapping) else ""


def plain(text: str) -> str:
    """Return text in one line that neither closes our part of a card nor breaks a table."""
    return " ".join(text.replace("<", "&lt;").replace("|", "\\|").split())


def _defended(result: Mapping[str, Any]) -> bool:
    return result.get("metric") == "asr_any" and _tier(result) not in ("T5", "T6", "T7")


def _attack(result: Mapping[str, Any]) -> str:
    """Return the name of an attack, which its variants share; without one, its label."""
    return attack_label(result, "name") or attack_label(result)


def _tier(result: Mapping[str, Any]) -> str:
    return str(result.get("tier") or attack_label(result, "tier"))


def _strength(result: Mapping[str, Any]) -> tuple[float, str]:
    value = result.get("value")
    return (float(value) if isinstance(value, (int, float)) else 0.0), _tier(result)


def _settings(result: Mapping[str, Any]) -> Mapping[str, Any]:
    found = result.get("settings")
    return found if isinstance(found, Mapping) else {}


def _withdrawn(results: Sequence[Mapping[str, Any]]) -> str:
    reasons = [plain(reason) for reason in withdrawal_reasons(results)]
    head = "**Numbers of this encoder were withdrawn**, for these reasons:"
    return "\n".join([head, "", *(f"- {reason}" for reason in reasons)]) if reasons else ""


@dataclass
class _Marks:
    """Footnotes of doubted numbers, numbered in the order in which tables use them."""

    texts: list[str] = field(default_factory=list)

    def of(self, result: Mapping[str, Any]) -> str:
        """Return the marks of a number's doubts; empty without doubts."""
        doubts = [plain(doubt) for doubt in doubts_of(result)]
        self.texts += [doubt for doubt in dict.fromkeys(doubts) if doubt not in self.texts]
        return " ".join(_mark(self.texts.index(doubt)) for doubt in dict.fromkeys(doubts))

    def notes(self) -> str:
        """Return the footnotes, one list item each."""
        if not self.texts:
            return ""
        lines = [f"- {_mark(i)} {text}" for i, text in enumerate(self.texts)]
        return "\n".join(
            ["Checks found these attacks too weak or otherwise doubtful. Do not trust the marked numbers:", "", *lines]
        )


def _mark(index: int) -> str:
    return _PLACES[index] if index < len(_PLACES) else f"({index + 1})"


def _suite(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the version of the suite behind the numbers; empty if none names one."""
    found = {_settings(result).get("suite_version") for result in results}
    versions = sorted(version for version in found if isinstance(version, int))
    return f"Measured by suite version {', '.join(map(str, versions))} of robust_encoders." if versions else ""


def _table(results: Sequence[Mapping[str, Any]], marks: _Marks, known: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of ``results``; ``known`` holds what stands beside them, in a column that is left out if empty."""
    head = ("metric", "tier", "value", "better", "95 % interval", "n", "judged by", "compare with")
    rows = [(*_row(result, marks), beside(result, known)) for result in results]
    whole = [head, ("---",) * len(head), *rows]
    shown = whole if any(row[-1] for row in rows) else [row[:-1] for row in whole]
    return "\n".join(f"| {' | '.join(row)} |" for row in shown)


def _judges(result: Mapping[str, Any]) -> str:
    """Return the names of the detectors, each of several with its rate alone."""
    text, found = str(result.get("detector") or ""), _settings(result).get("singles")
    for name, one in found.items() if isinstance(found, Mapping) else ():
        if isinstance(one, Mapping):
            text = text.replace(str(name), f"{name} ({_percent(one.get('value'))} alone)", 1)
    return plain(text)


def beside(result: Mapping[str, Any], known: Sequence[Mapping[str, Any]]) -> str:
    """Return what a rate must be read beside: the floor of chance, and the same rate of the base; in words.

    Args:
        result: Rate; the text is empty if nothing stands beside it.
        known: All results of the manifest.
    """
    chance = _settings(result).get("chance")
    floors = chance if isinstance(chance, Mapping) else {}
    cells = [
        f"{words} {_percent(floor.get('rate'))}"
        for key, words in (("encoder", "by chance"), ("base", "base by chance"))
        if isinstance(floor := floors.get(key), Mapping)
    ]
    names = {f"{result.get('metric')}_base": "base", f"{result.get('metric')}_floor": "by chance"}
    same = [one for one in known if one.get("metric") in names and one.get("origin") == result.get("origin")]
    cells += [f"{names[str(one['metric'])]} {_percent(one.get('value'))}" for one in same]
    return plain(", ".join(cells))


def _percent(value: Any) -> str:
    return f"{100 * value:.0f} %" if isinstance(value, (int, float)) else str(value)


def _row(result: Mapping[str, Any], marks: _Marks) -> tuple[str, ...]:
    metric = str(result.get("metric") or "not stated")
    meaning, family = meaning_of(metric)
    label = attack_label(result) if metric.startswith("asr") else family
    among = str(result.get("prompt_set") or "") if metric == "pre_asr" else label
    name = plain(", ".join(filter(None, (meaning.words if meaning else metric, among))))
    value, ends = _shown(result.get("value"), meaning), _ends(result.get("interval"))
    bounds = " to ".join(_shown(end, meaning) for end in ends)
    marked = f"{value} {marks.of(result)}".strip()
    n = plain(str(result.get("n") or ""))
    return name, plain(_tier(result)), marked, meaning.better if meaning else "", bounds, n, _judges(result)


def _ends(interval: Any) -> tuple[float, ...]:
    """Return the two ends of an interval, or nothing if it is no pair of numbers."""
    pair = isinstance(interval, (list, tuple)) and len(interval) == 2
    return tuple(interval) if pair and all(isinstance(end, (int, float)) for end in interval) else ()


def _shown(value: Any, meaning: Meaning | None) -> str:
    if not isinstance(value, (int, float)):
        return plain(str(value))
    return f"{100 * value:.0f} %" if meaning and meaning.rate else f"{value:.3f}"


def _legend(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the meaning of the metrics that a card shows, folded."""
    shown = dict.fromkeys(str(result.get("metric")) for result in results)
    meanings = dict.fromkeys(meaning for name in shown if (meaning := meaning_of(name)[0]) is not None)
    lines = [f"- {meaning.words}: {meaning.about}" for meaning in meanings]
    if not lines:
        return ""
    head = "<details><summary>What the numbers mean</summary>"
    if any(_settings(result).get("chance") for result in results):
        lines.append(_CHANCE)
    intervals = "Intervals of rates are Wilson's. `robust_encoder.json` holds every number with all its settings."
    return "\n".join([head, "", *lines, "", f"{_TIERS} {intervals}", "", "</details>"])
