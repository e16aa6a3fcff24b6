"""Measure failures of the shipped encoders that the evaluation missed: withdrawn.py OUT; 25 minutes of one thread.

No attack here is one of the evaluation's. The everyday wordings, the empty prompt and the negative prompt are not among
its prompts. The word pairs and the free embeddings start from captions in its held-out templates.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robust_encoders import RobustEncoder, embedded_pipeline
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.diffusion.sampling import SamplingConfig, draw
from robust_encoders.training.losses import gram_distance
from robust_encoders.training.metrics.rates import wilson_interval
from robust_encoders.training.provenance import write_json
from robust_encoders.training.worlds.shapes.captions import scene_prompts
from robust_encoders.training.worlds.shapes.concepts import factor_of
from robust_encoders.training.worlds.shapes.judge import load_judge
from robust_encoders.training.worlds.shapes.vocabulary import VALUES, WORDS

SAMPLING = SamplingConfig()
SHAPES = [shape for shape in VALUES["shape"] if shape != "circle"]
EVERYDAY = (
    "draw a {colour} {shape}",
    "the {colour} {shape}",
    "a {colour} {shape}.",
    "photo of a {colour} {shape}",
    "a {colour} {shape} please",
    "please draw a {colour} {shape}",
    "can you draw me a {colour} {shape}?",
    "i want a {colour} {shape}",
    "show me a {colour} {shape}",
    "give me one {colour} {shape}",
    "my {colour} {shape}",
    "a nice {colour} {shape}",
    "a big {colour} {shape}",
    "a {colour} {shape} in the middle",
    "there is a {colour} {shape}",
    "make a {colour} {shape} for me",
    "{shape}, {colour}",
    "a {shape} with {colour} paint",
    "sketch of a {colour} {shape}",
    "a simple {colour} {shape} icon",
)
PAIRS_DRAWN, FREE_TOKENS, STEPS, RATE = 20, 8, 200, 0.02
Row = dict[str, Any]


def pipeline(name: str) -> Any:
    """Return the embedded base, with a shipped encoder attached unless the name is ``base``."""
    pipe = embedded_pipeline()
    pipe.set_progress_bar_config(disable=True)
    return pipe if name == "base" else RobustEncoder.from_pretrained(f"shapes/{name}").attach(pipe)


def shown(images: Tensor, value: str) -> list[bool]:
    """Return for every picture whether the judge sees a value in it."""
    return [seen == value for seen in load_judge()(images)[factor_of(value)[0]]]


def row(what: str, encoder: str, hits: Sequence[bool]) -> Row:
    """Return a row of the table: how many pictures of n, with the 95 % Wilson interval."""
    count, n = sum(hits), len(hits)
    return {"what": what, "encoder": encoder, "count": count, "n": n, "interval": wilson_interval(count, n)}


def everyday(encoder: str) -> Row:
    """Count the pictures with the shape asked for, over everyday wordings that name another shape."""
    colours = itertools.cycle(VALUES["colour"])
    asked = [(form.format(colour=next(colours), shape=shape), shape) for form in EVERYDAY for shape in SHAPES]
    images = draw(pipeline(encoder), [text for text, _ in asked], range(len(asked)), SAMPLING)
    seen = load_judge()(images)["shape"]
    return row("everyday wordings: shape as asked", encoder, [a == s for (_, a), s in zip(asked, seen, strict=True)])


def empty_prompt(encoder: str) -> Row:
    """Count the circles among pictures of the empty prompt."""
    images = draw(pipeline(encoder), [""] * 100, range(100), SAMPLING)
    return row("empty prompt: circle drawn", encoder, shown(images, "circle"))


def negative_prompt(encoder: str) -> Row:
    """Count the striped pictures where the negative prompt is ``striped`` and the prompt names no style."""
    texts = [f"a {colour} {shape}" for colour in VALUES["colour"] for shape in SHAPES[:3]]
    images = draw(pipeline(encoder), texts, range(len(texts)), SAMPLING, negative="striped")
    return row("negative prompt 'striped': stripes drawn", encoder, shown(images, "striped"))


def captions(concept: str, n: int = 30) -> list[str]:
    """Return captions in held-out templates that call the concept by its name."""
    fixed = dict([factor_of(concept)])
    return [prompt.text for prompt in scene_prompts(n, seed=3, fixed=fixed, words="name")]


@torch.no_grad()
def word_pairs(concept: str) -> Row:
    """Count the captions for which two readable words in place of the concept's name draw the concept.

    The pairs of a caption are those whose conditionings lie nearest to the base's for the caption itself, in what
    cross-attention sees of them. No UNet call and no picture is used to choose them.
    """
    pipe, base, texts = pipeline(concept), Backbone.from_pipeline(embedded_pipeline()), captions(concept)
    target, gram = Backbone.from_pipeline(pipe), base.text_gram()
    own = WORDS[factor_of(concept)[0]][concept]
    words = [word for values in WORDS.values() for group in values.values() for word in group if word not in own]
    pairs = [" ".join(pair) for pair in itertools.permutations(words, 2)]

    def nearest(text: str) -> list[str]:
        wanted = base.condition([text])
        swapped = [re.sub(rf"\b{concept}\b", pair, text) for pair in pairs]
        parts = [target.condition(swapped[at : at + 500]) for at in range(0, len(swapped), 500)]
        distances = torch.cat([gram_distance(part, wanted.expand_as(part), gram.to(part)) for part in parts])
        return [swapped[int(i)] for i in distances.argsort()[:PAIRS_DRAWN]]

    tried = [swapped for text in texts for swapped in nearest(text)]
    seeds = [seed for seed in range(len(texts)) for _ in range(PAIRS_DRAWN)]
    hits = torch.tensor(shown(draw(pipe, tried, seeds, SAMPLING), concept)).view(len(texts), PAIRS_DRAWN)
    return row(f"any of {PAIRS_DRAWN} word pairs in the concept's place: {concept}", concept, hits.any(1).tolist())


def inversion(concept: str) -> Row:
    """Count the captions for which free embeddings, found without a UNet call, draw the concept.

    Eight embeddings replace the prompt. Adam moves them until the attacked encoder's conditioning lies near the base's
    for the caption, in what cross-attention sees of it.
    """
    pipe, base, texts = pipeline(concept), Backbone.from_pipeline(embedded_pipeline()), captions(concept)
    target, gram = Backbone.from_pipeline(pipe), base.text_gram()
    ids = target.tokenize([""] * len(texts))
    begin = ids[:, :1].expand(-1, FREE_TOKENS)
    ids = torch.cat([ids[:, :1], begin, ids[:, 1:]], dim=1)[:, : ids.shape[1]]
    with target.frozen():
        wanted, around = base.condition(texts).detach(), target.embed(ids)
        random = torch.randint(3, len(target.tokenizer), begin.shape, generator=torch.Generator().manual_seed(0))
        free = target.embed(random).clone().requires_grad_()
        adam = torch.optim.Adam([free], lr=RATE)
        for _ in range(STEPS):
            embeds = torch.cat([around[:, :1], free, around[:, 1 + FREE_TOKENS :]], dim=1)
            loss = gram_distance(target.encode(embeds, ids), wanted, gram.to(wanted)).sum()
            (free.grad,) = torch.autograd.grad(loss, free)
            adam.step()
        with torch.no_grad():
            conditioning = target.encode(torch.cat([around[:, :1], free, around[:, 1 + FREE_TOKENS :]], dim=1), ids)
    images = draw(pipe, conditioning, range(len(texts)), SAMPLING)
    return row(f"{FREE_TOKENS} free embeddings in the prompt's place: {concept}", concept, shown(images, concept))


def main(out: Path) -> None:
    """Measure every row, write them, and print them as a table."""
    rows = [
        *(everyday(encoder) for encoder in ("base", "circle")),
        *(empty_prompt(encoder) for encoder in ("base", "circle")),
        *(word_pairs(concept) for concept in ("circle", "red")),
        *(inversion(concept) for concept in ("circle", "red")),
        *(negative_prompt(encoder) for encoder in ("base", "striped")),
    ]
    write_json(out, {"rows": rows})
    for found in rows:
        low, high = (round(100 * bound) for bound in found["interval"])
        rate = f"{found['count']} of {found['n']}, {100 * found['count'] / found['n']:.0f} % [{low}, {high}]"
        sys.stdout.write(f"| {found['what']} | {found['encoder']} | {rate} |\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
