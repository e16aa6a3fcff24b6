"""Many threads at once: each with a pipeline of its own, all with one encoder, or all loading the same artifact."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import torch

from robust_encoders import RobustEncoder
from robust_encoders.clip.state_dict import nested_state
from robust_encoders.pipeline.attach import attachment_of

THREADS, ROUNDS = 16, 3
Image = np.ndarray[Any, Any]


def at_once(work: Callable[[int], Any]) -> list[Any]:
    """Let 16 threads begin together; return what they returned, or raise what one of them raised."""
    barrier = Barrier(THREADS)

    def begin(index: int) -> Any:
        barrier.wait(timeout=60)
        return work(index)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(begin, range(THREADS)))


def drawn(pipe: Any) -> Image:
    generator = torch.Generator().manual_seed(3)
    image: Image = pipe("a red circle", num_inference_steps=1, output_type="np", generator=generator).images
    return image


def conditioning(pipe: Any) -> torch.Tensor:
    embeds: torch.Tensor = pipe.encode_prompt("a red circle", "cpu", 1, False)[0]
    return embeds.detach()


@pytest.fixture
def pipes(make_pipe: Any) -> list[Any]:
    return [make_pipe() for _ in range(THREADS)]


def test_sixteen_pipelines_share_an_encoder_and_end_as_they_began(
    pipes: list[Any], tiny_encoder: RobustEncoder, make_pipe: Any
) -> None:
    plain, robust = drawn(pipes[0]), drawn(tiny_encoder.attach(make_pipe()))
    before = conditioning(pipes[0])
    originals = [pipe.text_encoder for pipe in pipes]
    assert not np.array_equal(plain, robust)

    def work(index: int) -> None:
        pipe = pipes[index]
        for turn in range(ROUNDS):
            tiny_encoder.attach(pipe)
            assert pipe.text_encoder is not originals[index]
            assert RobustEncoder.status(pipe).intact
            assert turn or np.array_equal(drawn(pipe), robust)
            assert not torch.equal(conditioning(pipe), before)
            tiny_encoder.detach(pipe)
            assert pipe.text_encoder is originals[index]
            with tiny_encoder.attached(pipe):
                assert not torch.equal(conditioning(pipe), before)

    at_once(work)
    for pipe, original in zip(pipes, originals, strict=True):
        assert pipe.text_encoder is original
        assert attachment_of(pipe) is None
        assert torch.equal(conditioning(pipe), before)
        assert np.array_equal(drawn(pipe), plain)


def test_sixteen_threads_load_the_same_artifact(tiny_encoder: RobustEncoder, tmp_path: Path) -> None:
    tiny_encoder.save_pretrained(tmp_path / "artifact")
    expected = nested_state(tiny_encoder.text_encoder())

    def work(index: int) -> dict[str, torch.Tensor]:
        encoder = RobustEncoder.from_pretrained(tmp_path / "artifact")
        assert encoder.content_sha256 == tiny_encoder.content_sha256
        assert isinstance(encoder, RobustEncoder)
        return nested_state(encoder.text_encoder())

    for _ in range(ROUNDS):
        for state in at_once(work):
            assert state.keys() == expected.keys()
            assert all(torch.equal(tensor, expected[name]) for name, tensor in state.items())


def test_what_other_threads_compute_meanwhile_keeps_its_precision(tiny_pipe: Any, make_encoder: Any) -> None:
    single = make_encoder(tiny_pipe)
    tensors = {name: tensor.half() for name, tensor in single.tensors.items()}
    half = RobustEncoder(single.manifest, tensors, single.config)
    found = set()

    def work(index: int) -> None:
        for _ in range(2 * ROUNDS):
            if index % 2:
                assert half.text_encoder().dtype == torch.float16
            else:
                made = [torch.zeros(1).dtype for _ in range(20_000)]
                found.update(made)

    at_once(work)
    assert found == {torch.float32}
