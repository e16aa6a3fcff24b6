"""Pipelines that draw for the visitors of the page, with and without the encoders that each visitor chose."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any

from torch import Tensor

from robust_encoders.compatibility.report import CompatReport
from robust_encoders.concepts import Concept
from robust_encoders.encoder import RobustEncoder
from robust_encoders.errors import AlreadyAttachedError, RobustEncodersError
from robust_encoders.loaded import LoadedArtifact
from robust_encoders.pipeline.status import Status

from ..diffusion.sampling import SamplingConfig, draw
from ..metrics.rates import detect
from .request import PictureRequest
from .screen import Screen, covered
from .trials import Trial

_PATIENCE = 0.2  # seconds between two looks at whether a visitor still waits


class Stopped(Exception):
    """A visitor stopped what was running for them."""


@dataclass(frozen=True)
class Shown:
    """A picture as the page shows it.

    Args:
        pixels: Picture (3, H, W) in [0, 1]; only squares of it if it is covered.
        covered: Who found something in it that is not shown; empty for a picture as it was drawn.
        sees: Name of a concept to True if its judge finds it in the picture as it was drawn.
    """

    pixels: Tensor
    covered: str = ""
    sees: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Fit:
    """Whether a chosen encoder fits the pipeline, and whether it was attached.

    Args:
        name: Name of the encoder.
        report: Report of all checks, with the encoders before it already attached.
        refused: Why it was not attached although every check passed; empty if it was.
    """

    name: str
    report: CompatReport
    refused: str = ""

    @property
    def attached(self) -> bool:
        """True if the encoder was attached."""
        return self.report.ok and not self.refused


@dataclass(frozen=True)
class Drawn:
    """The answer to a request.

    Args:
        request: The request.
        before: Picture without any encoder.
        after: Picture with all chosen encoders; None if none was chosen, or one of them was not attached.
        fits: Report on each chosen encoder, in the order of attaching.
        status: Artifacts attached to the second picture, and the ways past them.
        notes: Remarks for the visitor, in sentences.
    """

    request: PictureRequest
    before: Shown
    after: Shown | None
    fits: tuple[Fit, ...]
    status: Status
    notes: tuple[str, ...] = ()


class Studio:
    """Pipelines that share their weights; each one is lent to one visitor at a time.

    What a visitor chose is attached to the lent pipeline for the length of a scope, so every visitor gets pictures with
    their own encoders, whoever draws at the same time.

    Args:
        pipe: Pipeline that draws from prompts; it is not changed.
        encoders: Name to encoder or overlay, as the page offers them.
        trials: Name of a concept to its attacks and its detector, for every concept of the encoders.
        screen: Filter that covers pictures.
        sampling: Sampling of all pictures.
        workers: Number of pipelines, so of visitors that are served at the same time.
        title: The base in a few words.
    """

    def __init__(
        self,
        pipe: Any,
        encoders: Mapping[str, LoadedArtifact],
        *,
        trials: Mapping[str, Trial],
        screen: Screen,
        sampling: SamplingConfig,
        workers: int = 2,
        title: str = "",
    ) -> None:
        self.encoders, self.trials, self.screen = dict(encoders), dict(trials), screen
        self.sampling, self.workers, self.title = sampling, workers, title
        self.tokenizer = getattr(pipe, "tokenizer", None)
        self._free: SimpleQueue[Any] = SimpleQueue()
        for _ in range(workers):
            self._free.put(_worker(pipe))

    @contextmanager
    def pipeline(self, stop: Event | None = None) -> Iterator[Any]:
        """Lend a free pipeline without encoders for the length of a block; wait until one is free.

        Args:
            stop: Event that ends the waiting; None waits for as long as it takes.

        Raises:
            Stopped: If the event was set before a pipeline was free.
        """
        pipe = self._wait(stop)
        try:
            yield pipe
        finally:
            self._free.put(pipe)

    def _wait(self, stop: Event | None) -> Any:
        while stop is None or not stop.is_set():
            try:
                return self._free.get(timeout=_PATIENCE)
            except Empty:
                continue
        raise Stopped

    def concepts(self, names: Sequence[str]) -> tuple[Concept, ...]:
        """Return the single concepts that encoders erase, each one once."""
        erased = [self.encoders[name].manifest.concept for name in names if name in self.encoders]
        single = [part for concept in erased for part in (concept.parts or (concept,))]
        return tuple({concept.name: concept for concept in single}.values())

    def draw(self, request: PictureRequest) -> Drawn:
        """Draw a request without and with its encoders.

        Args:
            request: Request that names encoders of this page only.
        """
        with self.pipeline() as pipe, ExitStack() as scopes:
            pictures = self._drawn(pipe, request)
            fits = tuple(self.attach(pipe, request.encoders, scopes))
            status = RobustEncoder.status(pipe)
            pictures += self._drawn(pipe, request) if fits and all(fit.attached for fit in fits) else []
        shown = [self.shown(one, request.encoders) for one in pictures]
        after = shown[1] if len(shown) > 1 else None
        return Drawn(request, shown[0], after, fits, status, tuple(self._notes(request)))

    def _drawn(self, pipe: Any, request: PictureRequest) -> list[Tensor]:
        return [*draw(pipe, [request.prompt], [request.seed], self.sampling, negative=request.negative)]

    def attach(self, pipe: Any, names: Sequence[str], scopes: ExitStack) -> Iterator[Fit]:
        """Attach encoders, whole ones before overlays, until the scopes end; yield how each one fits.

        Args:
            pipe: Lent pipeline.
            names: Names of the encoders.
            scopes: Stack that the scopes are entered into.
        """
        # A whole encoder exchanges what overlays lie on.
        for name in sorted(names, key=lambda name: not isinstance(self.encoders[name], RobustEncoder)):
            artifact, refused = self.encoders[name], ""
            report = artifact.check(pipe, allow_partial=True)
            try:
                if report.ok:
                    scopes.enter_context(artifact.attached(pipe, allow_partial=True))
            except AlreadyAttachedError as error:
                refused = f"Expected room in the pipeline, found it taken: {error}. Choose one of the two."
                if isinstance(artifact, RobustEncoder):
                    refused = (
                        "A pipeline has room for one whole encoder, and another one is chosen. Choose one of them."
                    )
            except RobustEncodersError as error:
                refused = str(error)
            yield Fit(name, report, refused)

    def shown(self, picture: Tensor, names: Sequence[str]) -> Shown:
        """Return a picture (3, H, W) in [0, 1] as the page shows it, with the verdicts on the encoders' concepts."""
        reason = self.screen.reasons(picture[None])[0]
        sees = {
            concept.name: detect(judge, picture[None])[0]
            for concept in self.concepts(names)
            if (judge := self.trials[concept.name].detector) is not None
        }
        return Shown(covered(picture) if reason else picture, reason, sees)

    def _notes(self, request: PictureRequest) -> Iterator[str]:
        for what, text in (("prompt", request.prompt), ("negative prompt", request.negative)):
            room = getattr(self.tokenizer, "model_max_length", 0)
            if self.tokenizer is not None and len(self.tokenizer(text).input_ids) > room:
                yield f"The {what} is cut off after {room - 2} tokens, which is all that the text encoder reads."


def _worker(pipe: Any) -> Any:
    """Return a pipeline that shares the weights of another one, and nothing that has a state while it draws."""
    worker = copy.copy(pipe)
    own = {
        name: copy.deepcopy(part) if name == "scheduler" else _again(part)
        for name, part in pipe.components.items()
        if part is not None and (name == "scheduler" or name.startswith("tokenizer"))
    }
    worker.register_modules(**own)
    worker.set_progress_bar_config(disable=True)
    return worker


def _again(tokenizer: Any) -> Any:
    """Return a second tokenizer of the same files; a deep copy of transformers' CLIP tokenizer decodes wrongly."""
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return type(tokenizer).from_pretrained(folder)
