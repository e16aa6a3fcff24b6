from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from robust_encoders.concepts import Concept
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.prompts.concept_words import anchor_prompt
from robust_encoders.training.prompts.layout import Placement, PromptLayout, prompt_lengths

BOS, EOS, PAD, ADV = 90, 91, 91, 50
LENGTH = 10
PROMPT_TOKENS: tuple[list[int], ...] = ([1, 2, 3, 4], [5], [])


def ids_of(*prompts: list[int], pad: int = PAD) -> Tensor:
    rows = [[BOS, *words, EOS] for words in prompts]
    return torch.tensor([row + [pad] * (LENGTH - len(row)) for row in rows])


def embeds_of(ids: Tensor) -> Tensor:
    """Embeddings that tell their token: the id itself, and the position it came from."""
    return torch.stack([ids.float(), torch.arange(LENGTH).expand_as(ids).float()], dim=-1)


def placed(placement: Placement, k: int, ids: Tensor) -> tuple[Tensor, Tensor]:
    adv = torch.arange(k).add(ADV).view(1, k, 1).expand(len(ids), k, 2).float()
    found: tuple[Tensor, Tensor] = PromptLayout(placement, k).place(embeds_of(ids), ids, adv, eos_id=EOS)
    return found


@pytest.mark.parametrize(
    ("placement", "k", "expected"),
    [
        ("prefix", 2, [50, 51, 1, 2, 3, 4]),
        ("suffix", 2, [1, 2, 3, 4, 50, 51]),
        ("mid", 2, [1, 2, 50, 51, 3, 4]),
        ("insert", 2, [1, 50, 2, 51, 3, 4]),
        ("insert", 1, [1, 2, 50, 3, 4]),
        ("insert", 3, [1, 50, 2, 51, 3, 52, 4]),
        ("replace", 2, [50, 51]),
        ("replace", 6, [50, 51, 52, 53, 54, 55]),
    ],
)
def test_tokens_stand_where_the_placement_says(placement: Placement, k: int, expected: list[int]) -> None:
    embeds, ids = placed(placement, k, ids_of([1, 2, 3, 4]))
    tail = [EOS] * (LENGTH - 1 - len(expected))
    assert embeds[0, :, 0].int().tolist() == [BOS, *expected, *tail]
    assert ids[0].tolist() == [BOS, *[BOS if token >= ADV else token for token in expected], *tail]


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("placement", ["prefix", "suffix", "mid", "insert"])
def test_no_token_is_lost_and_the_order_is_kept(placement: Placement, k: int) -> None:
    embeds, ids = placed(placement, k, ids_of(*PROMPT_TOKENS))
    for row, row_ids, words in zip(embeds[..., 0].int().tolist(), ids.tolist(), PROMPT_TOKENS, strict=True):
        inner = row[1 : row.index(EOS)]
        assert [token for token in inner if token < ADV] == words
        assert [token for token in inner if token >= ADV] == list(range(ADV, ADV + k))
        assert row_ids.index(EOS) == row.index(EOS) == 1 + len(words) + k


def test_an_end_token_stays_the_end_where_padding_differs() -> None:
    embeds, ids = placed("replace", 1, ids_of([1, 2, 3, 4], [5], pad=0))
    assert ids[:, :4].tolist() == [[BOS, BOS, EOS, 0]] * 2
    assert embeds[..., 0].int().tolist() == [[BOS, ADV, EOS, *[0] * 7]] * 2


def test_add_shifts_prompt_tokens_and_nothing_else() -> None:
    ids = ids_of(*PROMPT_TOKENS)
    layout = PromptLayout("add")
    assert layout.size(LENGTH) == LENGTH - 2
    adv = torch.full((3, LENGTH - 2, 2), 100.0)
    embeds, same = layout.place(embeds_of(ids), ids, adv, eos_id=EOS)
    assert same is ids
    shift = (embeds - embeds_of(ids))[..., 0]
    expected = [[100.0 * (1 <= p <= len(words)) for p in range(LENGTH)] for words in PROMPT_TOKENS]
    assert shift.tolist() == expected


def test_real_ids_take_the_place_of_the_stand_in() -> None:
    ids = ids_of([1, 2])
    layout = PromptLayout("suffix", 2)
    _, found = layout.place(embeds_of(ids), ids, torch.zeros(1, 2, 2), eos_id=EOS, adv_ids=torch.tensor([[7, 8]]))
    assert found[0, :6].tolist() == [BOS, 1, 2, 7, 8, EOS]


@pytest.mark.parametrize("placement", get_args(Placement))
def test_gradients_reach_every_adversarial_token(placement: Placement) -> None:
    ids = ids_of([1, 2, 3, 4])
    layout = PromptLayout(placement, 2)
    adv = torch.zeros(1, layout.size(LENGTH), 2, requires_grad=True)
    torch.autograd.backward(layout.place(embeds_of(ids), ids, adv, eos_id=EOS)[0].sum())
    assert adv.grad is not None
    reached = 4 if placement == "add" else 2
    assert adv.grad[0, :, 0].tolist() == [1.0] * reached + [0.0] * (layout.size(LENGTH) - reached)


@pytest.mark.parametrize("placement", ["prefix", "suffix", "mid", "insert"])
def test_a_prompt_that_would_lose_a_token_is_refused(placement: Placement) -> None:
    full = ids_of([1, 2, 3, 4, 5, 6])
    placed(placement, 2, full)
    with pytest.raises(ValueError, match="at most 5 tokens beside 3 adversarial ones in 10 positions, found one of 6"):
        placed(placement, 3, full)


def test_replace_takes_any_prompt_but_not_any_number_of_tokens() -> None:
    placed("replace", 8, ids_of([1] * 8))
    with pytest.raises(ValueError, match="adversarial"):
        placed("replace", 9, ids_of([1]))


def test_other_misfits_are_refused() -> None:
    ids = ids_of([1])
    with pytest.raises(ValueError, match="expected 2 adversarial embeddings, found 1"):
        PromptLayout("prefix", 2).place(embeds_of(ids), ids, torch.zeros(1, 1, 2), eos_id=EOS)
    with pytest.raises(ValueError, match="end token"):
        prompt_lengths(torch.ones(1, LENGTH).long(), EOS)
    with pytest.raises(ValueError, match="k >= 1"):
        PromptLayout("prefix", 0)
    with pytest.raises(ValueError, match="expected a placement"):
        PromptLayout("somewhere")  # type: ignore[arg-type]


def test_clip_pools_at_the_end_of_the_placed_prompt(tiny_pipe: Any) -> None:
    backbone = Backbone.from_pipeline(tiny_pipe)
    ids = backbone.tokenize(["a red circle"])
    embeds, new = PromptLayout("prefix", 2).place(
        backbone.embed(ids), ids, torch.zeros(1, 2, 16), eos_id=backbone.tokenizer.eos_token_id
    )
    hook = backbone.text_encoder.get_input_embeddings().register_forward_hook(lambda *_: embeds)
    out = backbone.text_encoder(input_ids=new)
    hook.remove()
    end = int(prompt_lengths(ids, backbone.tokenizer.eos_token_id)) + 3
    assert torch.equal(out.pooler_output[0], out.last_hidden_state[0, end])


CIRCLE = Concept(name="circle", kind="object", synonyms=("disc", "round disc"))


@pytest.mark.parametrize(
    ("prompt", "anchor", "expected"),
    [
        ("a red circle on white", "", "a red on white"),
        ("A Disc", "", "A"),
        ("a round disc, a circled circle", "square", "a square, a circled square"),
    ],
)
def test_the_anchored_prompt_names_the_concept_no_more(prompt: str, anchor: str, expected: str) -> None:
    concept = Concept(name="circle", kind="object", synonyms=CIRCLE.synonyms, anchor=anchor)
    assert anchor_prompt(prompt, concept) == expected


def test_a_joint_concept_is_anchored_part_by_part() -> None:
    red = Concept(name="red", kind="attribute", anchor="green", synonyms=("Crimson",))
    joint = Concept.joint([red, Concept(name="circle", kind="object", synonyms=("red disc",), anchor="square")])
    assert anchor_prompt("a crimson circle, a Red disc, a red box", joint) == "a green square, a square, a green box"
    assert anchor_prompt("a red box", joint) == "a green box"
    with pytest.raises(ValueError, match="found none"):
        anchor_prompt("a box", joint)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (Concept(name="square", kind="object", anchor="star"), "'square' of 'circle', which names 'square'"),
        (Concept(name="ring", kind="object", anchor="round DISC"), "'round DISC' of 'ring', which names 'circle'"),
        (Concept(name="ring", kind="object", anchor="star", synonyms=("Disc",)), "one anchor for disc"),
    ],
)
def test_parts_that_contradict_each_other_are_refused(other: Concept, words: str) -> None:
    circle = Concept(name="circle", kind="object", synonyms=("disc",), anchor="square")
    with pytest.raises(ValueError, match=words):
        anchor_prompt("a circle", Concept.joint([circle, other]))
    shared = Concept(name="ring", kind="object", synonyms=("disc",), anchor="square")
    assert anchor_prompt("a disc, a ring", Concept.joint([circle, shared])) == "a square, a square"


def test_a_name_is_found_whatever_lowering_does_to_it() -> None:
    assert anchor_prompt("in \u0130stanbul", Concept(name="\u0130stanbul", kind="object", anchor="town")) == "in town"


def test_a_prompt_without_the_concept_has_no_anchor() -> None:
    with pytest.raises(ValueError, match=r"\('circle', 'disc', 'round disc'\) in 'a red square'"):
        anchor_prompt("a red square", CIRCLE)
