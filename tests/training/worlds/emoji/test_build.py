"""The build of an emoji base, in miniature, twice: every stage runs, and both runs give the same files."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from tiny_emoji import NETWORKS, SIZES, VOCABULARY_SIZE, tiny_corpus
from torch import Generator
from transformers import CLIPTokenizer

from robust_encoders.errors import IntegrityError
from robust_encoders.training.worlds.emoji.corpus import EmojiCorpus
from robust_encoders.training.worlds.emoji.judge import EmojiJudge
from robust_encoders.training.worlds.emoji.scenes import Placement
from robust_encoders.training.worlds.emoji.vocabulary import BACKGROUND_NAMES, BACKGROUNDS
from robust_encoders.training.worlds.pretrain import stages as parts
from robust_encoders.training.worlds.pretrain.assemble import assemble
from robust_encoders.training.worlds.pretrain.build import build
from robust_encoders.training.worlds.pretrain.corpus import judge_labels, new_judge
from robust_encoders.training.worlds.pretrain.networks import new_tower
from robust_encoders.training.worlds.pretrain.token_rows import used_tokens
from robust_encoders.training.worlds.pretrain.workshop import PRETRAINED, Workshop

STAGES = ("autoencoder", "text", "unet", "judge")


def built(out: Path) -> Workshop:
    corpus = tiny_corpus()
    build(corpus, out, stages=STAGES)
    shop = Workshop(corpus, out / "work", SIZES, 0)
    assemble(shop, out, renders=10, drawn=3)
    return shop


def hashes(folder: Path) -> dict[str, str]:
    """Return the hash of each file of a build, but of those that hold times."""
    files = [path for path in folder.rglob("*") if path.is_file() and "record" not in path.name.lower()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workshop, Path, Path]:
    one, other = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("other")
    return built(one), one, (built(other), other)[1]


def test_two_builds_from_nothing_are_equal(twice: tuple[Workshop, Path, Path]) -> None:
    first, second = hashes(twice[1]), hashes(twice[2])
    assert first == second
    assert {"base/unet/diffusion_pytorch_model.safetensors", "judge.safetensors", "image_tower.safetensors"} <= {*first}


def test_the_base_is_a_pipeline_that_draws_in_the_size_of_its_world(twice: tuple[Workshop, Path, Path]) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(twice[1] / "base")
    pipe.set_progress_bar_config(disable=True)
    drawn = pipe("a hot dog", num_inference_steps=2, output_type="pt", generator=Generator().manual_seed(0)).images
    assert drawn.shape == (1, 3, NETWORKS.side, NETWORKS.side)
    assert pipe.text_encoder.config.max_position_embeddings == pipe.tokenizer.model_max_length == NETWORKS.positions
    assert pipe.text_encoder.config.vocab_size == VOCABULARY_SIZE


def test_the_shipped_tokenizer_is_that_of_the_world(twice: tuple[Workshop, Path, Path]) -> None:
    folder = twice[1] / "base" / "tokenizer"
    shipped, own = CLIPTokenizer.from_pretrained(folder), tiny_corpus().tokenizer()
    assert shipped("A hot dog, 2").input_ids == own("A hot dog, 2").input_ids
    assert json.loads((folder / "vocab.json").read_text()) == own.get_vocab()
    assert (folder / "merges.txt").read_text() == "#version: 0.2\nh o\nho t</w>\nd o\ndo g</w>\n"


def test_tokens_that_no_caption_uses_keep_their_start(twice: tuple[Workshop, Path, Path]) -> None:
    corpus = tiny_corpus()
    used = used_tokens(corpus.tokenizer(), corpus.texts())
    torch.manual_seed(0)
    start = parts.new_text_encoder(corpus.tokenizer(), NETWORKS).get_input_embeddings().weight.bfloat16().float()
    table = twice[0].text()[0].get_input_embeddings().weight
    same = (table == start).all(1)
    assert not bool(same[used].all())
    kept = torch.ones(len(table), dtype=torch.bool)
    kept[used] = False
    assert bool(kept.any())
    assert bool(same[kept].all())


def test_the_record_tells_sources_networks_and_every_measurement(twice: tuple[Workshop, Path, Path]) -> None:
    record = json.loads((twice[1] / "RECORD.json").read_text())
    assert record["sources"] == {"packages": {"none": 1}}
    assert record["networks"]["side"] == NETWORKS.side
    labels = {"thing", "style", "background"}
    assert labels <= {*record["judge_on_unknown_pictures"]}
    assert labels <= {*record["judge_on_held_out_rejects"]}
    assert {*record["base_on_prompt_sets"]} == {"held-out names", "everyday wordings"}
    assert all(found["n"] == 3 and "thing" in found for found in record["base_on_prompt_sets"].values())
    assert (twice[1] / "NOTICE").read_text() == "drawn for the tests\n"


def test_the_judge_can_answer_none_and_refuses_what_it_cannot_read(twice: tuple[Workshop, Path, Path]) -> None:
    judge = tiny_corpus().reader(twice[0].judge(), "v")
    assert isinstance(judge, EmojiJudge)
    pictures = tiny_corpus().unknown_pictures(130, seed=0).images.float() / 255
    found = judge(pictures)
    assert {label: len(names) for label, names in found.items()} == dict.fromkeys(("thing", "style", "background"), 130)
    assert [names[-1] for names in judge.values.values()] == ["none"] * 3
    assert {label: len(names) for label, names in judge.values.items()} == judge_labels(tiny_corpus())
    with pytest.raises(ValueError, match=r"expected pictures \(B, 3, 16, 16\), found \(1, 3, 64, 64\)"):
        judge(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match=r"expected pictures in \[0, 1\]"):
        judge(torch.full((1, 3, 16, 16), 255.0))


def test_a_stopped_build_goes_on_where_it_stopped(twice: tuple[Workshop, Path, Path], tmp_path: Path) -> None:
    for stage in STAGES:
        build(tiny_corpus(), tmp_path, stages=(stage,))
    shop = Workshop(tiny_corpus(), tmp_path / "work", SIZES, 0)
    for stage in STAGES:
        one, other = (s.folder / stage / "final.safetensors" for s in (twice[0], shop))
        assert one.read_bytes() == other.read_bytes(), stage


def test_a_folder_begun_with_other_sources(tmp_path: Path) -> None:
    corpus = tiny_corpus()
    build(corpus, tmp_path, stages=("autoencoder",))
    changed = replace(corpus, origins={"packages": {"none": 2}})
    with pytest.raises(ValueError, match="found others; choose another folder with --work, or delete"):
        build(changed, tmp_path, stages=("text",))
    build(corpus, tmp_path, stages=("autoencoder",))
    build(changed, tmp_path, stages=("autoencoder",), work=tmp_path / "another")


def pretrained_corpus() -> EmojiCorpus:
    """Return the tiny world with a base that draws two of its four things."""
    corpus = tiny_corpus()
    things = corpus.studio.things.drawing(("hammer", "hot dog"))
    studio = replace(corpus.studio, things=things, renders=corpus.studio.renders.ordered(things.codes))
    return replace(corpus, studio=replace(studio, placement=Placement(turn=0.0)))


def test_a_base_that_draws_some_things_knows_the_words_of_all(
    twice: tuple[Workshop, Path, Path], tmp_path: Path
) -> None:
    corpus = pretrained_corpus()
    build(corpus, tmp_path, stages=STAGES)
    shop = Workshop(corpus, tmp_path / "work", SIZES, 0)
    for stage in STAGES:
        finals = [(one.folder / stage / "final.safetensors").read_bytes() for one in (shop, twice[0])]
        assert (finals[0] == finals[1]) == (stage in PRETRAINED), stage
    assert judge_labels(corpus)["thing"] == 3 == shop.judge().labels["thing"]
    assert shop.pictures().labels[:, 0].max() == 1
    assert shop.pretraining().pictures().labels[:, 0].max() == 3
    assert assemble(shop, tmp_path, renders=4, drawn=2)["base_on_held_out_templates"]["n"] == 2


def test_a_world_without_pretraining_learns_itself() -> None:
    shop = Workshop(tiny_corpus(), Path(), SIZES, 0)
    assert tiny_corpus().pretraining() is None
    assert shop.pretraining() is shop


def test_pretraining_captions_state_what_their_wording_states() -> None:
    corpus = replace(pretrained_corpus(), whole=1.0)
    wide = corpus.pretraining()
    assert wide is not None
    labels = corpus.pictures(1, seed=0).labels.expand(50, -1)
    spoken = BACKGROUNDS[BACKGROUND_NAMES[int(labels[0, 2])]]
    texts = [one.captions(labels, Generator().manual_seed(0)) for one in (corpus, wide, replace(wide, whole=1.0))]
    assert texts[1] != texts[2]
    assert all(any(word in text for word in spoken) for text in texts[0])


def test_captions_follow_their_generator_and_leave_some_empty() -> None:
    corpus = tiny_corpus()
    labels = corpus.pictures(1, seed=0).labels.expand(500, -1)
    one, same = (corpus.captions(labels, Generator().manual_seed(0), empty=0.1) for _ in range(2))
    assert one == same
    assert 25 <= one.count("") <= 80
    assert "" not in corpus.captions(labels, Generator().manual_seed(0))


def test_pictures_follow_their_seed() -> None:
    corpus = tiny_corpus()
    for made in (corpus.pictures, corpus.reject_pictures, corpus.unknown_pictures):
        one, same, other = (made(20, seed=seed) for seed in (1, 1, 2))
        assert torch.equal(one.images, same.images)
        assert not torch.equal(one.images, other.images)


def test_the_networks_have_the_sizes_of_the_world() -> None:
    corpus = tiny_corpus()
    judge = new_judge(corpus)
    assert judge.head.in_features == 16 * 4 * 4
    assert parts.new_unet(NETWORKS).config.sample_size == NETWORKS.latent_side == 8
    assert new_tower(NETWORKS).head.out_features == NETWORKS.shared_width


def test_a_folder_without_the_packages_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=r"iconify-json-noto-1\.2\.9\.tgz.*fetch them by `robust-encoders emoji"):
        EmojiCorpus.read(tmp_path, tmp_path)
