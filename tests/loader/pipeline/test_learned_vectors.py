"""A vector of any norm can be loaded for a token: it is measured against the vocabulary, before and after attaching."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import peft
import pytest
import torch
from overlays import make_delta, make_projection
from torch import Tensor

from robust_encoders import CompatibilityWarning, IncompatibleError, RobustEncoder
from robust_encoders.cli.main import main
from robust_encoders.clip.text_model import build
from robust_encoders.pipeline.learned_vectors import LIMIT, learned_ids, learned_norms, outliers, row_norms

WIDTH = 16
MakePipe = Callable[..., Any]
BEYOND = "learned vectors beyond the vocabulary"


def vector(norm: float, rows: int = 1) -> Tensor:
    raw = torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(1))
    made: Tensor = norm * raw / raw.norm(dim=1, keepdim=True)
    return made


def learn(pipe: Any, norm: float, token: str = "<thing>", rows: int = 1) -> None:
    vectors = vector(norm, rows)
    pipe.load_textual_inversion({token: vectors if rows > 1 else vectors[0]})


def largest(encoder: RobustEncoder) -> float:
    return float(row_norms(encoder.tensors["text_model.embeddings.token_embedding.weight"]).max())


def said(pipe: Any) -> str:
    return "\n".join(RobustEncoder.status(pipe).bypasses)


@pytest.mark.parametrize(
    ("times", "ok", "severity"),
    [(0.99, True, "warning"), (1.01, False, "warning"), (9.9, False, "warning"), (10.1, False, "error")],
)
def test_the_vocabulary_is_the_measure(
    tiny_pipe: Any, tiny_encoder: RobustEncoder, times: float, ok: bool, severity: str
) -> None:
    learn(tiny_pipe, times * largest(tiny_encoder))
    check = tiny_encoder.check(tiny_pipe)["learned vectors"]
    assert (check.ok, check.severity) == (ok, severity)
    assert f"{times:.3g} times" in check.found


def test_a_large_vector_is_refused_unless_it_is_accepted(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    learn(tiny_pipe, 1e3)
    original = tiny_pipe.text_encoder
    with pytest.raises(
        IncompatibleError,
        match=r"learned vectors: expected learned vectors of norm .* found <thing>: norm 1e\+03, .* times; .*"
        r"unload_textual_inversion\(\['<thing>'\]\), or pass allow_large_vectors=True",
    ):
        tiny_encoder.attach(tiny_pipe)
    assert tiny_pipe.text_encoder is original
    with pytest.raises(IncompatibleError), tiny_encoder.attached(tiny_pipe):
        pass
    with (
        pytest.warns(CompatibilityWarning, match="learned vectors"),
        tiny_encoder.attached(tiny_pipe, allow_large_vectors=True),
    ):
        assert f"{BEYOND} (<thing>: norm 1e+03" in said(tiny_pipe)
    assert tiny_encoder.check(tiny_pipe, allow_large_vectors=True).ok
    tiny_pipe.unload_textual_inversion()
    tiny_encoder.attach(tiny_pipe)
    assert BEYOND not in said(tiny_pipe)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_is_never_accepted(tiny_pipe: Any, tiny_encoder: RobustEncoder, value: float) -> None:
    tiny_pipe.load_textual_inversion({"<thing>": torch.full((WIDTH,), value)})
    with pytest.raises(IncompatibleError, match="found <thing>: not finite"):
        tiny_encoder.attach(tiny_pipe, allow_large_vectors=True)


@pytest.mark.parametrize("norm", [0.1, 3.0, 1e3, math.nan])
def test_status_shows_what_was_loaded_after_attaching(tiny_pipe: Any, tiny_encoder: RobustEncoder, norm: float) -> None:
    tiny_encoder.attach(tiny_pipe)
    assert BEYOND not in said(tiny_pipe)
    learn(tiny_pipe, norm)
    shown = f"{BEYOND} (<thing>: {'not finite' if math.isnan(norm) else f'norm {norm:.3g}'}"
    assert (shown in said(tiny_pipe)) == (norm != 0.1)
    assert ("can set the conditioning, whatever" in said(tiny_pipe)) == (norm not in (0.1, 3.0))
    tiny_pipe.unload_textual_inversion()
    assert BEYOND not in said(tiny_pipe)


def test_a_token_of_several_vectors_is_measured_vector_by_vector(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    vectors = vector(0.1, rows=3)
    vectors[1] *= 1e4
    tiny_pipe.load_textual_inversion({"<thing>": vectors})
    with pytest.raises(
        IncompatibleError, match=r"found <thing>_1: norm 1e\+03.*unload_textual_inversion\(\['<thing>_1'\]"
    ):
        tiny_encoder.attach(tiny_pipe)


def test_many_large_tokens_are_counted(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    learn(tiny_pipe, 1e3, rows=9)
    assert "and 3 more" in tiny_encoder.check(tiny_pipe)["learned vectors"].found


def test_the_next_encoder_is_refused_as_the_first_one_was(tiny_pipe: Any, make_encoder: Any) -> None:
    first, second = make_encoder(tiny_pipe), make_encoder(tiny_pipe, seed=2)
    first.attach(tiny_pipe)
    learn(tiny_pipe, 1e3)
    with pytest.raises(IncompatibleError, match="learned vectors"):
        second.attach(tiny_pipe, replace=True)
    assert first.status(tiny_pipe).tracked


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_hide_a_norm(
    make_pipe: MakePipe, tiny_encoder: RobustEncoder, dtype: torch.dtype
) -> None:
    """In half precision the square of 6e4 is infinite."""
    pipe = make_pipe().to(dtype)
    pipe.load_textual_inversion({"<thing>": torch.full((WIDTH,), 2.0**14)})
    assert "norm 6.55e+04" in tiny_encoder.check(pipe)["learned vectors"].found
    with pytest.raises(IncompatibleError, match="learned vectors"):
        tiny_encoder.attach(pipe)


def test_a_vocabulary_in_half_precision_is_the_same_measure(make_pipe: MakePipe, tiny_encoder: RobustEncoder) -> None:
    pipe = make_pipe().to(torch.float16)
    tiny_encoder.attach(pipe)
    learn(pipe, 1.2 * largest(tiny_encoder))
    assert "1.2 times" in said(pipe)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_vector_that_is_a_word_of_the_vocabulary_is_no_warning(
    make_pipe: MakePipe, tiny_encoder: RobustEncoder, dtype: torch.dtype
) -> None:
    """Training starts from the vector of a word, perhaps in another precision."""
    table = tiny_encoder.tensors["text_model.embeddings.token_embedding.weight"]
    pipe = make_pipe()
    pipe.load_textual_inversion({"<thing>": table[row_norms(table).argmax()].to(dtype)})
    assert tiny_encoder.check(pipe)["learned vectors"].ok


@pytest.mark.parametrize("special", [False, True])
def test_a_token_that_was_added_by_hand_is_measured(tiny_pipe: Any, tiny_encoder: RobustEncoder, special: bool) -> None:
    tiny_encoder.attach(tiny_pipe)
    if special:
        tiny_pipe.tokenizer.add_special_tokens({"additional_special_tokens": ["<hand>"]})
    else:
        tiny_pipe.tokenizer.add_tokens(["<hand>"])
    tiny_pipe.text_encoder.resize_token_embeddings(len(tiny_pipe.tokenizer))
    tiny_pipe.text_encoder.get_input_embeddings().weight.data[-1] = vector(500.0)[0]
    assert f"{BEYOND} (<hand>: norm 500" in said(tiny_pipe)


def test_a_row_without_a_token_is_no_measure(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    """Unloading a learned token leaves its row; the next one must not be measured against it."""
    tiny_encoder.attach(tiny_pipe)
    learn(tiny_pipe, 3.0, "<first>")
    learn(tiny_pipe, 4.0, "<second>")
    tiny_pipe.unload_textual_inversion(["<first>"])
    assert f"{BEYOND} (<second>: norm 4" in said(tiny_pipe)
    assert "<first>" not in said(tiny_pipe)


def test_a_row_that_was_written_into_the_vocabulary_is_named(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    """Training a word's vector in place leaves the tokenizer as it was, and most rows are in no sketch."""
    tiny_encoder.attach(tiny_pipe)
    assert "tokens of the vocabulary" not in said(tiny_pipe)
    index = tiny_pipe.tokenizer("circle", add_special_tokens=False).input_ids[0]
    tiny_pipe.text_encoder.get_input_embeddings().weight.data[index] = vector(1e3)[0]
    text = tiny_pipe.tokenizer.convert_ids_to_tokens(index)
    assert f"tokens of the vocabulary with large vectors ({text}: norm 1e+03" in said(tiny_pipe)


@pytest.fixture
def backdoored(tiny_encoder: RobustEncoder) -> RobustEncoder:
    tensors = {name: tensor.clone() for name, tensor in tiny_encoder.tensors.items()}
    tensors["text_model.embeddings.token_embedding.weight"][5] = vector(1e3)[0]
    return RobustEncoder(tiny_encoder.manifest, tensors, tiny_encoder.config)


def test_an_encoder_with_such_a_row_of_its_own_warns(tiny_pipe: Any, backdoored: RobustEncoder) -> None:
    token = tiny_pipe.tokenizer.convert_ids_to_tokens(5)
    with pytest.warns(CompatibilityWarning, match="token embeddings: expected norms below 10 times their median"):
        backdoored.attach(tiny_pipe)
    assert f"tokens of the vocabulary with large vectors ({token}: norm 1e+03" in said(tiny_pipe)


def test_an_outlier_of_the_vocabulary_does_not_raise_the_measure(tiny_pipe: Any, backdoored: RobustEncoder) -> None:
    learn(tiny_pipe, 20.0)
    with pytest.raises(IncompatibleError, match="found <thing>: norm 20"):
        backdoored.attach(tiny_pipe)


def test_unused_rows_of_zeros_do_not_lower_the_measure() -> None:
    table = torch.zeros(100, WIDTH)
    table[:10] = vector(1.0, rows=10)
    assert outliers(None, table).tokens == {}
    assert outliers(None, table).largest == pytest.approx(1.0)
    assert outliers(None, torch.zeros(3, WIDTH)).tokens == {}
    table[99] = 100.0
    assert list(outliers(None, table).tokens) == ["token 99"]


def test_a_lora_on_the_token_embeddings_is_measured(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    tiny_encoder.attach(tiny_pipe)
    config: Any = peft.LoraConfig(r=2, target_modules=["token_embedding"], init_lora_weights=False)
    tiny_pipe.text_encoder.add_adapter(config)
    embedding = tiny_pipe.text_encoder.get_input_embeddings()
    with torch.no_grad():
        embedding.lora_embedding_A["default"].zero_()
        embedding.lora_embedding_A["default"][0, 7] = 1.0
        embedding.lora_embedding_B["default"].fill_(100.0)
    text = tiny_pipe.tokenizer.convert_ids_to_tokens(7)
    assert f"tokens of the vocabulary with large vectors ({text}: norm" in said(tiny_pipe)


def test_an_offloaded_encoder_is_measured(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    tiny_encoder.attach(tiny_pipe)
    learn(tiny_pipe, 1e3)
    accelerate.cpu_offload(tiny_pipe.text_encoder, torch.device("cpu"))
    assert tiny_pipe.text_encoder.get_input_embeddings().weight.is_meta
    assert f"{BEYOND} (<thing>: norm 1e+03" in said(tiny_pipe)


def test_a_compiled_encoder_is_measured(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    tiny_encoder.attach(tiny_pipe)
    learn(tiny_pipe, 1e3)
    tiny_pipe.text_encoder = torch.compile(tiny_pipe.text_encoder)
    assert f"{BEYOND} (<thing>: norm 1e+03" in said(tiny_pipe)


def test_a_pipeline_that_came_with_the_encoder_is_measured(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    tiny_pipe.register_modules(text_encoder=build(tiny_encoder.tensors, tiny_encoder.config, tiny_encoder.provenance))
    learn(tiny_pipe, 1e3)
    assert not RobustEncoder.status(tiny_pipe).tracked
    assert f"{BEYOND} (<thing>: norm 1e+03" in said(tiny_pipe)


def test_an_overlay_over_a_robust_encoder_is_refused_as_well(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    """A delta asks for the base's encoder, which never got the vector that prompts meet."""
    delta = make_delta(tiny_pipe)
    tiny_encoder.attach(tiny_pipe)
    learn(tiny_pipe, 1e3)
    with pytest.raises(IncompatibleError, match="learned vectors"):
        delta.attach(tiny_pipe)
    with pytest.warns(CompatibilityWarning, match="learned vectors"):
        delta.attach(tiny_pipe, allow_large_vectors=True)
    assert delta.check(tiny_pipe, allow_large_vectors=True).ok
    delta.detach(tiny_pipe)
    with (
        pytest.warns(CompatibilityWarning, match="learned vectors"),
        delta.attached(tiny_pipe, allow_large_vectors=True),
    ):
        assert RobustEncoder.status(tiny_pipe).overlays


def test_an_overlay_on_a_base_with_a_large_vector_is_refused(tiny_pipe: Any) -> None:
    projection = make_projection(tiny_pipe)
    learn(tiny_pipe, 1e3)
    with pytest.raises(IncompatibleError, match=r"learned vectors: .* found <thing>"):
        projection.attach(tiny_pipe)


def test_an_empty_slot_and_a_plain_pipeline_have_nothing_to_measure(
    tiny_pipe: Any, tiny_encoder: RobustEncoder
) -> None:
    assert learned_norms(tiny_pipe.tokenizer, None) is None
    assert learned_norms(None, tiny_pipe.text_encoder) is None
    assert learned_ids(None) == {}
    assert learned_ids(tiny_pipe.tokenizer) == {}
    with warnings.catch_warnings():
        warnings.simplefilter("error", CompatibilityWarning)
        tiny_encoder.attach(tiny_pipe)
    assert tiny_encoder.check(tiny_pipe)["token embeddings"].ok


def test_the_command_line_checks_it(
    make_pipe: MakePipe, tiny_encoder: RobustEncoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = make_pipe()
    learn(pipe, 1e3)
    pipe.save_pretrained(tmp_path / "pipe")
    tiny_encoder.save_pretrained(tmp_path / "encoder")
    command = ["check", str(tmp_path / "encoder"), str(tmp_path / "pipe")]
    assert main(command) == 1
    assert "found <thing>: norm 1e+03" in capsys.readouterr().out
    assert main([*command, "--allow-large-vectors"]) == 0


def test_the_limit_is_ten() -> None:
    assert LIMIT == 10
