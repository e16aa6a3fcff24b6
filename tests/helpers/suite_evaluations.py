"""Finished evaluations of a whole suite, with tiers, worst cases, checks and utility, made without drawing anything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from evaluations import JUDGED, PROMPTS, verdict, write_cell

from robust_encoders.training.evaluation.results import RESULTS_NAME, Evaluation
from robust_encoders.training.evaluation.worst_case import WorstCase, union
from robust_encoders.training.metrics.rates import attack_rates, rate
from robust_encoders.training.types import Result, Verdict

N = 40
SAMPLING: Mapping[str, Any] = {"sampling": {"steps": 20, "guidance": 5.0}}
# Label of an attack to tier, name, settings, and how many of 40 prompts it wins from a weak encoder.
SUITE: Mapping[str, tuple[str, str, Mapping[str, Any], int]] = {
    "none": ("T0", "none", {}, 2),
    "synonyms": ("T1", "synonyms", {"words": ["circle", "disc"], "synonyms": ["disc"]}, 5),
    "random": ("T2", "random_prefix", {"tokens": 3, "candidates": 10}, 8),
    "transfer": ("T2", "transfer", {"attack": {"name": "unlearn_diff_atk", "timesteps": 10}}, 7),
    "ring_a_bell": ("T2", "ring_a_bell", {"pairs": [["a", "b"]] * 50, "generations": 200, "every": 50}, 4),
    "black_box": ("T2", "black_box", {"words": [f"w{i}" for i in range(90)], "budget": 40}, 16),
    "discrete": ("T3", "unlearn_diff_atk", {"timesteps": 10, "iterations": 20}, 20),
    "p4d": ("T3", "p4d", {"tokens": 8, "steps": 3000, "every": 50}, 6),
    "continuous": ("T4", "continuous_prefix", {"steps": 100, "restarts": 1}, 38),
    "shared": ("T4", "continuous_prefix", {"steps": 200, "restarts": 1, "shared": True}, 30),
    "inversion": ("T4", "concept_inversion", {"steps": 300}, 34),
    "torchattack": ("T4", "torchattack", {"attack": "PGD", "steps": 10}, 25),
    "img2img": ("T5", "img2img", {}, 36),
    "latent_inversion": ("T6", "latent_inversion", {}, 40),
    "latent_control": ("T6", "latent_inversion", {"control": True}, 3),
    "prompt_embeds": ("T7", "prompt_embeds", {}, 40),
}
CHECKS = (
    ("gradients_alive", "", True, "gradients of the loss reach the text encoder's input in 16 of 16 cases"),
    ("succeeds_on_base", "discrete", True, "discrete wins 98.0 % of 200 on the base"),
    ("succeeds_on_base", "p4d", False, "p4d wins 41.0 % of 200 on the base, less than 90.0 %"),
    ("seeds_differ", "random", False, "random finds other candidates with another seed in 0 of 16 cases"),
    ("white_not_below_black", "discrete", True, "discrete wins 50.0 %, black_box 40.0 %"),
)


def checks(*failed: tuple[str, str], of: Iterable[tuple[str, str, bool, str]] = CHECKS) -> tuple[dict[str, Any], ...]:
    """Return records of checks; those named fail, too."""
    rows = [(name, attack, ok and (name, attack) not in failed, detail) for name, attack, ok, detail in of]
    return tuple(dict(zip(("name", "attack", "ok", "detail"), row, strict=True)) for row in rows)


def suite_evaluation(
    label: str = "esd",
    *,
    strength: float = 1,
    concept: str = "circle",
    labels: Sequence[str] = tuple(SUITE),
    **changes: Any,
) -> tuple[Evaluation, dict[str, list[Verdict]]]:
    """Return an evaluation and the verdicts it is made of.

    Args:
        label: Of the encoder.
        strength: Share of the usual successes.
        concept: What is gone.
        labels: Of the attacks.
        changes: Fields of the evaluation.
    """
    verdicts = {name: _verdicts(name, strength) for name in labels}
    before = [v.before for v in verdicts[labels[0]]]
    plain = [
        replace(
            rate("pre_asr", before),
            tier=tier,
            unet_calls=32_000,
            settings=SAMPLING,
            **{**_judged(concept), "prompt_set": name},
        )
        for name, tier in ((f"{concept}/name", "T0"), (f"{concept}/seen", "T1"), (f"{concept}/unseen", "T1"))
    ]
    attacked = [result for name in labels for result in attack_results(name, verdicts[name], concept)]
    worst = [_worst(metric, tiers, labels, verdicts, concept) for metric, tiers in _WORST.items()]
    fields: dict[str, Any] = {
        "seconds": {f"attack-{name}": 100.0 + 17 * i for i, name in enumerate(labels)},
        "subject": {"name": label, "content_sha256": f"{label}-{strength}"} if label == "esd" else {"name": label},
        "checks": checks(),
        **changes,
    }
    return Evaluation(label, concept, (*plain, *attacked, *worst, *_utility(concept)), **fields), verdicts


def attack_results(name: str, verdicts: Sequence[Verdict], concept: str = "circle") -> list[Result]:
    tier, kind, settings, _ = SUITE[name]
    about = {"attack": {"label": name, "tier": tier, "name": kind, **settings}, **SAMPLING}
    rates = attack_rates([v.before for v in verdicts], [v.any for v in verdicts], [v.last for v in verdicts])
    return [replace(r, settings=about, tier=tier, unet_calls=1_234_567, **_judged(concept)) for r in rates]


def write_suite(folder: Path, label: str = "esd", *, cells: bool = True, **settings: Any) -> Path:
    """Write an evaluation of the whole suite, with the cells of its attacks or without."""
    evaluation, verdicts = suite_evaluation(label, **settings)
    evaluation.write(folder / RESULTS_NAME)
    for name, rows in verdicts.items() if cells else ():
        results = [asdict(r) for r in attack_results(name, rows, evaluation.concept)]
        write_cell(folder, f"attack-{name}", {"verdicts": [asdict(v) for v in rows], "results": results})
    return folder


_WORST = {"worst_case": ("T0", "T1", "T2", "T3"), "worst_case_embeddings": ("T0", "T1", "T2", "T3", "T4")}


def _worst(
    metric: str,
    tiers: Sequence[str],
    labels: Sequence[str],
    verdicts: Mapping[str, Sequence[Verdict]],
    concept: str,
) -> Result:
    joined = WorstCase(tuple(name for name in labels if SUITE[name][0] in tiers), f"{tiers[0]}-{tiers[-1]}")
    about = {"label": metric, "tier": joined.tier, "name": joined.name, "attacks": list(joined.attacks)}
    settings = {"attack": about, **SAMPLING}
    return replace(
        rate(metric, union(verdicts, joined.attacks)), tier=joined.tier, settings=settings, **_judged(concept)
    )


def _judged(concept: str) -> dict[str, Any]:
    return {**JUDGED, **PROMPTS, "prompt_set": f"{concept}/name"}


def _verdicts(name: str, strength: float) -> list[Verdict]:
    """Return verdicts whose cases overlap from attack to attack, and which succeed by themselves in the first two."""
    won, start = 2 if name == "none" else round(strength * SUITE[name][3]), sum(map(ord, name)) % N
    cases = {0, 1} | {2 + (start + i) % (N - 2) for i in range(max(0, won - 2))} if won >= 2 else {0, 1}
    return [verdict(i, 0 if i < 2 else 1 + i * 4 if i in cases else None) for i in range(N)]


def _utility(concept: str) -> list[Result]:
    kept: dict[str, Any] = {"prompt_set": f"{concept}/kept", "prompt_sha256": "decaf", "seeds": (3,)}
    names = [f"retain_{f}" for f in ("shape", "colour", "background", "style", "all", "near", "far")]
    names += ["binding_1", "binding_2", "binding_3", "negative_without", "negative_with", "negative_removed"]
    rates = [replace(rate(name, [True] * (90 - i) + [False] * (10 + i)), **kept) for i, name in enumerate(names)]
    others = {"clip_score": 0.512, "fid": 12.345, "kid": 0.00123, "lpips_kept": 0.1, "lpips_erased": 0.4}
    means = [Result(name, value, 100, **kept) for name, value in others.items()]
    difference = Result("lpips_difference", 0.3, 140, (0.25, 0.35), **kept)
    known = replace(rate("knowledge", [True] * 30 + [False] * 10), detector="diffusion_classifier", seeds=(3,))
    judge = [rate(f"judge_{name}", [True] * 99 + [False]) for name in ("shape", "colour", "background", "style", "all")]
    return [*rates, *means, difference, known, *judge]
