"""Experiment trackers of a training run: those of accelerate by name, and objects of the user's."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import accelerate.utils
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from robust_encoders.errors import RobustEncodersError
from robust_encoders.utils.home import expanded

from .distributed import Shard
from .provenance import canonical_sha256, describe

PROJECT = "robust-encoders"
logger = logging.getLogger(__name__)
# Argument that gives a run a name inside the project, by tracker; the others name their runs themselves.
_RUN_NAMES: Mapping[str, str] = {
    "clearml": "task_name",
    "mlflow": "run_name",
    "swanlab": "experiment_name",
    "trackio": "name",
    "wandb": "name",
}
_LONGEST = 250  # characters of a setting; MLflow drops longer ones
# After a failure a tracker rests for a minute, or 20 times as long as the failed call took, so that a server that does
# not answer costs at most a twentieth of the run.
_REST, _REST_FACTOR = 60.0, 20.0


class TrackerError(RobustEncodersError):
    """A tracker has an unknown name, is not installed or does not start; the message names the remedy."""


def tracker_names() -> tuple[str, ...]:
    """Return the names of all trackers that the installed accelerate knows."""
    return tuple(map(str, LOGGER_TYPE_TO_CLASS))


def require_trackers(trackers: Sequence[str | GeneralTracker]) -> None:
    """Refuse trackers that cannot be used; this takes no time, so it comes before anything long.

    Args:
        trackers: Names, or objects of accelerate's ``GeneralTracker``.

    Raises:
        TrackerError: If a name is unknown or given twice, a package is not installed, or an object is no tracker.
    """
    names = [tracker for tracker in trackers if isinstance(tracker, str)]
    if unknown := [name for name in names if name not in tracker_names()]:
        close = get_close_matches(unknown[0], tracker_names(), 1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(tracker_names())}"
        raise TrackerError(f"expected a tracker that accelerate knows, found {unknown[0]!r}; {hint}")
    if twice := [name for name in names if names.count(name) > 1]:
        raise TrackerError(f"expected each tracker once, found {twice[0]!r} twice; name it once")
    if missing := [name for name in names if not _installed(name)]:
        raise TrackerError(
            f"expected the package of the tracker {missing[0]}, found none; run `pip install {' '.join(missing)}`"
        )
    if odd := [one for one in trackers if not isinstance(one, (str, GeneralTracker))]:
        raise TrackerError(
            "expected names of trackers, or objects of accelerate.tracking.GeneralTracker, found "
            f"{type(odd[0]).__name__}; derive its class from GeneralTracker"
        )


def tracker_problems(trackers: Sequence[str | GeneralTracker]) -> list[str]:
    """Return the reason why trackers cannot be used, as :func:`require_trackers` says it; no reason if they can.

    Args:
        trackers: Names, or objects of accelerate's ``GeneralTracker``.
    """
    try:
        require_trackers(trackers)
    except TrackerError as error:
        return [str(error)]
    return []


def _installed(name: str) -> bool:
    """Return True if accelerate finds the tracker's package; a class that somebody registered may need none."""
    available: Callable[[], bool] | None = getattr(accelerate.utils, f"is_{name}_available", None)
    return available is None or bool(available())


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    """Return nested settings in one level, as every tracker takes them.

    A nested name has dots. A missing value is ``none``. A list is JSON; a long one, or a long text, is its length and
    its hash, for the manifest holds it in full.

    Args:
        settings: Settings as JSON values, see ``describe``.
        prefix: Prefix of all names.
    """
    found: dict[str, bool | int | float | str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value if isinstance(value, (bool, int, float)) else _short(value)
    return found


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else "none" if value is None else json.dumps(value, ensure_ascii=False)
    if len(text) <= _LONGEST:
        return text
    kind = "characters" if isinstance(value, str) else "values"
    return f"{len(value)} {kind}, sha256 {canonical_sha256(value)[:12]}"


@dataclass
class _Running:
    """One tracker that has started.

    Args:
        name: Name of the tracker, for messages.
        tracker: The tracker.
        lost: Number of steps that it did not get.
        rests_until: Time of the monotonic clock, in seconds, before which it is not called again.
    """

    name: str
    tracker: GeneralTracker
    lost: int = 0
    rests_until: float = -math.inf
    warned: bool = False

    def attempt(self, call: Callable[[GeneralTracker], object]) -> None:
        """Call the tracker unless it rests; its first failure is a warning, and no failure stops the run."""
        began = time.monotonic()
        if began < self.rests_until:
            self.lost += 1
            return
        try:
            call(self.tracker)
        except Exception as error:  # noqa: BLE001 - a tracker may raise anything, and a run of hours must not end by it
            now = time.monotonic()
            self.lost += 1
            self.rests_until = now + max(_REST, _REST_FACTOR * (now - began))
            if not self.warned:
                logger.warning(
                    "the tracker %s failed (%s: %s); the run goes on without it and tries it again later",
                    self.name, type(error).__name__, error,
                )  # fmt: skip
            self.warned = True

    def finish(self) -> None:
        """Close the tracker, and say how much it lost."""
        self.rests_until = -math.inf
        lost = self.lost
        self.attempt(lambda tracker: tracker.finish())
        if lost:
            logger.warning("the tracker %s did not get %d steps of this run", self.name, lost)


@dataclass(frozen=True)
class Trackers:
    """The running trackers of one run; no failure of theirs stops the run.

    Args:
        running: Trackers in the order of the user's choice; empty on all processes but the main one.
        phase: Prefix of the metrics' names.
        done: Number of steps of the earlier phases of the run.
    """

    running: tuple[_Running, ...] = field(default=(), repr=False)
    phase: str = "train"
    done: int = 0

    def settings(self, settings: Any) -> None:
        """Log the settings of the run.

        Args:
            settings: Dataclass or plain values, see ``provenance.describe``.
        """
        values = flat(describe(settings)) if self.running else {}
        for one in self.running:
            one.attempt(lambda tracker: tracker.store_init_configuration(dict(values)))

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log the metrics of one step as ``<phase>/<name>``; values that are not finite are left out.

        Args:
            values: Metrics by name.
            step: Number of the step in this phase, counted from 1.
        """
        finite = {f"{self.phase}/{name}": value for name, value in values.items() if math.isfinite(value)}
        for one in self.running:
            one.attempt(lambda tracker: tracker.log(dict(finite), step=self.done + step))

    def in_phase(self, phase: str, *, done: int = 0) -> Trackers:
        """Return the same trackers for one phase of the run, with the number of steps of the phases before it."""
        return replace(self, phase=phase, done=done)


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Choice of experiment trackers; it does not change the result of a run.

    Args:
        trackers: Names of accelerate's trackers, such as ``tensorboard`` or ``wandb``; or objects of its
            ``GeneralTracker``, which have their own settings.
        project: Name of the project or experiment at the tracker.
        folder: Folder for trackers that write files; each run has a folder of its own in it.
    """

    trackers: tuple[str | GeneralTracker, ...] = ()
    project: str = PROJECT
    folder: Path = Path("logs")

    @contextmanager
    def started(self, run: str) -> Iterator[Trackers]:
        """Keep the trackers running inside the context, on the main process; the others log nothing.

        Args:
            run: Name of the run.

        Raises:
            TrackerError: If a tracker cannot be used or does not start.
        """
        require_trackers(self.trackers)
        running: list[_Running] = []
        try:
            for tracker in self.trackers if Shard.current().main else ():
                running.append(self._started(tracker, run))
            yield Trackers(tuple(running))
        finally:
            for one in running:
                one.finish()

    def _started(self, tracker: str | GeneralTracker, run: str) -> _Running:
        name = tracker if isinstance(tracker, str) else str(tracker.name)
        try:
            made = self._made(tracker, run) if isinstance(tracker, str) else tracker
            made.start()
        except Exception as error:
            raise TrackerError(
                f"expected the tracker {name} to start, found {type(error).__name__}: {error}; mend its installation, "
                "login or connection, or leave the tracker out"
            ) from error
        return _Running(name, made)

    def _made(self, name: str, run: str) -> GeneralTracker:
        kind = LOGGER_TYPE_TO_CLASS[name]
        if kind.requires_logging_directory:  # tensorboard, aim: their first argument names the run
            folder = expanded(self.folder)
            folder.mkdir(parents=True, exist_ok=True)
            named = {"experiment": self.project} if name == "aim" else {}
            return kind(run, str(folder), **named)
        if name == "dvclive":
            return kind(self.project, dir=str(self.folder / run))
        return kind(self.project, **({_RUN_NAMES[name]: run} if name in _RUN_NAMES else {}))
