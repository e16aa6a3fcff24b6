"""Settings of UCE and RECE for the named recipes."""

from __future__ import annotations

from ..methods import RECE, UCE
from ..methods.closed_form import RidgeConfig

# RECE's derivation for each concept of the paper: its lambda, and the epochs after which its authors stopped. Where it
# has none (tench), plain UCE drew the object no more, and the authors ran no RECE.
DERIVATIONS = {
    "nudity": (1e-1, 3),
    "vangogh": (1e-3, 1),
    "church": (1e-3, 1),
    "garbage_truck": (1e-3, 1),
    "parachute": (1e-1, 1),
}


def shapes_projection(method: str, retained: tuple[str, ...]) -> UCE | RECE:
    """Return the settings for a concept of the embedded base.

    Departures from the papers: captions, not bare words, are edited towards the same captions with the anchor in the
    concept's place, and captions are preserved. With bare words the concept comes back in captions, and without
    preserved captions its neighbours go with it. RECE's lambda is small beside this UNet's G, whose eigenvalues are 1
    to 45: at 0.1 the derived embeddings shrink, and erasing them brings the concept back instead. What is
    kept weighs as much as what is erased: with the paper's tenth, attacks on red succeeded more often than with UCE.

    Args:
        method: ``uce`` or ``rece``.
        retained: Captions without the concept.
    """
    start = UCE(texts="prompts", tokens="from_last", preserve=retained)
    return (
        start
        if method == "uce"
        else RECE(start=start, epochs=1, regulariser=1e-3, weights=RidgeConfig(lamb=1.0, preserve_scale=1.0))
    )


def published_projection(method: str, name: str) -> UCE | RECE:
    """Return the papers' settings for one of the six published concepts.

    UCE's are those of its code of 2025. For RECE's style the authors preserve a list of 1,734 artists, which is not
    ours to ship: give it as retain prompts.

    Args:
        method: ``uce`` or ``rece``.
        name: Of the concept, in the catalog.

    Raises:
        ValueError: The paper ran no RECE for it.
    """
    if method == "uce":
        return UCE()
    if name not in DERIVATIONS:
        raise ValueError(f"expected a concept that RECE was run for ({', '.join(DERIVATIONS)}), found {name!r}")
    regulariser, epochs = DERIVATIONS[name]
    return RECE(regulariser=regulariser, epochs=epochs)
