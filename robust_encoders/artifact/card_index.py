"""The headline numbers of an artifact in the ``model-index`` of its card, which the Hub reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from robust_encoders.artifact.card_results import HEADLINES, attack_label, headlines

if TYPE_CHECKING:
    from huggingface_hub import EvalResult


def card_index(results: Sequence[Mapping[str, Any]]) -> list[EvalResult]:
    """Return the headline numbers for the ``model-index`` of a card; measured and reported ones are apart."""
    shown = [*headlines(results, "measured"), *headlines(results, "reported")][:HEADLINES]
    return [found for result in shown if (found := _eval_result(result)) is not None]


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
