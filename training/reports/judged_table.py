"""The text of a second judgement: new rates beside old ones, the set of pictures, and what was never drawn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ..evaluation.recorded import BEST
from ..evaluation.sanity.trust import Marks
from ..evaluation.second_judgement import AGAIN_KEY, SecondJudgement
from ..evaluation.suite import suite_title, version_of
from ..evaluation.threat_model import label_of, tier_of
from ..types import Result
from .tables import Entry, Number, Table
from .titles import WORST, WORST_EMBEDDINGS, set_title, short_title

_SETS = {
    "all": "every picture that the evaluation judged",
    BEST: "of each attack the picture of the first success, or that of the highest score; others were not kept",
}
_NAMES = {"worst_case": WORST, "worst_case_embeddings": WORST_EMBEDDINGS}
_SHOWN = ("pre_asr", "asr_any", *_NAMES)


def judged_text(found: SecondJudgement, folder: Path) -> str:
    """Return Markdown of a second judgement.

    Args:
        found: Second judgement of the evaluation.
        folder: Folder of the evaluation, as the user named it.
    """
    results = [result for result in found.after.results if result.metric in _SHOWN]
    old, new = (next((r.detector for r in rows), "") for rows in (found.before.results, results))
    version = max(map(version_of, results), default=1)
    title = suite_title(f"{found.after.concept}, {short_title(found.before)}: judged again by {new}", version)
    head = ["prompts or attack", "tier", "n", f"recorded, by {old}", f"now, by {new}", "not drawn"]
    table = Table(title, head, {"": list(_rows(found, results))})
    said = f"Judged {found.pictures:,} pictures of {folder} in {found.seconds:.1f} seconds, without drawing any."
    return "\n".join(
        [f"### {title}", "", *table.markdown(Marks()), "", said, f"Set: {_SETS[found.kept]}.", *_bounds(results, new)]
    )


def _rows(found: SecondJudgement, results: list[Result]) -> Iterator[list[Entry]]:
    for result in results:
        before = next(one for one in found.before.results if _key(one) == _key(result))
        missed = _undrawn(result)
        number = replace(Number.of(result), bound=missed > 0)
        yield [_name(result), tier_of(result), str(result.n), Number.of(before), number, str(missed)]


def _key(result: Result) -> tuple[str, str, str]:
    return result.metric, label_of(result), result.prompt_set


def _name(result: Result) -> str:
    if result.metric == "pre_asr":
        return set_title(result.prompt_set)
    return _NAMES.get(result.metric, label_of(result))


def _undrawn(result: Result) -> int:
    return int(result.settings.get(AGAIN_KEY, {}).get("undrawn", 0))


def _bounds(results: list[Result], new: str) -> list[str]:
    """Return sentences about the candidates that were never drawn."""
    missed = max(map(_undrawn, results), default=0)
    if not missed:
        return [f"No candidate that {new} could still find is missing, so its rates cover all candidates."]
    return [
        "Not drawn: prompts that are not lost here, and some of whose candidates have no picture. Prompts that "
        "succeeded alone were not attacked, and candidates after the first success were not drawn. The sign ≥ marks "
        "rates that are lower bounds for that reason.",
    ]
