"""Measurement of the finished emoji base by both judges, and of the judges on new renders and on unknown things."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from robust_encoders.artifact.owned_file import read_owned
from robust_encoders.hub.embedded import embedded_file
from robust_encoders.utils.home import expanded_or_none, write_atomically

from ..clip_scorer import ClipScorer
from ..pretrain.config import NetworkConfig
from ..pretrain.corpus import Pictures, Reader
from ..pretrain.measure import GUIDANCE, STEPS, draw
from .captions import EVERYDAY, EmojiPrompt, prompts
from .clip_score import load_clip_scorer
from .corpus import EmojiCorpus
from .icon_judge import ICONS_NAME, load_icon_judge
from .judge import load_judge
from .settings import NETWORKS
from .things import Things, WordChoice, load_things
from .vocabulary import BACKGROUND_NAMES, LABELS, NONE, STYLE_NAMES

SEED = 3_000_000  # apart from the seeds of training, of the build's own measurement, and of the judges' limits
BOTH = "both"
_WEIGHTS: Mapping[str, str] = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}
_CALLS: Mapping[str, WordChoice] = {"name": "name", "unseen word": "unseen"}
_EVERYDAY = "thing in everyday wordings"
SETS = (*(f"{label} by {call}" for label in LABELS for call in _CALLS), _EVERYDAY)


class NamedJudge(Reader, Protocol):
    """A judge with a name and a version, which results record."""

    version: str

    @property
    def name(self) -> str:
        """Name of the judge in results."""
        ...

    @property
    def values(self) -> Mapping[str, Sequence[str]]:
        """Answers for each label, in the order of the labels of pictures; the last one is ``none``."""
        ...


@dataclass(frozen=True)
class Measured:
    """A finished base with what judges its pictures.

    Args:
        pipe: The base as a pipeline.
        judges: Judges by the name that tables show.
        scorer: Scorer of picture and caption.
        things: Things of the world.
        files: Hashes of the files that were measured.
        steps: Number of sampling steps.
    """

    pipe: Any
    judges: Mapping[str, NamedJudge]
    scorer: ClipScorer
    things: Things
    files: Mapping[str, str]
    steps: int = STEPS

    def draw(self, texts: Sequence[str], *, seed: int) -> Tensor:
        """Return a picture (B, 3, H, W) in [0, 1] for each caption; equal seeds give equal pictures."""
        return draw(self.pipe, texts, seed=seed, steps=self.steps)

    @classmethod
    def read(
        cls, folder: Path | None = None, *, things: Things | None = None, networks: NetworkConfig = NETWORKS
    ) -> Measured:
        """Return the base that a build wrote to a folder.

        Args:
            folder: Folder of the build; None takes the packaged base.
            things: Things of the world; None takes the packaged list.
            networks: Sizes of the networks of the base.

        Raises:
            AssetsMissingError: If the package was installed without the base.
            IntegrityError: If a file is missing or belongs to other things.
        """
        place = folder or embedded_file("emoji", "base").parent
        known = things or load_things()
        pipe = StableDiffusionPipeline.from_pretrained(place / "base")
        judges: dict[str, NamedJudge] = {
            "trained": load_judge(place / "judge.safetensors", things=known, networks=networks),
            "icons": load_icon_judge(place / ICONS_NAME, things=known, side=networks.side),
        }
        parts = (f"base/{part}/{name}" for part, name in _WEIGHTS.items())
        weights = ("judge.safetensors", ICONS_NAME, "image_tower.safetensors", *parts)
        files = {name: read_owned(place / name).sha256() for name in weights}
        return cls(pipe, judges, load_clip_scorer(place, networks=networks), known, files)


@dataclass(frozen=True)
class PromptSet:
    """Captions that no training uses.

    Args:
        label: Label that the set asks for.
        prompts: Captions.
    """

    label: str
    prompts: Sequence[EmojiPrompt]


def prompt_sets(things: Things, n: int, *, seed: int) -> dict[str, PromptSet]:
    """Return the measured sets of n captions each, by name; equal seeds give equal captions.

    Wordings are held out. Every set calls the values of one label by canonical names or by held-out words.
    """
    fixed = {"thing": {}, "style": {"style": STYLE_NAMES}, "background": {"background": BACKGROUND_NAMES}}
    found = {
        f"{label} by {call}": PromptSet(label, prompts(things, n, seed=seed + i, words=words, fixed=fixed[label]))
        for i, label in enumerate(LABELS)
        for call, words in _CALLS.items()
    }
    everyday = prompts(things, n, seed=seed + len(LABELS), frames=EVERYDAY["reported"])
    return {**found, _EVERYDAY: PromptSet("thing", everyday)}


def measure(
    base: Measured,
    n: int,
    *,
    seed: int = SEED,
    corpus: EmojiCorpus | None = None,
    path: str | Path | None = None,
    sets: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the record of a measurement, as JSON.

    Args:
        base: Base and judges.
        n: Number of captions of each set, and of pictures of each kind for the judges.
        seed: Seed of captions, noise and renders.
        corpus: World with its rendered icons, on which the judges themselves are measured; None leaves this out.
        path: File that gets the record after each set. What a record there has already is not measured again.
        sets: Names of the sets to measure, some of ``SETS``; empty for all.

    Raises:
        ValueError: If the file holds the record of another measurement.
    """
    path, asked_for = expanded_or_none(path), prompt_sets(base.things, n, seed=seed)
    record: dict[str, Any] = {
        "n": n,
        "seed": seed,
        "steps": base.steps,
        "guidance": GUIDANCE,
        "judges": {name: f"{judge.name} {judge.version}" for name, judge in base.judges.items()},
        "files": dict(base.files),
        "captions_sha256": _sha256([prompt.text for one in asked_for.values() for prompt in one.prompts]),
    }
    record = {**record, "base": {}, **_finished(record, path)}
    for i, (name, asked) in enumerate(asked_for.items()):
        if name in record["base"] or (sets and name not in sets):
            continue
        texts = [prompt.text for prompt in asked.prompts]
        images = base.draw(texts, seed=seed + i * n)
        cosine = float(base.scorer(images, texts).mean())
        record["base"][name] = {
            "label": asked.label, "clip_score": cosine, "as_asked": as_asked(base.judges, images, asked.prompts)
        }  # fmt: skip
        _write(record, path)
    record["base"] = {name: record["base"][name] for name in SETS if name in record["base"]}
    sources = None if corpus is None else _sha256(corpus.sources())
    if corpus is not None and record.get("judges_measured", {}).get("sources_sha256") != sources:
        found = measure_judges(base.judges, corpus, n, seed=seed)
        record["judges_measured"] = {"sources_sha256": sources, **found}
    _write(record, path)
    return record


def _finished(record: Mapping[str, Any], path: Path | None) -> dict[str, Any]:
    """Return what a file has of the measurement that a record begins.

    Raises:
        ValueError: If it holds another measurement, or cannot be read.
    """
    if path is None or not path.exists():
        return {}
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        other = [key for key, value in record.items() if stored.get(key) != value]
    except (OSError, ValueError, AttributeError) as error:
        other = [str(error)]
    if other:
        raise ValueError(
            f"expected a record of this measurement in {path}, found another ({', '.join(other)}); name another "
            "folder with --out, or delete the file"
        )
    return {key: stored[key] for key in ("base", "judges_measured") if key in stored}


def _sha256(told: Any) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _write(record: Mapping[str, Any], path: Path | None) -> None:
    if path is not None:
        write_atomically(path, (json.dumps(record, indent=2) + "\n").encode())


def as_asked(
    judges: Mapping[str, NamedJudge], images: Tensor, asked: Sequence[EmojiPrompt]
) -> dict[str, dict[str, float]]:
    """Return the share of pictures that show what their captions state, by label, for each judge and for both at once.

    Args:
        judges: Judges by name.
        images: Pictures (B, 3, H, W) in [0, 1].
        asked: Captions of the pictures.

    Returns:
        Mapping of labels to shares by judge, with the number ``n`` of captions that state the label. Labels that no
        caption states are absent.
    """
    found = {name: judge(images) for name, judge in judges.items()}
    shares = {}
    for label in LABELS:
        stating = [i for i, prompt in enumerate(asked) if label in prompt.expected]
        hits = {name: [seen[label][i] == asked[i].expected[label] for i in stating] for name, seen in found.items()}
        hits[BOTH] = [all(row) for row in zip(*hits.values(), strict=True)]
        if stating:
            shares[label] = {"n": len(stating), **{name: sum(hit) / len(hit) for name, hit in hits.items()}}
    return shares


def measure_judges(
    judges: Mapping[str, NamedJudge], corpus: EmojiCorpus, n: int, *, seed: int
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the errors of judges on pictures that no training used, by judge.

    Args:
        judges: Judges by name.
        corpus: World with its rendered icons.
        n: Number of new renders, and of pictures of unknown things.
        seed: Seed of the pictures.

    Returns:
        For each judge: under ``renders`` the shares of right answers and of wrongly answered ``none`` by label; under
        ``unknown`` the share of pictures of unknown things in which it sees a thing of the world; under ``undrawn``
        that of pictures of things that only pretraining shows, if there are any.
    """
    renders, unknown = corpus.pictures(n, seed=seed), corpus.unknown_pictures(n, seed=seed + 1)
    undrawn = corpus.undrawn_pictures(n, seed=seed + 2)
    found = {name: _errors(judge, renders, unknown) for name, judge in judges.items()}
    if len(undrawn):
        for name, judge in judges.items():
            found[name]["undrawn"] = {"n": len(undrawn), "thing accepted": _accepted(judge, undrawn)}
    return found


def _accepted(judge: NamedJudge, pictures: Pictures) -> float:
    return _share(a != NONE for a in judge(pictures.images.float() / 255)["thing"])


def _errors(judge: NamedJudge, renders: Pictures, unknown: Pictures) -> dict[str, dict[str, Any]]:
    found, shares = judge(renders.images.float() / 255), {}
    for i, label in enumerate(LABELS):
        truth = [judge.values[label][place] for place in renders.labels[:, i].tolist()]
        shares[label] = _share(a == b for a, b in zip(found[label], truth, strict=True))
        shares[f"{label} refused"] = _share(a == NONE for a in found[label])
    seen = judge(unknown.images.float() / 255)
    background = [judge.values["background"][place] for place in unknown.labels[:, 2].tolist()]
    return {
        "renders": {"n": len(renders), **shares},
        "unknown": {
            "n": len(unknown),
            "thing accepted": _share(a != NONE for a in seen["thing"]),
            "background": _share(a == b for a, b in zip(seen["background"], background, strict=True)),
        },
    }


def _share(hits: Any) -> float:
    return float(torch.tensor([bool(hit) for hit in hits]).double().mean())


def table(record: Mapping[str, Any]) -> str:
    """Return a record as Markdown: per cent as asked, by set and judge, then the judges' own errors."""
    names = [*record["judges"], BOTH]
    lines = [
        f"Pictures that show what the caption asks for, per cent; {record['n']} captions a set; higher is better.",
        "",
        _row(["captions", *names, "CLIP score"]),
        _row(["---"] * (len(names) + 2)),
    ]
    for name, row in record["base"].items():
        shares = row["as_asked"][row["label"]]
        lines.append(_row([name, *(_percent(shares[judge]) for judge in names), f"{row['clip_score']:.3f}"]))
    measured = record.get("judges_measured")
    if measured is None:
        return "\n".join([*lines, "", "The judges themselves were not measured: name the packages by --sources."])
    undrawn = all("undrawn" in measured[name] for name in record["judges"])
    head = ["judge", *(f"{label} right" for label in LABELS), "thing refused", "unknown accepted"]
    head += ["undrawn accepted"] if undrawn else []
    lines += ["", f"The judges on {record['n']} new renders and as many pictures of unknown things, per cent.", ""]
    lines += [_row(head), _row(["---"] * len(head))]
    for name in record["judges"]:
        errors = measured[name]
        shares = [*(errors["renders"][label] for label in LABELS), errors["renders"]["thing refused"]]
        kinds = ("unknown", "undrawn") if undrawn else ("unknown",)
        lines.append(_row([name, *map(_percent, [*shares, *(errors[kind]["thing accepted"] for kind in kinds)])]))
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
