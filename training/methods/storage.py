"""What the methods with loss terms write to disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..trainer.storage import Stored, StoredTrajectories

if TYPE_CHECKING:
    from robust_encoders.concepts import Concept

    from .terms import TermsMethod


def stored_by_terms(method: TermsMethod, concept: Concept) -> Stored:
    """Return what a training of ``build_objective`` writes: trajectories of both lists of prompts, and checkpoints."""
    terms, bank = method.terms, method.bank
    texts = len(concept.parts or (concept,)) if method.erase_from else len(concept.prompts or (concept.name,))
    aside = bool(method.erase_from) or terms.unlearn.target == "anchor"
    parts = []
    if method.rollout == "bank" and terms.predicts:
        parts.append(StoredTrajectories(bank.for_concept(), texts, 4 if aside else 3))
    if terms.retain.in_noise:
        parts.append(StoredTrajectories(bank.for_retain(), len(terms.retain.prompts)))
    select = method.unet if method.component == "unet" else method.select
    return Stored(tuple(parts), select, method.train, method.component)
