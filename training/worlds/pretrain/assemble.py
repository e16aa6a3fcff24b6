"""The last stage of a base's build: it writes the pipeline folder, the judge and the image tower, and measures them."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file
from transformers import CLIPTokenizer

from robust_encoders.clip.state_dict import nested_state

from .corpus import Corpus, PromptSetsCorpus, Reader, RejectingCorpus, SourcedCorpus, UnknownsCorpus
from .measure import GUIDANCE, STEPS, base_accuracy, draw, judge_accuracy, prompt_accuracy
from .networks import LabelNet
from .stages import new_scheduler
from .workshop import STAGES, Workshop

RENDERS = 4000
_HELD_OUT_SEED = 1_000_000


def assemble(shop: Workshop, out: Path, *, renders: int = RENDERS, drawn: int | None = None) -> dict[str, Any]:
    """Write the base, the judge and the image tower to ``out``, measure them, and return the record.

    UNet, autoencoder and image tower are stored in half precision. The text encoder is stored in full precision,
    because encoders trained from this base start at its exact weights. The judge is too, because all results depend on
    its verdicts.

    Args:
        shop: Folder of the build, with all other stages finished.
        out: Folder that receives the files.
        renders: Number of rendered pictures for the judge's accuracy.
        drawn: Number of pictures that the base draws for its own accuracy; None takes that of the sizes.
    """
    out.mkdir(parents=True, exist_ok=True)
    _save_pipeline(shop, out / "base")
    save_tensors(shop.judge().state_dict(), out / "judge.safetensors")
    tower = {name: tensor.half() for name, tensor in shop.text()[1].state_dict().items()}
    save_tensors(tower, out / "image_tower.safetensors")
    corpus = shop.corpus
    if isinstance(corpus, SourcedCorpus):
        corpus.write_files(out)
    pipe = StableDiffusionPipeline.from_pretrained(out / "base")
    record = {
        "seed": shop.seed,
        "networks": asdict(corpus.networks),
        "sizes": asdict(shop.sizes),
        "stages": {stage: shop.record(stage) for stage in STAGES[:-1]},
        **measured(corpus, shop.judge(), pipe, renders=renders, drawn=drawn or shop.sizes.drawn),
        **({"sources": dict(corpus.sources())} if isinstance(corpus, SourcedCorpus) else {}),
        "versions": {name: version(name) for name in ("torch", "diffusers", "transformers", "tokenizers", "pillow")},
        "python": platform.python_version(),
    }
    aside = out / "RECORD.json.tmp"
    aside.write_text(json.dumps(record, indent=2) + "\n")
    aside.replace(out / "RECORD.json")
    return record


def measured(corpus: Corpus, network: LabelNet, pipe: Any, *, renders: int, drawn: int) -> dict[str, Any]:
    """Return the judge's accuracy on new pictures, that on new pictures that lack a value, and the base's by it.

    Args:
        corpus: World of pictures and captions.
        network: Network of the judge.
        pipe: The base as a pipeline.
        renders: Number of rendered pictures, of each kind.
        drawn: Number of pictures that the base draws.
    """
    judge = corpus.reader(network, "under construction")
    record: dict[str, Any] = {
        "judge_on_held_out_renders": {
            "n": renders,
            **judge_accuracy(corpus, judge, corpus.pictures(renders, seed=_HELD_OUT_SEED)),
        },
        "base_on_held_out_templates": {
            "n": drawn,
            "steps": STEPS,
            "guidance": GUIDANCE,
            **base_accuracy(corpus, pipe, judge, n=drawn, seed=_HELD_OUT_SEED),
        },
    }
    if isinstance(corpus, RejectingCorpus):
        lacking = corpus.reject_pictures(renders, seed=_HELD_OUT_SEED)
        record["judge_on_held_out_rejects"] = {"n": renders, **judge_accuracy(corpus, judge, lacking)}
    if isinstance(corpus, UnknownsCorpus):
        unknown = corpus.unknown_pictures(renders, seed=_HELD_OUT_SEED)
        record["judge_on_unknown_pictures"] = {"n": renders, **judge_accuracy(corpus, judge, unknown)}
    if isinstance(corpus, PromptSetsCorpus):
        record["base_on_prompt_sets"] = _measured_sets(corpus, judge, pipe, drawn)
    return record


def _measured_sets(corpus: PromptSetsCorpus, judge: Reader, pipe: Any, drawn: int) -> dict[str, dict[str, Any]]:
    """Return the base's accuracy on each set of captions, by the set's name."""
    measured = {}
    for name, prompts in corpus.prompt_sets(drawn, seed=_HELD_OUT_SEED).items():
        pictures = draw(pipe, [prompt.text for prompt in prompts], seed=_HELD_OUT_SEED)
        measured[name] = {"n": len(prompts), **prompt_accuracy(judge, pictures, prompts)}
    return measured


def _save_pipeline(shop: Workshop, target: Path) -> None:
    """Save to a temporary folder, then rename it: an interrupted call leaves the old base or none, never a part."""
    text_encoder, tokenizer = shop.text()[0], shop.tokenizer()
    pipe = StableDiffusionPipeline(
        vae=shop.autoencoder().half(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=shop.unet().half(),
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    aside = target.with_name(target.name + ".tmp")
    shutil.rmtree(aside, ignore_errors=True)
    pipe.save_pretrained(aside)
    save_tensors(nested_state(text_encoder), aside / "text_encoder" / "model.safetensors")
    _save_vocabulary(tokenizer, aside / "tokenizer")
    shutil.rmtree(target, ignore_errors=True)
    aside.replace(target)


def _save_vocabulary(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write the two vocabulary files that transformers 4 reads; transformers 5 writes only ``tokenizer.json``."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False))
    merges = "\n".join(" ".join(pair) for pair in model["merges"])
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")


def save_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write tensors to a temporary file, then rename it."""
    aside = path.with_suffix(".tmp")
    whole = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    save_file(whole, aside, metadata={"format": "pt"})
    aside.replace(path)
