"""The benchmark of a real base: prompts from a file or the Hub, a published detector, published scores and budgets."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib import util
from typing import Any, ClassVar, Literal

import torch

from robust_encoders.concepts import Concept
from robust_encoders.utils.extras import install_command, package_problems
from robust_encoders.utils.text_lists import comma_problems

from ...detectors import DETECTORS, NudeNet
from ...detectors.agreement import Agreement
from ...diffusion.backbone import Precision
from ...diffusion.sampling import SamplingConfig
from ...metrics import ClipFeatures, ClipScore, FrechetDistance, HubClip, KernelDistance, NudityCounts, PickScore
from ...metrics.clip_models import PICK_PROCESSOR
from ...protocols import Attack, Detector
from ..choices import detector_named
from ..config import EvaluationConfig, chooses
from ..plan import MetricMaker, Plan, PromptSet
from .chance_pool import ChancePool
from .described_detectors import NUDENET, described_detector, kinds_of, refuse_undescribed
from .prompt_files import GuidedPromptSet
from .prompt_sources import concept_prompts, file_problems, first, kept_prompts, no_longer_than, one_guidance
from .reworded import RewordedRetention, kept_probes
from .stable_diffusion_attacks import SuiteName, stable_diffusion_suite

_KID_SUBSET = 100  # pictures of KID's subsets
_POOL = 64  # kept prompts that are drawn again: as open captions, and in everyday wordings


@dataclass(frozen=True, kw_only=True)
class StableDiffusionBenchmark:
    """Attacks on any Stable Diffusion 1.x or 2.x base, judged by a published detector.

    Args:
        concept: Name of the concept, or the concept with its kind, synonyms and captions.
        prompts: Prompts that state the concept: a csv file with UnlearnDiffAtk's or I2P's columns, or with adversarial
            prompts of eval-unlearn's metric ``asr_mma_diffusion``. A file on the Hub is ``ORG/NAME@COMMIT:FILE``, I2P
            itself ``AIML-TUDA/i2p@COMMIT``.
        kept: Prompts that do not state the concept: a COCO annotation file (json) or such a csv file, here or on the
            Hub.
        detector: Detector of the concept: ``nudenet``, ``nudenet:unlearn_diff_atk`` (its nine classes),
            ``classifier:MODEL:CLASS`` (the most probable class), ``classifier:MODEL:CLASS:top-3``, or a name in
            ``DETECTORS``. MODEL is a folder, a Hub id or ``ORG/NAME@REVISION``. A plus sign joins several: a success
            is what all of them find, for example ``nudenet+classifier:Falconsai/nsfw_image_detection:nsfw``.
        threshold: Score from which on the detector counts a picture; by default NudeNet's usual one for its policy. For
            a classifier it is the least probability of the class.
        categories: Categories of I2P, for example ``sexual``; only prompts of at least one of them are taken.
        n: Number of prompts to take from the start of ``prompts``; None takes all.
        n_kept: Number of prompts to take from the start of ``kept``; None takes all.
        longest: Largest number of tokens of a prompt; longer prompts are left out, as in UnlearnDiffAtk. None keeps
            all.
        scale: Source of the guidance scale: ``prompts`` for the file's own, ``sampling`` for that of the sampling.
        clip: CLIP model of the CLIP score; empty for none.
        fid: Switch that takes FID and KID between kept pictures and the base's, in picture embeddings of ``clip``.
        pick: Model of the PickScore, for example ``yuvalkirstain/PickScore_v1``; empty for none.
        pick_processor: Folder or Hub id of the PickScore's tokenizer and image processor.
        words: Words of the concept in prompts; by default its name and synonyms.
        suite: Name of the set of attacks with their budgets; see ``stable_diffusion_suite``.
        attack_batch: Number of prompts attacked at once.
        precision: Precision of the UNet within attacks: ``fp32``, or ``bf16`` or ``fp16`` by autocast.

    Raises:
        ValueError: If a size is too small, the detector is not known, or FID has no CLIP model.
    """

    name: ClassVar[str] = "stable_diffusion"
    defaults: ClassVar[EvaluationConfig] = EvaluationConfig(
        sampling=SamplingConfig(steps=50, guidance=7.5, batch=8), chunk=16, checks=8
    )

    concept: str | Concept
    prompts: str
    kept: str
    detector: str = "nudenet"
    threshold: float | None = None
    categories: tuple[str, ...] = ()
    n: int | None = None
    n_kept: int | None = 1000
    longest: int | None = 60
    scale: Literal["prompts", "sampling"] = "prompts"
    clip: str = "openai/clip-vit-base-patch32"
    fid: bool = True
    pick: str = ""
    pick_processor: str = PICK_PROCESSOR
    words: tuple[str, ...] = ()
    suite: SuiteName = "standard"
    attack_batch: int = 8
    precision: Precision = "bf16"

    def __post_init__(self) -> None:
        sizes = [size for size in (self.n, self.n_kept) if size is not None]
        if min([*sizes, 2]) < 2 or self.attack_batch < 1:
            raise ValueError(f"expected n and n_kept of at least 2 and attack_batch of at least 1, found {self}")
        if self.fid and not self.clip:
            raise ValueError("expected a CLIP model for FID and KID, found none: name one, or leave FID out")
        if self.detector not in DETECTORS:
            refuse_undescribed(self.detector, self.threshold)

    @staticmethod
    def refuse_detector(name: str) -> None:
        """Check the name or description of a detector before anything is loaded.

        Raises:
            ValueError: If no detector of that name is registered, and the words describe none.
        """
        if name not in DETECTORS:
            refuse_undescribed(name)

    @staticmethod
    def made_by_name(name: str, concept: Concept, device: str | torch.device) -> Detector:
        """Return the detector of a concept that a name or a description gives; this may load a model."""
        return StableDiffusionBenchmark(concept=concept, prompts="", kept="", detector=name).made_detector(device)

    @cached_property
    def erased(self) -> Concept:
        """Concept to evaluate; if only its name is given, nothing else is known about it."""
        return Concept(name=self.concept, kind="object") if isinstance(self.concept, str) else self.concept

    def attack_labels(self) -> Collection[str]:
        """Return the labels of the suite's attacks."""
        return self._attacks(self.defaults.sampling)

    def metric_labels(self) -> Collection[str]:
        """Return the names of the metrics."""
        distances = ("fid", "kid") if self.fid else ()
        clip = ("clip_score", *distances, RewordedRetention.name) if self.clip else ()
        return (*clip, *(["pick_score"] if self.pick else []), "nudity_counts", ChancePool.name)

    def problems(self, config: EvaluationConfig) -> list[str]:
        """Return what is missing or wrong, before a base is loaded: files of prompts, packages, detectors.

        Files on the Hub are read by ``plan``.

        Args:
            config: Names of attacks and metrics, and the sampling.
        """
        parts: dict[str, object] = {
            k: v for k, v in self._attacks(config.sampling).items() if chooses(config.attacks, k)
        }
        if self.fid and any(chooses(config.metrics, name) for name in ("fid", "kid")):
            parts["FID and KID"] = FrechetDistance
        if self.detector not in DETECTORS:
            parts |= {f"the detector {words}": kind for words, kind in kinds_of(self.detector).items()}
        return [
            *package_problems(parts.items()),
            *file_problems(lambda: first(self._read(config), self.n), self.prompts),
            *file_problems(lambda: kept_prompts(self.kept, n=self.n_kept, seed=config.seed), self.kept),
            *comma_problems("--words", self.words, "write --words {}"),
            *comma_problems("--categories", self.categories, "write --categories {}"),
        ]

    def plan(self, pipe: Any, config: EvaluationConfig) -> Plan:
        """Return the plan for a concept on a real base, with the sampling of its pictures.

        Files are read and models loaded here, so that errors in them are reported before the first picture.

        Args:
            pipe: Base pipeline; its tokenizer measures the lengths of prompts, and classifiers and scores use its
                device.
            config: Sampling, whose guidance scale the prompts may replace; and the seed of kept pictures for files
                without seeds.

        Raises:
            PromptFileError: If a file of prompts is not what it should be, or its guidance scales differ.
            ValueError: If an attack lacks what it needs.
            OSError: If a file or model is not there.
            ModuleNotFoundError: Naming the extra to install.
        """
        prompts, sampling = self._prompts(pipe.tokenizer, config)
        detector = self.made_detector(pipe.device)
        kept = kept_prompts(self.kept, n=self.n_kept, seed=config.seed)
        clip = self._clip(pipe.device)
        counts: dict[str, MetricMaker] = {}
        for one in detector.members if isinstance(detector, Agreement) else (detector,):
            if isinstance(one, NudeNet):
                counts["nudity_counts"] = partial(NudityCounts, one)
        synonyms = tuple(dict.fromkeys((*self.erased.synonyms, *self.words)))
        return Plan(
            concept=replace(self.erased, synonyms=synonyms),
            plain=(prompts,),
            kept=kept,
            detector=detector,
            attacks=self._attacks(sampling),
            utility=self._scores(len(kept.cases), clip, pipe.device),
            erased=counts,
            probes=kept_probes(kept.part(slice(_POOL)), prompts, detector, clip, sampling=sampling, seed=config.seed),
            measures={key: getattr(self, key) for key in ("clip", "fid", "pick", "pick_processor")},
            sampling=sampling,
        )

    def _attacks(self, sampling: SamplingConfig) -> dict[str, Attack]:
        return stable_diffusion_suite(
            self.suite,
            self.erased,
            words=self.words,
            batch=self.attack_batch,
            precision=self.precision,
            sampling=sampling,
        )

    def made_detector(self, device: str | torch.device) -> Detector:
        """Return the detector of the concept; this may load a model.

        Args:
            device: Device of a classifier.
        """
        if self.detector in DETECTORS and not self.detector.startswith(NUDENET):
            return detector_named(self.detector, self.erased)
        return described_detector(self.detector, threshold=self.threshold, device=device)

    def _read(self, config: EvaluationConfig) -> GuidedPromptSet:
        scale = config.sampling.guidance
        return concept_prompts(self.prompts, categories=self.categories, guidance=scale, seed=config.seed)

    def _prompts(self, tokenizer: Any, config: EvaluationConfig) -> tuple[PromptSet, SamplingConfig]:
        """Return the chosen prompts that state the concept, and the sampling at their guidance scale."""
        sampling, fitting = config.sampling, no_longer_than(self._read(config), self.longest, tokenizer)
        chosen = first(fitting, self.n)
        if self.scale == "sampling":
            return chosen, sampling
        return chosen, replace(sampling, guidance=one_guidance(fitting.guidance[: len(chosen.cases)]))

    def _clip(self, device: str | torch.device) -> HubClip | None:
        """Return the CLIP model of the scores, if there is one."""
        if self.fid and util.find_spec("torchmetrics") is None:
            raise ModuleNotFoundError(
                f"expected torchmetrics for FID and KID, found none; {install_command('metrics')}, "
                "or switch FID and KID off"
            )
        return HubClip(self.clip, device=device) if self.clip else None

    def _scores(self, n: int, clip: HubClip | None, device: str | torch.device) -> dict[str, MetricMaker]:
        """Return the metrics on ``n`` kept pictures."""
        found: dict[str, MetricMaker] = {}
        if clip is not None:
            found["clip_score"] = partial(ClipScore, clip, settings=clip.record())
            if self.fid:
                found["fid"] = partial(FrechetDistance, ClipFeatures(clip))
                found["kid"] = partial(KernelDistance, ClipFeatures(clip), subset_size=min(n, _KID_SUBSET))
        if self.pick:
            pick = HubClip(self.pick, processor=self.pick_processor, device=device)
            found["pick_score"] = partial(PickScore, pick)
        return found
