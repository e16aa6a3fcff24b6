"""The answer of ``info`` about an encoder: the three numbers that matter, then the facts, then every number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from robust_encoders.artifact.card_results import withdrawal_reasons, withdrawn
from robust_encoders.artifact.key_numbers import key_lines
from robust_encoders.artifact.manifest import Manifest
from robust_encoders.utils.console import columns, say, say_fields


def say_manifest(manifest: Manifest) -> None:
    """Print the three numbers that matter, then the facts of an encoder, then every number.

    Args:
        manifest: Manifest of the encoder.
    """
    _say_key_numbers(manifest)
    concept, base = manifest.concept, manifest.base
    say_fields(
        {
            "erases": f"{concept.name} ({concept.kind})",
            "synonyms": ", ".join(concept.synonyms) or "none",
            "method": manifest.method["name"],
            "base": ", ".join((base.family, *base.ids)),
            "form": f"{manifest.form} of {manifest.component}",
            "licence": manifest.license or "not stated",
            "made with": ", ".join(f"{name} {version}" for name, version in manifest.versions.items()),
        }
    )
    say("all results" if manifest.results else "results   none recorded")
    for line in columns([_result(result) for result in manifest.results]):
        say(f"  {line}")


def _result(result: Mapping[str, Any]) -> tuple[str, ...]:
    interval = result.get("interval")
    bounds = f"[{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""
    attack = result.get("settings", {}).get("attack") or {}
    by = str(attack.get("label") or attack.get("name") or "") if isinstance(attack, Mapping) else str(attack)
    where = str(result.get("prompt_set", ""))
    count, origin = f"n={result['n']}", "withdrawn" if withdrawn(result) else str(result["origin"])
    return (str(result["metric"]), by, f"{result['value']:.3f}", bounds, count, where, origin)


def _say_key_numbers(manifest: Manifest) -> None:
    rows = key_lines(manifest.results)
    for line in columns(rows[:3]):
        say(line)
    for mark, note in rows[3:]:
        say(f"{mark} {note}")
    for reason in withdrawal_reasons(manifest.results):
        say(f"withdrawn, because: {reason}")
    say("")
