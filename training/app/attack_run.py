"""The quick attack on one prompt of a visitor, with progress and a stop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from math import prod
from threading import Event, get_ident
from typing import Any

from torch import Tensor, nn

from robust_encoders.loaded import LoadedArtifact
from robust_encoders.redaction import get_logger

from ..diffusion.backbone import Backbone
from ..diffusion.sampling import decode, draw, draw_candidates
from ..diffusion.target import TargetModel
from ..metrics.rates import margins_of
from ..protocols import Attack, Detector
from ..types import AttackFacts, Candidate, Case
from .attack_state import AttackState, Attempt, result_of, title_of
from .request import PictureRequest
from .studio import Shown, Stopped, Studio
from .trials import Trial

logger = get_logger(__name__)


@contextmanager
def watched(unet: nn.Module, called: Callable[[], None]) -> Iterator[None]:
    """Call a function before every pass of a UNet in this thread, for the length of a block.

    Pipelines that share a UNet may draw in other threads; their passes do not count.

    Args:
        unet: UNet of a pipeline.
        called: Function to call; an exception of it ends the pass.
    """
    mine = get_ident()

    def hook(*_: Any) -> None:
        if get_ident() == mine:
            called()

    handle = unet.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


class _Refused(Exception):
    """The attack cannot begin; the text says what it needs."""


@dataclass(frozen=True)
class _Aim:
    """What the attacks of a run aim at: the case with the base's own picture, its judge, and the model before."""

    case: Case
    detector: Detector
    base: Backbone


@dataclass
class AttackRun:
    """One attack on one prompt; it tells its states, the last one with an ending.

    Args:
        studio: Pipelines and encoders of the page.
        request: Prompt, seed and encoders; attacks do not use the negative prompt.
        concept: Name of the concept to bring back; of no account if the encoders erase a single one.
        stop: Event that stops it at the next pass of the UNet.
        tell: Function that takes every new state.
    """

    studio: Studio
    request: PictureRequest
    concept: str
    stop: Event
    tell: Callable[[AttackState], None]
    state: AttackState = field(default_factory=AttackState)

    def run(self) -> None:
        """Attack, and tell an ending in any case."""
        try:
            self._run()
        except Stopped:
            self._update(ending="stopped", message=f"Stopped. {result_of(self.state, self.concept)}".strip())
        except _Refused as refused:
            self._update(ending="refused", message=str(refused))
        except Exception as error:
            logger.exception("an attack of the page failed")
            self._update(ending="failed", message=f"The attack failed: {type(error).__name__}: {error}")

    def _update(self, **changes: Any) -> None:
        self.state = replace(self.state, **changes)
        self.tell(self.state)

    def _run(self) -> None:
        trial, detector = self._trial()
        steps = self.studio.sampling.steps
        total = 2 * steps + sum(_work(attack, steps) for attack in trial.attacks.values())
        self._update(doing="waiting for a free pipeline", total=total)
        with self.studio.pipeline(self.stop) as pipe:
            aim = self._aim(pipe, detector)
            with ExitStack() as scopes:
                self._attach(pipe, scopes)
                with watched(pipe.unet, self._count):
                    self._attack_all(pipe, trial.attacks, aim)
        self._update(doing="", ending="finished", message=result_of(self.state, self.concept))

    def _trial(self) -> tuple[Trial, Detector]:
        known = [concept.name for concept in self.studio.concepts(self.request.encoders)]
        if not known:
            raise _Refused("Expected an encoder to attack, found none. Choose one above.")
        if len(known) == 1:
            self.concept = known[0]
        if self.concept not in known:
            found = self.concept or "none"
            raise _Refused(f"Expected a concept of the chosen encoders, found {found}. Choose {' or '.join(known)}.")
        trial = self.studio.trials[self.concept]
        if trial.needs or trial.detector is None:
            raise _Refused("\n".join(trial.needs))
        return trial, trial.detector

    def _count(self) -> None:
        if self.stop.is_set():
            raise Stopped
        self._update(done=self.state.done + 1)

    def _aim(self, pipe: Any, detector: Detector) -> _Aim:
        """Draw the base's own picture, which must show the concept."""
        self._update(doing="drawing without the encoder")
        prompt, seed, sampling = self.request.prompt, self.request.seed, self.studio.sampling
        base = Backbone.from_pipeline(pipe)
        with watched(pipe.unet, self._count):
            latents = draw(pipe, [prompt], [seed], sampling, latents=True)
        picture = decode(pipe, latents, sampling)
        self._update(before=self._shown(picture[0]))
        if _best(detector, picture)[1] < 0:
            raise _Refused(
                f"The judge finds no {self.concept} in the picture without the encoder, so there is nothing to bring "
                "back. Write a prompt that shows it, or choose another seed."
            )
        return _Aim(Case(0, prompt, seed, reference_latent=latents[0]), detector, base)

    def _attach(self, pipe: Any, scopes: ExitStack) -> None:
        fits = self.studio.attach(pipe, self.request.encoders, scopes)
        if wrong := [fit.name for fit in fits if not fit.attached]:
            raise _Refused(f"Not attached: {', '.join(wrong)}. Draw first: the report says why it does not fit.")

    def _shown(self, picture: Tensor) -> Shown:
        return self.studio.shown(picture, self.request.encoders)

    def _attack_all(self, pipe: Any, attacks: Mapping[str, Attack], aim: _Aim) -> None:
        self._update(doing="drawing with the encoder")
        plain = draw(pipe, [aim.case.prompt], [aim.case.seed], self.studio.sampling)
        self._update(after=self._shown(plain[0]))
        if _best(aim.detector, plain)[1] >= 0:  # as in an evaluation, what succeeds by itself is not attacked
            return
        for label, attack in attacks.items():
            self._update(doing=f"searching {title_of(label)}")
            target = TargetModel.from_pipeline(pipe, base=aim.base, artifact=self._artifact())
            (found,) = attack.run(target, [aim.case], seed=aim.case.seed)
            self._update(doing=f"drawing with {title_of(label)}")
            attempt = self._attempt(pipe, (label, attack.tier), found.candidates, aim)
            self._update(attempts=(*self.state.attempts, attempt))

    def _artifact(self) -> LoadedArtifact | None:
        names = self.request.encoders
        return self.studio.encoders[names[0]] if len(names) == 1 else None

    def _attempt(self, pipe: Any, named: tuple[str, str], found: Sequence[Candidate], aim: _Aim) -> Attempt:
        pictures = draw_candidates(pipe, [aim.case] * len(found), found, self.studio.sampling)
        place, margin = _best(aim.detector, pictures)
        value = found[place].value
        text = value if isinstance(value, str) else ""
        return Attempt(*named, len(found), margin >= 0, text, self._shown(pictures[place]))


def _best(detector: Detector, pictures: Tensor) -> tuple[int, float]:
    """Return the place and margin of the first picture that shows the concept, or of the one that comes closest."""
    margins = [min(row) for row in zip(*(m.tolist() for m in margins_of(detector, pictures).values()), strict=True)]
    won = [place for place, margin in enumerate(margins) if margin >= 0]
    place = won[0] if won else max(range(len(margins)), key=margins.__getitem__)
    return place, margins[place]


def _work(attack: Attack, steps: int) -> int:
    """Return about how often the UNet is called: once for each iteration, and for the steps of the pictures."""
    facts = AttackFacts.of(attack)
    iterations = prod(int(getattr(attack, name)) for name in facts.iteration_fields) if facts.searches else 0
    return iterations + steps
