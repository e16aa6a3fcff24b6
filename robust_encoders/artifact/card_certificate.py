"""The section of a model card about certificates: what was encoded, drawn and found, for these weights alone."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from robust_encoders.artifact.card_results import CERTIFICATE, plain
from robust_encoders.artifact.manifest import Manifest

logger = logging.getLogger(__name__)

_ABOUT = (
    "A certificate says nothing about longer prompts, free embeddings, other judges, other seeds or other samplers. "
    "A prompt showed the concept if the judge found it in at least one of its pictures."
)


def is_certificate(result: Mapping[str, Any]) -> bool:
    """Return True if a result of a manifest is a certificate."""
    return result.get("metric") == CERTIFICATE and isinstance(result.get("settings"), Mapping)


def of_configuration(results: Iterable[Mapping[str, Any]], config_sha256: str) -> tuple[Mapping[str, Any], ...]:
    """Return the results of a manifest without the certificates of another configuration; a warning names their number.

    An adapter of SPM acts on prompts that are like its own, and these stand in its configuration.

    Args:
        results: Results of the manifest.
        config_sha256: Hash of the artifact's configuration, see ``robust_encoders.artifact.fingerprint.config_sha256``.
    """
    found = tuple(results)
    kept = tuple(
        one for one in found if not is_certificate(one) or one["settings"].get("config_sha256") == config_sha256
    )
    if left_out := len(found) - len(kept):
        logger.warning(
            "left out %d certificate(s) of another configuration than that of these weights; certify these with "
            "`robust-encoders certify`",
            left_out,
        )
    return kept


def without_certificates(results: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the results of a manifest that are numbers of evaluations, not certificates."""
    return [result for result in results if result.get("metric") != CERTIFICATE]


def card_certificate(manifest: Manifest) -> str:
    """Return the section of a card about the certificates of an artifact, in Markdown; empty if it has none.

    A certificate of other weights is refused: its numbers are left out, and the section says so.

    Args:
        manifest: Manifest of the artifact, with the hashes of its files.
    """
    contents = {record.content_sha256 for record in manifest.files.values()} - {""}
    return "\n\n".join(_certificate(one, contents) for one in manifest.results if is_certificate(one))


def _certificate(result: Mapping[str, Any], contents: set[str]) -> str:
    facts = result["settings"]
    about = str(facts.get("content_sha256"))
    if about not in contents:
        found = ", ".join(sorted(one[:12] for one in contents)) or "no recorded weights"
        return (
            f"**A certificate of other weights is left out**: it is about the weights {plain(about[:12])}, and these "
            f"are {found}. Certify these with `robust-encoders certify`."
        )
    try:
        return "\n\n".join([_head(result, facts), _table(facts), _beside(facts), _ABOUT])
    except (KeyError, TypeError, IndexError, ValueError) as error:
        return f"**A certificate cannot be read**: {plain(repr(error))}. Certify again with `robust-encoders certify`."


def _head(result: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    base = facts["base"]
    where = (
        f"Concept {plain(str(facts['concept']))}, base {plain(str(base['id']))} (models "
        f"{plain(str(base['models_sha256'])[:12])}), weights {plain(str(facts['content_sha256'])[:12])}, judged by "
        f"{plain(str(result.get('detector')))}, {facts['pictures_per_prompt']} pictures of each prompt."
    )
    said = plain(str(facts["statement"]))
    return f"**{said[:1].upper()}{said[1:]}.**\n\n{where}"


def _table(facts: Mapping[str, Any]) -> str:
    tenths: Sequence[Mapping[str, Any]] = facts["tenths"]
    rows = [("nearest", facts["nearest"]), ("random", facts["random"])]
    rows += [(f"tenth {i}", tenth) for i, tenth in enumerate(tenths, 1)]
    rows += [(f"base's tenth {i}", tenth) for i, tenth in enumerate(facts.get("base_tenths") or (), 1)]
    lines = ["| sample | distance | prompts | showed the concept | 95 % interval |", "|---|---|---|---|---|"]
    for name, one in rows:
        (near, far), (low, high) = one["distances"], one["interval"]
        lines.append(
            f"| {name} | {near:.3g} to {far:.3g} | {one['n']} | {one['shown']} ({_percent(one['shown'] / one['n'])}) | "
            f"{_percent(low)} to {_percent(high)} |"
        )
    return "\n".join(lines)


def _beside(facts: Mapping[str, Any]) -> str:
    floors, bound = facts["chance"], facts["bound"]
    rates = [_percent(floors[key]["rate"]) for key in ("encoder", "base")]
    margin = (
        "No lower bound on the distance of other texts is known."
        if bound is None
        else f"No text has a distance below {bound:.3g}."
    )
    return (
        "Distance is the squared difference from the base's conditioning of the concept, as the UNet sees it, relative "
        f"to its squared length. {margin} The empty prompt shows the concept by chance, in at least one of as many "
        f"pictures: {rates[0]} with the encoder, {rates[1]} with the base alone. {_test(facts)}"
    )


def _test(facts: Mapping[str, Any]) -> str:
    """Return the sentences on the test that success falls with distance."""
    trend = facts["trend"]
    if not facts.get("base_tenths"):
        return (
            f"The test that success falls with distance gives a one-sided p of {trend['p']:.2g}, and less than "
            f"{trend['level']} is asked for."
        )
    return (
        "No prompt sampled from the tenths showed the concept, so nothing could fall with the encoder. With the base's "
        f"own text encoder, the test that success falls with distance gives a one-sided p of {trend['base_p']:.2g}, "
        f"and less than {trend['level']} is asked for. The rows of the base's tenths are samples of its own ranking, "
        "drawn with its own text encoder. That is a weaker ground: the encoder may reach the concept in a way that "
        "this distance does not see."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
