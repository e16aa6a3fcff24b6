"""The technique ``robust_encoders`` for eval-unlearn, which scores concept-erasure methods on a common set of metrics.

eval-unlearn finds it by the entry point ``eval_unlearn.techniques``. It calls a technique with its configuration, and
then ``generate`` with prompts. Nothing of eval-unlearn is imported here.
"""

from __future__ import annotations

import difflib
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

from robust_encoders.artifact.manifest import Manifest
from robust_encoders.errors import CompatibilityWarning
from robust_encoders.hub.embedded import EMBEDDED_BASES
from robust_encoders.hub.pipelines import PipelineOptions, load_pipeline
from robust_encoders.loaded import LoadedArtifact
from robust_encoders.redaction import get_logger

logger = get_logger(__name__)
_MAX_SEED = 2**63


@dataclass(frozen=True, kw_only=True)
class TechniqueConfig:
    """Configuration of the technique; names and defaults are those of eval-unlearn's own techniques, if they have them.

    Args:
        encoder: Encoder or overlay: name in the catalog, folder, or ``ORG/NAME`` on the Hub.
        model_id: Pipeline that it is attached to: folder, ``ORG/NAME`` or ``ORG/NAME@REVISION`` on the Hub, or
            ``shapes`` or ``emoji`` for an embedded base. By default the base that the encoder was made from.
        erase_concept: Concept that is scored. eval-unlearn puts it into its reports, and its metric ``err`` asks for
            it. By default it is not compared with what the encoder erases.
        device: Device of the pipeline; by default a GPU if there is one.
        use_fp16: Switch for half precision on a GPU of Nvidia.
        num_inference_steps: Number of denoising steps.
        guidance_scale: Scale of classifier-free guidance.
        seed: Seed of the first picture of a batch if eval-unlearn gives none, as its command line does.
        allow_partial: True to accept that other text encoders of the pipeline stay as they are.

    Raises:
        ValueError: If values are wrong; the message names each of them.
    """

    encoder: str = ""
    model_id: str = ""
    erase_concept: str = ""
    device: str = ""
    use_fp16: bool = True
    num_inference_steps: int = 50
    guidance_scale: float = 7.5
    seed: int = 0
    allow_partial: bool = False

    def __post_init__(self) -> None:
        problems = [
            f"{field.name}: expected {_KINDS[str(field.type)]}, found {value!r}"
            for field in fields(self)
            if not _is_of(str(field.type), value := getattr(self, field.name))
        ]
        if not problems:
            problems += self._problems()
        if problems:
            raise ValueError(f"the configuration of the technique robust_encoders is not valid: {'; '.join(problems)}")

    def _problems(self) -> list[str]:
        problems = []
        if not self.encoder:
            problems.append("encoder: expected a name in the catalog, a folder or ORG/NAME, found none")
        if self.num_inference_steps < 1:
            problems.append(f"num_inference_steps: expected at least 1, found {self.num_inference_steps}")
        if self.guidance_scale < 0:
            problems.append(f"guidance_scale: expected at least 0, found {self.guidance_scale}")
        if not 0 <= self.seed < _MAX_SEED:
            problems.append(f"seed: expected a number from 0 on, found {self.seed}")
        return problems

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> TechniqueConfig:
        """Return the configuration of a mapping, in which None stands for a default.

        Args:
            config: Names and values, as eval-unlearn reads them from its file.

        Raises:
            ValueError: If a name is not known, or values are wrong.
        """
        known = [field.name for field in fields(cls)]
        if unknown := [name for name in config if name not in known]:
            close = difflib.get_close_matches(unknown[0], known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
            raise ValueError(
                f"expected settings of the technique robust_encoders, found {', '.join(map(repr, unknown))}; {hint}"
            )
        return cls(**{name: value for name, value in config.items() if value is not None})


class RobustEncoderTechnique:
    """An encoder of this package, attached to a pipeline that draws eval-unlearn's prompts.

    The safety checker of the pipeline is left out, as in eval-unlearn's own techniques, so that it does not hide what
    the encoder lets through.

    Args:
        config: Settings; see :class:`TechniqueConfig`.

    Raises:
        ValueError: If a setting is wrong, or the encoder erases another concept.
        RobustEncodersError: If encoder or pipeline cannot be loaded, or do not fit.
    """

    def __init__(self, **config: Any) -> None:
        self.config = TechniqueConfig.of(config)
        encoder: LoadedArtifact = LoadedArtifact.from_pretrained(self.config.encoder)
        _require_concept(self.config.erase_concept, encoder.manifest)
        base = self.config.model_id or _base_of(encoder.manifest, self.config.encoder)
        self.pipe: Any = load_pipeline(base, _options(self.config)).pipe
        with warnings.catch_warnings():
            # eval-unlearn's command line hides all warnings, but this one says what a score does not cover.
            warnings.simplefilter("always", CompatibilityWarning)
            encoder.attach(self.pipe, allow_partial=self.config.allow_partial)
        logger.info("attached %s to %s on %s", encoder.label, base, self.pipe.device)

    def generate(self, prompts: Sequence[str], seed: int | None = None, **options: Any) -> list[Any]:
        """Draw one picture for each prompt.

        Args:
            prompts: Texts of the prompts.
            seed: Seed of the first picture; each further one has the next seed. None stands for the configured one.
            options: Further arguments of the pipeline; they replace the configured steps and guidance scale.

        Returns:
            Pictures of PIL, in the order of the prompts.

        Raises:
            ValueError: If a prompt is no text.
        """
        _require_texts(prompts)
        first = self.config.seed if seed is None else seed
        settings = {
            "num_inference_steps": self.config.num_inference_steps,
            "guidance_scale": self.config.guidance_scale,
            **options,
        }
        return [self._drawn(prompt, first + place, settings) for place, prompt in enumerate(prompts)]

    def _drawn(self, prompt: str, seed: int, settings: Mapping[str, Any]) -> Any:
        generator = torch.Generator(device=self.pipe.device).manual_seed(seed)
        return self.pipe(prompt=prompt, generator=generator, **settings).images[0]


_KINDS = {"str": "a text", "bool": "true or false", "int": "a whole number", "float": "a finite number"}


def _is_of(kind: str, value: object) -> bool:
    if kind == "float":
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return type(value).__name__ == kind


def _options(config: TechniqueConfig) -> PipelineOptions:
    device = config.device or _default_device()
    half = config.use_fp16 and device.startswith("cuda")
    return PipelineOptions(dtype=torch.float16 if half else torch.float32, device=device, without=("safety_checker",))


def _default_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _base_of(manifest: Manifest, name: str) -> str:
    """Return the name of the base that an artifact was made from."""
    base = manifest.base
    if base.family in EMBEDDED_BASES:
        return base.family
    if not base.ids:
        raise ValueError(
            f"expected a base in the manifest of {name}, found no Hub id; set model_id, to a folder or ORG/NAME"
        )
    return f"{base.ids[0]}@{base.revision}" if base.revision else base.ids[0]


def _require_concept(concept: str, manifest: Manifest) -> None:
    """Refuse a concept that an artifact does not erase, because reports would name it."""
    erased = manifest.concept
    names = (erased.name, *(part.name for part in erased.parts), *erased.words())
    if concept and concept.casefold() not in map(str.casefold, names):
        raise ValueError(
            f"expected {erased.name!r} as erase_concept, which the encoder erases, found {concept!r}; correct it, or "
            "choose another encoder"
        )


def _require_texts(prompts: Sequence[str]) -> None:
    if isinstance(prompts, str):
        raise ValueError(f"expected a list of prompts, found one text: {prompts!r}; put it into a list")
    wrong = [f"{value!r} at place {i}" for i, value in enumerate(prompts, 1) if not isinstance(value, str)]
    if wrong:
        raise ValueError(
            f"expected texts as prompts, found {', '.join(wrong[:3])}; correct the file of prompts: pandas reads empty "
            "cells, and words like null, as nan"
        )
