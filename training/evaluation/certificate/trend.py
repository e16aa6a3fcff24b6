"""The test whether success falls with distance: Cochran and Armitage's test for a trend in proportions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

LEVEL = 0.05
# With more successes, the exact distribution takes long, and the normal one is accurate.
_MOST_EXACT = 300


def falling_trend(shown: Sequence[int], drawn: Sequence[int]) -> float:
    """Return the one-sided p-value of the Cochran-Armitage test that a share falls over groups in order.

    With r_i successes among n_i trials in group i, the statistic is ``T = sum_i i r_i`` (Cochran, Biometrics 10, 1954;
    Armitage, Biometrics 11, 1955). A share that falls has its successes in early groups, so T is small. The p-value is
    the probability of a T at most as large if the successes were spread over all trials at random. It is exact,
    by the multivariate hypergeometric distribution, while at most 300 trials succeed or at most 300 fail. Beyond that
    it is that of a normal distribution with the same mean and variance. If all trials succeed or none does, nothing can
    fall, and the p-value is 1.

    Args:
        shown: Number of successes in each group.
        drawn: Number of trials in each group.

    Raises:
        ValueError: If there are fewer than two groups, or a number lies outside its range.
    """
    pairs = list(zip(shown, drawn, strict=True))
    if len(pairs) < 2 or any(n < 1 or not 0 <= r <= n for r, n in pairs):
        raise ValueError(f"expected at least two groups with 0 <= shown <= drawn and drawn >= 1, found {pairs}")
    total, successes = sum(drawn), sum(shown)
    if successes in (0, total):
        return 1.0
    if min(successes, total - successes) > _MOST_EXACT:
        return _normal(shown, drawn)
    # Failures are counted if they are fewer; a share of successes falls where that of failures rises.
    if successes > total - successes:
        failed = [n - r for r, n in pairs]
        return _at_most(failed[::-1], drawn[::-1])
    return _at_most(shown, drawn)


def _at_most(shown: Sequence[int], drawn: Sequence[int]) -> float:
    """Return the probability of a statistic at most as large as the one of ``shown``, given the sum of ``shown``."""
    successes = sum(shown)
    observed = sum(i * r for i, r in enumerate(shown))
    share = successes / sum(drawn)
    # Probabilities of the number of successes so far (rows) and of the statistic so far (columns).
    state = torch.zeros(successes + 1, (len(drawn) - 1) * successes + 1, dtype=torch.float64)
    state[0, 0] = 1
    for i, n in enumerate(drawn):
        state = _with_group(state, i, [_binomial(n, r, share) for r in range(min(n, successes) + 1)])
    last = state[successes]
    return min(1.0, float(last[: observed + 1].sum() / last.sum()))


def _with_group(state: Tensor, place: int, chances: Sequence[float]) -> Tensor:
    found = torch.zeros_like(state)
    rows, columns = state.shape
    for r, chance in enumerate(chances):
        across = r * place
        if across < columns:
            found[r:, across:] += chance * state[: rows - r, : columns - across]
    return found


def _binomial(n: int, r: int, share: float) -> float:
    logs = math.lgamma(n + 1) - math.lgamma(r + 1) - math.lgamma(n - r + 1)
    return math.exp(logs + r * math.log(share) + (n - r) * math.log1p(-share))


def _normal(shown: Sequence[int], drawn: Sequence[int]) -> float:
    total, share = sum(drawn), sum(shown) / sum(drawn)
    mean = sum(i * n for i, n in enumerate(drawn)) / total
    spread = sum(n * (i - mean) ** 2 for i, n in enumerate(drawn))
    variance = share * (1 - share) * spread * total / (total - 1)
    z = (sum(i * r for i, r in enumerate(shown)) - sum(shown) * mean) / math.sqrt(variance)
    return 0.5 * math.erfc(-z / math.sqrt(2))
