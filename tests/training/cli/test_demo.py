"""The demo on tiny random models: the same prompts and seeds on both sides, counted and drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from PIL import Image
from torch import Tensor

from robust_encoders import CATALOG
from robust_encoders.artifact.embedded_bases import EMBEDDED
from robust_encoders.clip.state_dict import nested_state
from robust_encoders.concepts import Concept
from robust_encoders.encoder import RobustEncoder
from robust_encoders.errors import AssetsMissingError
from robust_encoders.hub import embedded, resolve
from robust_encoders.training.artifact import to_encoder
from robust_encoders.training.attacks import UnlearnDiffAtk
from robust_encoders.training.cli import demo as demo_module
from robust_encoders.training.cli.demo import Demo, DemoRow, run_demo, strip, write_demos
from robust_encoders.training.detectors.label_judge import LabelJudge
from robust_encoders.training.diffusion.sampling import SamplingConfig, draw
from robust_encoders.training.evaluation.benchmarks import BENCHMARKS, demos, emoji_demo, shapes_demo
from robust_encoders.training.evaluation.benchmarks.demos import DEMOS
from robust_encoders.training.evaluation.benchmarks.emoji_demo import EmojiDemo
from robust_encoders.training.evaluation.benchmarks.shapes_demo import ShapesDemo
from robust_encoders.training.evaluation.config import EvaluationConfig
from robust_encoders.training.evaluation.plan import Plan, PromptSet
from robust_encoders.training.reports.plots.picture_grid import (
    PICTURE,
    Pair,
    Section,
    Tile,
    draw_grid,
    font_of,
    printable,
    shortened,
    stacked,
    wrapped,
)
from robust_encoders.training.types import Case, Edit
from robust_encoders.training.worlds import BASES
from robust_encoders.training.worlds.emoji.concepts import emoji_concept
from robust_encoders.training.worlds.emoji.judge import answers
from robust_encoders.training.worlds.emoji.things import Things, load_things
from robust_encoders.training.worlds.shapes.concepts import ShapesConcept
from robust_encoders.training.worlds.shapes.vocabulary import FACTORS, VALUES

SAMPLING = SamplingConfig(steps=1, guidance=1.0)


class BrightnessJudge:
    """Sees a circle in pictures brighter than a level, a square in others; all else as listed first."""

    name = "brightness-judge"
    version = "brightness"
    values = VALUES

    def __init__(self, level: float) -> None:
        self.level = level

    def probabilities(self, images: Tensor) -> Mapping[str, Tensor]:
        rows = {f: torch.zeros(len(images), len(VALUES[f])) for f in FACTORS}
        bright = (images.mean((1, 2, 3)) > self.level).float()
        rows["shape"][:, 0], rows["shape"][:, 1] = bright, 1 - bright
        return rows

    def __call__(self, images: Tensor) -> Mapping[str, list[str]]:
        return {f: [VALUES[f][int(i)] for i in p.argmax(1)] for f, p in self.probabilities(images).items()}


@dataclass(frozen=True)
class Shifted:
    name: ClassVar[str] = "shifted"


class Bright:
    """Finds the concept in every bright picture."""

    name, version, threshold = "bright", "1", 0.5

    def __call__(self, images: Tensor) -> Tensor:
        return images.mean((1, 2, 3))


@dataclass(frozen=True)
class Brightest:
    """A benchmark whose detector is that of bright pictures."""

    name: ClassVar[str] = "emoji"
    concept: str | Concept

    def plan(self, pipe: Any, config: EvaluationConfig) -> Plan:
        concept = Concept(name=str(self.concept), kind="content")
        return Plan(concept, (), PromptSet("kept", ()), Bright(), {})


class FirstJudge:
    """Sees the first value of each label."""

    name, version = "first", "1"

    def __init__(self, values: Mapping[str, tuple[str, ...]]) -> None:
        self.values = values

    def probabilities(self, images: Tensor) -> Mapping[str, Tensor]:
        return {label: torch.eye(len(names))[:1].repeat(len(images), 1) for label, names in self.values.items()}

    def __call__(self, images: Tensor) -> Mapping[str, list[str]]:
        return {label: [names[0]] * len(images) for label, names in self.values.items()}


def emoji_judge(things: Things) -> FirstJudge:
    return FirstJudge(answers(things))


@pytest.fixture
def demo(make_pipe: Callable[..., Any]) -> Demo:
    pipe = make_pipe(positions=77)
    with torch.no_grad():
        for name, weight in pipe.unet.named_parameters():
            weight.mul_(4 if "attn2" in name else 1)
    tensors = {name: tensor.clone() for name, tensor in nested_state(pipe.text_encoder).items()}
    name = next(name for name in tensors if name.endswith("final_layer_norm.bias"))
    tensors[name] = tensors[name] - 5.0
    edit = Edit("weights", "text_encoder", tensors, pipe.text_encoder.config.to_dict())
    concept = Concept(name="circle", kind="object")
    encoder = to_encoder(edit, concept=concept, method=Shifted(), pipe=pipe, recipe={}, family="test")
    prompts = ["a red circle", "a blue disc", "a ball", "round"]
    level = float(draw(pipe, prompts, [0, 1, 2, 3], SAMPLING).mean())
    attack = UnlearnDiffAtk(timesteps=2, iterations=1)
    world = ShapesDemo(ShapesConcept.parse("circle"), BrightnessJudge(level))
    return Demo(pipe, encoder, world, n=2, sampling=SAMPLING, attack=attack)


def judge_of(demo: Demo) -> LabelJudge:
    assert isinstance(demo.world, ShapesDemo)
    return demo.world.judge


def test_before_is_the_base_and_after_is_the_encoder(demo: Demo) -> None:
    sections = demo.sections(seed=0)
    for section in sections:
        assert len(section.pairs) == 2
        for pair in section.pairs:
            assert not torch.equal(pair.before.picture, pair.after.picture)
    plain = sections[0].pairs[0]
    alone = draw(demo.pipe, [plain.prompt], [0], SAMPLING)[0]
    torch.testing.assert_close(plain.before.picture, alone, atol=1e-5, rtol=0)
    with demo.encoder.attached(demo.pipe):
        alone = draw(demo.pipe, [plain.prompt], [0], SAMPLING)[0]
    torch.testing.assert_close(plain.after.picture, alone, atol=1e-5, rtol=0)


def test_sections_ask_for_the_concept_by_their_words_and_then_for_all_else(demo: Demo) -> None:
    sections = demo.sections(seed=0)
    words = [set(" ".join(pair.prompt for pair in section.pairs).split()) for section in sections]
    assert "circle" in words[0]
    assert words[1] & {"disc", "ball"}
    assert "round" in words[2]
    assert not words[5] & {"circle", "disc", "ball", "round"}
    assert [section.kept for section in sections] == [False] * 5 + [True]


def test_attacked_prompts_are_plain_ones_with_tokens_before(demo: Demo) -> None:
    plain, _, _, base, robust, _ = demo.sections(seed=0)
    for attacked in (base, robust):
        for before, after in zip(plain.pairs, attacked.pairs, strict=True):
            assert after.prompt.endswith(before.prompt)
            assert len(after.prompt) > len(before.prompt)
    assert [p.prompt for p in base.pairs] != [p.prompt for p in robust.pairs]


def test_verdicts_follow_the_judge(demo: Demo) -> None:
    *erased, kept = demo.sections(seed=0)
    judge = judge_of(demo)
    for section in erased:
        for tile in (tile for pair in section.pairs for tile in (pair.before, pair.after)):
            circle = judge(tile.picture[None])["shape"] == ["circle"]
            assert (tile.verdict, tile.good) == (("circle", False) if circle else ("no circle", True))
    for pair in kept.pairs:
        assert pair.before.good == (pair.before.verdict == "as asked")


def test_the_summary_counts_and_the_picture_is_there(demo: Demo, tmp_path: Path) -> None:
    summary = write_demos([demo], tmp_path / "new", seed=0)
    with Image.open(summary.picture) as image:
        assert image.width > 4 * PICTURE
        assert len(image.getcolors(maxcolors=2**24) or []) > 100
    assert [row.n for row in summary.rows] == [2] * 6
    assert summary.table.count("circle drawn?") == 5
    assert "drawn as asked?" in summary.table
    assert str(summary.picture) in summary.table


def test_rows_count_what_is_wrong_in_erased_and_right_in_kept_sections(demo: Demo) -> None:
    good, bad = (Tile(torch.zeros(3, 2, 2), "", flag) for flag in (True, False))
    pairs = (Pair("a", bad, good), Pair("b", bad, bad), Pair("c", good, good))
    assert demo.rows([Section("x", pairs), Section("y", pairs, kept=True)]) == (
        DemoRow("x", "circle drawn?", 3, before=2, after=1, base="shapes"),
        DemoRow("y", "drawn as asked?", 3, before=1, after=2, base="shapes"),
    )


def test_the_pipeline_is_left_as_it_was(demo: Demo) -> None:
    base = demo.pipe.text_encoder
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    demo.drawn(seed=0)
    assert demo.pipe.text_encoder is base
    assert all(torch.equal(before[name], tensor) for name, tensor in base.state_dict().items())


@pytest.fixture
def opened(demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Put the tiny models in the place of every embedded base; return the names of what is opened."""
    names: list[str] = []

    def from_pretrained(name: str) -> RobustEncoder:
        names.append(name)
        assert isinstance(demo.encoder, RobustEncoder)
        return demo.encoder

    def pipeline(base: str) -> Any:
        names.append(base)
        return demo.pipe

    tile = Tile(torch.zeros(3, 2, 2), "", True)
    monkeypatch.setattr(embedded, "embedded_folder", lambda base: tmp_path / "assets" / base)
    monkeypatch.setattr(demos, "embedded_folder", lambda base: tmp_path / "assets" / base)
    monkeypatch.setattr(demo_module, "embedded_pipeline", pipeline)
    monkeypatch.setattr(shapes_demo, "load_judge", lambda: judge_of(demo))
    monkeypatch.setattr(emoji_demo, "load_judge", lambda: judge_of(demo))
    monkeypatch.setitem(BENCHMARKS, "emoji", Brightest)
    monkeypatch.setattr(RobustEncoder, "from_pretrained", from_pretrained)
    monkeypatch.setattr(
        Demo, "sections", lambda self, seed: [Section(name, (Pair("a", tile, tile),)) for name in "uvwxyz"]
    )
    return names


def install(folder: Path, encoder: str) -> None:
    """Make the files of an embedded base and its encoder, as far as the demo looks for them."""
    (folder / "base").mkdir(parents=True)
    (folder / "base" / "model_index.json").write_text("{}")
    (folder / "encoders" / encoder).mkdir(parents=True)


def test_run_demo_draws_shapes_alone_while_there_is_no_emoji_base(
    opened: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(tmp_path / "assets" / "shapes", "circle")
    found = run_demo(tmp_path / "out")
    assert found.picture == tmp_path / "out" / "demo.png"
    assert (tmp_path / "out" / "demo-strip.png").is_file()
    assert opened == ["shapes/circle", "shapes"]
    assert "demo: without the base emoji, because it is not installed" in capsys.readouterr().err
    assert found.table.startswith("| prompts")
    (tmp_path / "assets" / "emoji" / "base").mkdir(parents=True)
    (tmp_path / "assets" / "emoji" / "base" / "model_index.json").write_text("{}")
    run_demo(tmp_path / "out")
    assert "because its encoder emoji/alcohol is not installed" in capsys.readouterr().err


def test_run_demo_draws_both_worlds_in_one_picture_emoji_first(opened: list[str], tmp_path: Path) -> None:
    install(tmp_path / "assets" / "shapes", "circle")
    install(tmp_path / "assets" / "emoji", "alcohol")
    one, both = run_demo(tmp_path / "one", bases=["shapes"]), run_demo(tmp_path / "both")
    assert opened[2:] == ["emoji/alcohol", "emoji", "shapes/circle", "shapes"]
    heights = [Image.open(summary.picture).height for summary in (one, both)]
    assert heights[1] == 2 * heights[0]
    assert [row.base for row in both.rows] == ["emoji"] * 6 + ["shapes"] * 6
    assert [row.question for row in both.rows[:1]] == ["alcohol drawn?"]
    assert both.table.startswith("| base ")


def test_a_base_that_is_asked_for_is_never_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (embedded, demos, resolve):
        monkeypatch.setattr(module, "embedded_folder", lambda base: tmp_path / base)
    for bases in (["emoji"], ["shapes"], []):
        with pytest.raises(AssetsMissingError, match=f"{(bases or ['shapes'])[0]}.*; reinstall robust-encoders"):
            run_demo(tmp_path, bases=bases)


def test_the_emoji_demo_asks_for_the_concept_and_for_its_neighbours() -> None:
    things = load_things()
    world = EmojiDemo(emoji_concept("alcohol"), things, emoji_judge(things), Bright())
    cases = world.named(8, seed=0)
    members = {*emoji_concept("alcohol").members}
    assert all(case.expected["thing"] in members for found in cases.values() for case in found)
    plain, seen, unseen = cases.values()
    for case in plain:
        assert case.expected["thing"] in case.prompt.lower()
    for case in seen:
        assert any(word in case.prompt.lower() for word in things.by_name[case.expected["thing"]].aliases)
    for case in unseen:
        assert things.by_name[case.expected["thing"]].held_out in case.prompt.lower()
    kept = world.kept(6, seed=0)
    assert {case.expected["thing"] for case in kept} == {*emoji_concept("alcohol").neighbours}
    assert len({case.seed for case in (*plain, *seen, *unseen, *kept)}) == 30
    style = EmojiDemo(emoji_concept("line art"), things, emoji_judge(things), Bright())
    assert {case.expected["style"] for case in style.kept(9, seed=0)} == {"noto", "twemoji", "fluent"}
    single = EmojiDemo(emoji_concept("hammer"), things, emoji_judge(things), Bright())
    assert "hammer" not in {case.expected["thing"] for case in single.kept(9, seed=0)}
    pizza = EmojiDemo(emoji_concept("pizza"), things, emoji_judge(things), Bright())
    assert not things.by_name["pizza"].aliases
    assert [*pizza.named(2, seed=0)] == [title for title in cases if not title.startswith("Other names")]


def test_the_emoji_demo_names_what_a_kept_picture_shows_instead() -> None:
    things = load_things()
    world = EmojiDemo(emoji_concept("alcohol"), things, emoji_judge(things), Bright())
    cases = [Case(0, "", 0, {"thing": things.names[0]}), Case(1, "", 1, {"thing": "teacup"})]
    assert world.instead(torch.zeros(2, 3, 64, 64), cases) == ["", things.names[0]]


def test_the_packaged_worlds_of_the_demo_are_those_of_the_embedded_bases() -> None:
    assert {*DEMOS} == {*embedded.EMBEDDED_BASES}
    for base, facts in EMBEDDED.items():
        erased = {facts.concept} | {entry.concept for entry in CATALOG.values() if entry.embedded_base == base}
        words = {name: BASES[base]().concept(name).words() for name in erased}
        assert any(word in facts.prompt for word in words[facts.concept])
        assert not [word for found in words.values() for word in found if f" {word} " in f" {facts.kept} "]


def test_pictures_are_stacked_on_paper() -> None:
    narrow, wide = Image.new("RGB", (2, 3), (9, 9, 9)), Image.new("RGB", (4, 1), (8, 8, 8))
    made = stacked([narrow, wide])
    assert made.size == (4, 4)
    assert [made.getpixel(at) for at in ((0, 0), (3, 0), (3, 3))] == [(9, 9, 9), (252, 252, 250), (8, 8, 8)]
    with pytest.raises(ValueError, match="at least one picture, found none"):
        stacked([])


def test_the_strip_has_one_pair_of_four_sections() -> None:
    tile = Tile(torch.zeros(3, 2, 2), "", True)
    sections = [Section(name, tuple(Pair(f"{name}{i}", tile, tile) for i in range(3))) for name in "uvwxyz"]
    shown = strip(sections)
    assert [pair.prompt for pair in shown.pairs] == ["u0", "w1", "y2", "z0"]
    assert all(pair.heading for pair in shown.pairs)
    with pytest.raises(ValueError, match="expected at least 4 sections, found 3"):
        strip(sections[:3])


def test_the_grid_marks_wanted_and_unwanted_pictures() -> None:
    white = torch.ones(3, 2, 2)
    section = Section("title", (Pair("a prompt", Tile(white, "circle", False), Tile(white, "none", True)),))
    image = draw_grid("title", ["note"], [section])
    colours = {colour for _, colour in image.getcolors(maxcolors=2**24) or []}
    assert {(30, 140, 70), (205, 40, 40), (255, 255, 255)} <= colours


def test_pixels_are_enlarged_without_smoothing() -> None:
    """Two colours stay two: nothing between them appears where a picture lies."""
    picture = torch.tensor([[[0.0, 1.0]], [[0.0, 0.0]], [[0.0, 0.0]]])  # black beside red
    section = Section("", (Pair("", Tile(picture, "", True), Tile(picture, "", True)),))
    colours = [c for _, c in draw_grid("", [], [section]).getcolors(maxcolors=2**24) or []]
    assert {c[0] for c in colours if isinstance(c, tuple) and c[1:] == (0, 0)} == {0, 255}


def test_an_empty_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one pair"):
        draw_grid("title", [], [])


def test_prompts_are_wrapped_to_the_width_of_their_pictures() -> None:
    font = font_of(14)
    text = "an image of a dotted orange circle on a gray background"
    lines = wrapped(text, font)
    assert " ".join(lines) == text
    assert max(font.getlength(line) for line in lines) <= 2 * PICTURE + 8
    assert wrapped("", font) == [""]
    assert wrapped("w" * 100, font) == ["w" * 100]
    assert wrapped("circle " * 50, font)[-1].endswith(" ...")


def test_a_verdict_is_no_wider_than_its_picture() -> None:
    font = font_of(13)
    long = "not asked: flying saucer, twemoji, purple"
    assert shortened("as asked", font) == "as asked"
    assert font.getlength(shortened(long, font)) <= PICTURE < font.getlength(long)
    assert shortened(long, font).startswith("not asked: fly")
    assert shortened(long, font).endswith("...")


def test_unprintable_tokens_are_escaped() -> None:
    assert printable("a\x0fé'b") == "a\\x0f\\xe9'b"
