"""Terms on outliers, text that no caption resembles."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_outliers import ALL, ALTERNATIVES, NAMES, against_outliers, outlier_objective, terms_on_outliers
from tiny_training import ANCHORED, QUIET, RETAIN, TINY, drawn, erase, generator, prepared, sharded, term_of, trained
from torch import Tensor

from robust_encoders.training.distributed import Shard
from robust_encoders.training.objectives.config import HardeningConfig, OutlierConfig, RetainConfig
from robust_encoders.training.objectives.outliers import (
    Inserted,
    OffManifold,
    OutlierRows,
    SearchedStrings,
    ShuffledCaptions,
    Strings,
    off_manifold_embeddings,
    outlier_terms,
)
from robust_encoders.training.objectives.terms import NoiseError, Objective
from robust_encoders.training.objectives.unlearning import Unlearn
from robust_encoders.training.prompts.layout import prompt_lengths
from robust_encoders.training.trainer.loop import TrainingConfig
from robust_encoders.training.workspace import Workspace

LONG = TrainingConfig(iterations=60, rate=3e-3)


def outlier_rows(pipe: Any, *, eta: float = 0.0) -> OutlierRows:
    return term_of(outlier_objective(pipe, eta=eta, strings_weight=1.0), Strings).outliers


def texts(rows: OutlierRows, ids: Tensor) -> list[str]:
    return [rows.teacher.tokenizer.decode(row, skip_special_tokens=True).strip() for row in ids]


def tokens(rows: OutlierRows, text: str) -> list[int]:
    found: list[int] = rows.teacher.tokenizer(text, add_special_tokens=False).input_ids
    return found


def test_by_default_there_is_no_term(tiny_pipe: Any) -> None:
    assert not terms_on_outliers(prepared(TINY, tiny_pipe))


def test_every_term_has_its_rows_and_only_the_search_calls_the_unet(tiny_pipe: Any) -> None:
    made = outlier_objective(tiny_pipe, **ALL)
    names = {"strings", "shuffled", "off_manifold", "inserted", "searched"}
    assert names <= set(made(5, generator())[1])
    assert names - set(made(0, generator())[1]) == {"searched"}, "the search begins with the attack"
    made.teacher.unet_calls = 0
    *others, search = terms_on_outliers(made)
    rows = {term.name: (term, drawn(term)) for term in others}
    assert made.teacher.unet_calls == 0
    assert {name: (term.weight, term.least, row.total, len(row.ids)) for name, (term, row) in rows.items()} == {
        "strings": (2.0, 4, 4, 4),
        "shuffled": (3.0, 4, 4, 4),
        "off_manifold": (4.0, 4, 4, 4),
        "inserted": (6.0, 4, 4, 4),
    }
    assert all(term.space == "conditioning" for term in (*others, search))
    assert (search.name, search.weight, drawn(search).total) == ("searched", 5.0, 3)
    assert made.teacher.unet_calls == 2 * 2 * 3, "forward and backward, for two steps of three strings"


def test_without_a_search_and_noise_terms_the_unet_is_never_run(tiny_pipe: Any) -> None:
    method = against_outliers(**{**ALL, "searched_weight": 0.0})
    hardening = HardeningConfig(objective="conditioning", additions_weight=1.0)
    unlearn = replace(method.unlearn, plain_weight=1.0, plain_space="conditioning")
    retain = replace(method.retain, space="conditioning")
    made = prepared(replace(method, unlearn=unlearn, hardening=hardening, retain=retain), tiny_pipe, concept=ANCHORED)
    terms = {"strings", "shuffled", "off_manifold", "inserted", "attacked", "additions", "plain", "retain_conditioning"}
    assert set(made(5, generator())[1]) == terms
    assert made.teacher.unet_calls == 0


def test_what_is_not_caption_like_is_pulled_to_the_same_words_with_the_anchor(tiny_pipe: Any) -> None:
    made = outlier_rows(tiny_pipe)
    teacher = made.teacher
    said = {
        "red": "star red",
        "a square ring on white": "a star star on white",
        "a red disc": "a red star",
        "a square": "a square",
        "a red circle cross": "a red star star",
    }
    row = made.judged(teacher.tokenize(list(said)), len(said))
    torch.testing.assert_close(row.target, teacher.condition(list(said.values())))
    assert not row.target.requires_grad
    farther = outlier_rows(tiny_pipe, eta=0.5).judged(teacher.tokenize(["red", "a square ring", "ring"]), 3)
    anchored, named = (
        teacher.condition(rows) for rows in (["star red", "a star star"], ["circle red", "a circle circle"])
    )
    torch.testing.assert_close(farther.target[:2], anchored - 0.5 * (named - anchored))
    torch.testing.assert_close(farther.target[2:], teacher.condition(["ring"]))


@pytest.mark.parametrize("shard", [Shard(), Shard(1, 2)])
def test_the_empty_prompt_is_kept_in_every_process(tiny_pipe: Any, shard: Shard) -> None:
    made = term_of(outlier_objective(tiny_pipe, shuffled_weight=1.0, empty_weight=7.0), ShuffledCaptions)
    teacher = made.outliers.teacher
    points, errors = term_of(prepared(TINY, tiny_pipe), Unlearn).points, NoiseError(teacher, teacher)
    *_, term = outlier_terms(sharded(made.outliers, shard), points, errors)
    row = drawn(term)
    assert (term.name, term.weight, row.total, len(row.ids)) == ("empty", 7.0, shard.count, 1)
    assert torch.equal(row.ids, teacher.tokenize([""]))
    torch.testing.assert_close(row.target, teacher.condition([""]))
    assert OutlierConfig().empty_weight > 0, "whoever asks for strings should not have to know"
    assert not OutlierConfig().batches(), "beside other terms alone"


def test_without_keeping_it_the_empty_prompt_follows_the_strings(tiny_pipe: Any) -> None:
    far = {}
    for weight in (0.0, 80.0):
        method = against_outliers(strings_weight=20.0, strings_batch=16, empty_weight=weight)
        student, before = trained(replace(method, train=LONG), tiny_pipe, concept=ANCHORED)
        assert before.metric is not None
        with torch.no_grad():
            far[weight] = float(before.metric(*(one.condition([""]) for one in (student, before.teacher))))
    assert far[80.0] < 0.1 * far[0.0]


def test_strings_are_of_words_and_half_of_them_of_any_token(tiny_pipe: Any) -> None:
    fields = {"strings_weight": 1.0, "strings_batch": 400, "longest": 4, "vocabulary": 1.0}
    term = term_of(outlier_objective(tiny_pipe, **fields), Strings)
    row, made = drawn(term), term.outliers
    heard = {token for word in made.words.lexicon for token in word}
    special = set(made.teacher.tokenizer.all_special_ids)
    lengths = prompt_lengths(row.ids, made.prompts.eos).tolist()
    found = [set(ids[1 : 1 + k].tolist()) for ids, k in zip(row.ids, lengths, strict=True)]
    assert not set().union(*found) & special
    assert sum(one <= heard for one in found) / 400 == pytest.approx(0.5, abs=0.1)
    assert len(set().union(*found) - heard) > 50
    assert min(lengths) == 1
    torch.testing.assert_close(row.embeds, made.teacher.embed(row.ids))


def test_shuffled_captions_keep_what_they_say_and_their_meaning(tiny_pipe: Any) -> None:
    term = term_of(outlier_objective(tiny_pipe, shuffled_weight=1.0, shuffled_batch=200), ShuffledCaptions)
    row = drawn(term)
    bags = [sorted(caption.split()) for caption in RETAIN]
    found = [text.split() for text in texts(term.outliers, row.ids)]
    for words in found:
        assert any(set(words) <= set(bag) and set(bag) & set(ALTERNATIVES) <= set(words) for bag in bags)
    assert any(sorted(words) in bags for words in found)
    assert any(sorted(words) not in bags for words in found), "words are left out"
    assert any(" ".join(words) not in RETAIN and sorted(words) in bags for words in found), "in another order"
    torch.testing.assert_close(row.target, term.outliers.teacher.encode(row.embeds, row.ids))


def test_off_manifold_embeddings_are_no_tokens_and_stand_where_the_word_was(tiny_pipe: Any) -> None:
    term = term_of(outlier_objective(tiny_pipe, off_manifold_weight=1.0, off_manifold_batch=64), OffManifold)
    row, prompts = drawn(term), term.outliers.prompts
    every = prompts.teacher.embed(torch.arange(prompts.teacher.text_encoder.config.vocab_size))
    left = {tuple(ids.tolist()) for ids in prompts.cut_prompts.ids}
    begin = int(prompts.teacher.tokenizer.bos_token_id)
    for ids, embeds in zip(row.ids.tolist(), row.embeds, strict=True):
        place = ids.index(begin, 1)
        assert (*ids[:place], *ids[place + 1 :], prompts.eos) in left
        assert torch.cdist(embeds[None, place], every).min() > 1e-4
    assert all(any(torch.equal(target, one) for one in prompts.targets) for target in row.target)
    assert not prompts.config.neighbours_weight, "they want no term on neighbours"


def test_embeddings_are_inserted_into_prompts_anywhere_and_together(tiny_pipe: Any) -> None:
    fields = {"inserted_weight": 1.0, "inserted_batch": 120, "inserted_tokens": 3}
    term = term_of(outlier_objective(tiny_pipe, **fields), Inserted)
    prompts = term.outliers.prompts
    every = prompts.teacher.embed(torch.arange(prompts.teacher.text_encoder.config.vocab_size))
    begin = int(prompts.teacher.tokenizer.bos_token_id)
    whole = {tuple(ids.tolist()): target for ids, target in zip(prompts.ids, prompts.targets, strict=True)}
    counts = set()
    for seed in range(8):
        row = drawn(term, seed)
        k = sum(token == begin for token in row.ids[0].tolist()) - 1
        counts.add(k)
        where = {"front": 0, "behind": 0, "between": 0}
        for ids, embeds, target in zip(row.ids.tolist(), row.embeds, row.target, strict=True):
            place = ids.index(begin, 1)
            assert ids[place : place + k] == [begin] * k
            assert torch.cdist(embeds[place : place + k], every).min() > 1e-4
            kept = (*ids[:place], *ids[place + k :], *[prompts.eos] * k)
            assert torch.equal(target, whole[kept])
            at = "front" if place == 1 else "behind" if ids[place + k] == prompts.eos else "between"
            where[at] += 1
        assert min(where["front"], where["behind"]) > 120 / 4, where
        assert where["between"] >= 120 / 12, where  # the prompts are short
    assert counts == {1, 2, 3}


def test_training_holds_prompts_with_inserted_embeddings(tiny_pipe: Any) -> None:
    method = replace(against_outliers(inserted_weight=20.0, inserted_batch=16), train=LONG)
    student, before = trained(method, tiny_pipe, concept=ANCHORED)
    assert before.metric is not None
    row = drawn(term_of(before, Inserted), 99)
    with torch.no_grad():
        conds = [one.encode(row.embeds, row.ids) for one in (before.teacher, student)]
        far = [float(before.metric(cond, row.target).mean()) for cond in conds]
    assert far[1] < 0.7 * far[0]


def test_mixtures_and_noise_lie_around_the_vocabulary_at_many_distances() -> None:
    vocabulary = 5 + 0.1 * torch.randn(200, 8, generator=generator(3))
    found = off_manifold_embeddings(vocabulary, 2000, generator())
    assert found.shape == (2000, 8)
    torch.testing.assert_close(found.mean(0), vocabulary.mean(0), atol=0.02, rtol=0)
    far = (found - vocabulary.mean(0)).norm(dim=1) / (vocabulary - vocabulary.mean(0)).norm(dim=1).mean()
    assert far.min() < 0.5
    assert far.max() > 2.5


def test_what_is_found_is_judged_as_strings_are(tiny_pipe: Any) -> None:
    term = term_of(outlier_objective(tiny_pipe, searched_weight=1.0), SearchedStrings)
    row = drawn(term)
    wanted = term.outliers.judged(row.ids, 3)
    assert (row.total, len(row.ids)) == (3, 3)
    assert torch.equal(row.target, wanted.target)
    assert term.state().keys() == {"searched.soft", "searched.momentum"}


def test_a_run_interrupted_in_the_middle_ends_where_a_whole_one_does(
    tiny_pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = replace(against_outliers(**ALL), train=TrainingConfig(iterations=5, rate=1e-3))
    whole = erase(method, tiny_pipe, QUIET, concept=ANCHORED)
    space, call = Workspace(folder=tmp_path, every=2, progress=False), Objective.__call__

    def interrupted(self: Objective, iteration: int, generator: torch.Generator) -> Any:
        if iteration == 3:
            raise KeyboardInterrupt
        return call(self, iteration, generator)

    with monkeypatch.context() as patched:
        patched.setattr(Objective, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            erase(method, tiny_pipe, space, concept=ANCHORED)
    again = erase(method, tiny_pipe, space, concept=ANCHORED)
    assert all(torch.equal(whole.tensors[name], again.tensors[name]) for name in whole.tensors)
    assert whole.log["unet_calls"] == again.log["unet_calls"]


def test_processes_share_the_rows_of_one(tiny_pipe: Any) -> None:
    made = outlier_objective(tiny_pipe, **{**ALL, "searched_weight": 0.0})
    terms = terms_on_outliers(made)
    assert len(terms) == 4
    for term in terms:
        whole, parts = drawn(term), [drawn(sharded(term, Shard(i, 2))) for i in range(2)]
        assert [part.total for part in parts] == [whole.total] * 2
        for what in ("embeds", "ids", "target"):
            torch.testing.assert_close(torch.cat([getattr(p, what) for p in parts]), getattr(whole, what))


def test_strings_end_where_the_padding_is_another_token(tiny_pipe: Any) -> None:
    # As in Stable Diffusion 2.
    tiny_pipe.tokenizer.pad_token = "!"
    objective = outlier_objective(tiny_pipe, **ALL)
    made = term_of(objective, Strings).outliers
    teacher = made.teacher
    said = ["red", "a square", ""]
    assert teacher.tokenize(said)[0, -1] != made.prompts.eos
    rows = [[(token,) for token in tokens(made, text)] for text in said]
    assert torch.equal(made.tokenized(rows), teacher.tokenize(said))
    for term in terms_on_outliers(objective):
        assert (drawn(term).ids == made.prompts.eos).any(1).all()


def test_training_moves_strings_towards_the_anchor(tiny_pipe: Any) -> None:
    method = replace(against_outliers(strings_weight=20.0, strings_batch=16), train=LONG)
    student, before = trained(method, tiny_pipe, concept=ANCHORED)
    assert before.metric is not None
    said = before.teacher.tokenize(["square ring", "white red", "on a green"])
    row = term_of(before, Strings).outliers.judged(said, 3)
    with torch.no_grad():
        conds = [one.encode(row.embeds, row.ids) for one in (before.teacher, student)]
        far = [float(before.metric(cond, row.target).mean()) for cond in conds]
    assert far[1] < 0.7 * far[0]


def test_a_training_is_refused_before_anything_is_run(tiny_pipe: Any) -> None:
    with pytest.raises(ValueError, match=r"expected the anchor 'star' among outliers\.alternatives"):
        outlier_objective(tiny_pipe, **ALL, alternatives=("ring",))
    with pytest.raises(ValueError, match=r"room for 23 more tokens, of 22 in all"):
        outlier_objective(tiny_pipe, **{**ALL, "inserted_tokens": 23})
    unretained = replace(against_outliers(strings_weight=1.0), retain=RetainConfig(weight=0.0))
    with pytest.raises(ValueError, match="whose words the terms strings use, found none"):
        prepared(unretained, tiny_pipe, concept=ANCHORED)


def test_names_of_terms_are_those_of_their_settings(tiny_pipe: Any) -> None:
    made = outlier_objective(tiny_pipe, **{**ALL, "empty_weight": 1.0})
    assert tuple(term.name for term in terms_on_outliers(made)) == NAMES
