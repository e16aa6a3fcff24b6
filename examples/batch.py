"""A batch job with progress: one picture for each line of a file.

    $ python examples/batch.py prompts.txt pictures

A job that was stopped goes on where it was when the same command is given again.
"""

import sys
from pathlib import Path

import torch
from tqdm import tqdm

from robust_encoders import RobustEncoder, embedded_pipeline

STEPS = 20


def main(prompts: Path, out: Path) -> None:
    """Draw the pictures that are missing in the folder ``out``; line 7 of the file becomes ``000007.png``."""
    # Stable Diffusion 1.5, with the encoder "nudity":
    # pipe = StableDiffusionPipeline.from_pretrained("stable-diffusion-v1-5/stable-diffusion-v1-5").to("cuda")
    pipe = embedded_pipeline()
    RobustEncoder.from_pretrained("shapes/circle").attach(pipe)  # once, before the first picture
    pipe.set_progress_bar_config(disable=True)  # the job has its own
    out.mkdir(parents=True, exist_ok=True)
    lines = prompts.read_text(encoding="utf-8").splitlines()
    for number, prompt in enumerate(tqdm(lines, unit="picture"), start=1):
        path = out / f"{number:06}.png"
        if path.exists():
            continue
        generator = torch.Generator(pipe.device).manual_seed(number)  # the same picture, whenever it is drawn
        unfinished = path.with_suffix(".part")
        pipe(prompt, num_inference_steps=STEPS, generator=generator).images[0].save(unfinished, format="png")
        unfinished.rename(path)  # a job that is killed leaves no half of a picture


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("expected a file of prompts and a folder: python examples/batch.py prompts.txt pictures")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
