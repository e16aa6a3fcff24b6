"""The attacks of all visitors of the page, one for each session."""

from __future__ import annotations

from collections.abc import Iterator
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread

from .attack_run import AttackRun
from .attack_state import AttackState
from .request import PictureRequest
from .studio import Studio

_BEAT = 1.0  # seconds after which a state is told again, so that a visitor who left is noticed


class Attacks:
    """The attacks of all visitors; each session has one at most.

    Args:
        studio: Pipelines and encoders of the page.
    """

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self._stops: dict[str, Event] = {}
        self._lock = Lock()

    def run(self, session: str, request: PictureRequest, concept: str) -> Iterator[AttackState]:
        """Attack in a thread, and yield every state until the ending; closing the iterator stops the attack.

        Args:
            session: Name of the visitor's session; an attack that runs in it is stopped first.
            request: Prompt, seed and encoders; attacks do not use the negative prompt.
            concept: Name of a concept that the encoders erase; of no account if they erase a single one.
        """
        stop, told = self._started(session), SimpleQueue[AttackState]()
        Thread(target=AttackRun(self.studio, request, concept, stop, told.put).run, name="attack", daemon=True).start()
        try:
            state = AttackState()
            while not state.ending:
                state = _newest(told, state)
                yield state
        finally:
            stop.set()
            with self._lock:
                if self._stops.get(session) is stop:
                    del self._stops[session]

    def _started(self, session: str) -> Event:
        self.stop(session)
        stop = Event()
        with self._lock:
            self._stops[session] = stop
        return stop

    def stop(self, session: str) -> bool:
        """Stop the attack of a session; return False if none runs.

        Args:
            session: Name of the visitor's session.
        """
        with self._lock:
            stop = self._stops.get(session)
        if stop is not None:
            stop.set()
        return stop is not None

    def stop_all(self) -> None:
        """Stop the attacks of all sessions."""
        for session in list(self._stops):
            self.stop(session)


def _newest(told: SimpleQueue[AttackState], state: AttackState) -> AttackState:
    """Return the newest state, or the old one if nothing happens for a while."""
    try:
        state = told.get(timeout=_BEAT)
        while not state.ending:
            state = told.get_nowait()
    except Empty:
        pass
    return state
