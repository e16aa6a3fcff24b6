"""One family of closed forms: every edit of a key or value matrix W of cross-attention is W M with one matrix M (D, D).

An edit of this kind is a projection on the text encoder's output, and one artifact whatever its method:

- ``ridge``: least squares. ``solve`` is UCE, ``adversarial_step`` an epoch of RECE, ``least_change`` the first stages
  of TRCE and MACE.
- ``null_space``: no change outside free directions. ``invariant_edit`` is SPEED without its filter,
  ``double_projection`` is DP.
- ``projected``: the projection that is closest to any other edit of K and V.

M needs only sums over token vectors (``moments``); it depends neither on the matrices nor on their number. RECE also
needs the sum of W^T W. All computation here is in float64 on the CPU, because some accelerators have no float64.

A token vector is the text encoder's output at one position of a prompt, a vector of width D.
"""

from .moments import Moments
from .null_space import double_projection, free_below, free_beyond, invariant_edit, most_changed, onto
from .projected import RESIDUAL_BOUND, Projected, project_edit
from .ridge import RidgeConfig, adversarial_map, adversarial_step, least_change, solve

__all__ = [
    "RESIDUAL_BOUND",
    "Moments",
    "Projected",
    "RidgeConfig",
    "adversarial_map",
    "adversarial_step",
    "double_projection",
    "free_below",
    "free_beyond",
    "invariant_edit",
    "least_change",
    "most_changed",
    "onto",
    "project_edit",
    "solve",
]
