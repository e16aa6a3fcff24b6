"""Captions of the emoji world, and the prompt sets that training and evaluation draw from them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from string import Formatter

import numpy as np

from .articles import fitted
from .everyday_frames import PARTS, Part
from .frames import HELD_OUT, TRAINING
from .things import Thing, Things, WordChoice, words_by_choice
from .vocabulary import BACKGROUND_NAMES, BACKGROUNDS, LABELS, STYLE_NAMES, STYLES

_TAGS = 3  # most keywords of a caption
_GAP = re.compile(r"\{\w+\}")
_WORD = re.compile(r"[a-z]+(?:['-][a-z]+)*")
# Shares of the base's captions: a held-out name or alias instead of the canonical name, and a kind instead of any name.
_ALIAS, _KIND, _EVERYDAY = 0.5, 0.05, 0.2
EVERYDAY: Mapping[Part, tuple[str, ...]] = {
    part: tuple(frame for frames in kinds.values() for frame in frames) for part, kinds in PARTS.items()
}
_WHOLE = tuple(frame for frame in (*TRAINING, *EVERYDAY["seen"]) if all(f"{{{label}}}" in frame for label in LABELS))


@dataclass(frozen=True)
class Scene:
    """The content of a picture: a thing, the canonical names of its drawing style and of its background."""

    thing: Thing
    style: str
    background: str


@dataclass(frozen=True)
class EmojiPrompt:
    """A caption, and the values that a faithful picture of it shows.

    Args:
        text: Text of the caption.
        expected: Canonical values that the caption states, by label; a label that it leaves open is absent.
    """

    text: str
    expected: Mapping[str, str] = field(default_factory=dict)


def gaps(frame: str) -> tuple[str, ...]:
    """Return the names of a wording's gaps, in its order."""
    return tuple(name for _, name, _, _ in Formatter().parse(frame) if name)


def filled(frame: str, scene: Scene, words: Mapping[str, str]) -> EmojiPrompt:
    """Fill a wording for a scene.

    If all letters of the wording are upper-case letters, the whole caption is.

    Args:
        frame: Wording with gaps.
        scene: Values of the gaps.
        words: Word for each gap.
    """
    shouted = _GAP.sub("", frame).isupper()
    text = fitted(frame.lower() if shouted else frame, words)
    values = {"thing": scene.thing.name, "style": scene.style, "background": scene.background}
    expected = {gap: values[gap] for gap in gaps(frame) if gap in values}
    return EmojiPrompt(text.upper() if shouted else text, expected)


def words_of(scene: Scene, label: str) -> tuple[str, ...]:
    """Return all words for a scene's value of a label, the canonical one first and the held-out one last."""
    if label == "thing":
        return scene.thing.words("any")
    return STYLES[scene.style] if label == "style" else BACKGROUNDS[scene.background]


def chosen_words(words: tuple[str, ...], choice: WordChoice) -> tuple[str, ...]:
    """Return those of a value's words that a choice allows; the canonical one, if it allows none."""
    return words_by_choice(words, choice) or words[:1]


def random_words(
    scene: Scene, rng: np.random.Generator, choice: WordChoice = "any", labels: Sequence[str] = LABELS
) -> dict[str, str]:
    """Return a random word for each gap.

    Args:
        scene: Values of the gaps.
        rng: Generator of the choices.
        choice: Words for the values of ``labels``.
        labels: Labels that the choice holds for; the others take any word that is not held out.
    """
    words = {label: words_of(scene, label) for label in LABELS}
    chosen = {
        label: _pick(rng, chosen_words(known, choice) if label in labels else known[:-1])
        for label, known in words.items()
    }
    if tags := scene.thing.tags:
        n = int(rng.integers(1, 1 + min(_TAGS, len(tags))))
        chosen["tags"] = ", ".join(tags[int(i)] for i in rng.permutation(len(tags))[:n])
    return chosen


def base_caption(scene: Scene, rng: np.random.Generator, whole: float = 0.0) -> EmojiPrompt:
    """Return a random caption of a scene, as in the training of the base.

    Half of the captions use the canonical name. The others use an alias or the held-out name; a few name the kind of
    the thing instead. Held-out wordings and everyday wordings of the part ``reported`` never occur.

    Args:
        scene: Content of the picture.
        rng: Generator of the choices.
        whole: Share of captions with a wording that states thing, style and background; the others have any wording.
    """
    words = random_words(scene, rng)
    if rng.random() > _ALIAS:
        words["thing"] = scene.thing.name
    frames = EVERYDAY["seen"] if rng.random() < _EVERYDAY else TRAINING
    if whole and rng.random() < whole:
        frames = _WHOLE
    if scene.thing.kinds and rng.random() < _KIND:
        words["thing"] = _pick(rng, scene.thing.kinds)
        words.pop("tags", None)
    frame = _frame(frames, words, rng)
    return filled(frame, scene, words)


def _frame(frames: Sequence[str], words: Mapping[str, str], rng: np.random.Generator) -> str:
    """Return a random wording whose gaps all have a word."""
    while True:
        frame = _pick(rng, frames)
        if {*gaps(frame)} <= {*words}:
            return frame


def prompts(
    things: Things,
    n: int,
    *,
    seed: int,
    words: WordChoice = "name",
    frames: Sequence[str] = HELD_OUT,
    fixed: Mapping[str, Sequence[str]] | None = None,
    exclude: Mapping[str, Sequence[str]] | None = None,
) -> list[EmojiPrompt]:
    """Return random captions of random scenes.

    The things take turns in a random order, so each occurs about equally often.

    Args:
        things: Things of the world.
        n: Number of captions.
        seed: Seed of the random draws; equal seeds give equal captions.
        words: Words for the values of ``fixed``, or for the thing if nothing is fixed. A value without such a word is
            called by its canonical name. Other values take any word that is not held out.
        frames: Wordings of the captions.
        fixed: Canonical values to draw from, by label; every caption states these labels.
        exclude: Canonical values that no scene has, by label.

    Raises:
        ValueError: If no wording states the labels, or no value of a label is left.
    """
    fixed, exclude = fixed or {}, exclude or {}
    usable = [frame for frame in frames if {*fixed} <= {*gaps(frame)}]
    if not usable:
        raise ValueError(f"expected a wording that states {', '.join(sorted(fixed))}, found none")
    rng = np.random.default_rng(seed)
    known = {"thing": things.names, "style": STYLE_NAMES, "background": BACKGROUND_NAMES}
    left = {
        label: [value for value in fixed.get(label, values) if value not in exclude.get(label, ())]
        for label, values in known.items()
    }
    if empty := [label for label, values in left.items() if not values]:
        raise ValueError(f"expected values of {', '.join(empty)} that are not excluded, found none; exclude fewer")
    named = [things.by_name[name] for name in left["thing"]]
    found: list[EmojiPrompt] = []
    while len(found) < n:
        for i in rng.permutation(len(named))[: n - len(found)]:
            scene = Scene(named[int(i)], _pick(rng, left["style"]), _pick(rng, left["background"]))
            spoken = random_words(scene, rng, words, tuple(fixed) or ("thing",))
            found.append(filled(_frame(usable, spoken, rng), scene, spoken))
    return found


def _pick(rng: np.random.Generator, words: Sequence[str]) -> str:
    return words[int(rng.integers(len(words)))]


def frequent_words(things: Things, most: int = 3000) -> tuple[str, ...]:
    """Return the most frequent words of captions, the most frequent first; held-out names and words are among them.

    A word counts once for each name, keyword and wording that has it, those of things that only pretraining shows
    included: the text encoder knows them. The words of all wordings are there, those of
    held-out ones, too, because the captions of an evaluation are public.

    Args:
        things: Things of the world.
        most: Largest number of words.
    """
    frames = (_GAP.sub(" ", frame) for frame in (*HELD_OUT, *EVERYDAY["reported"]))
    counts = Counter(word for text in (*texts(things.wide), *frames) for word in _WORD.findall(text.lower()))
    return tuple(word for word, _ in counts.most_common(most))


def texts(things: Things) -> list[str]:
    """Return texts that hold all words and punctuation marks of the base's captions."""
    spoken = [word for thing in things.things for word in (*thing.words("any"), *thing.kinds, *thing.tags)]
    spoken += [word for words in (*STYLES.values(), *BACKGROUNDS.values()) for word in words]
    return [*spoken, *(_GAP.sub(" a an ", frame) for frame in (*TRAINING, *EVERYDAY["seen"]))]
