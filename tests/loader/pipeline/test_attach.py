"""Attach, then detach: bit for bit as before. All or nothing. Nobody else's pipeline is touched."""

from __future__ import annotations

import copy
import gc
import json
import sys
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn

import robust_encoders
from robust_encoders import (
    AlreadyAttachedError,
    CompatibilityWarning,
    IncompatibleError,
    IntegrityError,
    RobustEncoder,
    StaleAttachmentError,
    Status,
)
from robust_encoders.pipeline import attach

MakePipe = Callable[..., Any]
MakeEncoder = Callable[..., RobustEncoder]


@pytest.fixture(autouse=True)
def no_surprises() -> Any:
    """Any warning that a test does not ask for fails it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", CompatibilityWarning)
        yield


def inner(text_encoder: Any) -> Any:
    """Return the part that holds the layers, on both generations of transformers."""
    return getattr(text_encoder, "text_model", text_encoder)


def draw(pipe: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    images = pipe("a red circle", num_inference_steps=2, output_type="pt", generator=generator).images
    assert isinstance(images, torch.Tensor)
    return images


def state(pipe: Any) -> dict[str, Any]:
    """Everything an attachment could leave behind."""
    return {"attributes": dict(vars(pipe)), "config": dict(pipe.config), "modules": pipe.components}


def test_attach_changes_the_picture_and_detach_gives_it_back(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    before, untouched = draw(tiny_pipe), state(tiny_pipe)
    original = tiny_pipe.text_encoder
    assert tiny_encoder.attach(tiny_pipe) is tiny_pipe
    assert not torch.equal(draw(tiny_pipe), before)
    tiny_encoder.detach(tiny_pipe)
    assert tiny_pipe.text_encoder is original
    assert torch.equal(draw(tiny_pipe), before)
    assert state(tiny_pipe) == untouched


def test_only_the_text_encoder_is_changed(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    before = tiny_pipe.components
    tiny_encoder.attach(tiny_pipe)
    after = tiny_pipe.components
    assert [name for name in before if before[name] is not after[name]] == ["text_encoder"]
    assert tiny_pipe.config["text_encoder"] == ("transformers", "CLIPTextModel")


def test_detach_twice_or_without_attach_does_nothing(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    untouched = state(tiny_pipe)
    tiny_encoder.detach(tiny_pipe)
    tiny_encoder.attach(tiny_pipe)
    tiny_encoder.detach(tiny_pipe)
    tiny_encoder.detach(tiny_pipe)
    assert state(tiny_pipe) == untouched


def test_attaching_the_same_encoder_again_does_nothing(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    installed = tiny_encoder.attach(tiny_pipe).text_encoder
    twin = RobustEncoder(tiny_encoder.manifest, tiny_encoder.tensors, tiny_encoder.config)
    assert twin.attach(tiny_pipe).text_encoder is installed
    twin.detach(tiny_pipe)
    assert tiny_pipe.text_encoder is not installed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("training", [False, True])
def test_the_newcomer_is_like_what_it_replaces(
    tiny_pipe: Any, tiny_encoder: RobustEncoder, dtype: torch.dtype, training: bool
) -> None:
    old = tiny_pipe.text_encoder.to(dtype).train(training)
    old.requires_grad_(False)
    inner(old).final_layer_norm.requires_grad_(True)
    inner(old).encoder.layers[0].eval()
    new = tiny_encoder.attach(tiny_pipe).text_encoder
    assert {n: (p.device, p.dtype, p.requires_grad) for n, p in new.named_parameters()} == {
        n: (p.device, p.dtype, p.requires_grad) for n, p in old.named_parameters()
    }
    assert {n: m.training for n, m in new.named_modules()} == {n: m.training for n, m in old.named_modules()}
    assert tiny_encoder.dtype == torch.float32


@pytest.mark.parametrize("overrides", [{"width": 32}, {"merges": 40}, {"layers": 3}])
def test_a_wrong_base_is_left_as_it_was(make_pipe: MakePipe, tiny_encoder: RobustEncoder, overrides: Any) -> None:
    pipe = make_pipe(**overrides)
    before, untouched = draw(pipe), state(pipe)
    with pytest.raises(IncompatibleError):
        tiny_encoder.attach(pipe)
    with pytest.raises(IncompatibleError), tiny_encoder.attached(pipe):
        pass
    assert state(pipe) == untouched
    assert torch.equal(draw(pipe), before)


def test_a_warning_is_given_once_for_everything(make_pipe: MakePipe, tiny_encoder: RobustEncoder) -> None:
    pipe = make_pipe(seed=3)
    with pytest.warns(CompatibilityWarning) as caught:
        tiny_encoder.attach(pipe)
    (warning,) = caught
    assert "base fingerprint" in str(warning.message)
    assert "UNet fingerprint" in str(warning.message)
    assert warning.filename == __file__


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("direction", ["attach", "detach"])
def test_a_failure_midway_restores_everything(
    tiny_pipe: Any, tiny_encoder: RobustEncoder, monkeypatch: pytest.MonkeyPatch, when: str, direction: str
) -> None:
    if direction == "detach":
        tiny_encoder.attach(tiny_pipe)
    before, untouched = draw(tiny_pipe), state(tiny_pipe)
    kind, calls = type(tiny_pipe), []
    real = kind.register_modules

    def fail_once(pipe: Any, **modules: Any) -> None:
        calls.append(modules)
        if len(calls) > 1 or when == "after":
            real(pipe, **modules)
        if len(calls) == 1:
            raise RuntimeError("interrupted")

    monkeypatch.setattr(kind, "register_modules", fail_once)
    with pytest.raises(RuntimeError, match="interrupted"):
        getattr(tiny_encoder, direction)(tiny_pipe)
    assert state(tiny_pipe) == untouched
    assert torch.equal(draw(tiny_pipe), before)


def test_a_failure_while_building_changes_nothing(
    tiny_pipe: Any, tiny_encoder: RobustEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    untouched = state(tiny_pipe)
    monkeypatch.setattr(attach, "follow", lambda *_: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(MemoryError):
        tiny_encoder.attach(tiny_pipe)
    assert state(tiny_pipe) == untouched


def test_a_second_encoder_is_refused(tiny_pipe: Any, make_encoder: MakeEncoder) -> None:
    one, two = make_encoder(tiny_pipe, seed=1), make_encoder(tiny_pipe, seed=2, name="square")
    one.attach(tiny_pipe)
    untouched = state(tiny_pipe)
    with pytest.raises(AlreadyAttachedError, match=r"found 'circle' erased by test; detach it first, or pass replace"):
        two.attach(tiny_pipe)
    assert state(tiny_pipe) == untouched


def test_replacing_keeps_the_way_back_to_the_first(tiny_pipe: Any, make_encoder: MakeEncoder) -> None:
    before, original = draw(tiny_pipe), tiny_pipe.text_encoder
    one, two = make_encoder(tiny_pipe, seed=1), make_encoder(tiny_pipe, seed=2, name="square")
    one.attach(tiny_pipe)
    two.attach(tiny_pipe, replace=True)
    with pytest.raises(StaleAttachmentError, match=r"expected 'circle' .*, found 'square' erased by test; call detach"):
        one.detach(tiny_pipe)
    two.detach(tiny_pipe)
    assert tiny_pipe.text_encoder is original
    assert torch.equal(draw(tiny_pipe), before)


@pytest.mark.parametrize("verb", ["attach", "detach"])
def test_what_someone_else_put_there_since_stays(tiny_pipe: Any, make_encoder: MakeEncoder, verb: str) -> None:
    one, two = make_encoder(tiny_pipe, seed=1), make_encoder(tiny_pipe, seed=2)
    one.attach(tiny_pipe)
    theirs = two.text_encoder()
    tiny_pipe.text_encoder = theirs
    with pytest.raises(StaleAttachmentError, match="that was put there since"):
        getattr(two if verb == "attach" else one, verb)(tiny_pipe)
    assert tiny_pipe.text_encoder is theirs


def test_a_with_block_ends_as_it_began(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    before, untouched = draw(tiny_pipe), state(tiny_pipe)
    with tiny_encoder.attached(tiny_pipe) as inside:
        assert inside is tiny_pipe
        assert not torch.equal(draw(inside), before)
    assert state(tiny_pipe) == untouched
    with pytest.raises(KeyError, match="their own"), tiny_encoder.attached(tiny_pipe):
        raise KeyError("their own")
    assert state(tiny_pipe) == untouched
    assert torch.equal(draw(tiny_pipe), before)


def test_with_blocks_nest(tiny_pipe: Any, make_encoder: MakeEncoder) -> None:
    one, two = make_encoder(tiny_pipe, seed=1), make_encoder(tiny_pipe, seed=2)
    untouched = state(tiny_pipe)
    with one.attached(tiny_pipe):
        inside = state(tiny_pipe)
        with one.attached(tiny_pipe):
            assert state(tiny_pipe) == inside
        assert state(tiny_pipe) == inside
        with two.attached(tiny_pipe, replace=True):
            assert tiny_pipe.text_encoder is not inside["modules"]["text_encoder"]
        assert state(tiny_pipe) == inside
    assert state(tiny_pipe) == untouched


def test_a_with_block_that_detaches_by_itself_ends_quietly(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    untouched = state(tiny_pipe)
    with tiny_encoder.attached(tiny_pipe):
        tiny_encoder.detach(tiny_pipe)
    assert state(tiny_pipe) == untouched


def test_a_with_block_does_not_undo_what_was_put_there_inside(tiny_pipe: Any, make_encoder: MakeEncoder) -> None:
    one, two = make_encoder(tiny_pipe, seed=1), make_encoder(tiny_pipe, seed=2)
    with pytest.raises(StaleAttachmentError), one.attached(tiny_pipe):
        two.attach(tiny_pipe, replace=True)
    assert two.status(tiny_pipe).tracked


def test_an_empty_slot_is_filled_and_emptied(tiny_pipe: Any, tiny_encoder: RobustEncoder, tmp_path: Path) -> None:
    tiny_pipe.to(torch.bfloat16)
    tiny_pipe.register_modules(text_encoder=None)
    untouched = state(tiny_pipe)
    with tiny_encoder.attached(tiny_pipe):
        assert tiny_pipe.text_encoder.dtype == torch.bfloat16
        index = state(tiny_pipe)["config"]
    assert index["text_encoder"] == ("transformers", "CLIPTextModel")
    assert state(tiny_pipe) == untouched
    tiny_encoder.attach(tiny_pipe).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["text_encoder"] == ["transformers", "CLIPTextModel"]


def test_a_saved_pipeline_is_stock_and_keeps_nested_keys(
    tiny_pipe: Any, tiny_encoder: RobustEncoder, tmp_path: Path
) -> None:
    from diffusers import StableDiffusionPipeline

    tiny_encoder.attach(tiny_pipe)
    tiny_pipe.save_pretrained(tmp_path)
    with safe_open(tmp_path / "text_encoder" / "model.safetensors", "pt") as file:
        assert sorted(file.keys()) == sorted(tiny_encoder.tensors)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["text_encoder"] == ["transformers", "CLIPTextModel"]
    kind: Any = StableDiffusionPipeline
    again = kind.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert torch.equal(draw(again), draw(tiny_pipe))
    status = RobustEncoder.status(again)
    assert (status.attached, status.tracked, status.intact) == (True, False, None)
    assert status.provenance == tiny_encoder.provenance


def test_a_sibling_pipeline_is_untouched(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    from diffusers import StableDiffusionImg2ImgPipeline

    kind: Any = StableDiffusionImg2ImgPipeline
    sibling = kind(**tiny_pipe.components, requires_safety_checker=False)
    original = tiny_pipe.text_encoder
    tiny_encoder.attach(tiny_pipe)
    assert sibling.text_encoder is original
    assert not RobustEncoder.status(sibling).attached
    later = kind(**tiny_pipe.components, requires_safety_checker=False)
    status = RobustEncoder.status(later)
    assert (status.attached, status.tracked) == (True, False)
    assert "detach has no other encoder to put back" in status.notes[0]
    tiny_encoder.detach(later)
    assert later.text_encoder is tiny_pipe.text_encoder


def test_moving_one_pipeline_moves_no_other(make_pipe: MakePipe, tiny_encoder: RobustEncoder) -> None:
    one, two = tiny_encoder.attach(make_pipe()), tiny_encoder.attach(make_pipe())
    before = draw(two)
    one.to(torch.float64)
    assert (two.text_encoder.dtype, tiny_encoder.dtype) == (torch.float32, torch.float32)
    assert torch.equal(draw(two), before)


def test_a_copied_pipeline_can_be_detached_by_itself(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    before = draw(tiny_pipe)
    tiny_encoder.attach(tiny_pipe)
    robust = draw(tiny_pipe)
    twin = copy.deepcopy(tiny_pipe)
    tiny_encoder.detach(twin)
    assert torch.equal(draw(twin), before)
    assert torch.equal(draw(tiny_pipe), robust)
    tiny_encoder.detach(tiny_pipe)
    assert torch.equal(draw(tiny_pipe), before)


def test_a_pipeline_is_not_kept_alive(make_pipe: MakePipe, tiny_encoder: RobustEncoder) -> None:
    pipe = tiny_encoder.attach(make_pipe())
    watched = weakref.ref(pipe)
    del pipe
    gc.collect()
    assert watched() is None


def test_an_original_follows_a_pipeline_that_was_cast(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    original = tiny_pipe.text_encoder
    tiny_encoder.attach(tiny_pipe)
    tiny_pipe.to(torch.bfloat16)
    tiny_encoder.detach(tiny_pipe)
    assert tiny_pipe.text_encoder is original
    assert original.dtype == torch.bfloat16
    draw(tiny_pipe)


def test_status_of_an_ordinary_pipeline(tiny_pipe: Any) -> None:
    assert RobustEncoder.status(tiny_pipe) == Status(attached=False)
    assert RobustEncoder.status(object()) == Status(attached=False)


def test_status_of_an_attached_pipeline(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    tiny_encoder.attach(tiny_pipe)
    status = RobustEncoder.status(tiny_pipe)
    assert (status.attached, status.tracked, status.intact) == (True, True, True)
    assert (status.component, status.provenance, status.notes) == ("text_encoder", tiny_encoder.provenance, ())
    assert status.source == ""  # it was made in memory
    tiny_pipe.to(torch.float16)
    assert RobustEncoder.status(tiny_pipe).intact


def test_status_says_where_the_encoder_came_from(tiny_pipe: Any, tiny_encoder: RobustEncoder, tmp_path: Path) -> None:
    tiny_encoder.save_pretrained(tmp_path / "artifact")
    RobustEncoder.from_pretrained(tmp_path / "artifact").attach(tiny_pipe)
    assert RobustEncoder.status(tiny_pipe).source == str((tmp_path / "artifact").resolve())


def test_status_sees_changed_weights(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    tiny_encoder.attach(tiny_pipe)
    weight = inner(tiny_pipe.text_encoder).encoder.layers[1].mlp.fc1.weight
    weight.data = weight.data + 0.01
    status = RobustEncoder.status(tiny_pipe)
    assert (status.attached, status.intact) == (True, False)
    assert "changed since" in status.notes[0]


def test_attaching_again_does_not_pass_over_changed_weights(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    tiny_encoder.attach(tiny_pipe)
    weight = inner(tiny_pipe.text_encoder).encoder.layers[1].mlp.fc1.weight
    weight.data = weight.data + 0.01
    with pytest.raises(StaleAttachmentError, match="found its weights changed since"):
        tiny_encoder.attach(tiny_pipe)


def test_an_encoder_changed_in_place_is_not_written_under_its_old_manifest(
    tiny_pipe: Any, tiny_encoder: RobustEncoder, tmp_path: Path
) -> None:
    tiny_encoder.attach(tiny_pipe)
    with torch.no_grad():
        next(tiny_pipe.text_encoder.parameters()).add_(1.0)
    with pytest.raises(IntegrityError, match="changed in place"):
        tiny_encoder.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_error_of_a_with_block_is_not_hidden(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    def block() -> None:
        with tiny_encoder.attached(tiny_pipe):
            tiny_pipe.load_textual_inversion({"<a>": torch.zeros(16)})
            raise KeyError("of the block")

    warned = pytest.warns(CompatibilityWarning, match="stays attached: .*unload_textual_inversion")
    with warned, pytest.raises(KeyError, match="of the block"):
        block()
    assert RobustEncoder.status(tiny_pipe).tracked


def test_a_with_block_that_attaches_again_by_itself_ends_as_it_began(
    tiny_pipe: Any, tiny_encoder: RobustEncoder
) -> None:
    original = tiny_pipe.text_encoder
    with tiny_encoder.attached(tiny_pipe):
        tiny_encoder.detach(tiny_pipe)
        tiny_encoder.attach(tiny_pipe)
    assert tiny_pipe.text_encoder is original
    assert not RobustEncoder.status(tiny_pipe).attached


def test_status_of_something_that_only_holds_an_encoder(tiny_encoder: RobustEncoder) -> None:
    holder = type("Holder", (), {"text_encoder": tiny_encoder.text_encoder(), "__call__": lambda self, image: image})()
    assert [way.partition(":")[0] for way in RobustEncoder.status(holder).bypasses] == ["image"]


def test_status_sees_a_replaced_encoder(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    original = tiny_pipe.text_encoder
    tiny_encoder.attach(tiny_pipe)
    tiny_pipe.text_encoder = original
    status = RobustEncoder.status(tiny_pipe)
    assert (status.attached, status.tracked) == (False, False)
    assert "has taken its place since" in status.notes[0]


def test_an_encoder_whose_tensors_were_changed_in_place_is_not_attached_again(
    make_pipe: MakePipe, tiny_encoder: RobustEncoder
) -> None:
    trained = tiny_encoder.attach(make_pipe())
    with torch.no_grad():
        inner(trained.text_encoder).final_layer_norm.weight.add_(1)
    pipe = make_pipe()
    untouched = state(pipe)
    with pytest.raises(IntegrityError, match="changed in place"):
        tiny_encoder.attach(pipe)
    assert state(pipe) == untouched


def test_compiling_the_attached_encoder_does_not_make_it_someone_elses(
    tiny_pipe: Any, tiny_encoder: RobustEncoder
) -> None:
    original = tiny_pipe.text_encoder
    tiny_encoder.attach(tiny_pipe)
    compiled = nn.Module()
    compiled._orig_mod = tiny_pipe.text_encoder
    tiny_pipe.__dict__["text_encoder"] = compiled
    assert RobustEncoder.status(tiny_pipe).intact
    with pytest.warns(CompatibilityWarning, match="got a torch.compile wrapper after attaching"):
        tiny_encoder.detach(tiny_pipe)
    assert tiny_pipe.text_encoder is original


def test_without_overlays_no_code_of_overlays_runs(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    root = Path(robust_encoders.__file__).parent
    forbidden = {str(path) for path in (root / "overlays").glob("*.py")}
    forbidden |= {str(root / "pipeline" / "composition.py"), str(root / "compatibility" / "overlay.py")}
    entered = set()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            entered.add(frame.f_code.co_filename)

    sys.setprofile(note)
    try:
        tiny_encoder.attach(tiny_pipe)
        tiny_encoder.detach(tiny_pipe)
        with tiny_encoder.attached(tiny_pipe):
            pass
    finally:
        sys.setprofile(None)
    assert str(root / "pipeline" / "attach.py") in entered
    assert entered & forbidden == set()
