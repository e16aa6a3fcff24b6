"""Gates: how far each prompt opens each adapter, and how they reach the UNet."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from overlays import drawn, generator, make_adapter, make_projection, skipped
from torch import Tensor, nn

from robust_encoders import CompatibilityWarning, RobustEncoder
from robust_encoders.overlays.adapters import TEXT_PREFIX, UNET_PREFIX
from robust_encoders.overlays.facilitated_transport import (
    Carrier,
    GateTargets,
    cosines,
    encode_targets,
    gates,
    overlaps,
    special_ids,
)
from robust_encoders.overlays.gate_memory import Rows
from robust_encoders.pipeline.composition import composition_of

PROMPTS = ["a red circle", "a star", "a red circle on a white background", ""]
EVERYWHERE = (UNET_PREFIX, TEXT_PREFIX)


def ids_of(pipe: Any, prompts: list[str]) -> Tensor:
    found: Tensor = pipe.tokenizer(
        prompts, padding="max_length", max_length=24, truncation=True, return_tensors="pt"
    ).input_ids
    return found


@torch.no_grad()
def conditionings_of(pipe: Any, prompts: list[str]) -> Tensor:
    found: Tensor = pipe.text_encoder(ids_of(pipe, prompts))[0]
    return found


def naive_gate(pipe: Any, prompt: str, target: str) -> float:
    a, b = conditionings_of(pipe, [prompt]).flatten(), conditionings_of(pipe, [target]).flatten()
    special = set(pipe.tokenizer.all_special_ids)
    words, wanted = (set(pipe.tokenizer(text).input_ids) - special for text in (prompt, target))
    return max(float(a @ b / (a.norm() * b.norm())), len(words & wanted) / len(wanted))


def carrier_of(pipe: Any) -> Carrier:
    carrier = composition_of(pipe).carrier
    assert carrier is not None
    return carrier


class Spy:
    """What gates a UNet saw, call by call."""

    def __init__(self, pipe: Any) -> None:
        self.seen: list[Tensor] = []
        pipe.unet.conv_in.register_forward_hook(lambda *_: self.note(pipe))

    def note(self, pipe: Any) -> None:
        value = carrier_of(pipe).unet.value
        assert value is not None
        self.seen.append(value.detach().clone())


def test_gates_are_the_larger_of_cosine_and_overlap(tiny_pipe: Any) -> None:
    wanted = [("red circle",), ("a star", "purple cross")]
    targets = [encode_targets(prompts, tiny_pipe.tokenizer, tiny_pipe.text_encoder) for prompts in wanted]
    found = gates(
        conditionings_of(tiny_pipe, PROMPTS), ids_of(tiny_pipe, PROMPTS), targets, special_ids(tiny_pipe.tokenizer)
    )
    expected = [[max(naive_gate(tiny_pipe, prompt, one) for one in of) for of in wanted] for prompt in PROMPTS]
    assert torch.allclose(found, torch.tensor(expected), atol=1e-5)
    assert found[[0, 1], [0, 1]].tolist() == pytest.approx([1, 1])


def test_overlap_counts_words_and_no_special_tokens() -> None:
    targets = [GateTargets(torch.zeros(2, 4), (frozenset({1, 2}), frozenset({3})))]
    rows = [frozenset({1}), frozenset({1, 2, 9}), frozenset({3, 4}), frozenset()]
    assert overlaps(rows, targets).tolist() == [[0.5], [1.0], [1.0], [0.0]]


def test_the_cosine_of_a_longer_prompt_is_that_of_its_nearest_part() -> None:
    g = generator(0)
    target, other = torch.randn(1, 3, 4, generator=g), torch.randn(1, 3, 4, generator=g)
    targets = [GateTargets(nn.functional.normalize(target.flatten(1), dim=1), (frozenset({1}),))]
    assert cosines(torch.cat([other, target], dim=1), targets) == pytest.approx(1)
    assert cosines(target, targets) == pytest.approx(1)
    with pytest.raises(ValueError, match="of 12 values, or several times as many"):
        cosines(torch.randn(1, 4, 4, generator=g), targets)


def test_a_prompt_without_words_is_refused(tiny_pipe: Any) -> None:
    with pytest.raises(ValueError, match="expected words in every prompt"):
        encode_targets(["a star", " "], tiny_pipe.tokenizer, tiny_pipe.text_encoder)


def test_rows_are_found_again_in_any_batch_and_precision() -> None:
    rows, g = Rows(), generator(1)
    conditionings, known = torch.randn(3, 5, 8, generator=g), torch.rand(3, 2, generator=g)
    rows.add([conditionings], known, [False] * 3)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        found = rows.find(conditionings.to(dtype)[[2, 0, 0, 1]])
        for one, i in zip(found, [2, 0, 0, 1], strict=True):
            assert one is not None
            assert torch.equal(one.gates, known[i])
    assert rows.find(conditionings + 1) == [None] * 3


def test_rows_forget_the_oldest_and_keep_few_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robust_encoders.overlays.gate_memory._MOST_ROWS", 4)
    rows, g = Rows(), generator(2)
    calls = torch.randn(3, 1, 5, 8, generator=g)
    for call in calls:
        rows.add([call, call + 1], torch.rand(1, 1, generator=g).requires_grad_() * 2, [False])
    assert rows.find(calls[0]) == [None]
    for found in (*rows.find(calls[1]), *rows.find(calls[2])):  # a prompt and its negative prompt
        assert found is not None
        assert found.gates.requires_grad
    rows.add([torch.randn(1, 5, 8, generator=g)], torch.rand(1, 1, generator=g), [False])
    (last,) = rows.find(calls[2])
    assert last is not None
    assert not last.gates.requires_grad


def test_every_row_has_its_own_gate_under_guidance_and_with_several_pictures(tiny_pipe: Any) -> None:
    overlays = [make_adapter(tiny_pipe, "red circle"), make_adapter(tiny_pipe, "a star", seed=1)]
    order = sorted(overlays, key=lambda one: one.identity)
    names = [str(one.config["prompts"][0]) for one in order]
    prompts, negative = ["a red circle", "church"], ["", "a star"]
    rows = [negative[0], negative[0], negative[1], negative[1], prompts[0], prompts[0], prompts[1], prompts[1]]
    expected = torch.tensor([[naive_gate(tiny_pipe, row, name) for name in names] for row in rows])
    for overlay in overlays:
        overlay.attach(tiny_pipe, transport="paper")
    spy = Spy(tiny_pipe)
    drawn(tiny_pipe, prompts, negative_prompt=negative, num_images_per_prompt=2, guidance_scale=3.0)
    assert len(spy.seen) == 2
    assert all(torch.allclose(found, expected, atol=1e-5) for found in spy.seen)


@pytest.mark.parametrize("prefixes", [(UNET_PREFIX,), (TEXT_PREFIX,), EVERYWHERE])
@pytest.mark.parametrize("projected", [False, True])
def test_gates_come_from_what_the_base_alone_makes_of_the_prompt(
    tiny_pipe: Any, prefixes: tuple[str, ...], projected: bool
) -> None:
    expected = torch.tensor([[naive_gate(tiny_pipe, prompt, "a star")] for prompt in PROMPTS])
    if projected:
        make_projection(tiny_pipe).attach(tiny_pipe)
    make_adapter(tiny_pipe, "a star", prefixes=prefixes).attach(tiny_pipe)
    other = make_adapter(tiny_pipe, "a star", prefixes=(UNET_PREFIX,), seed=7)  # whatever else, its gates are seen
    other.attach(tiny_pipe)
    spy = Spy(tiny_pipe)
    drawn(tiny_pipe, PROMPTS, guidance_scale=1.0)
    assert torch.allclose(spy.seen[0], expected.expand(-1, spy.seen[0].shape[1]), atol=1e-5)


def test_a_robust_encoder_does_not_change_the_gates(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    expected = torch.tensor([[naive_gate(tiny_pipe, prompt, "a star")] for prompt in PROMPTS])
    overlay = make_adapter(tiny_pipe, "a star")
    tiny_encoder.attach(tiny_pipe)
    overlay.attach(tiny_pipe)
    spy = Spy(tiny_pipe)
    drawn(tiny_pipe, PROMPTS, guidance_scale=1.0)
    assert torch.allclose(spy.seen[0], expected, atol=1e-5)


def test_bare_prompt_embeds_have_their_cosine_alone_and_a_warning(tiny_pipe: Any) -> None:
    embeds = conditionings_of(tiny_pipe, PROMPTS[:2])
    make_adapter(tiny_pipe, "a star").attach(tiny_pipe)
    spy = Spy(tiny_pipe)
    seeds = [generator(0), generator(1)]
    with pytest.warns(CompatibilityWarning, match="did not come from the pipeline's text encoder"):
        tiny_pipe(prompt_embeds=embeds, guidance_scale=1.0, num_inference_steps=1, generator=seeds)
    assert torch.allclose(spy.seen[0], cosines(embeds, carrier_of(tiny_pipe).targets))
    # What the pipeline's own encoder made is known again, also when it comes as embeddings.
    own = tiny_pipe.encode_prompt(PROMPTS[0], "cpu", 1, False)[0]
    tiny_pipe(prompt_embeds=own, guidance_scale=1.0, num_inference_steps=1, generator=generator(0))
    assert float(spy.seen[-1]) == pytest.approx(naive_gate(tiny_pipe, PROMPTS[0], "a star"), abs=1e-5)


def test_with_clip_skip_rows_are_known_too(tiny_pipe: Any, recwarn: pytest.WarningsRecorder) -> None:
    expected = naive_gate(tiny_pipe, PROMPTS[0], "a star")
    make_adapter(tiny_pipe, "a star").attach(tiny_pipe)
    spy = Spy(tiny_pipe)
    tiny_pipe(prompt_embeds=skipped(tiny_pipe, PROMPTS[0]), guidance_scale=1.0, num_inference_steps=1)
    assert float(spy.seen[0]) == pytest.approx(expected, abs=1e-5)
    assert not [one for one in recwarn if one.category is CompatibilityWarning]


def test_gates_carry_gradients_to_what_is_attacked(tiny_pipe: Any) -> None:
    from robust_encoders.training.diffusion.backbone import Backbone

    make_adapter(tiny_pipe, "a star", prefixes=EVERYWHERE).attach(tiny_pipe)
    backbone = Backbone.from_pipeline(tiny_pipe)
    ids = backbone.tokenize(["a red circle"])
    with backbone.frozen():
        embeds = backbone.embed(ids).requires_grad_()
        conditioning = backbone.encode(embeds, ids)
        out = backbone.predict(torch.ones(1, 4, 8, 8), torch.tensor([10]), conditioning.detach())
        (gradient,) = torch.autograd.grad(out.sum(), embeds)
    assert gradient.abs().sum() > 0


def test_a_call_that_breaks_off_leaves_no_gates(tiny_pipe: Any) -> None:
    make_adapter(tiny_pipe, "a star", prefixes=EVERYWHERE).attach(tiny_pipe)
    carrier = carrier_of(tiny_pipe)
    with pytest.raises(RuntimeError):
        tiny_pipe.unet(torch.ones(1, 3, 8, 8), 1, encoder_hidden_states=conditionings_of(tiny_pipe, ["a star"]))
    assert carrier.unet.value is None
    with pytest.raises((RuntimeError, IndexError)):
        tiny_pipe.text_encoder(torch.full((1, 24), 10**6))
    assert carrier.text.value is None
    assert not carrier.bare


def test_official_transport_scales_one_adapter_by_its_gate_squared(tiny_pipe: Any) -> None:
    overlay = make_adapter(tiny_pipe, "a star")
    gate = naive_gate(tiny_pipe, PROMPTS[0], "a star")
    official = drawn(overlay.attach(tiny_pipe, transport="official"), PROMPTS[0], guidance_scale=1.0)
    overlay.detach(tiny_pipe)
    paper = drawn(overlay.attach(tiny_pipe, scale=gate, transport="paper"), PROMPTS[0], guidance_scale=1.0)
    assert torch.allclose(official, paper, atol=1e-5)


def test_a_unet_adapter_has_its_own_gate_beside_adapters_of_the_text_encoder(tiny_pipe: Any) -> None:
    """Whichever comes first."""
    for seed in range(4):
        unet = make_adapter(tiny_pipe, "a star", seed=seed)
        text = make_adapter(tiny_pipe, "purple cross", seed=seed + 10, prefixes=(TEXT_PREFIX,))
        text.attach(tiny_pipe, scale=0.0)
        unet.attach(tiny_pipe)
        both = drawn(tiny_pipe, PROMPTS)
        text.detach(tiny_pipe)
        alone = drawn(tiny_pipe, PROMPTS)
        unet.detach(tiny_pipe)
        assert torch.allclose(both, alone, atol=1e-5)


def test_gradients_of_a_prompt_outlive_its_negative_prompt(tiny_pipe: Any) -> None:
    make_adapter(tiny_pipe, "a star").attach(tiny_pipe)
    first = tiny_pipe.text_encoder(ids_of(tiny_pipe, PROMPTS[:1]), output_hidden_states=True)[0]
    tiny_pipe.text_encoder(ids_of(tiny_pipe, PROMPTS[1:2]))
    assert carrier_of(tiny_pipe)._of(first).requires_grad


def test_it_draws_in_inference_mode_and_trains_afterwards(tiny_pipe: Any) -> None:
    overlay = make_adapter(tiny_pipe, "a star", prefixes=EVERYWHERE)
    expected = drawn(overlay.attach(tiny_pipe), PROMPTS[0])
    overlay.detach(tiny_pipe)
    overlay.attach(tiny_pipe)
    with torch.inference_mode():
        assert torch.equal(drawn(tiny_pipe, PROMPTS[0]), expected)
    tiny_pipe.text_encoder(ids_of(tiny_pipe, PROMPTS[:1]))[0].sum().backward()


def test_a_copy_of_a_pipeline_has_gates_of_its_own(tiny_pipe: Any) -> None:
    overlay = make_adapter(tiny_pipe, "a star", prefixes=EVERYWHERE)
    overlay.attach(tiny_pipe)
    expected = drawn(tiny_pipe, PROMPTS[0])
    tiny_pipe.text_encoder(ids_of(tiny_pipe, PROMPTS[:1]))  # with gradients
    twin = copy.deepcopy(tiny_pipe)
    assert torch.equal(drawn(twin, PROMPTS[0]), expected)
    assert carrier_of(twin) is not carrier_of(tiny_pipe)
    overlay.detach(twin)
    assert not RobustEncoder.status(twin).overlays
    assert RobustEncoder.status(tiny_pipe).overlays


def test_gates_do_not_see_what_is_fused_into_the_text_encoder(tiny_pipe: Any) -> None:
    expected = torch.tensor([[naive_gate(tiny_pipe, prompt, "a star")] for prompt in PROMPTS])
    fused = make_adapter(tiny_pipe, "church", seed=3, prefixes=(TEXT_PREFIX,))
    make_adapter(tiny_pipe, "a star").attach(tiny_pipe, transport="paper")
    fused.attach(tiny_pipe, transport="paper")
    with pytest.warns(CompatibilityWarning, match="loses its transport"):
        fused.fuse(tiny_pipe)
    spy = Spy(tiny_pipe)
    drawn(tiny_pipe, PROMPTS, guidance_scale=1.0)
    assert torch.allclose(spy.seen[0], expected, atol=1e-5)
