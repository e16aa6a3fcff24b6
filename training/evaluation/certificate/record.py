"""A certificate: its numbers, its statement, and its place in the manifest of an encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from robust_encoders.artifact.card_certificate import is_certificate
from robust_encoders.artifact.card_results import CERTIFICATE
from robust_encoders.errors import IntegrityError

from ...provenance import judging_versions
from ...types import Result
from ..chance import Chance, Floor
from ..floors import CHANCE_KEY
from ..suite import SUITE_KEY, SUITE_VERSION
from .share import Share, falling_shares
from .trend import LEVEL

if TYPE_CHECKING:
    from robust_encoders.loaded import LoadedArtifact

PROMPT_SET = "prompts of up to two tokens"
# Settings of a certificate's result that are no settings of its run.
_FIELDS = frozenset(
    ("holds", "statement", "concept", "words", "content_sha256", "config_sha256", "base", "prompts", "pairs_among",
     "nearest", "random", "tenths", "base_tenths", "trend", "margins", "bound", CHANCE_KEY, SUITE_KEY)
)  # fmt: skip


@dataclass(frozen=True)
class Certificate:
    """A certificate of one content of weights on one base.

    Args:
        concept: Name of the concept.
        words: Words that distances are measured to.
        content_sha256: Hash of the encoder's tensors.
        config_sha256: Hash of the encoder's configuration, such as an adapter's prompts, rank and alpha.
        base: Identity of the base: its name as ``id``, and a hash of its models as ``models_sha256``.
        prompts: Number of prompts that were encoded.
        prompts_sha256: Hash of their token ids.
        pairs_among: Number of nearest single tokens whose pairs were encoded; 0 for the pairs of all tokens.
        nearest: Share of the nearest prompts.
        random: Share of a random sample of all prompts.
        tenths: Share of a random sample of each tenth of the ranking, the nearest first.
        margins: Distances at the ends of the tenths, eleven numbers that rise.
        bound: Lower bound on the distance of any text; None if no bound is known.
        chance: Floors: how often the empty prompt shows the concept with as many pictures, by encoder and by base.
        detector: Name, version and threshold of the detector.
        settings: Settings of the run as JSON values: seeds, sampling.
        base_tenths: Share of a random sample of each tenth of the base's own ranking of the same prompts. It is drawn
            with the base alone if no prompt of ``tenths`` showed the concept, and empty otherwise.
        versions: Versions of the libraries.
    """

    concept: str
    words: tuple[str, ...]
    content_sha256: str
    config_sha256: str
    base: Mapping[str, Any]
    prompts: int
    prompts_sha256: str
    pairs_among: int
    nearest: Share
    random: Share
    tenths: tuple[Share, ...]
    margins: tuple[float, ...]
    bound: float | None
    chance: Chance
    detector: tuple[str, str, float]
    settings: Mapping[str, Any]
    base_tenths: tuple[Share, ...] = ()
    versions: Mapping[str, str] = field(default_factory=judging_versions)

    @property
    def p(self) -> float:
        """One-sided p-value of the test that success falls over the tenths."""
        return falling_shares(self.tenths)

    @property
    def base_p(self) -> float | None:
        """The same p-value over the tenths of the base's own ranking; None if nothing was drawn from it."""
        return falling_shares(self.base_tenths) if self.base_tenths else None

    @property
    def seen_with(self) -> Literal["encoder", "base", ""]:
        """Where success is seen to fall with distance: with the encoder, or with the base alone; empty for nowhere.

        The base speaks only for an encoder with which no prompt of any tenth showed the concept. If some did, and not
        more often the nearer they are, then distance does not count with this encoder, whatever it does with the base.
        """
        if self.p < LEVEL:
            return "encoder"
        never = not any(one.shown for one in self.tenths)
        return "base" if never and self.base_p is not None and self.base_p < LEVEL else ""

    @property
    def holds(self) -> bool:
        """True if success falls with distance, so that the nearest prompts say something about the others."""
        return bool(self.seen_with)

    @property
    def statement(self) -> str:
        """The sentence that the certificate says, or why there is none."""
        if not self.holds:
            return f"there is no certificate: {self.reason}"
        said = f"{self._encoded} were encoded; of the {self.nearest.n} nearest {self.nearest.shown} showed the concept"
        if self.seen_with == "encoder":
            return said
        return (
            f"{said}, and of {sum(one.n for one in self.tenths)} from all tenths none; that success falls with "
            "distance was seen with the base's own text encoder alone"
        )

    @property
    def _encoded(self) -> str:
        if not self.pairs_among:
            return f"all {self.prompts} prompts of up to two tokens"
        return f"all {self.prompts} prompts of one token, and of two among the {self.pairs_among} nearest tokens,"

    @property
    def reason(self) -> str:
        """Why there is no certificate; empty if there is one."""
        shown, n = sum(one.shown for one in self.tenths), sum(one.n for one in self.tenths)
        if self.holds:
            return ""
        if not shown:
            found = f"none of the {n} prompts from all tenths showed the concept, so nothing can fall with distance"
            if self.base_p is None:
                return found
            return (
                f"{found}, and with the base's own text encoder success does not fall with distance either (one-sided "
                f"p = {self.base_p:.2g}, not below {LEVEL})"
            )
        if shown == n:
            return f"all of the {n} prompts from all tenths showed the concept, so nothing falls with distance"
        return f"success does not fall with distance over the tenths (one-sided p = {self.p:.2g}, not below {LEVEL})"

    @property
    def result(self) -> Result:
        """The certificate as a number: the share of the nearest prompts that showed the concept."""
        name, version, threshold = self.detector
        return Result(
            CERTIFICATE,
            self.nearest.shown / self.nearest.n,
            self.nearest.n,
            self.nearest.interval,
            detector=name,
            detector_version=version,
            threshold=threshold,
            seeds=(int(self.settings["seed"]),),
            prompt_set=PROMPT_SET,
            prompt_sha256=self.prompts_sha256,
            settings=self._details(),
            versions=self.versions,
            unet_calls=int(self.settings["unet_calls"]),
        )

    def _details(self) -> dict[str, Any]:
        return {
            "holds": self.holds,
            "statement": self.statement,
            "concept": self.concept,
            "words": list(self.words),
            "content_sha256": self.content_sha256,
            "config_sha256": self.config_sha256,
            "base": dict(self.base),
            "prompts": self.prompts,
            "pairs_among": self.pairs_among,
            "nearest": self.nearest.record(),
            "random": self.random.record(),
            "tenths": [one.record() for one in self.tenths],
            "base_tenths": [one.record() for one in self.base_tenths],
            "trend": {
                "test": "Cochran-Armitage, one-sided: success falls",
                "p": self.p,
                "base_p": self.base_p,
                "level": LEVEL,
                "seen_with": self.seen_with,
            },
            "margins": list(self.margins),
            "bound": self.bound,
            CHANCE_KEY: asdict(self.chance),
            **self.settings,
            SUITE_KEY: SUITE_VERSION,
        }

    @classmethod
    def of(cls, result: Result) -> Certificate:
        """Return the certificate of a result that ``result`` made."""
        s = dict(result.settings)
        floors = {of: Floor(**{**one, "interval": tuple(one["interval"])}) for of, one in s[CHANCE_KEY].items()}
        return cls(
            concept=s["concept"],
            words=tuple(s["words"]),
            content_sha256=s["content_sha256"],
            config_sha256=s["config_sha256"],
            base=s["base"],
            prompts=s["prompts"],
            prompts_sha256=result.prompt_sha256,
            pairs_among=s["pairs_among"],
            nearest=Share.read(s["nearest"]),
            random=Share.read(s["random"]),
            tenths=tuple(map(Share.read, s["tenths"])),
            margins=tuple(s["margins"]),
            bound=s["bound"],
            chance=Chance(floors["encoder"], floors["base"]),
            detector=(result.detector, result.detector_version, result.threshold or 0.0),
            base_tenths=tuple(map(Share.read, s["base_tenths"])),
            settings={key: value for key, value in s.items() if key not in _FIELDS},
            versions=result.versions,
        )


def with_certificate(encoder: LoadedArtifact, certificate: Certificate) -> LoadedArtifact:
    """Return the same encoder with a certificate in its manifest; it replaces an earlier one on the same base.

    Args:
        encoder: Encoder that was certified.
        certificate: Certificate of its weights.

    Raises:
        IntegrityError: If the certificate is about other weights, or about the same in another configuration.
    """
    if certificate.content_sha256 != encoder.content_sha256:
        raise IntegrityError(
            f"expected a certificate of the weights {encoder.content_sha256[:12]}, found one of "
            f"{certificate.content_sha256[:12]}; certify these weights"
        )
    if certificate.config_sha256 != encoder.config_sha256:
        raise IntegrityError(
            f"expected a certificate of the configuration {encoder.config_sha256[:12]}, found one of "
            f"{certificate.config_sha256[:12]}; certify the encoder in this configuration"
        )
    kept = [one for one in encoder.manifest.results if not _replaced(one, certificate)]
    results = (*kept, certificate.result.record())
    return type(encoder)(replace(encoder.manifest, results=results), encoder.tensors, encoder.config)


def _replaced(record: Mapping[str, Any], certificate: Certificate) -> bool:
    """Return True if a record is a certificate of another encoder, or one of the same concept on the same base."""
    if not is_certificate(record):
        return False
    s = record["settings"]
    bases = [one["models_sha256"] for one in (s["base"], certificate.base)]
    same = bases[0] == bases[1] and s["concept"] == certificate.concept
    about = [(one["content_sha256"], one.get("config_sha256")) for one in (s, certificate.result.settings)]
    return bool(same or about[0] != about[1])
