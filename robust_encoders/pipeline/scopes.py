"""Scopes: attachments for the length of a ``with`` block, counted on each pipeline.

One thread at a time changes a pipeline, and none does while another thread has a scope open on it. The lock of a
pipeline is held while its components are exchanged, not while pictures are drawn.
"""

from __future__ import annotations

import asyncio
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ContextDecorator, contextmanager
from dataclasses import dataclass, field
from threading import RLock, Thread, current_thread
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

from robust_encoders.errors import CompatibilityWarning, OpenScopeError, RobustEncodersError

Pipeline = TypeVar("Pipeline")
# The record is an attribute of the pipeline while it is needed, like the record of an attachment.
_RECORD = "_robust_encoders_scopes"


class _Owner(NamedTuple):
    """Thread that opened a scope, and its asyncio task if an event loop runs in that thread.

    Tasks of one thread take turns, so to each of them the others are like other threads.
    """

    thread: Thread
    task: asyncio.Task[Any] | None

    @classmethod
    def current(cls) -> _Owner:
        try:
            return cls(current_thread(), asyncio.current_task())
        except RuntimeError:  # no event loop runs in this thread
            return cls(current_thread(), None)

    def __str__(self) -> str:
        name = f"thread {self.thread.name}"
        return name if self.task is None else f"task {self.task.get_name()} of {name}"


@dataclass(eq=False)
class _Attached:
    """One attachment made for scopes, and the scopes that are open on it.

    Args:
        identity: Hash of the artifact.
        label: Name of the artifact, for messages.
        undo: Function of the pipeline that restores the state before the attachment.
        owners: Owners of the open scopes, one entry for each scope.
    """

    identity: str
    label: str
    undo: Callable[[Any], None]
    owners: list[_Owner] = field(default_factory=list)


class Scopes:
    """Lock of a pipeline, and the scopes that are open on it.

    Copies and pickles of a record are empty: a copy of a pipeline keeps its attachments, and no scope ends on it.

    Args:
        pipe: Pipeline of the record; None for a copy, which belongs to no pipeline.
    """

    def __init__(self, pipe: Any = None) -> None:
        self.pipe = None if pipe is None else weakref.ref(pipe)
        self.lock = RLock()
        self.stack: list[_Attached] = []
        self.depth = 0  # number of changes in progress, one inside the other

    def __reduce__(self) -> tuple[type[Scopes], tuple[()]]:
        return Scopes, ()

    def belongs_to(self, pipe: Any) -> bool:
        """Return false if the record came with the attributes of another pipeline, of which this one is a copy."""
        return self.pipe is not None and self.pipe() is pipe

    def forget(self) -> None:
        """Remove the record from its pipeline."""
        pipe = None if self.pipe is None else self.pipe()
        if pipe is not None:
            vars(pipe).pop(_RECORD, None)

    def open(self) -> int:
        """Return the number of open scopes."""
        return sum(len(one.owners) for one in self.stack)

    def require_alone(self, action: str, *, identity: str = "") -> None:
        """Check that no other thread has a scope open on the pipeline.

        Args:
            action: Change that is asked for, for the message.
            identity: Hash of an artifact whose scopes are allowed; empty for none.

        Raises:
            OpenScopeError: If another thread, or another asyncio task, has a scope open.
        """
        me = _Owner.current()
        others = [
            f"a scope of {one.label} in {owner}"
            for one in self.stack
            for owner in one.owners
            if owner != me and one.identity != identity
        ]
        if others:
            found = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
            raise OpenScopeError(
                f"expected no other thread with an open scope on this pipeline before {action}, found {found}; attach "
                "once, when the program starts, or wait until those scopes have ended"
            )

    def find(self, identity: str) -> _Attached | None:
        """Return the newest attachment of an artifact that was made for a scope, or None."""
        return next((one for one in reversed(self.stack) if one.identity == identity), None)

    def unwind(self, pipe: Any) -> None:
        """Undo the newest attachments that no scope needs any more.

        An older one without scopes stays until all newer ones are undone, because each is undone from the state that
        it left. So pictures are drawn with more than was asked for, never with less.
        """
        if self.stack and not self.stack[-1].owners:
            try:
                self.stack.pop().undo(pipe)
            finally:
                self.unwind(pipe)


@contextmanager
def changing(pipe: Any) -> Iterator[Scopes]:
    """Hold the lock of a pipeline for the length of a ``with`` block, in which the pipeline is changed.

    Args:
        pipe: A diffusers pipeline.

    Yields:
        The open scopes of the pipeline.
    """
    scopes = _locked(pipe)
    scopes.depth += 1
    try:
        yield scopes
    finally:
        try:
            # The garbage collector may end a scope, that of a forgotten generator, in the middle of a change. The
            # outermost change then undoes it.
            if scopes.depth == 1:
                scopes.unwind(pipe)
        finally:
            scopes.depth -= 1
            if not scopes.depth and not scopes.stack:
                scopes.forget()
            scopes.lock.release()


def _locked(pipe: Any) -> Scopes:
    """Return the record of a pipeline, with its lock held."""
    if not isinstance(getattr(pipe, "__dict__", None), dict) or not type(pipe).__weakrefoffset__:
        pipe = Scopes()  # the given object is no pipeline, as the checks will say
    attributes: dict[str, Scopes] = vars(pipe)
    while True:
        scopes = attributes.setdefault(_RECORD, Scopes(pipe))  # setdefault is atomic
        scopes.lock.acquire()
        # The record may have been removed by the thread that held the lock.
        if attributes.get(_RECORD) is scopes:
            if scopes.belongs_to(pipe):
                return scopes
            del attributes[_RECORD]
        scopes.lock.release()


class Scope(AbstractContextManager[Pipeline], ContextDecorator):
    """Context in which an artifact is attached to a pipeline; it may be entered again, also by several threads.

    The artifact is attached when the first of its scopes is entered, and the state before it is restored when the last
    one has ended. Scopes may end in any order and in any thread.

    Args:
        pipe: A diffusers pipeline.
        artifact: Hash of the artifact, and its name for messages.
        settled: Function that returns true if attaching would change nothing.
        attach: Function that attaches the artifact and returns a function of the pipeline that undoes it.
    """

    def __init__(
        self,
        pipe: Pipeline,
        artifact: tuple[str, str],
        *,
        settled: Callable[[], bool],
        attach: Callable[[], Callable[[Any], None]],
    ) -> None:
        self._pipe = pipe
        self._identity, self._label = artifact
        self._settled, self._attach = settled, attach
        self._entered: list[tuple[_Attached, _Owner]] = []

    def __enter__(self) -> Pipeline:
        action = f"entering a scope of {self._label}"
        with changing(self._pipe) as scopes:
            scopes.require_alone(action, identity=self._identity)
            if settled := self._settled():
                attached = scopes.find(self._identity)
            else:
                scopes.require_alone(action)
            if not settled or attached is None:
                attached = _Attached(self._identity, self._label, self._attach())
                scopes.stack.append(attached)
            owner = _Owner.current()
            attached.owners.append(owner)
            self._entered.append((attached, owner))
        return self._pipe

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with changing(self._pipe):
                attached, owner = self._newest()
                attached.owners.remove(owner)
        except RobustEncodersError as problem:
            if error is None:
                raise
            # The error of the block itself matters more.
            warnings.warn(f"{self._label} stays attached: {problem}", CompatibilityWarning, stacklevel=2)

    def _newest(self) -> tuple[_Attached, _Owner]:
        """Return what was entered last in this thread; in another one if a scope ends elsewhere than it began."""
        me = _Owner.current()
        mine = [index for index, (_, owner) in enumerate(self._entered) if owner == me]
        return self._entered.pop(mine[-1] if mine else -1)
