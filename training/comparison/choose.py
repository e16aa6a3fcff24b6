"""The methods of a comparison: recipes ``BASE/CONCEPT-METHOD``, and methods without a recipe by standard settings."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

from robust_encoders.concepts import Concept
from robust_encoders.hub.catalog import CATALOG

from ..methods import METHODS
from ..protocols import EmbeddedBase
from ..recipes.method_settings import usual, usual_retained
from ..recipes.recipe import Recipe, with_retained
from ..recipes.registry import RECIPES
from ..recipes.short import quick
from ..recipes.stable_diffusion import LICENSES, PUBLISHED_CONCEPTS
from ..recipes.variants import part_of, variant_of
from ..types import Component

ALL = "all"
MODULES: tuple[Component, ...] = ("text_encoder", "unet")
# Ends of the names of recipes that train the module which their method's main recipe does not train.
_OTHER_MODULE = ("", "-te", "-unet")


@dataclass(frozen=True)
class ComparedMethod:
    """A method that takes part in a comparison.

    Args:
        name: Variant of the recipe, or name of the method.
        recipe: Training run of the method; its seed is set for each row.
        registered: True for a registered recipe, False for the standard settings of a method.
    """

    name: str
    recipe: Recipe
    registered: bool = True

    @property
    def component(self) -> str:
        """Component that the method trains, as far as its settings tell; by default the text encoder."""
        return str(getattr(self.recipe.method, "component", "text_encoder"))


@dataclass(frozen=True)
class MethodChoice:
    """The methods to choose from, for one base and concept.

    Args:
        family: First part of the recipes' names: an embedded base, or the family of the base.
        concept: Name of the concept.
        world: Embedded base; None for any other base.
    """

    family: str
    concept: str
    world: EmbeddedBase | None = None

    @property
    def recipes(self) -> dict[str, Callable[[], Recipe]]:
        """Variant to the registered recipe of the concept."""
        bare = f"{self.family}/{self._part}"
        start = f"{bare}-"
        found = {name.removeprefix(start): made for name, made in RECIPES.items() if name.startswith(start)}
        if bare in RECIPES:
            variant = variant_of(bare, self.concept)
            found.setdefault(RECIPES[bare]().method.name if variant == self._part else variant, RECIPES[bare])
        return found

    @property
    def _part(self) -> str:
        """Name of the concept in names of recipes: "vangogh" for "Van Gogh"."""
        published = {} if self.world is not None else {CATALOG[one].concept: one for one in PUBLISHED_CONCEPTS}
        return published.get(self.concept, part_of(self.concept))

    @property
    def known(self) -> list[str]:
        """Names that a comparison can have: variants of recipes, then methods without a recipe of their own name."""
        return list(dict.fromkeys((*self.recipes, *METHODS)))

    def chosen(
        self, names: Sequence[str], modules: Collection[str] = (), *, shorter: bool = False
    ) -> tuple[list[ComparedMethod], list[str]]:
        """Return the methods of some names, and the methods of this package that ``all`` leaves out.

        A name stands for one recipe. With ``modules``, it stands for all its recipes that train one of them: NAME,
        NAME-te and NAME-unet. ``all`` stands for every recipe, and for every method of another package.

        Args:
            names: Names, or ``all``.
            modules: Components to train; empty for the component of each name.
            shorter: True for a tenth of the iterations, as a first look.

        Raises:
            ValueError: If a name is not known, or has no recipe for these modules; the message lists everything.
        """
        recipes, left_out = self.recipes, []
        if ALL in names:
            covered = {made().method.name for made in recipes.values()}
            wanted = [*recipes, *(name for name in METHODS.others if name not in recipes)]
            left_out = [name for name in METHODS if name not in covered and name not in METHODS.others]
            if not wanted:
                raise ValueError(
                    f"expected recipes {self.family}/{self._part}-METHOD for --methods {ALL}, found none; "
                    f"name methods, which then have their standard settings: --methods {','.join(left_out[:2])}"
                )
            found = [self._method(name, recipes) for name in wanted]
        else:
            self._refuse_unknown(names)
            found = [self._method(one, recipes) for name in names for one in self._named(name, recipes, modules)]
        fitting = [one for one in found if not modules or one.component in modules]
        if missing := [name for name in names if not any(_stands_for(name, one.name) for one in fitting)]:
            raise ValueError(
                f"expected methods that train {' or '.join(modules)}, found none under {', '.join(missing)}; name "
                "others, or leave --modules out"
            )
        unique = {one.name: one for one in fitting}
        return [_shorter(one) if shorter else one for one in unique.values()], left_out

    def _refuse_unknown(self, names: Sequence[str]) -> None:
        problems = []
        for name in (name for name in names if name not in self.known):
            close = get_close_matches(name, self.known)
            hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(self.known)}, {ALL}"
            problems.append(f"expected methods for {self.family}/{self.concept}, found {name!r}; {hint}")
        if problems:
            raise ValueError("\n".join(problems))

    def _named(self, name: str, recipes: Mapping[str, Callable[[], Recipe]], modules: Collection[str]) -> Iterator[str]:
        """Yield the names that a name stands for."""
        yield name
        if modules:
            yield from (f"{name}{end}" for end in _OTHER_MODULE if end and f"{name}{end}" in recipes)

    def _method(self, name: str, recipes: Mapping[str, Callable[[], Recipe]]) -> ComparedMethod:
        if name in recipes:
            return ComparedMethod(name, recipes[name]())
        concept = self._concept()
        method = usual(METHODS[name], captioned=self.world is not None or bool(concept.prompts))
        recipe = Recipe(
            name=f"{self.family}/{self._part}-{name}",
            concept=concept,
            method=with_retained(method, usual_retained(concept, method, self.world)),
            base=self.family,
            license=LICENSES.get(self.family, "") if self.world is None else self.world.license,
        )
        return ComparedMethod(name, recipe, registered=False)

    def _concept(self) -> Concept:
        """Return the concept as a base knows it.

        Raises:
            ValueError: If the base has no such concept.
        """
        if self.world is not None:
            return self.world.concept(self.concept, anchored=True)
        if self._part not in PUBLISHED_CONCEPTS:
            raise ValueError(
                f"expected a concept with recipes ({', '.join(PUBLISHED_CONCEPTS)}), found {self.concept!r}; train and "
                "evaluate it by the commands train and evaluate"
            )
        return CATALOG[self._part].erased()

    def concept_problems(self) -> list[str]:
        """Return the reason why the base has no such concept."""
        try:
            self._concept()
        except ValueError as error:
            return [str(error)]
        return []


def _stands_for(name: str, found: str) -> bool:
    return name == ALL or found in (f"{name}{end}" for end in _OTHER_MODULE)


def _shorter(one: ComparedMethod) -> ComparedMethod:
    shorter = replace(one.recipe, name=f"{one.recipe.name}-quick", method=quick(one.recipe.method))
    return replace(one, recipe=shorter)
