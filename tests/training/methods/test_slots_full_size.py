"""What a training of SDXL's text encoders needs, counted on models of the published sizes without their memory."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from robust_encoders.hub.pipelines import LoadedPipeline
from robust_encoders.training.methods import ESD
from robust_encoders.training.objectives.config import RetainConfig
from robust_encoders.training.trainer.parameters import SelectionConfig
from robust_encoders.training.trainer.storage import StoredTrajectories
from robust_encoders.training.trajectories.config import BankConfig

# Configurations as published beside the weights; what is not here is the libraries' default.
UNET: dict[str, Any] = {
    "sample_size": 128, "block_out_channels": (320, 640, 1280), "layers_per_block": 2, "cross_attention_dim": 2048,
    "attention_head_dim": [5, 10, 20], "use_linear_projection": True, "transformer_layers_per_block": [1, 2, 10],
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
FIRST = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
SECOND = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
GB = 10**9


@pytest.fixture(scope="module")
def pipe() -> Any:
    """The parts of SDXL without memory for their weights."""
    kinds: tuple[Any, ...] = (UNet2DConditionModel, CLIPTextModel, CLIPTextModelWithProjection)
    unet, first, second = kinds
    with torch.device("meta"):
        return SimpleNamespace(
            unet=unet(**UNET),
            text_encoder=first(CLIPTextConfig(vocab_size=49408, hidden_act="quick_gelu", **FIRST)),
            text_encoder_2=second(CLIPTextConfig(vocab_size=49408, hidden_act="gelu", projection_dim=1280, **SECOND)),
        )


def size(module: Any) -> int:
    return sum(p.numel() for p in module.parameters())


def test_the_sizes_are_those_that_were_published(pipe: Any) -> None:
    assert [size(pipe.unet), size(pipe.text_encoder), size(pipe.text_encoder_2)] == [
        2_567_463_684, 123_060_480, 694_659_840,
    ]  # fmt: skip
    assert LoadedPipeline(pipe).family == "sdxl"


def test_one_unet_forward_is_as_much_work_as_the_page_says(pipe: Any) -> None:
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        added = {"text_embeds": torch.empty(1, 1280), "time_ids": torch.empty(1, 6)}
        latents, t, text = torch.empty(1, 4, 128, 128), torch.empty(1, dtype=torch.long), torch.empty(1, 77, 2048)
        pipe.unet(latents, t, encoder_hidden_states=text, added_cond_kwargs=added)
    assert counter.get_total_flops() == pytest.approx(6.761e12, rel=1e-3)


def test_memory_and_disk_are_what_the_page_says(pipe: Any) -> None:
    chosen = {name: SelectionConfig().select(getattr(pipe, name)) for name in ("text_encoder", "text_encoder_2")}
    last = [one.numel() for name, one in chosen["text_encoder"].items() if "layers.11." in name or "final" in name]
    trained = {name: sum(one.numel() for one in parameters.values()) for name, parameters in chosen.items()}
    trained["text_encoder"] -= sum(last)  # SDXL does not read them
    frozen = 2 * size(pipe.unet) + 4 * (size(pipe.text_encoder) + size(pipe.text_encoder_2))
    needed = {name: frozen + 4 * size(getattr(pipe, name)) + 12 * count for name, count in trained.items()}
    assert trained == {"text_encoder": 77_966_592, "text_encoder_2": 629_680_640}
    assert {name: round(one / GB, 1) for name, one in needed.items()} == {"text_encoder": 9.8, "text_encoder_2": 18.7}
    trajectory = StoredTrajectories(BankConfig(seeds=1), 1).size((4, 128, 128))
    assert (round(trajectory / 1e6, 1), round(410 * trajectory / GB, 1)) == (19.7, 8.1)
    stored = ESD(component="text_encoder_2", retain=RetainConfig(weight=0)).stored(
        SimpleNamespace(parts=(), prompts=("a",), name="a")  # type: ignore[arg-type]  # what the count reads
    )
    assert (round(stored.artifact(pipe) / GB, 1), round(stored.checkpoints(pipe, 50) / GB, 1)) == (2.8, 15.1)
