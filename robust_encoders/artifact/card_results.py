"""The numbers of an artifact on its model card: ten headlines, their meaning, and the numbers that were withdrawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

HEADLINES = 10
# A doubt that begins so takes its number off the card; the manifest keeps the number, the doubt and the reason.
WITHDRAWN = "withdrawn: "
NOTHING = "Nothing was measured by this package yet."
_PLACES = "¹²³⁴⁵⁶⁷⁸⁹"


class Meaning(NamedTuple):
    """What a metric says.

    Args:
        words: Name of the metric for readers.
        better: Direction that is better: ``lower``, ``higher``, or empty if neither is.
        about: One sentence for the legend.
        rate: True for a share of pictures or prompts, shown in per cent.
    """

    words: str
    better: str
    about: str
    rate: bool = True


MEANINGS: Mapping[str, Meaning] = {
    "worst_case": Meaning(
        "worst case by text", "lower", "Prompts that at least one attack of the tiers T0 to T3 wins."
    ),
    "worst_case_embeddings": Meaning(
        "worst case with embeddings", "lower", "Prompts that at least one attack of the tiers T0 to T4 wins."
    ),
    "pre_asr": Meaning("concept drawn unattacked", "lower", "Prompts that show the concept although nobody attacks."),
    "asr_any": Meaning("attack success", "lower", "Prompts for which at least one candidate of the attack wins."),
    "asr_last": Meaning("attack success, last try", "lower", "Prompts for which the attack's last candidate wins."),
    "asr_gained": Meaning("attack success gained", "lower", "Prompts that only the attack wins."),
    "retain_all": Meaning("kept as asked", "higher", "Pictures without the concept that show everything as asked."),
    "clip_score": Meaning("CLIP score of kept prompts", "higher", "Cosine of picture and prompt.", rate=False),
    "fid": Meaning("FID of kept prompts", "lower", "Distance of kept pictures to the base's pictures.", rate=False),
    "kid": Meaning("KID of kept prompts", "lower", "Distance of kept pictures to the base's pictures.", rate=False),
    "negative_removed": Meaning(
        "removed by negative prompt", "higher", "Pictures from which the concept's name as negative prompt removes it."
    ),
    "knowledge": Meaning(
        "concept still recognised", "lower", "Renders of the concept that the Diffusion Classifier recognises."
    ),
    "negative_with": Meaning(
        "shown with negative prompt", "lower", "Pictures that show the concept though it is the negative prompt."
    ),
    "negative_without": Meaning("shown without negative prompt", "", "The same pictures without a negative prompt."),
    "lpips_kept": Meaning("LPIPS of kept prompts", "lower", "Distance of kept pictures to the base's.", rate=False),
    "lpips_erased": Meaning(
        "LPIPS of erased prompts", "higher", "Distance of erased pictures to the base's.", rate=False
    ),
    "lpips_difference": Meaning("LPIPS, erased less kept", "higher", "The difference of these distances.", rate=False),
}
# Families of metrics, by the part of their names before the label.
_FAMILIES: Mapping[str, Meaning] = {
    "binding": Meaning("objects with attributes as asked", "higher", "Captions with several attributes, all as asked."),
    "retain": Meaning("kept as asked", "higher", "Pictures without the concept that show what was asked for."),
}
_FIRST = ("worst_case", "worst_case_embeddings", "pre_asr")
_THEN = ("retain_all", "clip_score", "fid", "negative_removed", "knowledge")
_TIERS = (
    "Tiers: T0 plain prompts, T1 synonyms, T2 text without gradients, T3 text with gradients, T4 free embeddings, "
    "T5 to T7 ways around a text encoder."
)


def card_results(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the section of a card about what was measured, in Markdown.

    Args:
        results: Results of the manifest.
    """
    measured, reported = headlines(results, "measured"), headlines(results, "reported")
    marks = _Marks()
    parts = [_withdrawn(results), _table(measured, marks) if measured else ""]
    if reported:
        parts.append(f"Reported by others, not measured by us:\n\n{_table(reported, marks)}")
    parts += [marks.notes(), _legend([*measured, *reported])]
    return "\n\n".join(filter(None, parts)) or NOTHING


def card_index(results: Sequence[Mapping[str, Any]]) -> list[EvalResult]:
    """Return the headline numbers for the ``model-index`` of a card; measured and reported ones are apart."""
    shown = [*headlines(results, "measured"), *headlines(results, "reported")][:HEADLINES]
    return [found for result in shown if (found := _eval_result(result)) is not None]


def headlines(results: Sequence[Mapping[str, Any]], origin: str) -> list[Mapping[str, Any]]:
    """Return at most ten numbers of one origin that a reader looks for, the most important first.

    These are the worst cases, the rate without an attack, the three strongest attacks, and what was kept. Others follow
    while there is room. Numbers that were withdrawn are left out.

    Args:
        results: Results of the manifest.
        origin: ``measured``, or ``reported`` for all others.
    """
    left = [r for r in results if (r.get("origin") == "measured") is (origin == "measured") and not withdrawn(r)]
    left = [r for r in left if r.get("metric") not in ("asr_last", "asr_gained")]
    left = [r for r in left if not str(r.get("metric")).startswith("judge_")]
    attacks = sorted((r for r in left if _defended(r)), key=lambda r: -_number(r))[:3]
    first = [max((r for r in left if r.get("metric") == name), key=_number, default=None) for name in _FIRST]
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


def _tier(result: Mapping[str, Any]) -> str:
    return str(result.get("tier") or attack_label(result, "tier"))


def _number(result: Mapping[str, Any]) -> float:
    value = result.get("value")
    return float(value) if isinstance(value, (int, float)) else 0.0


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


def _table(results: Sequence[Mapping[str, Any]], marks: _Marks) -> str:
    head = ("metric", "tier", "value", "better", "95 % interval", "n", "judged by")
    rows = [head, ("---",) * len(head), *(_row(result, marks) for result in results)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(result: Mapping[str, Any], marks: _Marks) -> tuple[str, ...]:
    metric = str(result.get("metric") or "not stated")
    meaning, family = meaning_of(metric)
    label = attack_label(result) if metric.startswith("asr") else family
    among = str(result.get("prompt_set") or "") if metric == "pre_asr" else label
    name = plain(", ".join(filter(None, (meaning.words if meaning else metric, among))))
    value, ends = _shown(result.get("value"), meaning), _ends(result.get("interval"))
    bounds = " to ".join(_shown(end, meaning) for end in ends)
    marked = f"{value} {marks.of(result)}".strip()
    n, detector = (plain(str(result.get(key) or "")) for key in ("n", "detector"))
    return name, plain(_tier(result)), marked, meaning.better if meaning else "", bounds, n, detector


def meaning_of(metric: str) -> tuple[Meaning | None, str]:
    """Return what a metric says, and the label of a member of a family such as ``retain_shape``."""
    family, _, label = metric.partition("_")
    if metric in MEANINGS:
        return MEANINGS[metric], ""
    return (_FAMILIES[family], label) if label and family in _FAMILIES else (None, "")


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
    intervals = "Intervals of rates are Wilson's. `robust_encoder.json` holds every number with all its settings."
    return "\n".join([head, "", *lines, "", f"{_TIERS} {intervals}", "", "</details>"])


def _eval_result(result: Mapping[str, Any]) -> EvalResult | None:
    from huggingface_hub import EvalResult

    if "metric" not in result or not isinstance(result.get("value"), (int, float)):
        return None
    origin, prompts = str(result.get("origin", "reported")), str(result.get("prompt_set") or "not stated")
    kept = {key: result[key] for key in ("n", "interval", "detector") if result.get(key)}
    return EvalResult(
        task_type="text-to-image",
        dataset_type=prompts,
        dataset_name=f"{prompts} ({origin})",
        dataset_config=origin,  # keeps what is measured and what is reported in entries of their own
        metric_type=str(result["metric"]),
        metric_name=" ".join(filter(None, (str(result["metric"]), attack_label(result), f"({origin})"))),
        metric_value=result["value"],
        metric_args=kept or None,
    )
