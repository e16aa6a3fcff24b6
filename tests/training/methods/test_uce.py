"""UCE: what is read off which prompts, and that the matrix is the edit of all K and V."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from robust_encoders import Concept
from robust_encoders.overlays.projection import key_value_layers
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.methods import METHODS, UCE
from robust_encoders.training.methods.closed_form import RidgeConfig
from robust_encoders.training.methods.token_vectors import TokenVectors, VectorTarget
from robust_encoders.training.methods.uce import guide
from robust_encoders.training.protocols import DistributedMethod

CIRCLE = Concept(name="circle", kind="object", anchor="square", synonyms=("disc",))
KEPT = ("a blue star", "a black background", "an orange ring on gray")
GOGH = Concept(name="van gogh", kind="style", anchor="photo")


@pytest.fixture
def backbone(tiny_pipe: Any) -> Backbone:
    return Backbone.from_pipeline(tiny_pipe)


def matrix(method: UCE, backbone: Backbone, concept: Concept = CIRCLE) -> Tensor:
    edit = method.erase(backbone, concept, generator=Generator())
    assert (edit.form, edit.component, edit.config, list(edit.tensors)) == (
        "projection", "text_encoder", {}, ["projection"],
    )  # fmt: skip
    found: Tensor = edit.tensors["projection"]
    return found


def hidden(backbone: Backbone, text: str) -> Tensor:
    with torch.no_grad():
        found: Tensor = backbone.condition([text])[0].double()
    return found


def last_of(backbone: Backbone, text: str) -> int:
    """Position of the last token before the end, counted as the tokenizer itself counts."""
    return int(sum(backbone.tokenizer(text).attention_mask)) - 2


def naive(backbone: Backbone, pairs: list[tuple[str, str]], method: UCE) -> list[Tensor]:
    """Every K and V edited on its own, with the token vectors sliced as the authors slice them."""
    edited = []
    old = method.tokens == "from_last"
    kept = [hidden(backbone, text) for text in ((*([""] if old else []), *method.preserve))]
    kept = kept if old else [h[last_of(backbone, t)][None] for h, t in zip(kept, method.preserve, strict=True)]
    for layer in key_value_layers(backbone.unet).values():
        w = layer.weight.detach().double()
        left, right = method.weights.lamb * w, method.weights.lamb * torch.eye(16, dtype=torch.float64)
        for one, other in pairs:
            c, t, i, j = (
                hidden(backbone, one),
                hidden(backbone, other),
                last_of(backbone, one),
                last_of(backbone, other),
            )
            n = len(c) - max(i, j) if old else 1
            for a, b in zip(c[i : i + n], t[j : j + n], strict=True):
                left = left + method.weights.erase_scale * torch.outer(w @ b, a)
                right = right + method.weights.erase_scale * torch.outer(a, a)
        for h in kept:
            for q in h:
                left = left + method.weights.preserve_scale * torch.outer(w @ q, q)
                right = right + method.weights.preserve_scale * torch.outer(q, q)
        edited.append(left @ torch.inverse(right))
    return edited


@pytest.mark.parametrize("tokens", ["last", "from_last"])
def test_both_conventions_are_the_edit_of_all_matrices(backbone: Backbone, tokens: Any) -> None:
    method = UCE(tokens=tokens, preserve=KEPT, preserve_scale=0.3, batch=2)
    found = matrix(method, backbone, Concept.joint((CIRCLE, GOGH))).double()
    pairs = [("circle", "square"), ("disc", "square"), ("van gogh", "photo")]
    for layer, expected in zip(key_value_layers(backbone.unet).values(), naive(backbone, pairs, method), strict=True):
        torch.testing.assert_close(layer.weight.detach().double() @ found, expected, rtol=1e-5, atol=1e-6)


def test_the_conventions_differ(backbone: Backbone) -> None:
    assert float((matrix(UCE(), backbone) - matrix(UCE(tokens="from_last"), backbone)).norm()) > 1e-3


def test_defaults_are_those_of_the_authors_code() -> None:
    made = UCE()
    assert METHODS["uce"] is UCE
    assert made.weights == RidgeConfig(erase_scale=1, preserve_scale=1, lamb=0.5)
    assert (made.tokens, made.expand, made.preserve, made.texts) == ("last", False, (), "words")


@pytest.mark.parametrize(
    ("kind", "anchor", "expected"), [("style", "", "art"), ("object", "", ""), ("style", "a", "a")]
)
def test_a_concept_without_an_anchor_goes_where_the_authors_send_it(kind: Any, anchor: str, expected: str) -> None:
    assert guide(Concept(name="x", kind=kind, anchor=anchor)) == expected


def test_positions_are_counted_in_tokens_not_in_words(backbone: Backbone) -> None:
    text = "zigzag wreath"  # several tokens a word
    assert last_of(backbone, text) > 2
    assert TokenVectors(backbone).positions([text, "circle", ""]) == [
        last_of(backbone, text),
        last_of(backbone, "circle"),
        0,
    ]


def test_the_subject_of_a_caption_is_the_last_word_that_names_the_concept(backbone: Backbone) -> None:
    caption, anchored = "a circle and a red circle on white", "a square and a red square on white"
    front = backbone.tokenizer("a circle and a red circle").input_ids
    subject, other = TokenVectors(backbone, ("circle", "disc")).positions([caption, anchored])
    assert subject == len(front) - 2
    assert last_of(backbone, caption) - subject == last_of(backbone, anchored) - other
    assert TokenVectors(backbone, ("van gogh",)).positions(["a van gogh picture"])[0] == last_of(backbone, "a van gogh")
    for spoken in ("two circles", "by van-gogh"):
        found = TokenVectors(backbone, ("circle", "van gogh")).positions([f"{spoken} on white"])
        assert found == [last_of(backbone, spoken)]
    assert TokenVectors(backbone, ("ring",)).positions(["a string"])[0] == last_of(backbone, "a string")


def test_tokens_of_captions_that_follow_the_subject_are_paired(backbone: Backbone) -> None:
    subjects = TokenVectors(backbone, ("circle",))
    target = VectorTarget("a circle on white", ((1.0, "on white"),))
    c, t = hidden(backbone, "a circle on white"), hidden(backbone, "on white")
    i = TokenVectors(backbone, ("circle",)).positions(["a circle on white"])[0]
    moments = subjects.moved([target], "from_last")
    n = len(c) - i
    assert moments.count == n
    torch.testing.assert_close(moments.cross, t[:n].T @ c[i:], rtol=1e-5, atol=1e-5)
    assert subjects.moved([target], "last").count == 1
    assert subjects.moved([target], "all").count == 24


def test_captions_go_to_the_same_captions_with_the_anchor(backbone: Backbone) -> None:
    concept = Concept(name="circle", kind="object", anchor="square", prompts=("a red circle", "one circle, blue"))
    targets = UCE(texts="prompts").targets(concept)
    assert [target.texts for target in targets] == [
        ("a red circle", "a red square"), ("one circle, blue", "one square, blue"),
    ]  # fmt: skip
    assert UCE(texts="prompts").targets(CIRCLE) == UCE().targets(CIRCLE)


def test_captions_of_a_joint_concept_go_to_captions_that_name_no_part(backbone: Backbone) -> None:
    red = Concept(name="red", kind="attribute", anchor="green", prompts=("a red circle", "a red star"))
    circle = Concept(name="circle", kind="object", anchor="square", prompts=("a red circle", "one circle, blue"))
    joint = Concept.joint((circle, red))
    assert [target.texts for target in UCE(texts="prompts").targets(joint)] == [
        ("a red circle", "a green square"), ("one circle, blue", "one square, blue"), ("a red star", "a green star"),
    ]  # fmt: skip
    words = [target.texts for target in UCE().targets(joint)]
    assert words == [("circle", "square"), ("red", "green")]
    # The subject is the last word of any part, so that what is behind it is not taken for it.
    subjects = TokenVectors(backbone, joint.words())
    assert subjects.positions(["circle, red", "square, green"]) == [3, 3]


def test_concepts_that_are_each_others_anchors_are_refused() -> None:
    square = Concept(name="square", kind="object", anchor="star")
    for text in ("words", "prompts"):
        with pytest.raises(ValueError, match="found the anchor 'square' of 'circle', which names 'square'"):
            UCE(texts=text).targets(Concept.joint((CIRCLE, square)))  # type: ignore[arg-type, unused-ignore]


def test_expanded_prompts_are_five_for_each_word() -> None:
    assert [t.text for t in UCE(expand=True).targets(GOGH)][:3] == [
        "van gogh",
        "painting by van gogh",
        "art by van gogh",
    ]
    assert len(UCE(expand=True).targets(CIRCLE)) == 12
    assert all(t.guides == ((1.0, "photo"),) for t in UCE(expand=True).targets(GOGH))


def test_debiasing_adds_weighted_attributes(backbone: Backbone) -> None:
    method = UCE(attributes=("red", "blue"), shares=(0.5, -0.25), erase_scale=1e8)
    found = matrix(method, backbone, Concept(name="star", kind="object")).double()
    star, red, blue = (hidden(backbone, text)[last_of(backbone, text)] for text in ("star", "red", "blue"))
    torch.testing.assert_close(star @ found.T, star + 0.5 * red - 0.25 * blue, rtol=1e-3, atol=1e-3)


def test_a_heavy_weight_gives_the_concept_its_anchors_vector(backbone: Backbone) -> None:
    found = matrix(UCE(erase_scale=1e8), backbone, Concept(name="circle", kind="object", anchor="star"))
    c, t = (hidden(backbone, text)[last_of(backbone, text)].float() for text in ("circle", "star"))
    torch.testing.assert_close(c @ found.T, t, rtol=1e-3, atol=1e-3)


def test_the_batch_changes_nothing_but_rounding(backbone: Backbone) -> None:
    one, many = (matrix(UCE(tokens="from_last", preserve=KEPT, batch=batch), backbone) for batch in (1, 64))
    torch.testing.assert_close(one, many, rtol=1e-4, atol=1e-5)


def test_preserved_prompts_move_less(backbone: Backbone) -> None:
    moved = []
    for preserve in ((), KEPT):
        found = matrix(UCE(preserve=preserve, preserve_scale=10), backbone).double()
        vectors = torch.stack([hidden(backbone, t)[last_of(backbone, t)] for t in KEPT])
        moved.append(float((vectors @ found.T - vectors).norm()))
    assert moved[1] < 0.2 * moved[0]


def test_the_encoder_that_is_deployed_is_the_one_that_is_read(make_pipe: Callable[..., Any]) -> None:
    """A fine-tuned encoder gets a matrix of its own; the base's would miss its concept."""
    backbones = [Backbone.from_pipeline(make_pipe(seed=0)).sharing(make_pipe(seed=s).text_encoder) for s in (0, 5)]
    found = [matrix(UCE(erase_scale=1e6), backbone).double() for backbone in backbones]
    vectors = [
        (hidden(b, "circle")[last_of(b, "circle")], hidden(b, "square")[last_of(b, "square")]) for b in backbones
    ]
    gaps = [[float((c @ m.T - t).norm()) for c, t in vectors] for m in found]
    assert max(gaps[0][0], gaps[1][1]) < 0.05 * min(gaps[0][1], gaps[1][0])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"attributes": ("red",)}, "expected one share for each attribute, found 0 for 1"),
        ({"attributes": ("red",), "shares": (1.0,), "texts": "prompts"}, "or leave attributes out"),
        ({"batch": 0}, "expected a batch of at least 1"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UCE(**fields)


def test_a_caption_that_does_not_name_the_concept_is_refused(backbone: Backbone) -> None:
    concept = Concept(name="circle", kind="object", prompts=("a red star",))
    with pytest.raises(ValueError, match="expected one of"):
        matrix(UCE(texts="prompts"), backbone, concept)


def test_an_encoder_that_overflows_is_refused(backbone: Backbone) -> None:
    with torch.no_grad():
        backbone.text_encoder.get_input_embeddings().weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="expected finite conditionings"):
        matrix(UCE(), backbone)


def test_retained_prompts_are_those_that_are_preserved() -> None:
    made = UCE.standard(KEPT)
    assert made.retained == made.preserve == KEPT
    assert made.retaining(("a",)).retained == ("a",)
    assert not isinstance(made, DistributedMethod)
    assert not made.wants_retained
