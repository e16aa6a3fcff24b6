"""Fixtures shared by all tests: tiny, seeded, real pipelines."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Generator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from copies import Stock
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DModel
from tiny_models import make_text_encoder, make_tokenizer, make_unet, make_vae
from untraced import long_files, tracing_stopped

from robust_encoders import Base, Concept, Manifest, RobustEncoder
from robust_encoders.clip.state_dict import nested_state

LONG = long_files()


def pytest_configure() -> None:
    """Look for cycles of objects less often: beside torch and diffusers, that is a twentieth of the tests' time."""
    gc.set_threshold(50_000)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long files, so that all processes end together."""
    items.sort(key=lambda item: item.path not in LONG)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Run a test with its fixtures; coverage leaves out the long files."""
    with tracing_stopped() if item.path in LONG else nullcontext():
        return (yield)


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep what the package notes for itself out of the user's cache folder; return where it is."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("ROBUST_ENCODERS_HOME", str(folder))
    return folder


@pytest.fixture
def textless_unet() -> Any:
    """Return a UNet without cross-attention."""
    return UNet2DModel(
        sample_size=8,
        block_out_channels=(8,),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
    )


PipelineMaker = Callable[..., Any]


def _new_pipe(
    tokenizer: Any,
    *,
    seed: int = 0,
    width: int = 16,
    layers: int = 2,
    heads: int = 2,
    prediction_type: str = "epsilon",
    unet_width: int | None = None,
    **text_config: Any,
) -> Any:
    shape = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_encoder = make_text_encoder(tokenizer, **{**shape, **text_config})
        unet = make_unet(unet_width or width)
        vae = make_vae()
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )
    pipe: Any = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="session")
def pipe_stocks() -> dict[str, Stock]:
    """Return what ``make_pipe`` copies, by its arguments: pipelines without their tokenizers."""
    return {}


@pytest.fixture
def make_pipe(pipe_stocks: dict[str, Stock], tmp_path: Path) -> PipelineMaker:
    """Return a maker of tiny random ``StableDiffusionPipeline``s, the same one for the same arguments.

    Overrides: ``seed``, ``width``, ``layers``, ``heads``, ``positions``, ``prediction_type``, ``merges`` (size of the
    vocabulary), ``extra_tokens`` (added to the tokenizer only), ``unet_width`` (default ``width``), and any field of
    ``CLIPTextConfig``.
    """

    def make(*, positions: int = 24, merges: int = 120, extra_tokens: int = 0, **overrides: Any) -> Any:
        words = {"merges": merges, "max_length": positions, "extra_tokens": extra_tokens}
        tokenizer = make_tokenizer(tmp_path / f"tokenizer-{merges}-{positions}-{extra_tokens}", **words)
        key = repr(sorted({**words, **overrides}.items()))
        if key not in pipe_stocks:
            made = _new_pipe(tokenizer, **overrides)
            # A copied tokenizer of transformers 5 spells other texts than the original. Set in this way, the
            # configuration of the pipeline stays as it is.
            vars(made)["tokenizer"] = None
            pipe_stocks[key] = Stock(made)
        pipe = pipe_stocks[key].copy()
        vars(pipe)["tokenizer"] = tokenizer
        return pipe

    return make


@pytest.fixture
def tiny_pipe(make_pipe: PipelineMaker) -> Any:
    """Return ``make_pipe()``."""
    return make_pipe()


def _encoder_for(pipe: Any, *, seed: int = 1, name: str = "circle", **fields: Any) -> RobustEncoder:
    generator = torch.Generator().manual_seed(seed)
    state = {name: tensor.cpu() for name, tensor in nested_state(pipe.text_encoder).items()}
    tensors = {
        name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator).to(tensor.dtype)
        for name, tensor in state.items()
    }
    described: dict[str, Any] = {
        "concept": Concept(name=name, kind="object"),
        "method": {"name": "test", "seed": seed},
        "base": Base.from_pipeline(pipe, family="tiny", ids=("org/tiny",), with_unet=True),
        "versions": {"torch": torch.__version__},
        "license": "apache-2.0",
    }
    return RobustEncoder(Manifest(**{**described, **fields}), tensors, pipe.text_encoder.config.to_dict())


@pytest.fixture
def make_encoder() -> Callable[..., RobustEncoder]:
    """Return a maker of robust encoders for a pipeline: its text encoder, every tensor changed a little.

    ``make_encoder(pipe, seed=1, name="circle", **fields)``; ``fields`` are fields of the manifest.
    """
    return _encoder_for


@pytest.fixture
def tiny_encoder(tiny_pipe: Any) -> RobustEncoder:
    """Return a robust encoder for ``tiny_pipe``."""
    return _encoder_for(tiny_pipe)


@pytest.fixture
def config_folder(tiny_pipe: Any, tmp_path: Path) -> Path:
    """A folder with the tiny encoder's config.json and no weights yet."""
    source = tmp_path / "source"
    source.mkdir()
    config = {**tiny_pipe.text_encoder.config.to_dict(), "dtype": "float32"}
    (source / "config.json").write_text(json.dumps(config, default=str))
    return source
