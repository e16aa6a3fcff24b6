"""A picture server without a moment in which a request is drawn unprotected.

    $ python examples/server.py --encoder shapes/circle --port 8000
    $ curl 'http://127.0.0.1:8000/?prompt=a+red+square&seed=3' --output picture.png

The encoder is attached once, before the first request is accepted. Every worker has a pipeline of its own, because a
pipeline, its scheduler and its tokenizer serve one thread at a time.
"""

from __future__ import annotations

import argparse
import copy
import io
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import SimpleQueue
from typing import Any
from urllib.parse import parse_qs, urlsplit

import torch

from robust_encoders import LoadedArtifact, RobustEncoder, embedded_pipeline


class Studio:
    """Attached pipelines that share their weights; each draws for one request at a time.

    Args:
        pipe: Pipeline that the artifact fits.
        artifact: Encoder or overlay.
        workers: Number of pipelines, so of pictures that are drawn at the same time.
        steps: Denoising steps of every picture.
    """

    def __init__(self, pipe: Any, artifact: LoadedArtifact, *, workers: int, steps: int) -> None:
        self.steps = steps
        self.free: SimpleQueue[Any] = SimpleQueue()
        for _ in range(workers):
            worker = copy.copy(pipe)  # shares the weights; from_pipe does, too, but casts them to float32 by default
            worker.register_modules(scheduler=copy.deepcopy(pipe.scheduler), tokenizer=copy.deepcopy(pipe.tokenizer))
            worker.set_progress_bar_config(disable=True)
            # Each one is attached to, once: an overlay has a state while it draws, which two pipelines must not share.
            self.free.put(artifact.attach(worker))

    @contextmanager
    def pipeline(self) -> Iterator[Any]:
        """Lend a free pipeline for the length of a block; wait until one is free."""
        pipe = self.free.get()
        try:
            yield pipe
        finally:
            self.free.put(pipe)

    def png(self, prompt: str, seed: int) -> bytes:
        """Draw a picture and return its PNG file."""
        with self.pipeline() as pipe:
            generator = torch.Generator(pipe.device).manual_seed(seed)
            image = pipe(prompt, num_inference_steps=self.steps, generator=generator).images[0]
        file = io.BytesIO()
        image.save(file, format="png")
        return file.getvalue()


def make_server(studio: Studio, port: int) -> ThreadingHTTPServer:
    """Return a server that answers ``GET /?prompt=...&seed=...`` with a picture; port 0 takes a free one."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = parse_qs(urlsplit(self.path).query)
            try:
                prompt, seed = asked["prompt"][0], int(asked.get("seed", ["0"])[0])
            except (KeyError, ValueError):
                self.send_error(400, "expected a prompt and a whole number as seed")
                return
            png = studio.png(prompt, seed)
            self.send_response(200)
            self.send_header("Content-Type", "image/png")
            self.send_header("Content-Length", str(len(png)))
            self.end_headers()
            self.wfile.write(png)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


def main() -> None:
    """Serve pictures of the embedded base until the program is interrupted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", default="shapes/circle", help="name or folder of the encoder")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--workers", type=int, default=8, help="pictures that are drawn at the same time")
    parser.add_argument("--steps", type=int, default=20, help="denoising steps of every picture")
    options = parser.parse_args()
    artifact = RobustEncoder.from_pretrained(options.encoder)
    studio = Studio(embedded_pipeline(), artifact, workers=options.workers, steps=options.steps)
    with make_server(studio, options.port) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
