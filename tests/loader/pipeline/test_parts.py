"""Text encoders are found whatever the signature of the pipeline's class and the name of their slot."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from diffusers import StableDiffusionPipeline
from overlays import make_projection
from transformers import CLIPConfig, CLIPModel

from robust_encoders import IncompatibleError, RobustEncoder, StaleAttachmentError
from robust_encoders.pipeline.parts import part_of, parts_of, text_encoders_of

PIPELINE: Any = StableDiffusionPipeline


class WithSecond(PIPELINE):  # type: ignore[misc]
    """A pipeline of a user with a second text encoder that has a default."""

    def __init__(
        self, vae: Any, text_encoder: Any, tokenizer: Any, unet: Any, scheduler: Any, safety_checker: Any,
        feature_extractor: Any, image_encoder: Any, text_encoder_2: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(
            vae, text_encoder, tokenizer, unet, scheduler, safety_checker, feature_extractor, image_encoder, False
        )
        self.register_modules(text_encoder_2=text_encoder_2)


class WithDefault(PIPELINE):  # type: ignore[misc]
    """A pipeline of a user whose text encoder has a default."""

    def __init__(
        self, vae: Any, unet: Any, scheduler: Any, feature_extractor: Any, safety_checker: Any = None,
        text_encoder: Any = None, tokenizer: Any = None, image_encoder: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(
            vae, text_encoder, tokenizer, unet, scheduler, safety_checker, feature_extractor, image_encoder, False
        )


class WithoutNames(PIPELINE):  # type: ignore[misc]
    """A pipeline of a user that hands all arguments on."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)


class Guided(PIPELINE):  # type: ignore[misc]
    """A pipeline that is guided by a whole CLIP, as in the community's examples."""

    def __init__(
        self, vae: Any, text_encoder: Any, tokenizer: Any, unet: Any, scheduler: Any, safety_checker: Any,
        feature_extractor: Any, image_encoder: Any, clip_model: Any,
    ) -> None:  # fmt: skip
        super().__init__(
            vae, text_encoder, tokenizer, unet, scheduler, safety_checker, feature_extractor, image_encoder, False
        )
        self.register_modules(clip_model=clip_model)


def whole_clip() -> Any:
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sight = {**small, "image_size": 32, "patch_size": 16}
    kind: Any = CLIPModel
    words = {**small, "vocab_size": 100, "bos_token_id": 0, "eos_token_id": 1}
    return kind(CLIPConfig(text_config=words, vision_config=sight, projection_dim=8))


def second_text_encoder(pipe: Any) -> Any:
    return WithSecond(**pipe.components, text_encoder_2=copy.deepcopy(pipe.text_encoder))


def guiding_clip(pipe: Any) -> Any:
    return Guided(**pipe.components, clip_model=whole_clip())


@pytest.mark.parametrize(
    ("make", "slot"), [(second_text_encoder, "text_encoder_2"), (guiding_clip, "clip_model")], ids=["second", "CLIP"]
)
def test_an_encoder_in_a_slot_of_its_own_is_open(
    make: Any, slot: str, tiny_pipe: Any, tiny_encoder: RobustEncoder
) -> None:
    projection = make_projection(tiny_pipe)
    pipe = make(tiny_pipe)
    report = tiny_encoder.check(pipe)
    assert (report.ok, report.fit, report.verdict) == (False, "partial", "fits slot 1 of 2: partial")
    assert report.slots is not None
    assert report.slots.open == (slot,)
    source = "hidden_size of the text encoder" if slot == "text_encoder_2" else "cross_attention_dim of the UNet"
    assert report["width"].expected == f"[16] ({source})"
    assert not projection.check(pipe).ok
    with pytest.raises(IncompatibleError, match=f"found {slot}"):
        tiny_encoder.attach(pipe)
    with pytest.warns(UserWarning, match="the concept stays reachable through them"):
        tiny_encoder.attach(pipe, allow_partial=True)
    assert any(f"other text encoders ({slot}) are unchanged" in way for way in RobustEncoder.status(pipe).bypasses)
    tiny_encoder.detach(pipe)


@pytest.mark.parametrize("kind", [WithDefault, WithoutNames])
def test_a_class_whose_signature_hides_its_components(kind: Any, tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    projection = make_projection(tiny_pipe)
    parts = dict(tiny_pipe.components)
    pipe = kind(**parts) if kind is WithDefault else kind(**parts, requires_safety_checker=False)
    original = pipe.text_encoder
    assert tiny_encoder.check(pipe).verdict == "fits"
    tiny_encoder.attach(pipe)
    found = RobustEncoder.status(pipe, references=True)
    assert (found.attached, found.intact) == (True, True)
    tiny_encoder.detach(pipe)
    assert pipe.text_encoder is original
    projection.attach(pipe)
    projection.detach(pipe)
    assert pipe.text_encoder is original


def test_components_are_those_of_diffusers_where_it_names_all(tiny_pipe: Any) -> None:
    assert parts_of(tiny_pipe) == tiny_pipe.components
    assert list(text_encoders_of(tiny_pipe)) == ["text_encoder"]
    assert parts_of(object()) == {}
    assert part_of(object(), "text_encoder") is None


def test_a_deleted_slot_is_an_empty_one(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    original = tiny_pipe.text_encoder
    installed = tiny_encoder.attach(tiny_pipe).text_encoder
    del tiny_pipe.text_encoder
    assert part_of(tiny_pipe, "text_encoder") is parts_of(tiny_pipe)["text_encoder"] is None
    assert RobustEncoder.status(tiny_pipe).notes[0].endswith("was attached here, but its slot is empty now")
    with pytest.raises(StaleAttachmentError, match=r"found an empty slot; set pipe\.text_encoder back"):
        tiny_encoder.detach(tiny_pipe)
    with pytest.raises(StaleAttachmentError, match="found an empty slot"):
        tiny_encoder.attach(tiny_pipe)
    tiny_pipe.text_encoder = installed
    tiny_encoder.detach(tiny_pipe)
    assert tiny_pipe.text_encoder is original


def test_overlays_of_a_deleted_slot_are_told(tiny_pipe: Any) -> None:
    projection = make_projection(tiny_pipe)
    module = projection.attach(tiny_pipe).text_encoder
    del tiny_pipe.text_encoder
    assert any("its slot is empty now" in note for note in RobustEncoder.status(tiny_pipe).notes)
    with pytest.raises(StaleAttachmentError, match=r"in pipe\.text_encoder nothing: set pipe\.text_encoder back"):
        projection.detach(tiny_pipe)
    tiny_pipe.text_encoder = module
    projection.detach(tiny_pipe)


def test_a_slot_that_was_deleted_before_is_filled(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    del tiny_pipe.text_encoder
    tiny_encoder.attach(tiny_pipe)
    assert RobustEncoder.status(tiny_pipe).intact
