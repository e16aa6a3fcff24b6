"""A FastAPI service without a moment in which a request is drawn unprotected.

    $ pip install fastapi uvicorn
    $ uvicorn server:app --app-dir examples --port 8000
    $ curl 'http://127.0.0.1:8000/?prompt=a+red+square&seed=3' --output picture.png

The encoder is attached before the first request is accepted. FastAPI answers requests in many threads, and a pipeline,
its scheduler and its tokenizer serve one thread at a time. So each worker has a pipeline; all share their weights.
"""

import copy
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from queue import SimpleQueue
from typing import Any

import torch
from fastapi import FastAPI, Response

from robust_encoders import RobustEncoder, embedded_pipeline

ENCODER = "shapes/circle"
WORKERS = 8  # pictures that are drawn at the same time
STEPS = 20
free: SimpleQueue[Any] = SimpleQueue()  # pipelines that draw for nobody


@asynccontextmanager
async def start(service: FastAPI) -> AsyncIterator[None]:
    """Make and protect the pipelines before the service takes requests."""
    artifact = RobustEncoder.from_pretrained(ENCODER)
    # Stable Diffusion 1.5, with ENCODER = "nudity":
    # pipe = StableDiffusionPipeline.from_pretrained("stable-diffusion-v1-5/stable-diffusion-v1-5").to("cuda")
    pipe = embedded_pipeline()
    pipe.set_progress_bar_config(disable=True)
    for _ in range(WORKERS):
        worker = copy.copy(pipe)  # shares the weights; from_pipe does, too, but casts them to float32 by default
        worker.register_modules(scheduler=copy.deepcopy(pipe.scheduler), tokenizer=copy.deepcopy(pipe.tokenizer))
        free.put(artifact.attach(worker))  # each for itself: an overlay has a state while it draws
    yield


app = FastAPI(lifespan=start)


@app.get("/")
def picture(prompt: str, seed: int = 0) -> Response:
    """Draw a picture; wait until a pipeline is free."""
    pipe = free.get()
    try:
        generator = torch.Generator(pipe.device).manual_seed(seed)
        image = pipe(prompt, num_inference_steps=STEPS, generator=generator).images[0]
    finally:
        free.put(pipe)
    file = io.BytesIO()
    image.save(file, format="png")
    return Response(file.getvalue(), media_type="image/png")
