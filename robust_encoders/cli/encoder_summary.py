"""The answer of ``info``: about an encoder its key numbers, facts and all numbers; about a file its provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robust_encoders.artifact.card_results import withdrawal_reasons, withdrawn
from robust_encoders.artifact.key_numbers import key_lines
from robust_encoders.artifact.manifest import Manifest
from robust_encoders.conversion.copied_file import CopiedFile, copied_file
from robust_encoders.errors import IntegrityError
from robust_encoders.utils.console import columns, say, say_fields, say_json


def say_manifest(manifest: Manifest) -> None:
    """Print the three numbers that matter, then the facts of an encoder, then every number that was not withdrawn.

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
    _say_results(manifest.results)


def _say_results(results: Sequence[Mapping[str, Any]]) -> None:
    valid = [result for result in results if not withdrawn(result)]
    say("all results" if results else "results   none recorded")
    for line in columns([_result(result) for result in valid]):
        say(f"  {line}")
    if left := len(results) - len(valid):
        say(f"  withdrawn numbers that are left out: {left}; `robust-encoders info NAME --json` prints them, too")


def _result(result: Mapping[str, Any]) -> tuple[str, ...]:
    interval = result.get("interval")
    bounds = f"[{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""
    attack = result.get("settings", {}).get("attack") or {}
    by = str(attack.get("label") or attack.get("name") or "") if isinstance(attack, Mapping) else str(attack)
    where = str(result.get("prompt_set", ""))
    count = f"n={result['n']}"
    return (str(result["metric"]), by, f"{result['value']:.3f}", bounds, count, where, str(result["origin"]))


def _say_key_numbers(manifest: Manifest) -> None:
    rows = key_lines(manifest.results)
    for line in columns(rows[:3]):
        say(line)
    for mark, note in rows[3:]:
        say(f"{mark} {note}")
    for reason in withdrawal_reasons(manifest.results):
        say(f"withdrawn, because: {reason}")
    say("")


def say_file(path: Path, *, as_json: bool) -> None:
    """Print what a single file of weights says about itself.

    Args:
        path: Path of a safetensors file.
        as_json: True to print JSON.

    Raises:
        IntegrityError: If the file carries no provenance, or is no safetensors file.
    """
    found = copied_file(path)
    if found is None:
        raise IntegrityError(
            f"expected provenance inside {path}, found none: it is no copy of an artifact's weights, or a tool removed "
            "it; pass the folder of the artifact"
        )
    if as_json:
        say_json({**found.facts, "unchanged": found.unchanged})
    else:
        say_fields({**found.facts, "tensors": _tensors(found)})


def _tensors(found: CopiedFile) -> str:
    if found.unchanged:
        return "unchanged"
    if "exported" in found.facts:
        return "not those of the encoder itself: the export merged or cast them, or they were changed later"
    return "changed since these facts were stated"
