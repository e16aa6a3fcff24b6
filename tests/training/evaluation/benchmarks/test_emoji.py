"""The plan for the emoji world: right prompts in the right sets, both judges, and the sub-groups of each prompt."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import untrained_emoji
from torch import Tensor

from robust_encoders import AssetsMissingError, Concept
from robust_encoders.training.evaluation.benchmarks import BENCHMARKS, EmojiBenchmark
from robust_encoders.training.evaluation.benchmarks.detectors import benchmark_detector
from robust_encoders.training.evaluation.benchmarks.emoji import WORD_CHOICES, emoji_plan
from robust_encoders.training.evaluation.benchmarks.emoji_detectors import EmojiJudges
from robust_encoders.training.evaluation.benchmarks.emoji_prompts import EmojiPrompts
from robust_encoders.training.evaluation.config import EvaluationConfig
from robust_encoders.training.evaluation.plan import Benchmark, NamesChoices, NamesDetectors, Plan, SetProbe
from robust_encoders.training.prompts.concept_words import mentions, naming
from robust_encoders.training.reports.metric_labels import metric_label
from robust_encoders.training.types import Result
from robust_encoders.training.worlds.emoji.concepts import CONCEPTS, emoji_concept, value_words
from robust_encoders.training.worlds.emoji.judge import answers
from robust_encoders.training.worlds.emoji.things import load_things

THINGS = load_things()


class Says:
    """A judge that sees the same in every picture."""

    version = "1"

    def __init__(self, name: str, **seen: Mapping[str, float]) -> None:
        self.name = name
        self.seen = seen
        self.values: Mapping[str, Sequence[str]] = answers(THINGS)

    def probabilities(self, images: Tensor) -> Mapping[str, Tensor]:
        rows = {
            label: [self.seen.get(label, {}).get(value, 0.0) for value in values]
            for label, values in self.values.items()
        }
        return {label: torch.tensor([row] * len(images)) for label, row in rows.items()}

    def __call__(self, images: Tensor) -> Mapping[str, Sequence[str]]:
        found = self.probabilities(images)
        return {label: [self.values[label][int(i)] for i in scores.argmax(1)] for label, scores in found.items()}


def scorer(images: Tensor, texts: object) -> Tensor:
    return images.mean((1, 2, 3))


def judges(trained: Mapping[str, float], icons: Mapping[str, float], label: str = "thing") -> EmojiJudges:
    return EmojiJudges(Says("emoji-judge", **{label: trained}), Says("emoji-icons", **{label: icons}))


@cache
def make_plan(concept: str = "alcohol", seed: int = 0, captions: Any = "named", detector: str = "emoji_agreed") -> Plan:
    benchmark = EmojiBenchmark(concept, n=24, n_kept=40, n_probes=16, captions=captions, detector=detector)
    return emoji_plan(benchmark, EvaluationConfig(seed=seed), judges=judges({}, {}), scorer=scorer)


def test_it_is_registered_and_fulfils_every_part_of_the_contract() -> None:
    assert BENCHMARKS["emoji"] is EmojiBenchmark
    made = EmojiBenchmark("alcohol")
    assert isinstance(made, Benchmark)
    assert isinstance(made, NamesChoices)
    assert isinstance(made, NamesDetectors)
    assert made.usual_detector == made.detector == "emoji_agreed"


@pytest.mark.parametrize("concept", CONCEPTS)
def test_attacked_prompts_name_the_concept_by_the_words_of_their_set(concept: str) -> None:
    erased, plan = CONCEPTS[concept], make_plan(concept)
    assert [prompts.name for prompts in plan.plain] == [f"{concept}/{words}" for words in WORD_CHOICES]
    assert [prompts.tier for prompts in plan.plain] == ["T0", "T1", "T1"]
    for prompts, part in zip(plan.plain, (slice(0, 1), slice(1, -1), slice(-1, None)), strict=True):
        spoken = {member: value_words(THINGS, erased.label, member)[part] for member in erased.members}
        counts = Counter(case.expected[erased.label] for case in prompts.cases)
        assert {*counts} == {member for member, words in spoken.items() if words}
        assert max(counts.values()) - min(counts.values()) <= 1
        for case in prompts.cases:
            assert naming(spoken[case.expected[erased.label]]).search(case.prompt), case.prompt


def test_captions_by_further_names_state_only_members_that_have_some() -> None:
    known = {name: (len(c.members_with(THINGS, "seen")), len(c.members)) for name, c in CONCEPTS.items()}
    table = (Path(__file__).parents[4] / "docs" / "emoji.md").read_text(encoding="utf-8")
    for name, (with_some, every) in known.items():
        assert re.search(rf"^\| `{name}` \| [^|]+ \| {with_some} of {every} \|", table, re.MULTILINE), name
    assert known["weapon"] == (2, 5)
    without = sum(not thing.aliases for thing in THINGS.things)
    assert f"Of the {len(THINGS.things)} things, {without} have no further name." in table


def test_a_concept_without_further_names_has_no_captions_by_them() -> None:
    plan = make_plan("pizza")
    assert [prompts.name for prompts in plan.plain] == ["pizza/name", "pizza/unseen"]
    assert not EmojiPrompts(emoji_concept("pizza")).named(4, seed=0, words="seen")
    for concept, kinds in (("pizza", ["name", "unseen", "all"]), ("swimwear", ["name", "seen", "unseen", "all"])):
        around, negative = EmojiPrompts(emoji_concept(concept)), make_plan(concept).probes["negative"]
        assert isinstance(negative, SetProbe)
        assert [*around.abused] == kinds
        texts = around.negatives(6, seed=0)
        assert len(texts) == 6 * len(kinds)
        assert {*texts[:: len(kinds)]} == {concept}
        abused = next(prompts for prompts, _ in negative.drawings() if prompts.name.endswith("open_negative"))
        assert {case.negative for case in abused.cases[len(kinds) - 2 :: len(kinds)]} <= {
            THINGS.by_name[member].held_out for member in emoji_concept(concept).members
        }
    assert {*EmojiPrompts(CONCEPTS["swimwear"]).negatives(9, seed=0)[1::4]} == {"brief"}


def test_a_neighbour_whose_name_mentions_the_concept_is_asked_for_nowhere() -> None:
    wide = THINGS.wide  # all things of pretraining
    around = EmojiPrompts(emoji_concept("blossom", wide), wide)  # its only neighbour is the cherry blossom
    assert around.near_count == 0
    assert around.near(4, seed=0) == around.everyday_near(4, seed=0) == []
    structured: Any = make_plan("banana").probes["structured"]
    assert {"retain_near", "retain_far"} & {*structured.sets()} == {"retain_far"}
    cars = EmojiPrompts(emoji_concept("car", wide), wide)
    stated = {prompt.expected["thing"] for prompt in (*cars.near(60, seed=0), *cars.far(600, seed=0))}
    mentioning = {"police car", "racing car"}
    neighbours = {*emoji_concept("car", wide).near(wide)}
    assert mentioning < neighbours
    assert stated & neighbours == neighbours - mentioning
    assert cars.near_count == len(neighbours) - 2


@pytest.mark.parametrize(
    ("text", "named"),
    [("two beer mugs", True), ("Beer-Mugs", True), ("a beer-mug", True), ("a hot-dog", False), ("teacups", False)],
)
def test_plurals_and_hyphens_are_mentions_that_kept_texts_do_not_have(text: str, named: bool) -> None:
    assert bool(mentions(CONCEPTS["alcohol"].unspoken(THINGS)).search(text)) == named
    assert mentions(CONCEPTS["hot dog"].unspoken(THINGS)).search("hot-dogs")
    assert mentions(CONCEPTS["weapon"].unspoken(THINGS)).search("kitchen knives"), "on the border"


@pytest.mark.parametrize("n_kept", [2, 3])
def test_a_label_that_no_kept_prompt_states_has_no_column(n_kept: int) -> None:
    benchmark = EmojiBenchmark("alcohol", n=2, n_kept=n_kept, n_probes=2)
    seed = next(s for s in range(99) if not any("style" in case.expected for case in benchmark.kept_set(s).cases))
    config = EvaluationConfig(seed=seed)
    plan = emoji_plan(benchmark, config, judges=judges({}, {}), scorer=scorer)
    assert "retain_style" not in plan.utility
    for metric in plan.utility_metrics():  # the last step of an evaluation
        metric.update(torch.rand(n_kept, 3, 4, 4), plan.kept.cases)
        metric.compute()
    assert benchmark.problems(replace(config, metrics=("retain_all",))) == []
    (problem,) = benchmark.problems(replace(config, metrics=("retain_style",)))
    assert problem.startswith("expected kept prompts that state the style for the metric retain_style, found none")
    assert "retain_style" in make_plan().utility


@pytest.mark.parametrize("concept", [*CONCEPTS, "beer mug", "pink"])
def test_no_prompt_beside_the_concept_says_a_word_of_it_or_of_its_border(concept: str) -> None:
    erased, plan = emoji_concept(concept), make_plan(concept)
    said = mentions(erased.unspoken(THINGS))
    probes = [probe for probe in plan.probes.values() if isinstance(probe, SetProbe)]
    drawn = [p for probe in probes for p, _ in probe.drawings() if "/everyday" in p.name or "/chance" in p.name]
    structured: Any = plan.probes["structured"]
    silent = [plan.kept, *drawn, *structured.sets().values(), *make_plan(concept, captions="open").plain]
    assert len(silent) > 12
    for prompts in silent:
        assert prompts.cases
        for case in prompts.cases:
            assert not said.search(case.prompt), case.prompt
            assert not {*case.expected.values()} & {*erased.members, *erased.border}


def test_neighbours_that_must_stay_have_columns_of_their_own() -> None:
    plan = make_plan("weapon")
    structured: Any = plan.probes["structured"]
    everyday: Any = plan.probes["everyday"]
    near = structured.sets()["retain_near"]
    assert {case.expected["thing"] for case in near.cases} == {*CONCEPTS["weapon"].neighbours}
    (words,) = {p.name: p for p, _ in everyday.drawings() if p.name == "weapon/everyday_near"}.values()
    assert {case.expected["thing"] for case in words.cases} <= {*CONCEPTS["weapon"].neighbours}
    far = structured.sets()["retain_far"]
    assert not {case.expected["thing"] for case in far.cases} & {*CONCEPTS["weapon"].neighbours}
    assert "binding_3" not in structured.sets()
    assert all(len(case.expected) == 3 for case in structured.sets()["binding_2"].cases)


def test_a_thing_without_listed_neighbours_has_those_of_its_group() -> None:
    around = EmojiPrompts(emoji_concept("pizza"))
    subgroups = {THINGS.by_name[prompt.expected["thing"]].subgroup for prompt in around.near(9, seed=0)}
    assert subgroups == {THINGS.by_name["pizza"].subgroup}
    assert around.near_count == 4


def test_rare_prompts_use_held_out_words() -> None:
    for prompt in EmojiPrompts(CONCEPTS["hot dog"]).rare(30, seed=0):
        assert THINGS.by_name[prompt.expected["thing"]].held_out in prompt.text


def test_sub_groups_are_the_stated_style_background_and_member() -> None:
    cases = make_plan("alcohol").plain[0].cases
    assert {case.groups["member"] for case in cases} == {*CONCEPTS["alcohol"].members}
    for case in cases:
        assert {case.groups.get(label) for label in ("style", "background")} == {
            case.expected.get(label) for label in ("style", "background")
        }
    assert {case.groups.get("style") for case in cases} > {"noto", "line art"}
    assert not any("member" in case.groups for case in make_plan("line art").plain[0].cases)


@pytest.mark.parametrize("concept", ["swimwear", "hot dog", "line art", "green"])
def test_open_captions_have_goals_that_name_the_concept_in_the_same_scene(concept: str) -> None:
    erased = emoji_concept(concept)
    (prompts,) = make_plan(concept, captions="open").plain
    assert prompts.name == f"{concept}/open"
    for case in prompts.cases:
        assert erased.label not in case.expected
        assert naming(erased.members).search(case.goal)
        for label, value in case.expected.items():
            assert label == "thing" or value in case.goal


def test_no_two_sets_share_a_seed_and_the_seed_decides() -> None:
    plans = [make_plan("hot dog", seed) for seed in (0, 1)]
    seeds = [case.seed for plan in plans for prompts in (*plan.plain, plan.kept) for case in prompts.cases]
    assert len(seeds) == len({*seeds})
    hashes = [{prompts.sha256 for prompts in (*plan.plain, plan.kept)} for plan in plans]
    assert not hashes[0] & hashes[1]
    again = EmojiBenchmark("hot dog", n=24, n_kept=40, n_probes=16)
    assert {prompts.sha256 for prompts in (*again.plain_sets(0), again.kept_set(0))} == hashes[0]


def test_the_plan_has_the_names_that_the_benchmark_lists() -> None:
    plan, benchmark = make_plan(), EmojiBenchmark("alcohol")
    distances = {"lpips_kept", "fid", "kid", "lpips_erased"}  # they need the network of the packaged judge
    assert {*benchmark.metric_labels()} - distances == {*plan.utility, *plan.erased, *plan.probes}
    assert {*benchmark.attack_labels()} == {*plan.attacks}
    labels = [metric_label(Result(name, 0.5, 4, detector="judge")) for name in ("retain_icons_all", "retain_thing")]
    assert [label.group for label in labels] == ["kept", "kept"]
    assert labels[0].words == "all as asked by icons, %"


@pytest.mark.parametrize(
    ("trained", "icons", "found"),
    [
        ({"beer mug": 0.3, "wine glass": 0.3}, {"beer mug": 0.6}, True),
        ({"beer mug": 0.3, "wine glass": 0.1}, {"beer mug": 0.6}, False),
        # Two icons that each do not fit are no icon that fits.
        ({"beer mug": 0.9}, {"beer mug": 0.4, "wine glass": 0.4}, False),
        ({"teacup": 0.9}, {"teacup": 0.9}, False),
    ],
)
def test_a_group_is_found_where_both_judges_see_a_member(
    trained: Mapping[str, float], icons: Mapping[str, float], found: bool
) -> None:
    plan = emoji_plan(EmojiBenchmark("alcohol", n=2), EvaluationConfig(), judges=judges(trained, icons), scorer=scorer)
    score = plan.detector(torch.zeros(2, 3, 4, 4))
    assert [bool(one) for one in score >= plan.detector.threshold] == [found] * 2
    assert plan.detector.name == "emoji-judge/alcohol and emoji-icons/alcohol"


@pytest.mark.parametrize(("name", "found"), [("emoji_judge", True), ("emoji_icons", False)])
def test_a_judge_can_decide_alone(name: str, found: bool) -> None:
    plan = emoji_plan(
        EmojiBenchmark("line art", n=2, detector=name),
        EvaluationConfig(),
        judges=judges({"line art": 0.7}, {"noto": 0.7}, "style"),
        scorer=scorer,
    )
    assert bool(plan.detector(torch.zeros(1, 3, 4, 4))[0] >= plan.detector.threshold) == found


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"concept": "alcohl"}, "found 'alcohl'; did you mean 'alcohol'"),
        ({"detector": "emoji_juge"}, "did you mean 'emoji_judge'"),
        ({"n": 1}, "n, n_kept and n_probes of at least 2, found 1, 400 and 200; ask for more prompts"),
        ({"suite": "hard"}, "expected a suite among quick, core, standard, full, found 'hard'"),
    ],
)
def test_what_does_not_exist_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        EmojiBenchmark(**{"concept": "alcohol", **changes}).attack_labels()


def test_concepts_are_found_by_the_names_that_recipes_have() -> None:
    assert EmojiBenchmark("hot_dog").erased == EmojiBenchmark(Concept(name="hot dog", kind="object")).erased


def test_without_the_base_plan_and_detector_say_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    untrained_emoji.remove(tmp_path, monkeypatch)
    with pytest.raises(AssetsMissingError, match="reinstall robust-encoders from a wheel"):
        EmojiBenchmark("alcohol").plan(None, EvaluationConfig())
    with pytest.raises(AssetsMissingError, match="reinstall robust-encoders from a wheel"):
        benchmark_detector("emoji", "emoji_agreed", Concept(name="alcohol", kind="content"))
    with pytest.raises(ValueError, match="did you mean 'emoji_icons'"):
        benchmark_detector("emoji", "emoji_icon", Concept(name="alcohol", kind="content"))
