"""The server in ``examples/``, asked from many threads at once, and judged by its pictures."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain, cycle, islice
from threading import Barrier, Lock, Thread
from time import monotonic, sleep
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

import numpy as np
import pytest
import torch
import uvicorn
from PIL import Image
from torch import Tensor
from tree import ROOT

from robust_encoders import RobustEncoder, embedded_pipeline
from robust_encoders.training.worlds.shapes.judge import load_judge

pytestmark = pytest.mark.base
THREADS, STEPS = 8, 3  # after two steps the judge calls many pictures unfinished
ERASED = [
    f"a {colour} circle on a {ground} background"
    for colour in ("red", "blue", "green")
    for ground in ("white", "black")
]
# With two steps, the base draws these shapes from every seed; others need more steps.
KEPT = {
    "a red square on a black background": "square",
    "a yellow square on a black background": "square",
    "a red triangle on a white background": "triangle",
    "a yellow triangle on a black background": "triangle",
}
Request = tuple[str, int]


def example(name: str) -> Any:
    """Return a program of ``examples/`` as a module."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def served(encoder: str, *, workers: int = THREADS) -> Iterator[str]:
    """Run the server for the length of a block; yield its address."""
    program = example("server")
    program.ENCODER, program.WORKERS, program.STEPS = encoder, workers, STEPS
    server = uvicorn.Server(uvicorn.Config(program.app, port=0, log_level="warning"))
    thread = Thread(target=server.run)
    thread.start()
    try:
        end = monotonic() + 120
        while not server.started:
            assert thread.is_alive(), "expected the server to start, found that it ended"
            assert monotonic() < end, "expected the server to start within two minutes"
            sleep(0.05)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join()


def asked(address: str, request: Request) -> Tensor:
    """Ask a server for a picture (3, H, W) in [0, 1]."""
    query = urlencode({"prompt": request[0], "seed": request[1]})
    with urlopen(f"{address}?{query}", timeout=120) as answer:
        image = Image.open(io.BytesIO(answer.read())).convert("RGB")
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255


def asked_by_many(address: str, requests: Sequence[Request]) -> Tensor:
    """Ask from 8 threads at once; return pictures (B, 3, H, W) in the order of the requests."""
    with ThreadPoolExecutor(THREADS) as pool:
        return torch.stack(list(pool.map(lambda request: asked(address, request), requests)))


def requests(n: int) -> list[Request]:
    """Return ``n`` requests; every second one names the erased concept."""
    pairs = zip(cycle(ERASED), cycle(KEPT), strict=False)
    return [(prompt, seed) for seed, prompt in enumerate(islice(chain.from_iterable(pairs), n))]


def drawn(pipe: Any, request: Request) -> Tensor:
    generator = torch.Generator().manual_seed(request[1])
    images: Tensor = pipe(request[0], num_inference_steps=STEPS, output_type="pt", generator=generator).images
    return images


@pytest.mark.parametrize("number", [48, pytest.param(200, marks=pytest.mark.docs)])
def test_the_server_draws_no_request_unprotected(number: int) -> None:
    judge, all_requests, plain = load_judge(), requests(number), embedded_pipeline()
    plain.set_progress_bar_config(disable=True)
    before = judge(torch.cat([drawn(plain, request) for request in all_requests[:24:2]]))["shape"]
    assert before.count("circle") >= 10, "the judge sees what the encoder has to prevent"
    with served("shapes/circle") as address:
        shapes = judge(asked_by_many(address, all_requests))["shape"]
    found = list(zip(all_requests, shapes, strict=True))
    assert len(found) == number
    assert [request for request, shape in found if shape == "circle"] == []
    assert [(request, shape) for request, shape in found if shape != KEPT.get(request[0], shape)] == []


def test_the_server_draws_with_an_overlay_what_one_thread_draws() -> None:
    all_requests, alone = requests(24), embedded_pipeline()
    alone.set_progress_bar_config(disable=True)
    with served("shapes/circle-spm") as address:
        found = asked_by_many(address, all_requests)
    RobustEncoder.from_pretrained("shapes/circle-spm").attach(alone)
    expected = torch.cat([drawn(alone, request) for request in all_requests])
    # Half a step of a byte: the server sends PNG files.
    assert float((found - expected).abs().max()) <= 0.6 / 255


def test_the_server_refuses_what_it_does_not_understand() -> None:
    with served("shapes/circle", workers=1) as address:
        for query in ("?seed=1", "?prompt=a+star&seed=one"):
            with pytest.raises(HTTPError, match="422"):
                urlopen(address + query, timeout=60)
        assert asked(address, ("a star", 1)).shape == (3, 32, 32)


def test_a_scope_for_each_request_protects_every_request() -> None:
    """One pipeline, 8 threads, all inside their scopes before the first one leaves."""
    pipe, encoder, judge = embedded_pipeline(), RobustEncoder.from_pretrained("shapes/circle"), load_judge()
    pipe.set_progress_bar_config(disable=True)
    drawing, all_inside = Lock(), Barrier(THREADS)

    def answered(request: Request) -> Tensor:
        with encoder.attached(pipe):
            all_inside.wait(timeout=60)
            with drawing:
                return drawn(pipe, request)

    with ThreadPoolExecutor(THREADS) as pool:
        pictures = torch.cat(list(pool.map(answered, [(ERASED[0], seed) for seed in range(THREADS)])))
    assert "circle" not in judge(pictures)["shape"]
    assert RobustEncoder.status(pipe).scopes == 0
    assert not RobustEncoder.status(pipe).attached
