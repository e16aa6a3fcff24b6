"""Every reason why an encoder does not fit, each found alone and all named together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from typing import Any

import pytest
import torch
from overlays import make_projection
from tiny_models import packed
from torch import nn

from robust_encoders import Check, CompatReport, IncompatibleError, RobustEncoder
from robust_encoders.clip.state_dict import unwrapped
from robust_encoders.compatibility import pipeline_state as condition

MakePipe = Callable[..., Any]
NAMES = (
    "component", "other text encoders", "class", "width", "layers", "heads", "feed-forward width", "activation",
    "tokenizer", "vocabulary", "positions", "special tokens", "tokenizer fingerprint", "base fingerprint",
    "UNet fingerprint", "precision", "library versions", "offloading", "hooks", "adapters", "token embeddings",
)  # fmt: skip


def inner(text_encoder: Any) -> Any:
    """Return the part that holds the layers, on both generations of transformers."""
    return getattr(text_encoder, "text_model", text_encoder)


def failed(report: CompatReport) -> dict[str, str]:
    return {check.name: check.severity for check in report.checks if not check.ok}


def test_an_encoder_fits_the_pipeline_it_was_made_from(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    report = tiny_encoder.check(tiny_pipe)
    assert tuple(check.name for check in report.checks) == NAMES
    assert report.ok
    assert failed(report) == {}
    assert report.explain() == "the encoder fits this pipeline (21 checks)"
    assert str(report["width"]) == "width: ok (16)"
    report.raise_if_incompatible()


OTHER_WEIGHTS = {"base fingerprint": "warning"}
WRONG_BASES: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "width": (
        {"width": 32},
        {"width": "error", "UNet fingerprint": "warning", **OTHER_WEIGHTS},
    ),
    "width of the UNet alone": ({"unet_width": 32}, {"width": "error", "UNet fingerprint": "warning"}),
    "layers": ({"layers": 3}, {"layers": "error", "UNet fingerprint": "warning", **OTHER_WEIGHTS}),
    "heads": ({"heads": 4}, {"heads": "error"}),
    "feed-forward width": (
        {"intermediate_size": 64},
        {"feed-forward width": "error", "UNet fingerprint": "warning", **OTHER_WEIGHTS},
    ),
    "activation": ({"hidden_act": "gelu"}, {"activation": "error"}),
    "positions": ({"positions": 32}, {"positions": "error", "UNet fingerprint": "warning", **OTHER_WEIGHTS}),
    "fewer words": (
        {"merges": 40},
        {
            "vocabulary": "error",
            "special tokens": "error",
            "tokenizer fingerprint": "error",
            "UNet fingerprint": "warning",
            **OTHER_WEIGHTS,
        },
    ),
    "added words": ({"extra_tokens": 1}, {"vocabulary": "error"}),
    "fine-tuned": ({"seed": 7}, {"UNet fingerprint": "warning", **OTHER_WEIGHTS}),
}


@pytest.mark.parametrize("case", WRONG_BASES)
def test_each_misfit_is_found(make_pipe: MakePipe, tiny_encoder: RobustEncoder, case: str) -> None:
    overrides, expected = WRONG_BASES[case]
    assert failed(tiny_encoder.check(make_pipe(**overrides))) == expected


def test_every_failure_is_named_at_once(make_pipe: MakePipe, tiny_encoder: RobustEncoder) -> None:
    pipe = make_pipe(width=32, layers=1, heads=4, positions=32, merges=200, hidden_act="gelu")
    with pytest.raises(IncompatibleError) as caught:
        tiny_encoder.attach(pipe)
    report = caught.value.report
    assert {check.name for check in report.errors} == {
        "width", "layers", "heads", "activation", "vocabulary", "positions", "special tokens", "tokenizer fingerprint",
    }  # fmt: skip
    for check in report.errors:
        assert f"{check.name}: expected {check.expected}, found {check.found}; {check.remedy}" in str(caught.value)
        assert check.remedy


def test_a_fine_tuned_base_is_measured_not_refused(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    with torch.no_grad():
        for parameter in tiny_pipe.text_encoder.parameters():
            parameter.mul_(1.01)
    report = tiny_encoder.check(tiny_pipe)
    assert report.ok
    assert report["base fingerprint"].found == "differs by 0.01 (relative)"
    assert "but 1 of 21 checks failed" in report.explain()


def test_half_precision_is_the_same_base(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    report = tiny_encoder.check(tiny_pipe.to(torch.float16))
    assert failed(report) == {}
    assert report["base fingerprint"].found == "same up to dtype"


def test_added_tokens_have_their_own_remedy(make_pipe: MakePipe, tiny_encoder: RobustEncoder) -> None:
    assert "unload_textual_inversion" in tiny_encoder.check(make_pipe(extra_tokens=2))["vocabulary"].remedy
    assert "unload" not in tiny_encoder.check(make_pipe(merges=40))["vocabulary"].remedy


def test_a_resized_embedding_is_a_misfit(make_pipe: MakePipe, tiny_encoder: RobustEncoder) -> None:
    pipe = make_pipe(vocab_size=700)
    assert failed(tiny_encoder.check(pipe))["vocabulary"] == "error"


@pytest.mark.parametrize("thing", [object(), nn.Linear(2, 2), None])
def test_something_that_is_no_pipeline_is_refused(tiny_encoder: RobustEncoder, thing: object) -> None:
    report = tiny_encoder.check(thing)
    assert failed(report) == {"component": "error"}
    with pytest.raises(IncompatibleError, match="with no components; pass the pipeline object itself"):
        tiny_encoder.attach(thing)


def test_a_pipeline_without_a_text_encoder_slot_is_refused(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    from diffusers import DDIMPipeline

    kind: Any = DDIMPipeline
    report = tiny_encoder.check(kind(unet=tiny_pipe.unet, scheduler=tiny_pipe.scheduler))
    assert "a DDIMPipeline with unet, scheduler" in report["component"].found


@pytest.mark.parametrize("part", [object(), nn.Identity()])
def test_a_slot_that_holds_no_weights_is_refused(tiny_pipe: Any, tiny_encoder: RobustEncoder, part: Any) -> None:
    tiny_pipe.__dict__["text_encoder"] = part  # as pipelines of other runtimes have it
    with pytest.raises(IncompatibleError, match=r"class: expected transformers\.CLIPTextModel"):
        tiny_encoder.attach(tiny_pipe)
    assert tiny_pipe.text_encoder is part


def test_a_processor_in_place_of_the_tokenizer_is_refused(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    tiny_pipe.tokenizer = type("CLIPProcessor", (), {})()
    with pytest.raises(IncompatibleError, match="tokenizer: expected a tokenizer of transformers, found CLIPProcessor"):
        tiny_encoder.attach(tiny_pipe)


def test_the_text_encoder_of_a_prior_is_another_one(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    class WithPrior(type(tiny_pipe)):  # type: ignore[misc]
        """As StableUnCLIPPipeline has it."""

        @property
        def components(self) -> dict[str, Any]:
            return {**super().components, "prior_text_encoder": nn.Linear(2, 2)}

    tiny_pipe.__class__ = WithPrior
    with pytest.raises(IncompatibleError, match="found prior_text_encoder"):
        tiny_encoder.attach(tiny_pipe)


def test_compiling_in_place_is_said(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    tiny_pipe.text_encoder.compile(backend="eager")
    assert "torch.compile" in tiny_encoder.check(tiny_pipe)["hooks"].found


def test_another_class_is_refused(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    from transformers import CLIPTextModelWithProjection

    tiny_pipe.text_encoder = CLIPTextModelWithProjection(tiny_pipe.text_encoder.config)
    report = tiny_encoder.check(tiny_pipe)
    assert report["class"].found == "transformers.CLIPTextModelWithProjection"
    assert failed(report)["class"] == "error"


def test_an_empty_slot_is_checked_against_tokenizer_and_unet(make_pipe: MakePipe, tiny_encoder: RobustEncoder) -> None:
    pipe = make_pipe()
    pipe.register_modules(text_encoder=None)
    report = tiny_encoder.check(pipe)
    assert failed(report) == {}
    assert "class" not in [check.name for check in report.checks]
    wrong = make_pipe(merges=40, unet_width=32)
    wrong.register_modules(text_encoder=None)
    assert tiny_encoder.check(wrong)["width"].expected == "[32] (cross_attention_dim of the UNet)"
    bare = make_pipe(extra_tokens=1)
    bare.register_modules(text_encoder=None)
    assert not tiny_encoder.check(bare)["vocabulary"].ok


def test_a_pipeline_without_words_is_refused(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    tiny_pipe.register_modules(tokenizer=None)
    report = tiny_encoder.check(tiny_pipe)
    assert failed(report) == {"tokenizer": "error"}
    assert "vocabulary" not in [check.name for check in report.checks]


def test_a_pipeline_without_a_unet_is_checked_by_its_encoder(make_pipe: MakePipe, tiny_encoder: RobustEncoder) -> None:
    same, wide = make_pipe(), make_pipe(width=32)
    for pipe in (same, wide):
        pipe.register_modules(unet=None)
    assert failed(tiny_encoder.check(same)) == {}
    assert tiny_encoder.check(wide)["width"].expected == "[32] (hidden_size of the text encoder)"
    same.register_modules(text_encoder=None)
    assert "width" not in [check.name for check in tiny_encoder.check(same).checks]


def test_several_widths_of_a_unet_must_agree(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    tiny_pipe.unet.register_to_config(cross_attention_dim=(16, 16))
    assert tiny_encoder.check(tiny_pipe)["width"].ok
    tiny_pipe.unet.register_to_config(cross_attention_dim=(16, 32))
    assert not tiny_encoder.check(tiny_pipe)["width"].ok


def test_other_text_encoders_are_refused_unless_accepted(
    tiny_pipe: Any, tiny_encoder: RobustEncoder, make_pipe: MakePipe
) -> None:
    from diffusers import StableDiffusionXLPipeline
    from transformers import CLIPTextModelWithProjection

    kind: Any = StableDiffusionXLPipeline
    parts = tiny_pipe.components
    pipe = kind(
        **{name: parts[name] for name in ("vae", "unet", "scheduler", "tokenizer", "text_encoder")},
        tokenizer_2=parts["tokenizer"],
        text_encoder_2=CLIPTextModelWithProjection(tiny_pipe.text_encoder.config),
    )
    assert failed(tiny_encoder.check(pipe)) == {"other text encoders": "error"}
    with pytest.raises(IncompatibleError, match="expected no other text encoder, found text_encoder_2"):
        tiny_encoder.attach(pipe)
    with pytest.warns(UserWarning, match="the concept stays reachable through them"):
        tiny_encoder.attach(pipe, allow_partial=True)
    tiny_encoder.detach(pipe)
    pipe.unet.register_to_config(cross_attention_dim=48)  # both encoders side by side
    assert failed(tiny_encoder.check(pipe, allow_partial=True)) == {"other text encoders": "warning"}


@pytest.mark.parametrize("field", ["text_encoder", "tokenizer", "unet"])
def test_what_the_manifest_does_not_record_is_said(tiny_pipe: Any, tiny_encoder: RobustEncoder, field: str) -> None:
    change: dict[str, Any] = {field: None}
    base = replace(tiny_encoder.manifest.base, **change)
    encoder = RobustEncoder(replace(tiny_encoder.manifest, base=base), tiny_encoder.tensors, tiny_encoder.config)
    expected = {
        "text_encoder": {"base fingerprint": "warning"},
        "tokenizer": {"tokenizer fingerprint": "warning"},
        "unet": {},  # not every artifact depends on one
    }
    assert failed(encoder.check(tiny_pipe)) == expected[field]


def test_old_libraries_are_refused(
    tiny_pipe: Any, tiny_encoder: RobustEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = {"torch": "2.5.1", "transformers": "4.9.2", "diffusers": "0.100.0.dev0"}
    monkeypatch.setattr(condition, "version", installed.__getitem__)
    check = tiny_encoder.check(tiny_pipe)["library versions"]
    assert (check.ok, check.severity) == (False, "error")
    assert check.remedy == "pip install --upgrade torch transformers"


@pytest.mark.parametrize("how", ["flag", "layer"])
def test_adapters_in_the_old_encoder_are_refused(tiny_pipe: Any, tiny_encoder: RobustEncoder, how: str) -> None:
    if how == "flag":
        tiny_pipe.text_encoder._hf_peft_config_loaded = True
    else:
        lora = type("Linear", (nn.Linear,), {"__module__": "peft.tuners.lora.layer"})
        inner(tiny_pipe.text_encoder).encoder.layers[0].self_attn.q_proj = lora(16, 16)
    with pytest.raises(IncompatibleError, match=r"adapters: .* call pipe\.unload_lora_weights\(\) first"):
        tiny_encoder.attach(tiny_pipe)


@pytest.mark.parametrize("how", ["hook", "pre-hook", "compiled"])
def test_hooks_that_would_be_left_behind_are_said(tiny_pipe: Any, tiny_encoder: RobustEncoder, how: str) -> None:
    if how == "hook":
        tiny_pipe.text_encoder.register_forward_hook(lambda *_: None)
    elif how == "pre-hook":
        inner(tiny_pipe.text_encoder).final_layer_norm.register_forward_pre_hook(lambda *_: None)
    else:
        compiled = nn.Module()
        compiled._orig_mod = tiny_pipe.text_encoder
        tiny_pipe.__dict__["text_encoder"] = compiled
    report = tiny_encoder.check(tiny_pipe)
    assert failed(report) == {"hooks": "warning"}
    where = {"hook": "the module itself", "pre-hook": "final_layer_norm", "compiled": "torch.compile"}[how]
    assert where in report["hooks"].found
    assert unwrapped(tiny_pipe.text_encoder) is not None


def test_hooks_of_transformers_itself_are_no_loss(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    ids = torch.tensor([[1, 2, 3]])
    tiny_pipe.text_encoder(ids, output_hidden_states=True)  # on some versions it leaves hooks that collect them
    assert failed(tiny_encoder.check(tiny_pipe)) == {}


@pytest.mark.parametrize("how", ["quantizer", "integers"])
def test_quantised_encoders_are_refused(tiny_pipe: Any, tiny_encoder: RobustEncoder, how: str) -> None:
    if how == "quantizer":
        tiny_pipe.text_encoder.hf_quantizer = object()
    else:
        embedding = tiny_pipe.text_encoder.get_input_embeddings()
        embedding.weight = nn.Parameter(embedding.weight.to(torch.int8), requires_grad=False)
    check = tiny_encoder.check(tiny_pipe)["precision"]
    assert (check.ok, check.severity) == (False, "error")
    assert "encoder.text_encoder()" in check.remedy


def store(pipe: Any, dtype: torch.dtype) -> None:
    """Store the linear layers of the text encoder in a dtype that no plain layer computes in."""
    for part in pipe.text_encoder.modules():
        if isinstance(part, nn.Linear):
            part.weight = nn.Parameter(part.weight.detach().to(dtype), requires_grad=False)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8])
def test_every_parameter_counts_for_the_precision(
    tiny_pipe: Any, tiny_encoder: RobustEncoder, dtype: torch.dtype
) -> None:
    store(tiny_pipe, dtype)
    assert next(tiny_pipe.text_encoder.parameters()).dtype == torch.float32
    check = tiny_encoder.check(tiny_pipe)["precision"]
    assert (check.ok, check.severity) == (False, "error")
    assert str(dtype) in check.found


def test_the_encoder_that_is_replaced_now_counts_too(
    tiny_pipe: Any, make_encoder: Callable[..., RobustEncoder]
) -> None:
    first, second = make_encoder(tiny_pipe), make_encoder(tiny_pipe, seed=2)
    first.attach(tiny_pipe)
    store(tiny_pipe, torch.float8_e4m3fn)
    assert not second.check(tiny_pipe)["precision"].ok


def test_an_empty_slot_takes_no_precision_that_cannot_compute(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    tiny_pipe.register_modules(text_encoder=None)
    tiny_pipe.unet.to(torch.float8_e4m3fn)
    with pytest.raises(IncompatibleError, match=r"in the denoiser, whose precision .*float8_e4m3fn"):
        tiny_encoder.attach(tiny_pipe)
    assert tiny_pipe.text_encoder is None


@pytest.mark.parametrize("how", ["meta", "packed"])
def test_a_unet_that_cannot_be_read_is_a_warning(tiny_pipe: Any, tiny_encoder: RobustEncoder, how: str) -> None:
    projection = make_projection(tiny_pipe)
    if how == "meta":
        tiny_pipe.unet.to("meta")
    else:
        packed(tiny_pipe.unet)
    assert failed(tiny_encoder.check(tiny_pipe)) == {"UNet fingerprint": "warning"}
    assert failed(projection.check(tiny_pipe)) == {"weights": "error"}


def test_the_checks_end_at_weights_that_cannot_be_read(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    projection = make_projection(tiny_pipe)
    tiny_pipe.text_encoder.to("meta")
    report = tiny_encoder.check(tiny_pipe)
    assert [check.name for check in report.checks] == ["component", "other text encoders", "class", "weights"]
    assert failed(projection.check(tiny_pipe)) == {"weights": "error"}


def test_libraries_without_metadata_have_their_modules_version(
    tiny_pipe: Any, tiny_encoder: RobustEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = tiny_encoder.check(tiny_pipe)["library versions"].found

    def unknown(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", unknown)
    check = tiny_encoder.check(tiny_pipe)["library versions"]
    assert (check.ok, check.found) == (True, found)
    tiny_encoder.attach(tiny_pipe)


def test_checking_changes_nothing(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    before, config = dict(vars(tiny_pipe)), dict(tiny_pipe.config)
    tiny_encoder.check(tiny_pipe)
    assert vars(tiny_pipe) == before
    assert dict(tiny_pipe.config) == config


def test_a_warning_does_not_forbid() -> None:
    warning = Check("a", False, "warning", "x", "y", "do z")
    error = Check("b", False, "error", "x", "y", "do z")
    assert CompatReport((warning,)).ok
    report = CompatReport((warning, error))
    assert (report.errors, report.warnings) == ((error,), (warning,))
    assert report.explain().splitlines() == [
        "the encoder does not fit this pipeline: 2 of 2 checks failed",
        "  error: b: expected x, found y; do z",
        "  warning: a: expected x, found y; do z",
    ]
