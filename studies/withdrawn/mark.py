"""Mark the withdrawn numbers in the manifests of the shipped encoders: mark.py RESULTS ENCODERS.

RESULTS is the file that withdrawn.py writes, ENCODERS the folder of the shipped encoders. A marked number has a doubt
that begins with ``withdrawn:`` and gives the reason; model cards leave such numbers out. Other doubts stay.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from robust_encoders import Manifest
from robust_encoders.artifact.card_results import WITHDRAWN
from robust_encoders.artifact.manifest import MANIFEST_NAME

SAME_PROMPTS = (
    "These numbers come from the same prompts, judge and attacks as those of shapes/circle and shapes/red. Simpler "
    "tests then found failures of those two encoders that these prompts and attacks had missed."
)


def reasons(rows: list[dict[str, Any]]) -> dict[str, str]:
    """Return a mapping of each whole encoder's name to the reason for which its numbers were withdrawn."""
    found = {(row["what"], row["encoder"]): f"{row['count']} of {row['n']}" for row in rows}

    def counted(start: str, encoder: str) -> str:
        return next(count for (what, who), count in found.items() if what.startswith(start) and who == encoder)

    free = "8 free embeddings in the prompt's place, found without the UNet, draw the concept for"
    return {
        "circle": f"Everyday wordings such as 'draw a red square' give the shape asked for in "
        f"{counted('everyday', 'circle')} pictures, with the base in {counted('everyday', 'base')}. The empty prompt "
        f"draws a circle in {counted('empty', 'circle')} pictures. {free} {counted('8 free', 'circle')} captions.",
        "red": f"Two readable words in place of the concept's name draw it for {counted('any of', 'red')} captions. "
        f"{free} {counted('8 free', 'red')} captions.",
        "striped": f"'striped' as negative prompt gives stripes in {counted('negative', 'striped')} pictures, with the "
        f"base in {counted('negative', 'base')}. {SAME_PROMPTS}",
    }


def marked(result: Mapping[str, Any], reason: str) -> dict[str, Any]:
    """Return a number with the reason among its doubts; a control of the judge stays as it is."""
    if str(result["metric"]).startswith("judge_"):
        return dict(result)
    settings = result.get("settings", {})
    doubts = [doubt for doubt in settings.get("doubts", ()) if not doubt.startswith(WITHDRAWN)]
    return {**result, "settings": {**settings, "doubts": [*doubts, f"{WITHDRAWN}{reason}"]}}


def main(results: Path, encoders: Path) -> None:
    """Mark every manifest below a folder."""
    known = reasons(json.loads(results.read_text(encoding="utf-8"))["rows"])
    for path in sorted(encoders.glob(f"*/{MANIFEST_NAME}")):
        manifest = Manifest.read(path.parent)
        reason = known.get(path.parent.name, SAME_PROMPTS)
        changed = replace(manifest, results=tuple(marked(result, reason) for result in manifest.results))
        path.write_text(changed.to_json(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
