"""Model cards say what the manifest says, and leave their owner's words alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

import robust_encoders
from robust_encoders import CardError, Concept, Manifest, RobustEncoder
from robust_encoders.artifact.embedded_bases import EMBEDDED, EmbeddedFacts
from robust_encoders.artifact.forms import PICTURE_NAME
from robust_encoders.artifact.model_card import BEGIN, CARD_NAME, END, card
from robust_encoders.artifact.papers import PAPERS

MEASURED = {
    "metric": "asr_any",
    "value": 0.25,
    "n": 8,
    "interval": [0.07, 0.59],
    "detector": "a-judge",
    "prompt_set": "a-set",
    "settings": {"attack": {"label": "an-attack"}},
    "origin": "measured",
}
REPORTED = {"metric": "pre_asr", "value": 0.5, "n": 100, "prompt_set": "b-set", "origin": "reported"}
OWN = "---\nlicense: mit\nlanguage: en\ntags:\n- mine\nmodel-index:\n- name: theirs\n  results: []\n---\n\n# My words\n"


@pytest.fixture
def manifest(tiny_encoder: RobustEncoder) -> Manifest:
    return replace(tiny_encoder.manifest, method={"name": "advunlearn"}, results=(MEASURED, REPORTED))


def metadata(text: str) -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load(text.split("---")[1])
    return data


def test_the_metadata_is_what_the_hub_searches_by(manifest: Manifest) -> None:
    data = metadata(card(manifest, reference="o/r"))
    expected = {
        "library_name": "robust-encoders",
        "base_model": "org/tiny",
        "base_model_relation": "finetune",
        "license": "apache-2.0",
        "pipeline_tag": "text-to-image",
    }
    assert {key: data[key] for key in expected} == expected
    assert {"diffusers", "text-encoder", "concept-erasure", "advunlearn", "arxiv:2405.15234"} <= set(data["tags"])


def test_results_measured_and_reported_are_apart(manifest: Manifest) -> None:
    text = card(manifest, reference="o/r")
    (entry,) = metadata(text)["model-index"]
    found = {part["dataset"]["config"]: part for part in entry["results"]}
    assert set(found) == {"measured", "reported"}
    (measured,), (reported,) = found["measured"]["metrics"], found["reported"]["metrics"]
    assert (measured["type"], measured["value"], measured["args"]["n"]) == ("asr_any", 0.25, 8)
    assert measured["name"] == "asr_any an-attack (measured)"
    assert (reported["type"], reported["value"]) == ("pre_asr", 0.5)
    own, others = text.split("Reported by others")
    assert "| attack success, an-attack |  | 25 % | lower | 7 % to 59 % | 8 | a-judge |" in own
    assert "| concept drawn unattacked" not in own
    assert "| concept drawn unattacked, b-set |  | 50 % | lower |  | 100 |  |" in others


def test_worst_cases_come_first_with_their_tier_and_what_is_beside_them_stays_in_the_manifest(
    manifest: Manifest,
) -> None:
    others = ({**MEASURED, "metric": name} for name in ("asr_last", "asr_gained", "judge_shape"))
    worst = {**MEASURED, "metric": "worst_case", "tier": "T0-T3", "settings": {"attack": {"label": "worst_case"}}}
    text = card(replace(manifest, results=(MEASURED, *others, worst)), reference="o/r")
    assert "| worst case by text | T0-T3 | 25 % | lower |" in text
    assert text.index("| worst case by text |") < text.index("| attack success, an-attack |")
    assert not any(words in text for words in ("last try", "gained |", "judge_shape"))


def test_what_the_checks_tell_against_a_number_stands_below_the_table(manifest: Manifest) -> None:
    doubted = {**MEASURED, "settings": {"attack": {"label": "weak", "tier": "T3"}, "doubts": ["weak | is too weak"]}}
    text = card(replace(manifest, results=(doubted, {**doubted})), reference="o/r")
    warned = "Checks found these attacks too weak or otherwise doubtful. Do not trust the marked numbers:"
    assert f"{warned}\n\n- ¹ weak \\| is too weak\n" in text
    assert text.count("| attack success, weak | T3 | 25 % ¹ | lower |") == 2
    assert text.count("is too weak") == 1
    assert "Do not trust" not in card(manifest, reference="o/r")


def test_a_card_shows_ten_headlines_and_the_manifest_holds_the_rest(manifest: Manifest) -> None:
    ways = [{**MEASURED, "tier": f"T{tier}", "value": 1.0} for tier in (5, 6, 7)]
    attacks = [
        {**MEASURED, "tier": "T3", "value": i / 20, "settings": {"attack": {"label": f"attack-{i}"}}} for i in range(9)
    ]
    kept = [{**MEASURED, "metric": name, "settings": {}} for name in ("retain_all", "clip_score", "knowledge", "fid")]
    worst = {**MEASURED, "metric": "worst_case"}
    text = card(replace(manifest, results=(*ways, *attacks, *kept, worst)), reference="o/r")
    rows = [line.split(" | ")[0].removeprefix("| ") for line in text.splitlines() if line.endswith("| a-judge |")]
    assert rows[:4] == ["worst case by text", *(f"attack success, attack-{i}" for i in (8, 7, 6))]
    assert rows[4:8] == [
        "kept as asked", "CLIP score of kept prompts", "FID of kept prompts", "concept still recognised"
    ]  # fmt: skip
    assert len(rows) == 10
    metrics = [one for part in metadata(text)["model-index"][0]["results"] for one in part["metrics"]]
    assert len(metrics) == 10
    assert "- kept as asked: Pictures without the concept that show everything as asked." in text
    body = text[text.index(BEGIN) : text.index("<details>")]
    assert len(body.splitlines()) <= 60


AGREED = {
    **MEASURED,
    "metric": "worst_case",
    "tier": "T0-T3",
    "detector": "judge/a and geometry/b|",
    "settings": {
        "singles": {"judge/a": {"value": 0.5, "n": 8}, "geometry/b|": {"value": 1.0, "n": 8}},
        "chance": {"encoder": {"rate": 0.04}, "base": {"rate": 0.57}},
        "suite_version": 2,
    },
}
EVERYDAY = {**MEASURED, "metric": "everyday", "value": 0.23, "settings": {"suite_version": 2}}


def test_a_rate_by_agreement_stands_beside_its_judges_and_its_floor(manifest: Manifest) -> None:
    results = (AGREED, EVERYDAY, {**EVERYDAY, "metric": "everyday_base", "value": 0.72})
    text = card(replace(manifest, results=results), reference="o/r")
    assert "Measured by suite version 2 of robust_encoders.\n" in text
    assert "| judged by | compare with |" in text
    judges = "judge/a (50 % alone) and geometry/b\\| (100 % alone)"
    assert f"| {judges} | by chance 4 %, base by chance 57 % |" in text
    assert "| kept as asked, everyday words |  | 23 % | higher | 7 % to 59 % | 8 | a-judge | base 72 % |" in text
    assert "everyday_base" not in text
    assert "- by chance: What the empty prompt and open captions win" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len({line.replace("\\|", "").count("|") for line in rows}) == 1, "a table of one width"


def test_three_attacks_come_before_a_second_variant_of_one(manifest: Manifest) -> None:
    attacks = [
        {**MEASURED, "value": value, "settings": {"attack": {"label": label, "name": name}}}
        for label, name, value in (("a", "one", 0.7), ("a_3", "one", 0.8), ("b", "two", 0.1), ("c", "three", 0.2))
    ]
    text = card(replace(manifest, results=tuple(attacks)), reference="o/r")
    rows = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| attack success")]
    assert rows == [f"| attack success, {label}" for label in ("a_3", "c", "b", "a")]


def test_without_agreement_or_floors_a_card_has_no_empty_columns(manifest: Manifest) -> None:
    text = card(manifest, reference="o/r")
    assert "| judged by |\n" in text
    assert "suite version" not in text


def test_a_withdrawn_number_leaves_the_card_and_its_reason_stays(manifest: Manifest) -> None:
    gone = {**MEASURED, "value": 0.111, "settings": {"doubts": ["withdrawn: too few | words", "weak"]}}
    other = {**MEASURED, "metric": "fid", "value": 3.25}
    text = card(replace(manifest, results=(gone, other)), reference="o/r")
    assert "**Numbers of this encoder were withdrawn**, for these reasons:\n\n- too few \\| words\n" in text
    assert "11 %" not in text
    (entry,) = metadata(text)["model-index"]
    assert [one["type"] for part in entry["results"] for one in part["metrics"]] == ["fid"]
    bare = card(replace(manifest, results=(gone,)), reference="o/r")
    assert "model-index" not in metadata(bare)
    assert "Nothing was measured" not in bare


def test_a_picture_in_the_folder_is_on_the_card(tiny_encoder: RobustEncoder, tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    tiny_encoder.save_pretrained(folder)
    assert PICTURE_NAME not in (folder / CARD_NAME).read_text()
    (folder / PICTURE_NAME).write_bytes(b"png")
    tiny_encoder.save_pretrained(folder)
    assert f"]({PICTURE_NAME})" in (folder / CARD_NAME).read_text()
    assert (folder / PICTURE_NAME).read_bytes() == b"png"


def test_the_picture_of_another_artifact_goes(tiny_encoder: RobustEncoder, tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    tiny_encoder.save_pretrained(folder)
    (folder / PICTURE_NAME).write_bytes(b"png")
    changed = {name: tensor + 1 for name, tensor in tiny_encoder.tensors.items()}
    RobustEncoder(tiny_encoder.manifest, changed, tiny_encoder.config).save_pretrained(folder)
    assert not (folder / PICTURE_NAME).exists()
    assert PICTURE_NAME not in (folder / CARD_NAME).read_text()


@pytest.mark.parametrize(
    "field",
    [{"interval": [0.1]}, {"interval": [None, None]}, {"settings": {"doubts": 5}}, {"settings": {"doubts": "ab"}},
     {"settings": {"singles": [1]}}, {"settings": {"singles": {"a": 2, "b": {}}}}, {"settings": {"chance": 3}},
     {"settings": {"chance": {"base": None, "encoder": {"rate": "x"}}, "suite_version": "two"}}],
)  # fmt: skip
def test_fields_of_another_shape_make_a_card_all_the_same(manifest: Manifest, field: dict[str, Any]) -> None:
    text = card(replace(manifest, results=({**REPORTED, **field},)), reference="o/r")
    assert "| concept drawn unattacked, b-set |  | 50 % | lower |  | 100 |  |" in text


def test_a_card_reads_back_as_it_was_written(manifest: Manifest) -> None:
    text = card(manifest, reference="o/r")
    assert str(ModelCard(text)) == text
    assert 'from_pretrained("o/r")' in text
    assert "{{" not in text


def test_nothing_is_claimed_that_the_manifest_does_not_say(manifest: Manifest) -> None:
    bare = replace(manifest, results=(), license="", method={"name": "own"}, base=replace(manifest.base, ids=()))
    text = card(bare, reference="o/r")
    data = metadata(text)
    assert data.keys() == {"library_name", "pipeline_tag", "tags"}
    assert not [tag for tag in data["tags"] if tag.startswith("arxiv")]
    assert "Nothing was measured by this package yet." in text
    assert "Not stated: whoever made these weights states it by `robust-encoders annotate" in text


def test_a_licence_that_the_hub_does_not_know_is_named(manifest: Manifest) -> None:
    data = metadata(card(replace(manifest, license="a-licence"), reference="o/r"))
    assert (data["license"], data["license_name"]) == ("other", "a-licence")


@pytest.mark.parametrize("facts", EMBEDDED.values(), ids=EMBEDDED)
def test_numbers_of_a_small_world_are_not_presented_as_stable_diffusions(
    facts: EmbeddedFacts, manifest: Manifest
) -> None:
    text = card(replace(manifest, base=replace(manifest.base, family=facts.name)), reference=facts.encoder)
    assert f"The base is a small world of {facts.draws}: none of its numbers is a Stable Diffusion number." in text
    assert f"for the small base of {facts.draws} in robust_encoders" in text
    assert "none of its numbers" not in card(manifest, reference="o/r")


@pytest.mark.parametrize("facts", EMBEDDED.values(), ids=EMBEDDED)
def test_the_example_of_a_small_world_names_its_own_base(
    facts: EmbeddedFacts, manifest: Manifest, tiny_pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = card(replace(manifest, base=replace(manifest.base, family=facts.name)), reference=facts.encoder)
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    asked: list[str] = []

    class Loaded:
        def attach(self, pipe: Any) -> None:
            asked.append("attached")

    def pipeline(base: str = "shapes") -> Any:
        asked.append(base)
        return tiny_pipe

    def from_pretrained(name: str) -> Loaded:
        asked.append(name)
        return Loaded()

    monkeypatch.setattr(robust_encoders, "embedded_pipeline", pipeline)
    monkeypatch.setattr(RobustEncoder, "from_pretrained", from_pretrained)
    exec(example, {})
    assert asked == [facts.name, facts.encoder, "attached"]
    assert f'pipe("{facts.kept}")' in example


@pytest.mark.parametrize("result", [{}, {"metric": "a"}, {"value": 1}, {"metric": "a", "value": "b", "settings": 3}])
def test_results_of_another_shape_make_a_card_all_the_same(manifest: Manifest, result: dict[str, Any]) -> None:
    text = card(replace(manifest, results=(result,)), reference="o/r")
    assert "model-index" not in metadata(text)
    assert "Reported by others" in text


def test_the_owners_words_and_metadata_stay(manifest: Manifest) -> None:
    text = card(manifest, reference="o/r", existing=OWN)
    data = metadata(text)
    assert data["language"] == "en"
    assert data["tags"][0] == "mine"
    assert data["license"] == "apache-2.0"
    assert [entry["name"] for entry in data["model-index"]] == ["theirs", "robust-encoders: circle by advunlearn"]
    assert text.index("# My words") < text.index(BEGIN)


def test_merging_twice_changes_nothing(manifest: Manifest) -> None:
    once = card(manifest, reference="o/r", existing=OWN)
    assert card(manifest, reference="o/r", existing=once) == once


def test_our_part_is_written_anew_and_only_ours(manifest: Manifest) -> None:
    first = card(manifest, reference="o/r").replace(BEGIN, f"before\n{BEGIN}") + "\nafter\n"
    other = replace(manifest, concept=Concept(name="star", kind="object"), results=())
    text = card(other, reference="o/r", existing=first)
    assert text.index("before") < text.index(BEGIN) < text.index("**star**") < text.index(END) < text.index("after")
    assert "circle" not in text
    assert "0.250" not in text
    assert "model-index" not in metadata(text)


def test_a_begin_that_lost_its_end_swallows_nothing(manifest: Manifest) -> None:
    broken = card(manifest, reference="o/r").replace(END, "kept")
    text = card(manifest, reference="o/r", existing=broken)
    again = card(manifest, reference="o/r", existing=text)
    assert "kept" in again
    assert again == text


def test_line_ends_of_the_owner_do_not_matter(manifest: Manifest) -> None:
    text = card(manifest, reference="o/r", existing=OWN.replace("\n", "\r\n"))
    assert metadata(text)["language"] == "en"
    assert "# My words" in text


@pytest.mark.parametrize("damaged", ["---\na: [\n---\ntext", "---\n- a\n- b\n---\ntext"])
def test_metadata_that_cannot_be_read_is_refused(manifest: Manifest, damaged: str) -> None:
    with pytest.raises(CardError, match=r"expected a model card with readable YAML.*found.*correct or remove"):
        card(manifest, reference="o/r", existing=damaged)


def test_a_concept_can_neither_close_our_part_nor_break_a_table(manifest: Manifest) -> None:
    odd = replace(manifest, concept=replace(manifest.concept, name=f"a\n{END}|b"))
    text = card(odd, reference="o/r")
    assert ModelCard(text).text.count(END) == 1
    assert card(odd, reference="o/r", existing=text) == text


def test_saving_writes_a_card_and_keeps_what_its_owner_added(tiny_encoder: RobustEncoder, tmp_path: Path) -> None:
    place = tmp_path / "artifact" / CARD_NAME
    tiny_encoder.save_pretrained(tmp_path / "artifact")
    place.write_text(place.read_text() + "\nmy words\n")
    tiny_encoder.save_pretrained(tmp_path / "artifact")
    assert "my words" in place.read_text()
    assert RobustEncoder.from_pretrained(tmp_path / "artifact").manifest == tiny_encoder.manifest


@pytest.mark.parametrize("damaged", [b"---\na: [\n---\n", b"\xff\xfe"])
def test_a_card_that_cannot_be_merged_leaves_the_artifact_as_it_was(
    tiny_encoder: RobustEncoder, make_encoder: Callable[..., RobustEncoder], tiny_pipe: Any, tmp_path: Path,
    damaged: bytes,
) -> None:  # fmt: skip
    tiny_encoder.save_pretrained(tmp_path / "artifact")
    (tmp_path / "artifact" / CARD_NAME).write_bytes(damaged)
    with pytest.raises(CardError):
        make_encoder(tiny_pipe, seed=2).save_pretrained(tmp_path / "artifact")
    assert RobustEncoder.from_pretrained(tmp_path / "artifact").content_sha256 == tiny_encoder.content_sha256
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_every_paper_has_an_arxiv_id() -> None:
    assert all(paper.arxiv.partition(".")[0].isdigit() and paper.citation for paper in PAPERS.values())
