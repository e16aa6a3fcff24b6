"""Icon sets in Iconify's JSON format, as SVG pictures by code points.

Format: https://iconify.design/docs/types/iconify-json.html. A set has icons, aliases of icons, and a table of code
points. Missing measures of an icon are those of the set; the set's own defaults are 16, 16, 0 and 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .packages import Package, read_json

_MEASURES = {"left": 0, "top": 0, "width": 16, "height": 16}
_QUARTERS = ((1, 0), (0, 1), (-1, 0), (0, -1))  # cosine and sine of each number of quarter turns
_VARIATION = "-fe0f"  # the code point that asks for a picture instead of a letter


def plain_code(code: str) -> str:
    """Return code points in hexadecimal, without the one that only asks for a picture."""
    return code.lower().replace(_VARIATION, "")


@dataclass(frozen=True)
class IconSet:
    """A set of icons.

    Args:
        data: Content of ``icons.json``.
        names: Names of icons and aliases by their code points, as ``plain_code`` writes them.
    """

    data: Mapping[str, Any]
    names: Mapping[str, str]

    @classmethod
    def read(cls, folder: Path, package: Package) -> IconSet:
        """Read the set of a package whose file lies in a folder."""
        chars = read_json(folder, package, "chars.json")
        return cls(read_json(folder, package, "icons.json"), {plain_code(code): name for code, name in chars.items()})

    def __contains__(self, code: str) -> bool:
        """Return true if the set has a visible icon for code points."""
        chain = self._chain(code)
        return bool(chain) and not any(part.get("hidden") for part in chain)

    def svg(self, code: str, ink: str = "#000000") -> str:
        """Return the picture of code points as an SVG document.

        Args:
            code: Code points in hexadecimal, joined by ``-``.
            ink: Colour of what the set draws in ``currentColor``.

        Raises:
            KeyError: If the set has no such icon, or hides it.
        """
        if code not in self:
            raise KeyError(code)
        chain = self._chain(code)
        left, top, width, height = (self._measure(name, chain) for name in _MEASURES)
        body = chain[-1]["body"].replace("currentColor", ink)
        for part in reversed(chain):
            body = _turned(body, part, (2 * left + width, 2 * top + height))
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{left} {top} {width} {height}">{body}</svg>'
        )

    def _chain(self, code: str) -> list[Mapping[str, Any]]:
        """Return the alias of code points, the alias or icon that it names, and so on; empty if one is missing."""
        name, chain = self.names.get(code), []
        icons, aliases = self.data["icons"], self.data.get("aliases", {})
        while name in aliases and name not in icons and aliases[name] not in chain:
            chain.append(aliases[name])
            name = aliases[name]["parent"]
        return [*chain, icons[name]] if name in icons else []

    def _measure(self, name: str, chain: list[Mapping[str, Any]]) -> float:
        return float(next((p[name] for p in (*chain, self.data) if name in p), _MEASURES[name]))


def _turned(body: str, part: Mapping[str, Any], across: tuple[float, float]) -> str:
    """Apply the mirrors and quarter turns of an icon or alias to SVG elements.

    Args:
        body: SVG elements.
        part: Icon or alias.
        across: Sums of the left and right edge, and of the upper and lower edge.
    """
    (x, y), (cosine, sine) = (across[0] / 2, across[1] / 2), _QUARTERS[part.get("rotate", 0) % 4]
    if part.get("rotate"):
        body = _moved(body, (cosine, sine, -sine, cosine, x - cosine * x + sine * y, y - sine * x - cosine * y))
    if part.get("vFlip"):
        body = _moved(body, (1, 0, 0, -1, 0, across[1]))
    if part.get("hFlip"):
        body = _moved(body, (-1, 0, 0, 1, across[0], 0))
    return body


def _moved(body: str, matrix: tuple[float, ...]) -> str:
    """Apply an affine map to SVG elements; its six numbers are in SVG's order."""
    return f'<g transform="matrix{matrix}">{body}</g>'
