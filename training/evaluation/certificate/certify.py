"""The making of a certificate: encode all short prompts, rank them, draw samples, and judge these."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robust_encoders.concepts import Concept
from robust_encoders.errors import NotReadyError
from robust_encoders.loaded import LoadedArtifact
from robust_encoders.utils.encoder_names import refuse_names
from robust_encoders.utils.home import expanded
from robust_encoders.utils.targets import DiskNeed, disk_problems

from ...diffusion.backbone import Backbone, computes_bf16_in_fp32
from ...diffusion.base_configs import BaseConfigs
from ...protocols import Detector
from ...provenance import judging_versions
from ..cache import Cache
from ..chance import Chance, Floor, floor_of_any_seed
from ..defence import DefendedPipeline
from ..evaluate import hub_id, models_sha256
from .config import CertificateConfig
from .drawing import Drawing, Samples, cases_of, tenth_ends
from .lower_bound import bound_of
from .prompts import ShortPrompts, pair_prompts, single_prompts, texts_of
from .ranking import ConceptDistance, Encoding, ranked
from .record import Certificate
from .share import Share

PARTS = "parts"  # the folder of a certificate's finished parts
_FORMAT = 1  # version of the finished parts; a higher one keeps parts of earlier code from being used
_CHANNELS = 3


def certify(
    pipe: Any,
    encoder: LoadedArtifact,
    concept: Concept,
    detector: Detector,
    *,
    out: str | Path,
    config: CertificateConfig | None = None,
    base_name: str = "",
) -> Certificate:
    """Return the certificate of an encoder on a base.

    Every finished part is written to ``out/parts``, with an archive of its pictures. After an interruption, a second
    run keeps the parts that were made from the same weights, prompts and settings, and returns the same certificate.

    Args:
        pipe: Base pipeline; the encoder is attached to it only while it is needed.
        encoder: Encoder whose form changes what prompts become before the UNet: weights, adapter or projection.
        concept: Concept that should be gone; distances are measured to its name and its synonyms.
        detector: Detector of the concept.
        out: Folder of the finished parts.
        config: Sizes and seeds; by default the full numbers.
        base_name: Name of the base in the record; by default its Hub id.

    Raises:
        NotReadyError: If the encoder changes the UNet, or the disk is too small.
        EncoderNameError: If ``encoder`` is a name, not a loaded encoder.
        ValueError: If there are fewer prompts than a sample needs.
        IncompatibleError: If the encoder does not fit the pipeline.
    """
    refuse_names(encoder)
    out, config = expanded(out), config or CertificateConfig()
    problems = [*form_problems(encoder), *disk_problems([_disk_need(pipe, config, out)])]
    if problems:
        raise NotReadyError.of(problems)
    named = base_name or hub_id(pipe) or "a base in a folder"
    return _Run(pipe, encoder, concept, detector, out, config, named).certificate()


def form_problems(encoder: LoadedArtifact) -> list[str]:
    """Return the reasons why an encoder cannot have a certificate."""
    manifest = encoder.manifest
    if manifest.component == "text_encoder":
        return []
    return [
        "expected an encoder that changes the text encoder of Stable Diffusion 1 or 2, because prompts are ranked by "
        f"what the UNet sees of them, found form {manifest.form!r} of {manifest.component!r}; "
        "use robust-encoders evaluate for it"
    ]


def _disk_need(pipe: Any, config: CertificateConfig, out: Path) -> DiskNeed:
    shape, scale = BaseConfigs.of_pipeline(pipe).latent_shape, getattr(pipe, "vae_scale_factor", None)
    size = 0
    if shape is not None and isinstance(scale, int):
        size = _CHANNELS * shape[1] * scale * shape[2] * scale * config.most
    return DiskNeed(out / PARTS, size, f"{config.most} pictures")


@dataclass(frozen=True)
class _Run:
    """One run of ``certify``; the fields are its arguments."""

    pipe: Any
    encoder: LoadedArtifact
    concept: Concept
    detector: Detector
    out: Path
    config: CertificateConfig
    base_name: str

    def certificate(self) -> Certificate:
        """Return the certificate."""
        defended = DefendedPipeline(self.pipe, self.encoder)
        with defended.attached():
            pass  # an encoder that does not fit is refused here, before anything long
        base, words = Backbone.from_pipeline(self.pipe), self.concept.words()
        distance = ConceptDistance.of(base, words)
        singles = self.cache.tensor("singles", {}, lambda: single_prompts(self.pipe.tokenizer))
        # All pairs are listed before anything is encoded, so that sizes that do not fit are refused early.
        pairs = None if self.shortlist else self._pairs(len(singles), None)
        bound = bound_of(self.encoder, base, words)
        base_floor = self._floor("empty-base")
        with defended.attached():
            encoding = Encoding(Backbone.from_pipeline(self.pipe), distance, self.cache, self.config)
            prompts, distances = self._encoded(encoding, singles, pairs)
            floor = self._floor("empty")
            nearest, random, *tenths = self._shares(prompts, distances)
        base_tenths = () if any(one.shown for one in tenths) else self._base_tenths(base, distance, prompts)
        name, version, threshold = self.detector.name, self.detector.version, self.detector.threshold
        return Certificate(
            concept=self.concept.name,
            words=words,
            content_sha256=self.encoder.content_sha256,
            config_sha256=self.encoder.config_sha256,
            base={"id": self.base_name, "models_sha256": self.models},
            prompts=len(prompts),
            prompts_sha256=prompts.sha256,
            pairs_among=min(self.shortlist, len(singles)),
            nearest=nearest,
            random=random,
            tenths=tuple(tenths),
            margins=_margins(distances.sort().values),
            bound=bound,
            chance=Chance(floor, base_floor),
            detector=(name, version, threshold),
            settings=self._settings(len(prompts), base_tenths),
            base_tenths=base_tenths,
        )

    @cached_property
    def models(self) -> str:
        """Hash of the base's models, taken before the encoder is attached."""
        return models_sha256(self.pipe)

    @property
    def shortlist(self) -> int:
        return self.config.shortlist(len(self.pipe.tokenizer))

    @cached_property
    def cache(self) -> Cache:
        """The finished parts, each with everything that it depends on."""
        device = str(self.pipe.device.type)
        run: dict[str, Any] = {"format": _FORMAT, "seed": self.config.seed, "device": device}
        if computes_bf16_in_fp32(self.pipe.device):
            run["bf16"] = "fp32"
        about = {
            "base": self.models,
            "content_sha256": self.encoder.content_sha256,
            "config_sha256": self.encoder.config_sha256,
            "words": list(self.concept.words()),
            "detector": [self.detector.name, self.detector.version, self.detector.threshold],
            "versions": judging_versions(),
        }
        return Cache(self.out / PARTS, {**run, **about})

    def _pairs(self, singles: int, among: list[int] | None) -> Tensor:
        """Return the prompts of two tokens; sizes of samples that do not fit are refused."""
        make = partial(pair_prompts, self.pipe.tokenizer, among)
        pairs = self.cache.tensor("pairs", {"among": among}, make)
        Samples.of(1 + singles + len(pairs), self.config)
        return pairs

    def _encoded(self, encoding: Encoding, singles: Tensor, pairs: Tensor | None) -> tuple[ShortPrompts, Tensor]:
        """Return all prompts and their distances (N,)."""
        first = ShortPrompts(singles, torch.zeros(0, 2, dtype=torch.int64))
        near = encoding.distances(first, range(len(first)), "single-tokens")
        if pairs is None:
            ids = [row[0] for row in first.ids(ranked(near).tolist()) if row]
            pairs = self._pairs(len(singles), ids[: self.shortlist])
        if not len(pairs):
            return first, near
        prompts = ShortPrompts(singles, pairs)
        return prompts, torch.cat([near, encoding.distances(prompts, range(len(first), len(prompts)), "pairs")])

    def _drawn(self, title: str, cases: list[Any]) -> list[bool]:
        return Drawing(self.pipe, self.detector, self.cache, self.config).shown(cases, title)

    def _floor(self, title: str) -> Floor:
        """Return how often the empty prompt shows the concept in at least one of as many pictures as a prompt has."""
        flags = self._drawn(title, cases_of([((), "")], self.config.seed, self.config.floor))
        return floor_of_any_seed(flags, [self.config.seeds])

    def _shares(self, prompts: ShortPrompts, distances: Tensor) -> list[Share]:
        """Return the shares of the nearest prompts, of the random sample, and of the sample of each tenth."""
        n, samples = len(prompts), Samples.of(len(prompts), self.config)
        ranks = [samples.nearest, samples.random, *samples.tenths]
        spans = [(0, self.config.nearest), (0, n), *_tenth_spans(n)]
        return self._sampled("prompts", prompts, distances, list(zip(ranks, spans, strict=True)))

    def _base_tenths(self, base: Backbone, distance: ConceptDistance, prompts: ShortPrompts) -> tuple[Share, ...]:
        """Return the shares of a sample of each tenth of the same prompts in the base's ranking, drawn by the base."""
        distances = Encoding(base, distance, self.cache, self.config).distances(prompts, range(len(prompts)), "base")
        tenths = Samples.of(len(prompts), self.config).tenths
        asked = list(zip(tenths, _tenth_spans(len(prompts)), strict=True))
        return tuple(self._sampled("base-prompts", prompts, distances, asked))

    def _sampled(
        self, title: str, prompts: ShortPrompts, distances: Tensor, asked: list[tuple[tuple[int, ...], tuple[int, int]]]
    ) -> list[Share]:
        """Draw samples of a ranking by the pipeline in its present state, and return their shares.

        Args:
            title: Name of the drawn parts.
            prompts: Prompts.
            distances: Their distances (N,).
            asked: Ranks of each sample, and the first rank of the span that it stands for and the one behind it.
        """
        order, k = ranked(distances), self.config.seeds
        drawn, by_rank = sorted({rank for ranks, _ in asked for rank in ranks}), distances[order].tolist()
        ids = prompts.ids(order[drawn].tolist())
        texts = texts_of(self.pipe.tokenizer, ids)
        flags = self._drawn(title, cases_of(list(zip(ids, texts, strict=True)), self.config.seed, k))
        of = {rank: flags[i * k : (i + 1) * k] for i, rank in enumerate(drawn)}
        return [
            Share.of([of[rank] for rank in ranks], (by_rank[start], by_rank[stop - 1]))
            for ranks, (start, stop) in asked
        ]

    def _settings(self, n: int, base_tenths: tuple[Share, ...]) -> dict[str, Any]:
        config = self.config
        pictures = len(Samples.of(n, config).all) * config.seeds + 2 * config.floor
        pictures += sum(one.pictures for one in base_tenths)
        return {
            "seed": config.seed,
            "pictures_per_prompt": config.seeds,
            "sampling": asdict(config.sampling),
            "device": str(self.pipe.device.type),
            "unet_calls": pictures * config.sampling.calls_per_picture,
        }


def _tenth_spans(n: int) -> list[tuple[int, int]]:
    """Return the first rank of each tenth of a ranking of ``n`` prompts, and the one behind it."""
    ends = tenth_ends(n)
    return list(zip((0, *ends[:-1]), ends, strict=True))


def _margins(distances: Tensor) -> tuple[float, ...]:
    """Return the distances at the ends of the tenths, from sorted distances (N,)."""
    ends = (1, *tenth_ends(len(distances)))
    return tuple(float(distances[end - 1]) for end in ends)
