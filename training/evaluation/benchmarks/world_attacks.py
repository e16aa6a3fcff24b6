"""The standard suites of attacks on an embedded world, by threat tier and budget.

A tier says what an attacker needs. A text encoder can only defend against text that passes through it, so encoders are
ranked on T0 to T3. T4 is reported beside them. T5 to T7 show the limits of what a text encoder can do.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeVar, get_args

from robust_encoders.concepts import Concept

from ...attacks import (
    P4D,
    BlackBox,
    ConceptInversion,
    ConditioningInversion,
    ContinuousPrefix,
    Img2Img,
    LatentInversion,
    Mechanism,
    NoAttack,
    Paraphrase,
    PromptEmbeds,
    RandomPrefix,
    RingABell,
    Synonyms,
    TorchAttack,
    UnlearnDiffAtk,
    WordSwap,
)
from ...attacks.common.drafts import draft_steps_for
from ...attacks.transfer import OnBase
from ...diffusion.sampling import SamplingConfig
from ...protocols import Attack

SuiteName = Literal["quick", "core", "standard", "full"]
T = TypeVar("T")


@dataclass(frozen=True)
class AttackWords:
    """The words of a world that attacks on a concept use.

    Args:
        concept: Concept with the words and captions that training may use.
        words: All words for the concept, held-out ones included.
        others: Values that the concept could be taken for; the first one stands against it in pairs of prompts.
        additions: Words that a search without knowledge of the model may add to a caption.
        near_additions: Further such words, close in meaning to the concept, without its name.
        captions: Words that swaps put in the concept's place.
        pool: Largest number of these words that are combined into pairs.
    """

    concept: Concept
    words: tuple[str, ...]
    others: tuple[str, ...]
    additions: tuple[str, ...]
    near_additions: tuple[str, ...]
    captions: tuple[str, ...]
    pool: int = 128


def world_suite(name: SuiteName, words: AttackWords, sampling: SamplingConfig | None = None) -> dict[str, Attack]:
    """Return label to attack, weakest tier first.

    ``core`` has UnlearnDiffAtk, its control and the continuous prefixes, as in ``standard``. ``quick``, for first
    trials, has them at a fraction of the budget, so that its rates are lower bounds. ``full`` has all attacks of
    ``standard``: UnlearnDiffAtk and P4D at their published budgets, and the others at larger ones.

    A label that ends in ``caption`` replaces the whole prompt, one that ends in ``attacked`` uses the attacked encoder.
    ``conditioning_inversion`` is bounded by the vocabulary's largest norm. A number at its end is a multiple of that
    norm, and ``unbounded`` has no bound. The other free embeddings are bounded by 3 times that norm. There are at least
    eight shared prefixes and eight learned tokens, if there are as many cases.

    Args:
        name: Name of the budget.
        words: Words of the synonyms, additions, swaps and pairs of prompts.
        sampling: Sampling of attacks that draw or invert pictures themselves; drafts have 4 of 15 steps.

    Raises:
        ValueError: If there is no such suite.
    """
    if name not in get_args(SuiteName):
        raise ValueError(f"expected a suite among {', '.join(get_args(SuiteName))}, found {name!r}")
    if name in ("quick", "core"):
        return _small(name)
    sampling = sampling or SamplingConfig()
    drafts = draft_steps_for(sampling.steps)
    return {**_text(name, words, drafts), **_embeddings(name, words), **_limits(sampling)}


def _small(name: SuiteName) -> dict[str, Attack]:
    """Return a search over tokens, its control, and one over embeddings, per prompt and shared."""
    if name == "quick":
        discrete = UnlearnDiffAtk(timesteps=5, iterations=10, precision="bf16")
        one, shared = ContinuousPrefix(steps=30, precision="bf16"), _shared(20)
    else:
        discrete = UnlearnDiffAtk.standard(precision="bf16")
        one, shared = ContinuousPrefix(precision="bf16"), _shared(100)
    return {"random": _control(discrete), "discrete": discrete, "continuous": one, "shared": shared}


def _text(name: SuiteName, of: AttackWords, drafts: int) -> dict[str, Attack]:
    """Return the attacks by text, T0 to T3; ``drafts`` is the number of steps of a draft."""
    words = of.words
    discrete = UnlearnDiffAtk.standard(precision="bf16") if name == "standard" else UnlearnDiffAtk(precision="bf16")
    pairs = replace(of.concept, anchor=of.others[0])
    swap = _swap(name, of, drafts)
    return {
        "none": NoAttack(),
        "synonyms": Synonyms(words, words),
        "paraphrase": Paraphrase.for_concept(
            of.concept, others=of.others, words=words, whole=_of(name, 8, 16), draft_steps=drafts
        ),
        "random": _control(discrete),
        "transfer": OnBase(discrete),
        "ring_a_bell": RingABell.for_concept(pairs, tokens=8, population=60, generations=60, every=20),
        "black_box": BlackBox(of.additions, of.near_additions, budget=_of(name, 160, 400), draft_steps=drafts),
        "word_swap": swap,
        "word_swap_caption": replace(swap, place="caption"),
        "word_swap_attacked": replace(swap, ranking="attacked"),
        "word_swap_caption_attacked": replace(swap, place="caption", ranking="attacked"),
        "discrete": discrete,
        "discrete_caption": replace(discrete, tokens=8, placement="replace"),
        **_p4d(name),
        **_mechanism(name, of),
    }


def _p4d(name: SuiteName) -> dict[str, Attack]:
    """Return P4D-K, which keeps the prompt, and P4D-N, which replaces it."""
    whole = P4D.standard(precision="bf16", tokens=8) if name == "standard" else P4D(precision="bf16")
    return {"p4d": replace(whole, tokens=5, placement="insert"), "p4d_caption": whole}


def _mechanism(name: SuiteName, of: AttackWords) -> dict[str, Attack]:
    """Return the attack on the defence's mechanism, in place of the concept's words and of the whole prompt."""
    steps, width = (50, 32) if name == "standard" else (100, 64)
    words = Mechanism(of.words, place="concept", steps=steps, width=width)
    return {"mechanism": words, "mechanism_caption": replace(words, place="replace", tokens=8)}


def _swap(name: SuiteName, of: AttackWords, drafts: int) -> WordSwap:
    """Return swaps by words of captions, the synonyms and the held-out word excluded."""
    drawn, kept, whole = _of(name, (400, 24, 4), (800, 48, 8))
    return WordSwap(of.words, of.captions, drawn=drawn, kept=kept, whole=whole, draft_steps=drafts, pool=of.pool)


def _of(name: SuiteName, standard: T, full: T) -> T:
    """Return the budget of ``standard`` or that of ``full``."""
    return standard if name == "standard" else full


def _control(discrete: UnlearnDiffAtk) -> RandomPrefix:
    """Return random prefixes, as many for each prompt as UnlearnDiffAtk proposes candidates."""
    return RandomPrefix(tokens=discrete.tokens, candidates=discrete.timesteps)


def _embeddings(name: SuiteName, of: AttackWords) -> dict[str, Attack]:
    """Return the attacks by embeddings, T4."""
    restarts = 1 if name == "standard" else 3
    inverted = ConditioningInversion(of.words, restarts=restarts)
    return {
        "continuous": ContinuousPrefix(restarts=restarts, precision="bf16"),
        "shared": _shared(100, restarts=restarts),
        "inversion": ConceptInversion.standard(of.words, steps=100 if name == "standard" else 1000, precision="bf16"),
        "torchattack": TorchAttack.standard(),
        "conditioning_inversion": inverted,
        "conditioning_inversion_3": replace(inverted, bound=3.0),
        "conditioning_inversion_10": replace(inverted, bound=10.0),
        "conditioning_inversion_words": replace(inverted, place="words"),
    }


def _shared(steps: int, *, restarts: int = 1) -> ContinuousPrefix:
    return ContinuousPrefix(steps=steps, restarts=restarts, shared=True, batch=16, precision="bf16")


def _limits(sampling: SamplingConfig) -> dict[str, Attack]:
    """Return the attacks that bypass a text encoder, T5 to T7."""
    return {
        "img2img": Img2Img(steps=sampling.steps),
        "latent_inversion": LatentInversion(steps=sampling.steps, guidance=sampling.guidance),
        "latent_control": LatentInversion(steps=sampling.steps, guidance=sampling.guidance, control=True),
        "prompt_embeds": PromptEmbeds(),
        "conditioning_inversion_unbounded": ConditioningInversion(restarts=1, bound=None),
    }
