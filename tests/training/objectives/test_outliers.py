from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import CIRCLE, RETAIN, TINY, generator, prepared
from torch import Tensor

from robust_encoders import Concept
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.distributed import Shard
from robust_encoders.training.methods import ESD, AdvUnlearn
from robust_encoders.training.objectives.config import HardeningConfig, RetainConfig, UnlearnConfig
from robust_encoders.training.objectives.outlier_config import OutlierConfig
from robust_encoders.training.objectives.outliers import OutlierTerms, off_manifold_embeddings
from robust_encoders.training.objectives.prompt_search import PromptSearch
from robust_encoders.training.objectives.unlearning import Objective
from robust_encoders.training.prompts.layout import prompt_lengths
from robust_encoders.training.trainer.loop import TrainingConfig
from robust_encoders.training.types import Edit
from robust_encoders.training.workspace import Workspace

ANCHORED = replace(CIRCLE, anchor="star")
ALL: dict[str, Any] = {
    "strings_weight": 2.0,
    "shuffled_weight": 3.0,
    "strangers_weight": 4.0,
    "searched_weight": 5.0,
    "inserted_weight": 6.0,
}
OTHERS = ("square", "star", "ring", "cross")


def doubting(*, eta: float = 0.0, **fields: Any) -> AdvUnlearn:
    small = {
        "empty_weight": 0.0,
        "strings_batch": 4,
        "shuffled_batch": 4,
        "strangers_batch": 4,
        "inserted_batch": 4,
        "searched": 6,
        "searched_batch": 3,
    }
    doubt = OutlierConfig(**{"others": OTHERS, "longest": 4, "searched_tokens": 3, **small, **fields})
    return replace(TINY, unlearn=UnlearnConfig(batch=2, harden=HardeningConfig(eta=eta, doubt=doubt)))


def doubtful(pipe: Any, *, eta: float = 0.0, concept: Concept = ANCHORED, **fields: Any) -> OutlierTerms:
    made = prepared(doubting(eta=eta, **fields), pipe, concept=concept).doubt
    assert made is not None
    return made


def texts(made: OutlierTerms, ids: Tensor) -> list[str]:
    return [made.hardening.teacher.tokenizer.decode(row, skip_special_tokens=True).strip() for row in ids]


def tokens(made: OutlierTerms, text: str) -> list[int]:
    found: list[int] = made.hardening.teacher.tokenizer(text, add_special_tokens=False).input_ids
    return found


def test_by_default_there_is_no_term(tiny_pipe: Any) -> None:
    assert HardeningConfig().doubt == OutlierConfig()
    assert not OutlierConfig().batches()
    assert prepared(TINY, tiny_pipe).doubt is None


def test_every_term_has_its_rows_and_only_the_search_calls_the_unet(tiny_pipe: Any) -> None:
    made = prepared(doubting(**ALL), tiny_pipe, concept=ANCHORED)
    names = {"strings", "shuffled", "strangers", "inserted", "searched"}
    assert names <= set(made(5, generator())[1])
    assert names - set(made(0, generator())[1]) == {"searched"}, "the search begins with the attack"
    doubt = made.doubt
    assert doubt is not None
    made.teacher.unet_calls = 0
    rows = doubt(generator(), None)
    assert made.teacher.unet_calls == 0
    assert {row.name: (row.weight, row.total, len(row.ids)) for row in rows} == {
        "strings": (2.0, 4, 4),
        "shuffled": (3.0, 4, 4),
        "strangers": (4.0, 4, 4),
        "inserted": (6.0, 4, 4),
    }
    doubt(generator(), made._searched(generator()))
    assert made.teacher.unet_calls == 2 * 2 * 3, "forward and backward, for two steps of three strings"


def test_without_a_search_and_noise_terms_the_unet_is_never_run(tiny_pipe: Any) -> None:
    method = doubting(**{**ALL, "searched_weight": 0.0})
    harden = replace(method.unlearn.harden, objective="conditioning", additions_weight=1.0)
    unlearn = replace(method.unlearn, harden=harden, plain_weight=1.0, plain_space="conditioning")
    method = replace(method, unlearn=unlearn, retain=replace(method.retain, space="conditioning"))
    made = prepared(method, tiny_pipe, concept=ANCHORED)
    terms = {"strings", "shuffled", "strangers", "inserted", "attacked", "additions", "plain", "retain_conditioning"}
    assert set(made(5, generator())[1]) == terms
    assert made.teacher.unet_calls == 0


@pytest.mark.parametrize(
    ("text", "clear"),
    [
        ("a red square", True),
        ("square square", True),
        ("red", False),
        ("a square star", False),
        ("a square circle", False),
        ("disc", False),
        ("ring", True),
    ],
)
def test_clear_is_what_says_one_other_thing_alone(tiny_pipe: Any, text: str, *, clear: bool) -> None:
    made = doubtful(tiny_pipe, **ALL)
    assert made.vocabulary.clear(tokens(made, text)) is clear


def test_a_word_among_unknown_tokens_is_not_clear(tiny_pipe: Any) -> None:
    made = doubtful(tiny_pipe, known=0.5, **ALL)
    heard = {token for text in RETAIN for token in tokens(made, text)}
    square, red, cat = (tokens(made, text)[0] for text in ("square", "red", "cat"))
    assert {square, red} <= heard
    assert cat not in heard
    said = {(square,): True, (red, cat, square): True, (cat, square): True, (cat, cat, square): False, (red,): False}
    assert {row: made.vocabulary.clear(row) for row in said} == said
    assert doubtful(tiny_pipe, **ALL).vocabulary.clear((cat, cat, square)), "by default one word is enough"


def test_words_of_several_tokens_are_read_as_words(tiny_pipe: Any) -> None:
    made = doubtful(tiny_pipe, others=("wooden square", "star"), **ALL)
    v = made.vocabulary
    assert len(v.others[0]) > 1
    assert v.clear(tokens(made, "a wooden square"))
    assert not v.clear(tokens(made, "a square"))
    said = [i for word in v.saying(tokens(made, "a wooden square"), v.anchor) for i in word]
    assert said == tokens(made, "a star")


def test_what_is_not_clear_is_pulled_to_the_same_words_with_the_anchor(tiny_pipe: Any) -> None:
    made = doubtful(tiny_pipe, **ALL)
    teacher = made.hardening.teacher
    said = {
        "red": "star red",
        "a square ring on white": "a star star on white",
        "a red disc": "a red star",
        "a square": "a square",
        "a red circle cross": "a red star star",
    }
    row = made._judged("strings", teacher.tokenize(list(said)))
    torch.testing.assert_close(row.target, teacher.condition(list(said.values())))
    assert not row.target.requires_grad
    beyond = doubtful(tiny_pipe, eta=0.5, **ALL)._judged("strings", teacher.tokenize(["red", "a square ring", "ring"]))
    anchored, named = (
        teacher.condition(rows) for rows in (["star red", "a star star"], ["circle red", "a circle circle"])
    )
    torch.testing.assert_close(beyond.target[:2], anchored - 0.5 * (named - anchored))
    torch.testing.assert_close(beyond.target[2:], teacher.condition(["ring"]))


@pytest.mark.parametrize("shard", [Shard(), Shard(1, 2)])
def test_the_empty_prompt_is_kept_in_every_process(tiny_pipe: Any, shard: Shard) -> None:
    made = doubtful(tiny_pipe, shuffled_weight=1.0, empty_weight=7.0)
    _, row = replace(made, hardening=replace(made.hardening, shard=shard))(generator(), None)
    assert (row.name, row.weight, row.total, len(row.ids)) == ("empty", 7.0, shard.count, 1)
    teacher = made.hardening.teacher
    assert torch.equal(row.ids, teacher.tokenize([""]))
    torch.testing.assert_close(row.target, teacher.condition([""]))
    assert OutlierConfig().empty_weight > 0, "whoever asks for strings should not have to know"
    assert not OutlierConfig().batches(), "beside other terms alone"


def test_without_keeping_it_the_empty_prompt_follows_the_strings(tiny_pipe: Any) -> None:
    far = {}
    for weight in (0.0, 80.0):
        doubt = {"strings_weight": 20.0, "strings_batch": 16, "empty_weight": weight}
        method = replace(doubting(**doubt), train=TrainingConfig(iterations=60, rate=3e-3))
        trained, objective = after(method, tiny_pipe)
        assert objective.metric is not None
        with torch.no_grad():
            far[weight] = float(objective.metric(*(one.condition([""]) for one in (trained, objective.teacher))))
    assert far[80.0] < 0.1 * far[0.0]


def test_strings_are_of_words_and_half_of_them_of_any_token(tiny_pipe: Any) -> None:
    made = doubtful(tiny_pipe, strings_weight=1.0, strings_batch=400, longest=4, vocabulary=1.0)
    (row,) = made(generator(), None)
    known = {token for word in made.vocabulary.lexicon for token in word}
    special = set(made.hardening.teacher.tokenizer.all_special_ids)
    lengths = prompt_lengths(row.ids, made._eos).tolist()
    found = [set(ids[1 : 1 + k].tolist()) for ids, k in zip(row.ids, lengths, strict=True)]
    assert not set().union(*found) & special
    assert sum(one <= known for one in found) / 400 == pytest.approx(0.5, abs=0.1)
    assert len(set().union(*found) - known) > 50
    assert min(lengths) == 1
    torch.testing.assert_close(row.embeds, made.hardening.teacher.embed(row.ids))


def test_shuffled_captions_keep_what_they_say_and_their_meaning(tiny_pipe: Any) -> None:
    made = doubtful(tiny_pipe, shuffled_weight=1.0, shuffled_batch=200)
    (row,) = made(generator(), None)
    bags = [sorted(caption.split()) for caption in RETAIN]
    found = [text.split() for text in texts(made, row.ids)]
    for words in found:
        assert any(set(words) <= set(bag) and set(bag) & set(OTHERS) <= set(words) for bag in bags)
    assert any(sorted(words) in bags for words in found)
    assert any(sorted(words) not in bags for words in found), "words are left out"
    assert any(" ".join(words) not in RETAIN and sorted(words) in bags for words in found), "in another order"
    torch.testing.assert_close(row.target, made.hardening.teacher.encode(row.embeds, row.ids))


def test_strangers_are_no_tokens_and_stand_where_the_word_was(tiny_pipe: Any) -> None:
    made = doubtful(tiny_pipe, strangers_weight=1.0, strangers_batch=64)
    (row,) = made(generator(), None)
    h = made.hardening
    every = h.teacher.embed(torch.arange(h.teacher.text_encoder.config.vocab_size))
    slots = h.slots
    assert slots is not None
    left = {tuple(ids.tolist()) for ids in slots.ids}
    begin = int(h.teacher.tokenizer.bos_token_id)
    for ids, embeds in zip(row.ids.tolist(), row.embeds, strict=True):
        place = ids.index(begin, 1)
        assert (*ids[:place], *ids[place + 1 :], made._eos) in left
        assert torch.cdist(embeds[None, place], every).min() > 1e-4
    assert all(any(torch.equal(target, known) for known in h.targets) for target in row.target)
    assert not made.hardening.settings.neighbours_weight, "they want no term on neighbours"


def test_strangers_are_put_into_prompts_anywhere_and_together(tiny_pipe: Any) -> None:
    made = doubtful(tiny_pipe, inserted_weight=1.0, inserted_batch=120, inserted_tokens=3)
    h = made.hardening
    every = h.teacher.embed(torch.arange(h.teacher.text_encoder.config.vocab_size))
    begin = int(h.teacher.tokenizer.bos_token_id)
    whole = {tuple(ids.tolist()): target for ids, target in zip(h.ids, h.targets, strict=True)}
    counts = set()
    for seed in range(8):
        (row,) = made(generator(seed), None)
        k = sum(token == begin for token in row.ids[0].tolist()) - 1
        counts.add(k)
        where = {"front": 0, "behind": 0, "between": 0}
        for ids, embeds, target in zip(row.ids.tolist(), row.embeds, row.target, strict=True):
            place = ids.index(begin, 1)
            assert ids[place : place + k] == [begin] * k
            assert torch.cdist(embeds[place : place + k], every).min() > 1e-4
            kept = (*ids[:place], *ids[place + k :], *[made._eos] * k)
            assert torch.equal(target, whole[kept])
            at = "front" if place == 1 else "behind" if ids[place + k] == made._eos else "between"
            where[at] += 1
        assert min(where["front"], where["behind"]) > 120 / 4, where
        assert where["between"] >= 120 / 12, where  # the prompts are short
    assert counts == {1, 2, 3}


def test_training_holds_prompts_that_strangers_stand_in(tiny_pipe: Any) -> None:
    method = replace(doubting(inserted_weight=20.0, inserted_batch=16), train=TrainingConfig(iterations=60, rate=3e-3))
    trained, objective = after(method, tiny_pipe)
    assert objective.doubt is not None
    assert objective.metric is not None
    (row,) = objective.doubt(generator(99), None)
    with torch.no_grad():
        conds = [one.encode(row.embeds, row.ids) for one in (objective.teacher, trained)]
        far = [float(objective.metric(cond, row.target).mean()) for cond in conds]
    assert far[1] < 0.7 * far[0]


def test_mixtures_and_noise_lie_around_the_vocabulary_at_many_distances() -> None:
    vocabulary = 5 + 0.1 * torch.randn(200, 8, generator=generator(3))
    found = off_manifold_embeddings(vocabulary, 2000, generator())
    assert found.shape == (2000, 8)
    torch.testing.assert_close(found.mean(0), vocabulary.mean(0), atol=0.02, rtol=0)
    far = (found - vocabulary.mean(0)).norm(dim=1) / (vocabulary - vocabulary.mean(0)).norm(dim=1).mean()
    assert far.min() < 0.5
    assert far.max() > 2.5


def test_nothing_that_says_something_else_is_added_to_what_is_kept(tiny_pipe: Any) -> None:
    method = doubting(strings_weight=1.0)
    harden = replace(method.unlearn.harden, neighbours_weight=1.0, neighbours_batch=80, additions=2)
    for others, kept in ((OTHERS, True), ((), False)):
        doubt = replace(harden.doubt, others=others)
        unlearn = replace(method.unlearn, harden=replace(harden, doubt=doubt))
        made = prepared(replace(method, unlearn=unlearn), tiny_pipe, concept=ANCHORED).hardening
        assert made is not None
        said = [
            len(set(text.split()) & set(OTHERS))
            for text in made.teacher.tokenizer.batch_decode(
                made._neighbours(generator()).ids[40:], skip_special_tokens=True
            )
        ]
        assert (max(said) == 1) is kept


def search(pipe: Any, **fields: Any) -> tuple[PromptSearch, Any]:
    objective = prepared(doubting(searched_weight=1.0, **fields), pipe, concept=ANCHORED)
    assert objective.doubt is not None
    assert objective.doubt.search is not None
    return objective.doubt.search, objective


def test_the_search_goes_on_from_where_it_was_left_and_lowers_the_loss(tiny_pipe: Any) -> None:
    made, objective = search(tiny_pipe, searched=4, searched_batch=4, searched_steps=5, restart=0.0)
    teacher = objective.teacher
    wanted = teacher.condition(["a red circle"] * 4).detach()

    def loss(embeds: Tensor, ids: Tensor) -> Tensor:
        far: Tensor = objective.metric(teacher.encode(embeds, ids), wanted)
        return far

    first = made.advance(generator(), loss, Shard())
    with torch.no_grad():
        before = loss(teacher.embed(first), first).mean()
    for seed in range(12):
        last = made.advance(generator(seed), loss, Shard())
    with torch.no_grad():
        after = loss(teacher.embed(last), last).mean()
    assert after < before
    assert set(prompt_lengths(last, int(teacher.tokenizer.eos_token_id)).tolist()) == {3}
    inside = set(last[:, 1:4].flatten().tolist())
    assert not inside & set(teacher.tokenizer.all_special_ids)


def test_a_string_is_where_it_would_be_had_nobody_stopped(tiny_pipe: Any) -> None:
    found = {}
    for steps, times in ((4, 1), (2, 2)):
        made, objective = search(tiny_pipe, searched=3, searched_batch=3, searched_steps=steps, restart=0.0)
        wanted = objective.teacher.condition(["a red circle"]).detach()

        def loss(embeds: Tensor, ids: Tensor, objective: Any = objective, wanted: Tensor = wanted) -> Tensor:
            far: Tensor = objective.metric(objective.teacher.encode(embeds, ids), wanted.expand_as(embeds))
            return far

        for seed in range(times):
            made.advance(generator(seed), loss, Shard())
        found[times] = made.soft
    torch.testing.assert_close(found[1], found[2])


def test_strings_begin_anew_as_often_as_they_should(tiny_pipe: Any) -> None:
    for chance in (0.0, 1.0):
        made, objective = search(tiny_pipe, searched=3, searched_batch=3, searched_rate=1e-6, restart=chance)
        loss = objective._searched(generator())
        made.advance(generator(1), loss, Shard())
        before = made.soft.clone()
        made.advance(generator(2), loss, Shard())
        moved = float((made.soft - before).abs().max())
        assert (moved < 1e-4) is (chance == 0.0)


def test_the_search_survives_a_checkpoint(tiny_pipe: Any) -> None:
    one, other = (prepared(doubting(searched_weight=1.0), tiny_pipe, concept=ANCHORED) for _ in range(2))
    one(5, generator(1))
    other.load_state(one.state())
    assert one.doubt is not None
    assert one.doubt.search is not None
    assert len(one.doubt.search.soft) == 6
    assert one(6, generator(2))[1] == other(6, generator(2))[1]


def test_a_run_interrupted_in_the_middle_ends_where_a_whole_one_does(
    tiny_pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = replace(doubting(**ALL), train=TrainingConfig(iterations=5, rate=1e-3))
    whole = erased(method, tiny_pipe, Workspace(progress=False))
    space, call = Workspace(folder=tmp_path, every=2, progress=False), Objective.__call__

    def interrupted(self: Objective, iteration: int, generator: torch.Generator) -> Any:
        if iteration == 3:
            raise KeyboardInterrupt
        return call(self, iteration, generator)

    with monkeypatch.context() as patched:
        patched.setattr(Objective, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            erased(method, tiny_pipe, space)
    again = erased(method, tiny_pipe, space)
    assert all(torch.equal(whole.tensors[name], again.tensors[name]) for name in whole.tensors)
    assert whole.log["unet_calls"] == again.log["unet_calls"]


def erased(method: AdvUnlearn, pipe: Any, workspace: Workspace) -> Edit:
    return method.erase(Backbone.from_pipeline(pipe), ANCHORED, generator=generator(), workspace=workspace)


def test_processes_share_the_rows_of_one(tiny_pipe: Any) -> None:
    made = prepared(doubting(**ALL), tiny_pipe, concept=ANCHORED).doubt
    assert made is not None
    whole = made(generator(), None)
    parts = [replace(made, hardening=replace(made.hardening, shard=Shard(i, 2)))(generator(), None) for i in range(2)]
    for i, term in enumerate(whole):
        assert [part[i].total for part in parts] == [term.total] * 2
        for what in ("embeds", "ids", "target"):
            torch.testing.assert_close(torch.cat([getattr(p[i], what) for p in parts]), getattr(term, what))
    names = ("strings", "shuffled", "strangers", "inserted", "searched")
    once, twice = (OutlierConfig(**{f"{name}_batch": n for name in names}, searched=64 * n // 3) for n in (3, 6))
    assert HardeningConfig(doubt=once).for_processes(2).doubt == twice


def after(method: AdvUnlearn, pipe: Any) -> tuple[Backbone, Objective]:
    """Return what the method trains, and its objective before."""
    before = prepared(method, pipe, concept=ANCHORED)
    edit, trained = erased(method, pipe, Workspace(progress=False)), before.teacher.clone()
    names = list(trained.text_encoder.state_dict())
    trained.text_encoder.load_state_dict(dict(zip(names, edit.tensors.values(), strict=True)))
    return trained, before


def test_strings_end_where_the_padding_is_another_token(tiny_pipe: Any) -> None:
    # As in Stable Diffusion 2.
    tiny_pipe.tokenizer.pad_token = "!"
    made = doubtful(tiny_pipe, **ALL)
    teacher = made.hardening.teacher
    said = ["red", "a square", ""]
    assert teacher.tokenize(said)[0, -1] != made._eos
    rows = [[(token,) for token in tokens(made, text)] for text in said]
    assert torch.equal(made._placed(rows), teacher.tokenize(said))
    for row in made(generator(), None):
        assert (row.ids == made._eos).any(1).all()


def test_training_moves_strings_towards_the_anchor(tiny_pipe: Any) -> None:
    method = doubting(strings_weight=20.0, strings_batch=16)
    trained, objective = after(replace(method, train=TrainingConfig(iterations=60, rate=3e-3)), tiny_pipe)
    assert objective.doubt is not None
    assert objective.metric is not None
    row = objective.doubt._judged("strings", objective.teacher.tokenize(["square ring", "white red", "on a green"]))
    with torch.no_grad():
        conds = [one.encode(row.embeds, row.ids) for one in (objective.teacher, trained)]
        far = [float(objective.metric(cond, row.target).mean()) for cond in conds]
    assert far[1] < 0.7 * far[0]


def test_settings_that_do_nothing_or_cannot_be_are_refused(tiny_pipe: Any) -> None:
    with pytest.raises(ValueError, match="as many strings under search"):
        OutlierConfig(searched=4, searched_batch=5)
    with pytest.raises(ValueError, match="of at least 1"):
        OutlierConfig(longest=0)
    for wrong in ({"vocabulary": 1.5}, {"restart": -0.1}, {"known": 2.0}, {"searched_rate": 0.0}):
        with pytest.raises(ValueError, match=r"expected known, vocabulary and restart in \[0, 1\]"):
            OutlierConfig(**wrong)  # type: ignore[arg-type, unused-ignore]
    for idle in ({"strings_weight": 1.0}, {"others": OTHERS, "shuffled_weight": 1.0}):
        with pytest.raises(ValueError, match=r"others, and strings or a search, for known 0\.5"):
            OutlierConfig(known=0.5, **idle)  # type: ignore[arg-type, unused-ignore]
    with pytest.raises(ValueError, match="attacks through the UNet for pull_weight"):
        UnlearnConfig(pull_weight=1.0, harden=HardeningConfig(objective="conditioning"))
    with pytest.raises(ValueError, match=r"hardening\.eta, found none"):
        UnlearnConfig(harden=HardeningConfig(eta=1.0, doubt=OutlierConfig(shuffled_weight=1.0)))
    with pytest.raises(ValueError, match=r"expected the anchor 'star' among outliers\.others"):
        prepared(doubting(**ALL, others=("ring",)), tiny_pipe, concept=ANCHORED)
    with pytest.raises(ValueError, match=r"searched_tokens of at most 22, .* found 23"):
        prepared(doubting(**{**ALL, "searched_tokens": 23}), tiny_pipe, concept=ANCHORED)
    with pytest.raises(ValueError, match=r"room for 23 tokens more in every prompt, which has 22"):
        prepared(doubting(**{**ALL, "inserted_tokens": 23}), tiny_pipe, concept=ANCHORED)
    with pytest.raises(ValueError, match="found 'circle' without one: give an anchor"):
        prepared(doubting(**ALL), tiny_pipe, concept=CIRCLE)
    joint = Concept.joint((ANCHORED, Concept(name="red", kind="attribute", anchor="green", prompts=("a red ring",))))
    with pytest.raises(ValueError, match="of several parts"):
        prepared(doubting(**ALL), tiny_pipe, concept=joint)
    unretained = replace(doubting(strings_weight=1.0), retain=RetainConfig(weight=0.0))
    with pytest.raises(ValueError, match="whose words strings take, found none"):
        prepared(unretained, tiny_pipe, concept=ANCHORED)
    unheard = replace(doubting(searched_weight=1.0, known=0.5), retain=RetainConfig(weight=0.0))
    with pytest.raises(ValueError, match="whose words searched take, found none"):
        prepared(unheard, tiny_pipe, concept=ANCHORED)
    method = doubting(searched_weight=1.0)
    with pytest.raises(ValueError, match=r"ESD has no attack"):
        ESD(retain=method.retain, unlearn=method.unlearn)
