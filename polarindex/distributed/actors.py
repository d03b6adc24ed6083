"""Shards on Ray: an actor for each copy of a shard, and one call of many of them that survives the loss of some.

    Fleet   the actors: shard s has `replicas` of them, the first of which writes
    Asking  a call of some shards at once -> their answers, and who has none when the time is over
    Large   an argument of several shards

Law:       a call ends when all have answered, or at its deadline. An actor that is lost is started again, by Ray where
           it still knows it, else here; what it was asked goes to another copy of the shard at once, or to it again
           when it is back. So it goes to a second copy where an answer takes longer than `hedge` seconds. Calls may
           reach an actor twice; they are made so that this does no harm (shard.py).
Directly:  a search goes by connections where there are such (direct.py), and through Ray where one is broken.
Errors:    what a shard raises of its arguments or its files is raised here as it is, and not asked again.
Not here:  what is asked (sharded.py)."""

from __future__ import annotations

import itertools
import os
import re
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from polarindex.distributed.direct import Address, Door, Line, LineError, Way, Ways, door
from polarindex.distributed.engines import imported_ray
from polarindex.distributed.shard import Shard
from polarindex.errors import ShardError, first_line
from polarindex.indexes.threads import limited

_SLICE = 0.05  # seconds: after the first answers a call looks so often for actors that are lost
_LEAST = 0.001  # seconds
PAUSE = 0.1  # seconds before an actor that is not back yet is asked again
_CALLS = 64  # that an actor takes at a time; `threads` of them scan
_KNOCKING = 5.0  # seconds
_HOST_AND_PORT = re.compile(r"(?:ray://)?([^:/]+):([0-9]{1,5})")
_LARGE = 1 << 16  # bytes worth a place in the object store, where all shards of a node read them
_SILENCE = 1.0  # seconds: of a connection that is silent for longer Ray is asked whether the actor is there
_ASKED = frozenset({"allowed", "candidates", "errors", "ids", "info", "known", "vectors", "within"})
_STILLBORN = "creation task"  # as Ray tells of an actor that could not be made
PATIENCE = 30.0  # seconds that a new actor waits for the lock of the one that was lost
NAMESPACE = "polarindex"


def connected(address: str | None) -> bool:
    """Be connected to a Ray cluster, by default the one that runs here, or one of this process; whether it was not."""
    library = imported_ray()
    if library.is_initialized():
        return False
    _knock(os.environ.get("RAY_ADDRESS") if address in (None, "auto") else address)
    options: dict[str, Any] = {"namespace": NAMESPACE, "log_to_driver": False, "logging_level": "warning"}
    if address in (None, "local"):
        options["include_dashboard"] = False
    try:
        library.init(address=address, **options)
    except ConnectionError as error:
        raise ConnectionError(f"no Ray cluster answers at {address!r}: {first_line(error)}") from error
    return True


def _knock(address: str | None) -> None:
    """ConnectionError where nobody listens at HOST:PORT: Ray would try for minutes."""
    found = _HOST_AND_PORT.fullmatch(address or "")
    if found is None:
        return
    try:
        socket.create_connection((found[1], int(found[2])), timeout=_KNOCKING).close()
    except OSError as error:
        raise ConnectionError(f"no Ray cluster answers at {address}: {error.strerror or error}") from error


def cluster_address() -> str:
    """HOST:PORT of the cluster that this process is connected to."""
    return str(imported_ray().get_runtime_context().gcs_address)


class Deadline:
    """When a call has to be over."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        return self._end - time.monotonic()


class Handles(Protocol):
    """Where the actors of a sharded index are."""

    @property
    def num_shards(self) -> int: ...

    @property
    def replicas(self) -> int: ...

    def handle(self, shard: int, replica: int) -> Any: ...

    def handles(self) -> list[list[Any]]: ...

    def lost(self, shard: int, replica: int, handle: Any) -> None:
        """The actor behind a handle is gone for good; there may be another one already."""


class ShardActor(Shard):
    """A shard in a process of its own, which uses so many threads."""

    def __init__(self, folder: str, writes: bool, mmap: bool, threads: int, patience: float) -> None:
        again = imported_ray().get_runtime_context().was_current_actor_reconstructed
        super().__init__(folder, writes, mmap, threads, PATIENCE if again else patience)
        limited(threads).__enter__()  # for as long as the process lives
        self._opening = threading.Lock()
        self._door: Door | None = None

    def door(self) -> Address | None:
        """Where it is asked without Ray; None where it is not."""
        with self._opening:
            if self._door is None:
                self._door = door(self._answered)
            return None if self._door is None else self._door.address

    def _answered(self, method: str, arguments: tuple[Any, ...]) -> Any:
        if method not in _ASKED:
            raise ValueError(f"{method} is no question")
        return getattr(self, method)(*arguments)


class Fleet:
    """Actors that live as long as who made them.

    Parameters
    ----------
    folders : of the shards
    replicas : actors a shard; the first writes where `writes`
    num_cpus : cores that Ray sets aside for each
    """

    def __init__(
        self, folders: Sequence[Path], replicas: int, writes: bool, mmap: bool, threads: int, num_cpus: float
    ) -> None:
        self.num_shards, self.replicas = len(folders), replicas
        self._folders, self._writes, self._mmap, self._threads = folders, writes, mmap, threads
        self._num_cpus, self._turn = num_cpus, threading.Lock()
        self._ray = imported_ray()
        self._class = self._ray.remote(ShardActor)
        self._nodes = [node["NodeID"] for node in self._ray.nodes() if node["Alive"]]
        shards, copies = range(len(folders)), range(replicas)
        self._handles = [[self._started(shard, replica) for replica in copies] for shard in shards]

    def _started(self, shard: int, replica: int, patience: float = 0) -> Any:
        """A new actor: the copies of a shard on unlike nodes, while there are such."""
        strategies = import_module("ray.util.scheduling_strategies")
        where = strategies.NodeAffinitySchedulingStrategy(self._nodes[(shard + replica) % len(self._nodes)], soft=True)
        made = self._class.options(
            num_cpus=self._num_cpus, max_restarts=-1, max_concurrency=_CALLS, scheduling_strategy=where
        )
        writes = self._writes and replica == 0
        return made.remote(str(self._folders[shard]), writes, self._mmap, self._threads, patience)

    def handle(self, shard: int, replica: int) -> Any:
        return self._handles[shard][replica]

    def handles(self) -> list[list[Any]]:
        """All of them, as they are now."""
        return [list(mine) for mine in self._handles]

    def lost(self, shard: int, replica: int, handle: Any) -> None:
        with self._turn:
            if self._handles[shard][replica] == handle:
                self._handles[shard][replica] = self._started(shard, replica, PATIENCE)

    def stop(self) -> None:
        """End the actors; without Ray they have ended, and to ask would begin a new one."""
        if not self._ray.is_initialized():
            return
        for handle in itertools.chain.from_iterable(self._handles):
            self._ray.kill(handle)


class Large:
    """An argument, maybe of several shards, that is an array or has some.

    again : it is remembered where it was sent, so a large one goes through Ray, and once to every node
    """

    def __init__(self, what: Any, again: bool = False) -> None:
        self.what, self._large = what, _nbytes(what) >= _LARGE
        self.stays = again and self._large
        self._place: Any = None

    def through_ray(self) -> Any:
        """Itself, or where it is large its place in the object store."""
        if not self._large:
            return self.what
        if self._place is None:
            self._place = imported_ray().put(self.what)
        return self._place


def _nbytes(what: Any) -> int:
    if isinstance(what, np.ndarray):
        return what.nbytes
    return sum(map(_nbytes, what)) if isinstance(what, tuple | list) else 0


class _Sent(NamedTuple):
    shard: int
    replica: int
    handle: Any
    at: float


class Asking:
    """One call of some shards, which begins at once.

    Parameters
    ----------
    arguments : of each shard that is asked
    first_only : ask the copy that writes and no other
    hedge : seconds after which a second copy is asked too
    ways : connections by which it may go
    """

    _turns = itertools.count()

    def __init__(
        self,
        handles: Handles,
        method: str,
        arguments: Mapping[int, tuple[Any, ...]],
        deadline: Deadline,
        first_only: bool = False,
        hedge: float | None = None,
        ways: Ways | None = None,
    ) -> None:
        self._ray, self._handles, self._method, self._arguments = imported_ray(), handles, method, arguments
        self._ways = ways
        self.deadline, self._hedge = deadline, hedge
        self._slice = _SLICE if hedge is None else min(_SLICE, max(hedge, _LEAST))
        self._copies = 1 if first_only else handles.replicas
        self._sent: dict[Any, _Sent] = {}  # through Ray
        self._lines: dict[Line, tuple[_Sent, Way]] = {}
        self._later: list[tuple[float, int, int]] = []  # when to ask which copy of which shard again
        self._why: dict[int, str] = {}
        self.found: dict[int, Any] = {}
        self.failed: dict[int, BaseException] = {}  # what shards have raised
        turn = next(self._turns)
        for shard in arguments:
            self._send(shard, (turn + shard) % self._copies)

    def answers(self) -> dict[int, Any]:
        """By shards, when all have answered or time is over; the first error that one raises is raised."""
        self.settle(to_the_end=False)
        for error in self.failed.values():
            raise error from None
        return self.found

    def settle(self, to_the_end: bool = True) -> None:
        """Wait for all shards, or for the first that raises an error, or until time is over."""
        while self._open() and (to_the_end or not self.failed):
            left = self.deadline.left()
            if left <= 0:
                break
            self._take(min(left, self._slice))
            self._ask_again()
            self._ask_others()
        self._sent.clear()
        for line in self._lines:  # whose answers nobody waits for any more
            line.close()
        self._lines.clear()

    def missing(self) -> tuple[int, ...]:
        """Shards that have not answered."""
        return tuple(sorted(set(self._arguments) - set(self.found) - set(self.failed)))

    def _open(self) -> int:
        """How many shards have not answered."""
        return len(self._arguments) - len(self.found) - len(self.failed)

    def _waiting(self) -> list[_Sent]:
        """What has been asked and is not answered."""
        return [*self._sent.values(), *(sent for sent, _ in self._lines.values())]

    def _answered(self, shard: int) -> bool:
        return shard in self.found or shard in self.failed

    def all(self, what: str) -> dict[int, Any]:
        """The answers of all.

        Raises
        ------
        ShardError
            Naming the shards that have none.
        """
        found, missing = self.answers(), self.missing()
        if missing:
            raise ShardError(self.told(missing, what), missing)
        return found

    def told(self, missing: tuple[int, ...], what: str) -> str:
        names = f"shard {missing[0]}" if len(missing) == 1 else "shards " + ", ".join(map(str, missing))
        why = next((f" ({self._why[shard]})" for shard in missing if shard in self._why), "")
        return f"{what}: {names} of {self._handles.num_shards} did not answer within {self.deadline.seconds:g} s{why}"

    def _send(self, shard: int, replica: int) -> None:
        sent = _Sent(shard, replica, self._handles.handle(shard, replica), time.monotonic())
        if not self._sent_directly(sent):
            self._send_through_ray(sent)

    def _sent_directly(self, sent: _Sent) -> bool:
        """Whether a call went by a connection."""
        arguments = self._arguments[sent.shard]
        if self._ways is None or any(isinstance(given, Large) and given.stays for given in arguments):
            return False
        way = self._ways.to(sent.shard, sent.replica, sent.handle)
        plain = tuple(given.what if isinstance(given, Large) else given for given in arguments)
        try:
            line = way.ask(self._method, plain)
        except LineError:
            self._ways = None  # a machine that is gone, with many shards, is waited for once
            return False
        if line is None:
            return False
        self._lines[line] = sent, way
        return True

    def _send_through_ray(self, sent: _Sent) -> None:
        arguments = self._arguments[sent.shard]
        given = [given.through_ray() if isinstance(given, Large) else given for given in arguments]
        try:
            self._sent[getattr(sent.handle, self._method).remote(*given)] = sent
        except self._ray.exceptions.RayActorError as error:
            self._failed(sent, error)

    def _take(self, seconds: float) -> None:
        """Take the answers that come within some seconds."""
        if self._lines:
            self._take_from_lines(min(seconds, _LEAST) if self._sent else seconds)
            if not self._sent or not self._open():
                return
            seconds = 0
        errors = self._ray.exceptions
        if not self._sent:
            time.sleep(seconds)
            return
        wanted = min(len(self._sent), self._open())
        come, _ = self._ray.wait(list(self._sent), num_returns=wanted, timeout=seconds)
        for answer in come:
            sent = self._sent.pop(answer)
            if self._answered(sent.shard):  # another copy was faster
                continue
            try:
                self.found[sent.shard] = self._ray.get(answer)
            except errors.RayTaskError as error:
                self.failed[sent.shard] = error.cause or error
            except errors.RayError as error:  # the actor, its node, or the answer on its way is lost
                self._failed(sent, error)

    def _take_from_lines(self, seconds: float) -> None:
        """Take what comes by connections, and make calls again whose connections are lost."""
        silent = time.monotonic() - _SILENCE
        for line, (sent, way) in list(self._lines.items()):
            if sent.at < silent and way.gone(line):
                self._give_up(line)
        come = wait(list(self._lines), seconds)
        for line in [line for line in self._lines if line in come]:
            try:
                answer = line.answer()
            except LineError:
                self._give_up(line)
                continue
            sent, way = self._lines.pop(line)
            way.give_back(line)
            if not self._answered(sent.shard):
                self.found[sent.shard] = answer

    def _give_up(self, line: Line) -> None:
        """Make a call through Ray that got no answer by a connection."""
        sent, way = self._lines.pop(line)
        way.lose(line)
        if not self._answered(sent.shard):
            self._send_through_ray(sent)

    def _failed(self, sent: _Sent, error: Exception) -> None:
        self._why[sent.shard] = first_line(error)
        if isinstance(error, self._ray.exceptions.ActorDiedError):
            if _STILLBORN in str(error):  # nor would the next one live
                said = " ".join(str(error).split())
                self.failed[sent.shard] = ShardError(f"shard {sent.shard} has no actor: {said}", (sent.shard,))
                return
            self._handles.lost(sent.shard, sent.replica, sent.handle)
        if any(other.shard == sent.shard for other in self._waiting()):
            return  # another copy has been asked
        pause = 0.0 if self._copies > 1 and sent.at + PAUSE < time.monotonic() else PAUSE
        self._later.append((time.monotonic() + pause, sent.shard, (sent.replica + 1) % self._copies))

    def _ask_again(self) -> None:
        now, later = time.monotonic(), self._later
        self._later = [entry for entry in later if entry[0] > now]
        for _, shard, replica in (entry for entry in later if entry[0] <= now):
            if not self._answered(shard):
                self._send(shard, replica)

    def _ask_others(self) -> None:
        """Ask a second copy of the shards that take long."""
        if self._hedge is None or self._copies == 1:
            return
        now = time.monotonic()
        asked = [sent.shard for sent in self._waiting()]
        for sent in self._waiting():
            if not self._answered(sent.shard) and asked.count(sent.shard) == 1 and now - sent.at > self._hedge:
                self._send(sent.shard, (sent.replica + 1) % self._copies)
