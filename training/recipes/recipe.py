"""A complete training run: a concept, a method with all its settings, a seed, and a base."""

from __future__ import annotations

from dataclasses import dataclass, replace

from robust_encoders.concepts import Concept

from ..methods import ESD, AdvUnlearn
from ..prompts.concept_words import naming, require_apart
from ..protocols import Method, RetainingMethod


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A complete training run.

    Args:
        name: Name of the recipe and of the resulting artifact.
        concept: Concept to erase.
        method: Method with all its settings.
        seed: Seed of the generator of all random draws.
        base: Family of the base: ``shapes``, ``sd1`` or ``sd2``.
        license: Licence of the resulting weights.
    """

    name: str
    concept: Concept
    method: Method
    seed: int = 0
    base: str = "shapes"
    license: str = "apache-2.0"

    def together(self, others: tuple[Concept, ...], retained: tuple[str, ...] | None = None) -> Recipe:
        """Return a run that erases further concepts at once, each towards its own anchor.

        Args:
            others: Further concepts, at least one.
            retained: Retain prompts; None takes the method's own, except those that name one of the further concepts.

        Raises:
            ValueError: If two concepts have the same name or contradict each other. If the method has terms on
                outliers, because an outlier for one concept may be caption-like for another.
        """
        named = naming(word for other in others for word in other.words())
        known = self.method.retained if isinstance(self.method, RetainingMethod) else ()
        kept = retained or tuple(prompt for prompt in known if not named.search(prompt))
        concept = Concept.joint((self.concept, *others))
        require_apart(concept)
        if isinstance(self.method, (AdvUnlearn, ESD)) and self.method.outliers.batches():
            raise ValueError(
                f"expected no terms on outliers for several concepts, found some in {self.name}: use another recipe, "
                f"such as {self.base}/{self.concept.name}-hardened, or train the concepts one by one"
            )
        name = "+".join((self.name, *(other.name for other in others)))
        return replace(self, name=name, concept=concept, method=with_retained(self.method, kept))

    def with_seed(self, seed: int) -> Recipe:
        """Return a copy of the run with another seed."""
        return replace(self, seed=seed)


def with_retained(method: Method, prompts: tuple[str, ...]) -> Method:
    """Return a method with other retain prompts; a method without retain prompts is returned unchanged."""
    return method.retaining(prompts) if isinstance(method, RetainingMethod) else method
