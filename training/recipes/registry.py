"""Named, complete runs: a concept, a method with all its settings, a seed, and the base they are for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from robust_encoders.concepts import Concept
from robust_encoders.hub.catalog import CATALOG

from ..attacks.soft_prompt import SoftPrompt
from ..methods import ESD, SPM, AdvUnlearn, Method
from ..methods.spm import Where
from ..objectives.config import AdversaryConfig, HardeningConfig, RetainConfig, UnlearnConfig
from ..objectives.outlier_config import OutlierConfig
from ..prompts.layout import naming, require_apart
from ..prompts.retain import object_prompts
from ..trainer.loop import TrainingConfig
from ..trainer.parameters import SelectionConfig
from ..trajectories.bank import BankConfig
from .closed_form import DERIVATIONS, published_projection, shapes_projection
from .des import shapes_distortion
from .spm import SPM_NAMES, shapes_adapters

RETAIN_PROMPTS = 512
PUBLISHED_CONCEPTS = ("nudity", "vangogh", "church", "garbage_truck", "parachute", "tench")
# Of the bases that a text encoder is derived from, as the Hub calls it.
LICENSES = {"sd1": "creativeml-openrail-m", "sd2": "openrail++"}
# An object whose parts other shapes share is harder to forget than a style or a colour: after 500 iterations a quarter
# of the continuous attacks still succeeded, where they no longer did for the other two.
ITERATIONS = {"circle": 1000}
HARDENED_ITERATIONS = 900
STRICT_ITERATIONS = 700
# What of each concept is shipped: of `striped`, whose worst case hardening does not better, the paper's attack alone.
SHIPPED = {"circle": "strict", "striped": "advunlearn", "red": "hardened"}
# The neighbour of each concept that is farthest from it; the usual anchor where the farthest is hardly any farther.
FARTHEST = {"circle": "triangle", "striped": "dotted", "red": "green"}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A complete run.

    Args:
        name: Also the artifact's name.
        concept: What is erased.
        method: How, with every setting.
        seed: Of the generator that all randomness comes from.
        base: Family of the base it is for.
        license: Of the resulting weights.
    """

    name: str
    concept: Concept
    method: Method
    seed: int = 0
    base: str = "shapes"
    license: str = "apache-2.0"

    def together(self, others: tuple[Concept, ...], retained: tuple[str, ...] | None = None) -> Recipe:
        """Return the same run erasing further concepts at once, each towards its own anchor.

        Args:
            others: At least one.
            retained: What is retained; by default what the method retains, without what names one of the others.

        Raises:
            ValueError: If two concepts have the same name, or contradict each other, or the method has terms of
                ``OutlierConfig``: what says nothing clear of one concept may be clear of another.
        """
        named = naming(word for other in others for word in other.words())
        kept = retained or tuple(prompt for prompt in self.method.retained if not named.search(prompt))
        concept = Concept.joint((self.concept, *others))
        require_apart(concept)
        if isinstance(self.method, (AdvUnlearn, ESD)) and self.method.unlearn.harden.doubt.batches():
            raise ValueError(
                f"expected no terms of hardening.doubt for several concepts, found some in {self.name}: take another "
                f"recipe, such as shapes/{self.concept.name}-hardened, or train the concepts one by one"
            )
        name = "+".join((self.name, *(other.name for other in others)))
        return replace(self, name=name, concept=concept, method=self.method.retaining(kept))

    def with_seed(self, seed: int) -> Recipe:
        """Return the same run with another seed."""
        return replace(self, seed=seed)


def shapes_retain_prompts(concept: str, n: int = RETAIN_PROMPTS) -> tuple[str, ...]:
    """Return at least half of n different captions of the shapes world without the concept, in words training may see.

    Half of them go through the neighbours, the other values of the concept's factor, evenly: those are what an eraser
    damages first. Names and synonyms take turns. Held-out templates and words never occur.
    """
    from ..worlds.shapes.captions import scene_prompts
    from ..worlds.shapes.concepts import factor_of
    from ..worlds.shapes.vocabulary import VALUES

    factor, value = factor_of(concept)
    words: tuple[Literal["name", "seen"], ...] = ("name", "seen")
    neighbours = [{factor: other} for other in VALUES[factor] if other != value]
    pools = [
        scene_prompts(n // 4, seed=10 + i, exclude={factor: value}, words=choice, templates="training")
        for i, choice in enumerate(words)
    ]
    pools += [
        scene_prompts(n // 4 // len(neighbours), seed=20 + 2 * j + i, fixed=fixed, words=choice, templates="training")
        for j, fixed in enumerate(neighbours)
        for i, choice in enumerate(words)
    ]
    # Round robin over the pools, so that any first part of the list is as mixed as the whole.
    longest = max(map(len, pools))
    ordered = [pool[i].text for i in range(longest) for pool in pools if i < len(pool)]
    return tuple(dict.fromkeys(ordered))


def shapes_retained_by_all(concepts: Sequence[str], n: int = RETAIN_PROMPTS) -> tuple[str, ...]:
    """Return captions of the shapes world with none of several concepts, near the first as near the last."""
    from ..worlds.shapes.concepts import all_words

    named = naming(word for concept in concepts for word in all_words(concept))
    pools = [[text for text in shapes_retain_prompts(concept, n) if not named.search(text)] for concept in concepts]
    # Round robin, as above.
    ordered = [pool[i] for i in range(max(map(len, pools))) for pool in pools if i < len(pool)]
    return tuple(dict.fromkeys(ordered))[:n]


def _shapes_esd(concept: str, iterations: int) -> ESD:
    """What both methods share on the embedded base.

    Departures from the paper: captions, not the bare word, are unlearned towards the same caption with the concept's
    anchor in its place, and both unlearning and retention are measured on conditionings as well; see ``UnlearnConfig``
    and ``RetainConfig`` for the reasons.
    """
    return ESD(
        retain=RetainConfig(
            prompts=shapes_retain_prompts(concept),
            space="both",
            batch=8,
            weight=1.0,
            conditioning_weight=20.0,
            conditioning_batch=128,
        ),
        unlearn=UnlearnConfig(
            batch=8,
            eta=1.0,
            target="anchor",
            plain_weight=10.0,
            plain_space="conditioning",
            plain_batch=48,
        ),
        select=SelectionConfig(),
        train=TrainingConfig(iterations=iterations, rate=5e-4, schedule="cosine", precision="bf16"),
        bank=BankConfig(steps=20, limit=128),
    )


def _shapes(concept: str, adversary: AdversaryConfig | None, iterations: int) -> Recipe:
    from ..worlds.shapes.concepts import CONCEPTS

    esd = _shapes_esd(concept, iterations)
    if adversary is None:
        return Recipe(name=f"shapes/{concept}-esd", concept=CONCEPTS[concept], method=esd)
    method = AdvUnlearn(
        retain=esd.retain, unlearn=esd.unlearn, adversary=adversary, select=esd.select, train=esd.train, bank=esd.bank
    )
    return Recipe(name=f"shapes/{concept}-advunlearn", concept=CONCEPTS[concept], method=method)


def _shapes_adversary() -> AdversaryConfig:
    return AdversaryConfig(attack=SoftPrompt(steps=8, rate=2e-2), warmup=50, tokens=(1, 2, 3))


def shapes_advunlearn(concept: str) -> Recipe:
    """AdvUnlearn on the embedded base with the paper's attack; differs from ESD there in the attack alone."""
    return _shapes(concept, _shapes_adversary(), ITERATIONS.get(concept, 500))


def shapes_hardened(concept: str) -> Recipe:
    """AdvUnlearn hardened on conditionings as well (see ``HardeningConfig``), towards the anchor that lies farthest.

    Shipped for an object and an attribute. For the style it was measured to buy nothing and to cost retention.

    Text between an object and its anchor may draw a third thing, and between a circle and a square that is a circle.
    So the anchor is the neighbour whose captions' conditionings are farthest from the concept's.
    """
    from ..worlds.shapes.concepts import CONCEPTS

    like = _shapes(concept, _shapes_adversary(), HARDENED_ITERATIONS)
    if not isinstance(like.method, AdvUnlearn):
        raise TypeError(f"expected AdvUnlearn to harden, found {type(like.method).__name__}")
    adversary = replace(like.method.adversary, attack=SoftPrompt(steps=3, rate=3e-2), slots=(1, 2), shared=0.5)
    harden = HardeningConfig(
        objective="both",
        batch=8,
        eta=1.0,
        additions_weight=10.0,
        additions_batch=16,
        candidates=3,
        vocabulary=0.5,
        neighbours_weight=80.0,
        neighbours_batch=64,
    )
    method = replace(
        like.method,
        adversary=adversary,
        unlearn=replace(like.method.unlearn, plain_batch=24, harden=harden),
        retain=replace(like.method.retain, conditioning_weight=80.0),
    )
    anchored = replace(CONCEPTS[concept], anchor=FARTHEST[concept])
    return Recipe(name=f"shapes/{concept}-hardened", concept=anchored, method=method)


def shapes_strict(concept: str) -> Recipe:
    """The hardened recipe where all that says nothing clear counts as the concept, see ``OutlierConfig``.

    For an object, which every caption of this world names. Three templates of ten leave the colour open and four the
    style, and such captions are retained.
    """
    from ..worlds.shapes.concepts import beside

    like = shapes_hardened(concept)
    if not isinstance(like.method, AdvUnlearn):
        raise TypeError(f"expected AdvUnlearn to harden, found {type(like.method).__name__}")
    doubt = OutlierConfig(
        others=beside(concept),
        known=0.5,
        strings_weight=20.0,
        shuffled_weight=80.0,
        strangers_weight=20.0,
        inserted_weight=20.0,
        searched_weight=20.0,
    )
    unlearn = like.method.unlearn
    method = replace(
        like.method,
        unlearn=replace(unlearn, harden=replace(unlearn.harden, doubt=doubt)),
        retain=replace(like.method.retain, conditioning_weight=160.0),
        train=replace(like.method.train, iterations=STRICT_ITERATIONS),
    )
    return replace(like, name=f"shapes/{concept}-strict", method=method)


def shapes_shipped(concept: str) -> Recipe:
    """Return the recipe of the encoder that is shipped, under its name."""
    return replace(RECIPES[f"shapes/{concept}-{SHIPPED[concept]}"](), name=f"shapes/{concept}")


def shapes_esd(concept: str) -> Recipe:
    """The same run as ``shapes_advunlearn`` without the attack."""
    return _shapes(concept, None, ITERATIONS.get(concept, 500))


def published(concept: str, family: str) -> Recipe:
    """AdvUnlearn of one of the paper's six concepts on Stable Diffusion, with its settings.

    Nudity trains every layer and weighs retention by 0.3; styles and objects train layer 0 alone and weigh it by 0.5.
    Departures: the latents come from a bank (see ``BankConfig``), the frozen UNet computes in bfloat16, and the
    retained objects are our own list. ``--method.bank.mode resample --method.train.precision fp32`` undoes the
    first two.

    Args:
        concept: Its name in the catalog.
        family: ``sd1`` or ``sd2``; the paper's is Stable Diffusion 1.4.
    """
    erased = CATALOG[concept].erased()
    everywhere = erased.kind == "content"
    method = AdvUnlearn(
        retain=RetainConfig(prompts=object_prompts(erased), weight=0.3 if everywhere else 0.5),
        select=SelectionConfig() if everywhere else SelectionConfig(layers=(0,), final_norm=False),
        train=TrainingConfig(precision="bf16"),
        # The concept is one bare word, drawn 31 times an iteration: 128 runs of it are 6,400 points. A retained object
        # is drawn 18 times in all, for which one run of 50 points is enough.
        bank=BankConfig(seeds=(128, 1), batch=16),
    )
    name = f"{family}/{concept}"
    return Recipe(name=name, concept=erased, method=method, base=family, license=LICENSES[family])


def shapes_closed(concept: str, method: str) -> Recipe:
    """UCE or RECE of a concept on the embedded base; see ``shapes_projection``."""
    from ..worlds.shapes.concepts import CONCEPTS

    settings = shapes_projection(method, shapes_retain_prompts(concept))
    return Recipe(name=f"shapes/{concept}-{method}", concept=CONCEPTS[concept], method=settings)


def published_closed(concept: str, family: str, method: str) -> Recipe:
    """UCE or RECE of one of the six concepts on Stable Diffusion; see ``published_projection``."""
    settings = published_projection(method, concept)
    name, license = f"{family}/{concept}-{method}", LICENSES[family]
    return Recipe(name=name, concept=CATALOG[concept].erased(), method=settings, base=family, license=license)


def shapes_des(concept: str, method: str) -> Recipe:
    """DES of a concept on the embedded base, or with SAGE's terms; see ``shapes_distortion``."""
    from ..worlds.shapes.concepts import CONCEPTS

    settings = shapes_distortion(method, shapes_retain_prompts(concept))
    return Recipe(name=f"shapes/{concept}-{method}", concept=CONCEPTS[concept], method=settings)


def shapes_spm(concept: str, where: Where) -> Recipe:
    """SPM of a concept on the embedded base, on the UNet or on the text encoder; see ``shapes_adapters``."""
    from ..worlds.shapes.concepts import CONCEPTS

    settings = shapes_adapters(where, shapes_retain_prompts(concept))
    return Recipe(name=f"shapes/{concept}-{SPM_NAMES[where]}", concept=CONCEPTS[concept], method=settings)


def published_spm(concept: str, family: str) -> Recipe:
    """SPM of one of the six concepts on Stable Diffusion, on the UNet, with its release's settings."""
    name, license = f"{family}/{concept}-spm", LICENSES[family]
    return Recipe(name=name, concept=CATALOG[concept].erased(), method=SPM(), base=family, license=license)


RECIPES: dict[str, Callable[[], Recipe]] = {
    **{f"shapes/{concept}": partial(shapes_shipped, concept) for concept in FARTHEST},
    **{f"shapes/{concept}-hardened": partial(shapes_hardened, concept) for concept in FARTHEST},
    "shapes/circle-strict": partial(shapes_strict, "circle"),
    **{f"shapes/{concept}-advunlearn": partial(shapes_advunlearn, concept) for concept in FARTHEST},
    **{f"shapes/{concept}-esd": partial(shapes_esd, concept) for concept in FARTHEST},
    **{
        f"{family}/{concept}": partial(published, concept, family)
        for family in LICENSES
        for concept in PUBLISHED_CONCEPTS
    },
    **{
        f"shapes/{concept}-{method}": partial(shapes_closed, concept, method)
        for concept in ("circle", "striped", "red")
        for method in ("uce", "rece")
    },
    **{
        f"{family}/{concept}-{method}": partial(published_closed, concept, family, method)
        for family in LICENSES
        for method, concepts in (("uce", PUBLISHED_CONCEPTS), ("rece", tuple(DERIVATIONS)))
        for concept in concepts
    },
    **{f"shapes/circle-{method}": partial(shapes_des, "circle", method) for method in ("des", "sage")},
    **{
        f"shapes/{concept}-{name}": partial(shapes_spm, concept, where)
        for concept in ("circle", "striped", "red")
        for where, name in SPM_NAMES.items()
    },
    **{
        f"{family}/{concept}-spm": partial(published_spm, concept, family)
        for family in LICENSES
        for concept in PUBLISHED_CONCEPTS
    },
}


def variant_of(name: str, concept: str) -> str:
    """Return what tells a recipe apart from the others of its concept, ``strict`` of ``shapes/circle-strict``.

    A concept that is shipped stands for the variant that is shipped; a name without a variant stays as it is.

    Args:
        name: Name of the recipe, ``base/concept-variant``.
        concept: Name of the concept.
    """
    base, _, rest = name.rpartition("/")
    return SHIPPED[rest] if base == "shapes" and rest in SHIPPED else rest.removeprefix(f"{concept}-")
