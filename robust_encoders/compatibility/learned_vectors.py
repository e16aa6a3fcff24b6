"""Checks of the norms of token embeddings: can one token set the conditioning, whatever the encoder learned?"""

from __future__ import annotations

import math

from robust_encoders.compatibility.facts import Facts
from robust_encoders.compatibility.report import Check
from robust_encoders.pipeline.learned_vectors import LIMIT, learned_norms, outliers


def learned_vectors(facts: Facts) -> Check | None:
    """Check that no learned vector is longer than those of the vocabulary.

    A longer one is a warning, one above ten times the largest is an error unless the caller accepts it. A vector with
    NaN or infinite values is always an error.
    """
    norms = learned_norms(facts.tokenizer, facts.current, facts.embeddings)
    if norms is None:
        return None
    large, refused = norms.above(), norms.above(LIMIT)
    accepted = facts.allow_large_vectors and all(map(math.isfinite, refused.values()))
    return Check(
        "learned vectors",
        not large,
        "error" if refused and not accepted else "warning",
        f"learned vectors of norm {norms.largest:.3g} at most, the largest of the vocabulary",
        norms.describe(large or norms.tokens),
        "a longer vector passes the layers almost unchanged and can set the conditioning, whatever the encoder "
        f"learned: call pipe.unload_textual_inversion({sorted(large)})"
        + ", or pass allow_large_vectors=True to accept that"
        * bool(refused),
    )


def own_vectors(facts: Facts) -> Check | None:
    """Check that no token of the encoder's own vocabulary is much longer than the others."""
    if facts.embeddings is None:
        return None
    odd = outliers(facts.tokenizer, facts.embeddings)
    return Check(
        "token embeddings",
        not odd.tokens,
        "warning",
        f"norms below {LIMIT:g} times their median in the encoder's vocabulary",
        odd.describe(odd.tokens) if odd.tokens else f"at most {odd.largest:.3g}",
        "a prompt with such a token can set the conditioning, whatever the encoder learned; ask the publisher what the "
        "token is for, or refuse prompts that contain it",
    )
