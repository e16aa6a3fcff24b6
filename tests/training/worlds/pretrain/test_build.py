"""The build of the base, in miniature: every stage runs, stops and goes on as it should."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor, nn

from robust_encoders.training.worlds.pretrain import stages as parts
from robust_encoders.training.worlds.pretrain.assemble import assemble
from robust_encoders.training.worlds.pretrain.build import build
from robust_encoders.training.worlds.pretrain.config import Sizes
from robust_encoders.training.worlds.pretrain.corpus import UNSTATED, Pictures, judge_labels
from robust_encoders.training.worlds.pretrain.judge_stage import train_judge
from robust_encoders.training.worlds.pretrain.loop import Schedule, fit
from robust_encoders.training.worlds.pretrain.networks import LabelNet
from robust_encoders.training.worlds.pretrain.unfinished import last_unfinished, unfinished_pictures
from robust_encoders.training.worlds.pretrain.workshop import Workshop
from robust_encoders.training.worlds.shapes.clip_score import load_clip_scorer
from robust_encoders.training.worlds.shapes.corpus import ShapesCorpus
from robust_encoders.training.worlds.shapes.judge import load_judge
from robust_encoders.training.worlds.shapes.pictures import captions_of, render_pictures
from robust_encoders.training.worlds.shapes.vocabulary import FACTORS, VERDICTS

CORPUS = ShapesCorpus()
SHORT = Schedule(steps=2, rate=1e-3, every=1)
TINY = Sizes(
    pictures=24, autoencoder=SHORT, text=SHORT, unet=SHORT, judge=SHORT,
    autoencoder_batch=2, text_batch=4, unet_batch=2, judge_batch=3, rejects=8, unfinished=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workshop, Path]:
    """A base built in a few steps; it draws noise, but every file is real."""
    out = tmp_path_factory.mktemp("shapes")
    build(CORPUS, out, stages=("autoencoder", "text", "unet", "judge"), sizes=TINY)
    shop = Workshop(CORPUS, out / "work", TINY, 0)
    assemble(shop, out, renders=20, drawn=2)
    return shop, out


def test_a_unet_in_parts_goes_on_from_the_part_that_is_kept(
    built: tuple[Workshop, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = replace(TINY, unet=Schedule(steps=6, rate=1e-3, every=1), unet_parts=3)
    folders = [tmp_path / name / "work" for name in ("whole", "stopped")]
    for folder in folders:
        shutil.copytree(built[0].folder, folder, ignore=shutil.ignore_patterns("unet", "judge"))
    build(CORPUS, folders[0].parent, stages=("unet",), sizes=sizes)

    spans: list[tuple[int, int] | None] = []
    train = parts.train_unet

    def watched(*arguments: Any) -> float:
        spans.append(arguments[4])
        if len(spans) == 3:
            raise KeyboardInterrupt
        return train(*arguments)

    monkeypatch.setattr(parts, "train_unet", watched)
    with pytest.raises(KeyboardInterrupt):
        build(CORPUS, folders[1].parent, stages=("unet",), sizes=sizes)
    encoded: list[Any] = []
    monkeypatch.setattr(parts, "encode_pictures", lambda *found: encoded.append(found))
    kept = load_file(folders[1] / "unet" / "part-2" / "final.safetensors")
    shutil.rmtree(folders[1] / "unet" / "part-3", ignore_errors=True)
    (folders[1] / "unet" / "part-1" / "final.safetensors").unlink()  # only the last finished part is read
    build(CORPUS, folders[1].parent, stages=("unet",), sizes=sizes)
    assert spans == [(0, 2), (2, 4), (4, 6), (4, 6)]
    assert encoded == []  # the latents are kept from the first run
    finals = [load_file(folder / "unet" / "final.safetensors") for folder in folders]
    assert finals[0].keys() == finals[1].keys()
    assert all(torch.equal(finals[0][name], finals[1][name]) for name in finals[0])
    assert any(not torch.equal(kept[name], finals[0][name]) for name in kept)


def test_parts_of_another_schedule_are_refused(built: tuple[Workshop, Path], tmp_path: Path) -> None:
    thirds = replace(TINY, unet=Schedule(steps=6, rate=1e-3), unet_parts=3)
    halves = replace(thirds, unet_parts=2)
    folder = Path(shutil.copytree(built[0].folder, tmp_path / "work", ignore=shutil.ignore_patterns("unet", "judge")))
    build(CORPUS, tmp_path, stages=("unet",), sizes=thirds)
    (folder / "unet" / "record.json").unlink()
    with pytest.raises(ValueError, match=r"expected unet/part-1 with the steps \[0, 3\].* found the steps \[0, 2\]"):
        build(CORPUS, tmp_path, stages=("unet",), sizes=halves)
    (folder / "unet" / "part-2" / "record.json").unlink()
    with pytest.raises(ValueError, match=r"expected unet/part-3 .* behind 2 finished parts .* behind 1; delete"):
        build(CORPUS, tmp_path, stages=("unet",), sizes=thirds)
    shutil.rmtree(folder / "unet")
    build(CORPUS, tmp_path, stages=("unet",), sizes=halves)
    assert json.loads((folder / "unet" / "part-2" / "record.json").read_text())["steps"] == [3, 6]


def test_another_autoencoder_has_its_own_latents(built: tuple[Workshop, Path], tmp_path: Path) -> None:
    shop = replace(built[0], folder=Path(shutil.copytree(built[0].folder, tmp_path / "work")))
    first, final = shop.latents(), shop.folder / "autoencoder" / "final.safetensors"
    assert torch.equal(first, shop.latents())
    save_file({name: tensor / 2 for name, tensor in load_file(final).items()}, final)
    assert not torch.equal(first, shop.latents())


def test_stock_diffusers_loads_the_built_folder_and_draws(built: tuple[Workshop, Path]) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(built[1] / "base")
    pipe.set_progress_bar_config(disable=True)
    image = pipe("a red circle", num_inference_steps=2, output_type="pt", generator=Generator().manual_seed(0)).images
    assert image.shape == (1, 3, 32, 32)
    assert pipe.text_encoder.dtype == torch.float32


def test_the_stored_text_encoder_has_nested_keys_and_full_precision(built: tuple[Workshop, Path]) -> None:
    with safe_open(built[1] / "base" / "text_encoder" / "model.safetensors", "pt") as file:
        assert all(name.startswith("text_model.") for name in file.keys())  # noqa: SIM118
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float32}  # noqa: SIM118
        assert file.metadata() == {"format": "pt"}


def test_unet_and_autoencoder_are_stored_in_half_precision(built: tuple[Workshop, Path]) -> None:
    for part in ("unet", "vae"):
        with safe_open(built[1] / "base" / part / "diffusion_pytorch_model.safetensors", "pt") as file:
            assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}  # noqa: SIM118


def test_the_tokenizer_folder_serves_both_generations_of_transformers(built: tuple[Workshop, Path]) -> None:
    folder = built[1] / "base" / "tokenizer"
    vocabulary = json.loads((folder / "vocab.json").read_text())
    assert vocabulary == parts.new_tokenizer(CORPUS, seed=0).get_vocab()
    assert (folder / "merges.txt").read_text().startswith("#version: 0.2\n")


def test_the_record_states_what_was_measured(built: tuple[Workshop, Path]) -> None:
    record = json.loads((built[1] / "RECORD.json").read_text())
    assert set(FACTORS) <= set(record["judge_on_held_out_renders"])
    assert set(FACTORS) <= set(record["judge_on_held_out_rejects"])
    assert record["sizes"]["rejects"] == 8
    assert record["base_on_held_out_templates"]["n"] == 2
    assert record["sizes"]["unet_batch"] == 2
    assert record["stages"]["unet"]["loss"] > 0


def test_judge_and_scorer_load_from_the_built_folder(built: tuple[Workshop, Path]) -> None:
    images = render_pictures(3, seed=1).images.float() / 255
    judge = load_judge(built[1] / "judge.safetensors")
    found = judge(images)
    assert list(found) == list(FACTORS)
    assert all(name in VERDICTS[factor] for factor, names in found.items() for name in names)
    for probabilities in judge.probabilities(images).values():
        torch.testing.assert_close(probabilities.sum(1), torch.ones(3))
    assert len(judge.version) == 12
    scores = load_clip_scorer(built[1])(images, ["a circle", "a square", "a star"])
    assert scores.shape == (3,)
    assert bool((scores.abs() <= 1 + 1e-5).all())


def test_the_judge_refuses_what_it_cannot_read(built: tuple[Workshop, Path]) -> None:
    judge = load_judge(built[1] / "judge.safetensors")
    with pytest.raises(ValueError, match=r"expected pictures \(B, 3, 32, 32\), found \(1, 3, 64, 64\)"):
        judge(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match=r"expected pictures in \[0, 1\]"):
        judge(torch.full((1, 3, 32, 32), 255.0))


def test_a_finished_stage_is_not_run_again(built: tuple[Workshop, Path]) -> None:
    weights = built[0].folder / "judge" / "final.safetensors"
    before = weights.stat().st_mtime_ns
    build(CORPUS, built[1], stages=("judge",), sizes=TINY)
    assert weights.stat().st_mtime_ns == before


def test_stages_say_what_they_miss(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected a finished stage 'autoencoder'"):
        build(CORPUS, tmp_path, stages=("judge",), sizes=TINY)
    with pytest.raises(ValueError, match=r"expected stages among autoencoder.*found varnish"):
        build(CORPUS, tmp_path, stages=("varnish",))


def test_the_judge_learns_from_rejects_with_unfinished_samples_among_them(built: tuple[Workshop, Path]) -> None:
    rejects = built[0].rejects()
    assert rejects is not None
    assert len(rejects) == TINY.rejects + TINY.unfinished
    nothing = torch.tensor([len(VERDICTS[factor]) - 1 for factor in FACTORS])
    assert torch.equal(rejects.labels[TINY.rejects :], nothing.expand(TINY.unfinished, -1))
    assert torch.equal(rejects.images[: TINY.rejects], CORPUS.reject_pictures(TINY.rejects, seed=10_000).images)


class PlainCorpus:
    """A world whose judge has no ``none``: all of ``ShapesCorpus`` but its reject pictures."""

    def __init__(self) -> None:
        self.labels, self.pictures, self.captions = CORPUS.labels, CORPUS.pictures, CORPUS.captions
        self.prompts, self.reader = CORPUS.prompts, CORPUS.reader
        self.networks, self.sizes = CORPUS.networks, CORPUS.sizes


def test_a_world_without_rejects_trains_a_judge_of_its_values_alone(
    built: tuple[Workshop, Path], tmp_path: Path
) -> None:
    plain = PlainCorpus()
    assert judge_labels(plain) == CORPUS.labels
    assert all(judge_labels(CORPUS)[label] == size + 1 for label, size in CORPUS.labels.items())
    shutil.copytree(built[0].folder / "autoencoder", tmp_path / "autoencoder")
    build(plain, tmp_path, stages=("judge",), sizes=TINY, work=tmp_path)
    shop = Workshop(plain, tmp_path, TINY, 0)
    assert shop.rejects() is None
    assert shop.judge().labels == CORPUS.labels


def test_a_sample_is_unfinished_while_noise_outweighs_it() -> None:
    scheduler = parts.new_scheduler()
    scheduler.set_timesteps(15)
    steps = last_unfinished(scheduler.alphas_cumprod, scheduler.timesteps)
    noise = [math.sqrt((1 - a) / max(a, 1e-9)) for a in scheduler.alphas_cumprod[scheduler.timesteps].tolist()]
    assert noise[steps] >= 3.5 > noise[steps + 1]


def test_unfinished_pictures_follow_their_seed(built: tuple[Workshop, Path]) -> None:
    sampler = built[0].sampler()
    one, same, other = (unfinished_pictures(sampler, CORPUS, 2, seed=seed).images for seed in (1, 1, 2))
    assert one.shape == (2, 3, 32, 32)
    assert one.dtype == torch.uint8
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_unstated_labels_move_no_weight(built: tuple[Workshop, Path], tmp_path: Path) -> None:
    course = replace(built[0].course("judge"), folder=tmp_path, sizes=replace(TINY, judge=Schedule(1, rate=1e-3)))
    unstated = Pictures(torch.zeros(4, 3, 32, 32, dtype=torch.uint8), torch.full((4, 4), UNSTATED))
    judge = LabelNet(judge_labels(CORPUS))
    loss = train_judge(judge, built[0].autoencoder(), replace(course, pictures=unstated), unstated)
    assert loss == 0


def _regression() -> tuple[nn.Module, list[int]]:
    torch.manual_seed(0)
    return nn.Linear(3, 1), []


def test_a_stopped_and_resumed_fit_equals_an_unbroken_one(tmp_path: Path) -> None:
    def run(folder: Path, stop: int | None) -> dict[str, Tensor]:
        module, _ = _regression()

        def loss(generator: Generator) -> Tensor:
            x = torch.randn(8, 3, generator=generator)
            error: Tensor = module(x) - x.sum(1, keepdim=True)
            return error.square().mean()

        calls = iter(range(stop if stop is not None else 10**9))

        def stopping(generator: Generator) -> Tensor:
            if next(calls, None) is None:
                raise KeyboardInterrupt
            return loss(generator)

        if stop is not None:
            with pytest.raises(KeyboardInterrupt):
                fit(module, stopping, Schedule(steps=9, rate=1e-2, every=2), folder, seed=1, label="x")
            module, _ = _regression()
        fit(module, loss, Schedule(steps=9, rate=1e-2, every=2), folder, seed=1, label="x")
        return dict(module.state_dict())

    unbroken, resumed = run(tmp_path / "a", None), run(tmp_path / "b", 5)
    assert all(torch.equal(unbroken[name], resumed[name]) for name in unbroken)
    assert len(list((tmp_path / "b").glob("*.safetensors"))) == 1


def test_fit_lowers_its_loss(tmp_path: Path) -> None:
    module, losses = nn.Linear(3, 1), []

    def loss(generator: Generator) -> Tensor:
        x = torch.randn(16, 3, generator=generator)
        value: Tensor = (module(x) - x.sum(1, keepdim=True)).square().mean()
        losses.append(float(value))
        return value

    fit(module, loss, Schedule(steps=300, rate=5e-2, every=1000), tmp_path, seed=0, label="x")
    assert sum(losses[-20:]) < 0.1 * sum(losses[:20])


def test_empty_captions_come_in_the_asked_share() -> None:
    labels = render_pictures(1, seed=0).labels.expand(500, -1)
    empty = sum(text == "" for text in captions_of(labels, Generator().manual_seed(0), empty=0.1))
    assert 25 <= empty <= 80
    assert "" not in captions_of(labels, Generator().manual_seed(0))


def test_the_tokenizer_keeps_clip_conventions() -> None:
    tokenizer = parts.new_tokenizer(CORPUS, seed=0)
    ids = tokenizer("A  Scarlet circle", padding="max_length").input_ids
    assert ids[0] == tokenizer.bos_token_id
    assert ids[-1] == tokenizer.eos_token_id == len(tokenizer) - 1
    assert len(ids) == CORPUS.networks.positions
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a scarlet circle"
    assert len(tokenizer.tokenize("circle")) == 1 < len(tokenizer.tokenize("emerald"))
