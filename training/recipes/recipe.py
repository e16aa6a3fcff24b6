"""A complete training run: a concept, a method with all its settings, a seed, and a base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from robust_encoders.concepts import Concept
from robust_encoders.utils.text_lists import require_texts

from ..methods import ESD, AdvUnlearn
from ..prompts.concept_words import mentions, require_apart
from ..prompts.synonyms import Neighbour, with_synonyms_of_parts, without_words
from ..protocols import Method, RetainingMethod
from .variants import part_of


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A complete training run.

    Args:
        name: Name of the recipe and of the resulting artifact.
        concept: Concept to erase.
        method: Method with all its settings.
        seed: Seed of the generator of all random draws.
        base: Family of the base: ``shapes``, ``emoji``, ``sd1`` or ``sd2``.
        license: Licence of the resulting weights.
        found_synonyms: Cosine to the concept of each synonym that was found in the text encoder, for the manifest.
    """

    name: str
    concept: Concept
    method: Method
    seed: int = 0
    base: str = "shapes"
    license: str = "apache-2.0"
    found_synonyms: Mapping[str, float] = field(default_factory=dict)

    def together(self, others: tuple[Concept, ...], retained: tuple[str, ...] | None = None) -> Recipe:
        """Return a run that erases further concepts at once, each towards its own anchor.

        Args:
            others: Further concepts, at least one.
            retained: Retain prompts; None takes the method's own, except those that name one of the further concepts.

        Raises:
            ValueError: If two concepts have the same name or contradict each other. If the method has terms on
                outliers, because an outlier for one concept may be caption-like for another.
        """
        require_texts("retained", retained or ())
        named = mentions(word for other in others for word in other.words())
        known = self.method.retained if isinstance(self.method, RetainingMethod) else ()
        kept = retained or tuple(prompt for prompt in known if not named.search(prompt))
        concept = Concept.joint((self.concept, *others))
        require_apart(concept)
        if isinstance(self.method, (AdvUnlearn, ESD)) and self.method.outliers.batches():
            raise ValueError(
                f"expected no terms on outliers for several concepts, found some in {self.name}: use another recipe, "
                f"such as {self.base}/{part_of(self.concept.name)}-hardened, or train the concepts one by one"
            )
        name = "+".join((self.name, *(other.name for other in others)))
        return replace(self, name=name, concept=concept, method=with_retained(self.method, kept))

    def with_synonyms(self, found: Sequence[Sequence[Neighbour]]) -> Recipe:
        """Return a run that erases further synonyms, too, and does not retain prompts that name them.

        Args:
            found: Synonyms of each part of the concept, in order; a concept without parts counts as one.

        Raises:
            ValueError: If parts of a joint concept contradict each other with these synonyms.
        """
        cosines = {one.word: one.cosine for part in found for one in part}
        concept = with_synonyms_of_parts(self.concept, [[one.word for one in part] for part in found])
        method = self.method
        if isinstance(method, RetainingMethod):
            method = with_retained(method, without_words(method.retained, tuple(cosines)))
        return replace(self, concept=concept, method=method, found_synonyms=cosines)

    def with_seed(self, seed: int) -> Recipe:
        """Return a copy of the run with another seed."""
        return replace(self, seed=seed)


def with_retained(method: Method, prompts: tuple[str, ...]) -> Method:
    """Return a method with other retain prompts; a method without retain prompts is returned unchanged."""
    return method.retaining(prompts) if isinstance(method, RetainingMethod) else method
