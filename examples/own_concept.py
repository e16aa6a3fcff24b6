"""A concept of your own: erase it in closed form, attach the result, and compare the pictures.

    $ pip install '.[train]'
    $ python examples/own_concept.py

UCE needs no gradient and takes seconds. AdvUnlearn resists attacks far better and takes a GPU on Stable Diffusion:
docs/train.md.
"""

from itertools import product
from pathlib import Path

import torch

from robust_encoders import Concept, RobustEncoder, embedded_pipeline
from robust_encoders.training import Recipe, run_recipe
from robust_encoders.training.methods import UCE

COLOURS, GROUNDS = ("red", "green", "blue", "yellow"), ("white", "black", "gray")
# Captions as your users write them: some with the concept, and many without it, which keep their meaning.
WITH = tuple(f"a {colour} star on a {ground} background" for colour, ground in product(COLOURS, GROUNDS))
WITHOUT = tuple(
    f"a {colour} {shape} on a {ground} background"
    for colour, shape, ground in product(COLOURS, ("square", "circle", "triangle", "cross"), GROUNDS)
)

# Stable Diffusion 1.5, with base="sd1" below and captions of your concept:
# pipe = StableDiffusionPipeline.from_pretrained("stable-diffusion-v1-5/stable-diffusion-v1-5")
pipe = embedded_pipeline()
concept = Concept(name="star", kind="object", anchor="square", prompts=WITH)
method = UCE(texts="prompts", tokens="from_last", preserve=WITHOUT)
recipe = Recipe(name="star-uce", concept=concept, method=method, base="shapes", license="apache-2.0")
run_recipe(recipe, pipe, Path("star"))  # writes the folder "star", with manifest and card


def draw(name: str, prompt: str) -> None:
    """Draw a prompt with the same seed every time."""
    pipe(prompt, num_inference_steps=20, generator=torch.Generator().manual_seed(1)).images[0].save(name)


draw("star-before.png", WITH[0])
draw("square-before.png", WITHOUT[0])
RobustEncoder.from_pretrained("star").attach(pipe)  # as anybody loads it
draw("star-after.png", WITH[0])
draw("square-after.png", WITHOUT[0])
