"""One index and many threads: searches go on while it is changed, and each sees it before or after a change.

    reading     a search, from its first look at the index to its last     any number at once, but during no step
    keeping     what wants no change for long: a save, a graph             one at a time, and not with a change
    changing    an add, a fit, from its checks to its end                  one at a time
    alone       the step of a change that takes over what was prepared     one at a time, and nobody reads

Law:       what readers see moves only in a step. A step waits for the readers that are there and lets no new one in, so
           searches without end do not hold it off, and what waited for it goes on when it is done: milliseconds.
Cost:      a reader's register is a dict, which is one instruction under the GIL to enter and one to leave: .1 us. It
           enters and then looks for a step, a step closes the door and then looks for readers: one sees the other.
Order:     mutex, turnstile, inside. A reader holds none of them, and a thread that reads changes nothing: both wait.
Ctrl-C:    CPython delivers it after a call or at a jump back. So a lock is taken by `with`, all in C, or by one store
           inside `try`; and the first call of a `finally` is the one that gives it back. Waits can be interrupted.
Fork:      a fork waits for the step that is being taken. The child has new locks, but for what its one thread holds.
Not here:  threads below a search (threads.py), which use the index that their caller reads and take no locks."""

from __future__ import annotations

import functools
import itertools
import os
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Concatenate, ParamSpec, Protocol, TypeVar
from weakref import WeakValueDictionary

from polarindex.indexes.interrupts import uninterrupted

_LOST = 0.05  # seconds after which a step looks again for readers: Ctrl-C may have swallowed a reader's word

P = ParamSpec("P")
T = TypeVar("T")


class Gate:
    """The locks of one index; a copy of it has its own.

    number : by which several are taken in one order
    readers : threads that read
    closed : where a reader that leaves says so, while a step wants to be alone; None while there is none
    """

    def __init__(self) -> None:
        self.number = next(_numbers)
        self.readers: dict[int, None] = {}
        self.closed: SimpleQueue[None] | None = None
        self.turnstile = threading.Lock()
        self.mutex = threading.RLock()
        self.holder: tuple[int, str, bool] | None = None  # of the mutex: thread, method, and whether it changes rows
        self._inside = threading.RLock()
        self._alone: int | None = None  # the thread that takes a step
        _gates[self.number] = self

    def __reduce__(self) -> tuple[type[Gate], tuple[()]]:
        return Gate, ()

    def passes(self, me: int) -> bool:
        """Whether a thread reads already, or takes a step: it need not ask."""
        return me in self.readers or self._alone == me

    def enter(self, me: int) -> None:
        """Begin to read, when no step is taken or waits; the caller leaves in a `finally`, whatever happens here."""
        while True:
            self.readers[me] = None
            if self.closed is None:
                return
            self.readers.pop(me, None)
            self.left()
            with self.turnstile:
                pass

    def left(self) -> None:
        """A reader has left: a step may wait for that."""
        closed = self.closed
        if closed is not None:
            closed.put(None)

    def alone(self, step: Callable[[], T]) -> T:
        """Take a step of a change while nobody reads. Ctrl-C comes before it or after it.

        The step is short, asks no other thread for anything that reads the index, and runs no code of the caller's.
        """
        me = threading.get_ident()
        if self._alone == me:
            return step()
        with self.turnstile:
            try:
                leaving: SimpleQueue[None] = SimpleQueue()
                self.closed = leaving
                while self.readers:
                    try:
                        leaving.get(timeout=_LOST)
                    except Empty:
                        pass
                with self._inside, uninterrupted():
                    self._alone = me
                    return step()
            finally:
                self._alone = self.closed = None

    def hold(self, name: str, changes: bool, work: Callable[[], T]) -> T:
        """Do some work during which nobody else changes rows, in a method of this name.

        Raises
        ------
        RuntimeError
            The work changes rows, and is called from inside a method of the same index by the same thread: by a
            callback, or by an array that computes its rows.
        """
        me = threading.get_ident()
        if me in self.readers:
            if changes:
                raise RuntimeError(f"{name}() was called while the same thread searches this index")
            return work()
        with self.mutex:
            outer = self.holder
            if outer and changes:
                raise RuntimeError(f"{name}() was called from inside {outer[1]}() of this index, by the same thread")
            try:
                self.holder = outer or (me, name, changes)
                return work()
            finally:
                self.holder = outer

    # --- forks

    def stop_steps(self) -> None:
        """Before a fork: wait until no step is half taken."""
        self._inside.acquire()

    def go_on(self) -> None:
        """After a fork, in the parent."""
        self._inside.release()

    def begin_anew(self, me: int) -> None:
        """After a fork, in the child, whose only thread this is: what others held nobody will give back."""
        for thread in [thread for thread in self.readers if thread != me]:
            del self.readers[thread]
        if self._alone == me:
            self._inside.release()
            return
        self.turnstile, self._inside, self.closed, self._alone = threading.Lock(), threading.RLock(), None, None
        if self.holder is None or self.holder[0] != me:
            self.mutex, self.holder = threading.RLock(), None


class Shared(Protocol):
    """What has a gate."""

    _gate: Gate


S = TypeVar("S", bound=Shared)


def reading(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """A method that sees one state of its index."""

    @functools.wraps(method)
    def shared(index: S, /, *arguments: P.args, **options: P.kwargs) -> T:
        gate, me = index._gate, threading.get_ident()
        if gate.passes(me):
            return method(index, *arguments, **options)
        try:
            gate.enter(me)
            return method(index, *arguments, **options)
        finally:
            gate.readers.pop(me, None)
            gate.left()

    return shared


def keeping(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """A method that takes long and sees one state of its index, which others search meanwhile."""
    return _holding(method, False)


def changing(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """A method that changes its index: it prepares, while others search, and then takes a step alone."""
    return _holding(method, True)


def _holding(method: Callable[Concatenate[S, P], T], changes: bool) -> Callable[Concatenate[S, P], T]:
    @functools.wraps(method)
    def held(index: S, /, *arguments: P.args, **options: P.kwargs) -> T:
        return index._gate.hold(method.__name__, changes, lambda: method(index, *arguments, **options))

    return held


def holding_two(changed: Shared, kept: Shared, name: str, work: Callable[[], T]) -> T:
    """Do some work that changes one index by another. Locks are taken in the order of their numbers."""

    def change() -> T:
        return changed._gate.hold(name, True, work)

    if kept._gate.number < changed._gate.number:
        return kept._gate.hold(name, False, change)
    return changed._gate.hold(name, True, lambda: kept._gate.hold(name, False, work))


_numbers = itertools.count()
_gates: WeakValueDictionary[int, Gate] = WeakValueDictionary()
_stopped: dict[int, list[Gate]] = {}  # by threads that fork


def _all_gates() -> list[Gate]:
    alive = [reference() for reference in _gates.valuerefs()]
    return sorted((gate for gate in alive if gate is not None), key=lambda gate: gate.number)


def _before_fork() -> None:
    stopped = _stopped[threading.get_ident()] = []
    for gate in _all_gates():
        gate.stop_steps()
        stopped.append(gate)


def _in_parent() -> None:
    for gate in _stopped.pop(threading.get_ident(), []):
        gate.go_on()


def _in_child() -> None:
    _stopped.clear()
    for gate in _all_gates():
        gate.begin_anew(threading.get_ident())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)
