"""Calls straight to an actor's process, by connections beside Ray: what Ray does for a call takes longer than a query.

    Door   in an actor: listens at its node's address, and answers what comes in
    Ways   in a driver: to every actor a Way, the connections that no call uses
    Line   a connection, of one call at a time; `connection.wait` says which of some is answered

Law:       a call means what it means through Ray. Whatever goes wrong here, and every error that a call raises, is a
           LineError, after which the call is made through Ray: that knows what became of an actor, and tells errors.
Why:       1,000 queries to two shards and their answers take a fifth of the 4.3 ms that they do through Ray; one query
           a fifth of 1.6.
Message:   a pickle and the sizes of the large arrays in it, and then these, which are not copied. An array that may be
           written to may be so where it is received, and all are aligned, as kernels want them.
Keys:      who connects proves that he knows a key that Ray has told him, and is shown proof of another before he
           believes an answer, for both unpickle what they are sent; neither key is sent here. An actor listens when it
           is first asked where; where Ray is told to encrypt what it sends it does not, for nothing is encrypted here.
Waiting:   a driver is held up by a connection that takes or brings nothing for _STALLED, and looks at answers as they
           begin to come. An actor waits for a driver that it knows as long as that is there.
Not here:  which calls are made so, and what becomes of them (actors.py)."""

from __future__ import annotations

import contextlib
import os
import pickle
import secrets
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, Listener, answer_challenge, deliver_challenge
from typing import Any, NamedTuple

import numpy as np

from polarindex.distributed.engines import imported_ray

_ALIGNED = 16  # bytes
_LARGE = 1 << 14  # bytes from which an array is sent by itself
_PIECE = 1 << 18  # bytes of it that the other side takes within _STALLED
_KEY = 32  # bytes
_BACKLOG = 128  # who may wait at a door
_ROOM = 4 << 20  # bytes of a message that the system is asked to hold
_CONNECTING = 0.5  # seconds, for each step of it
_STALLED = 1.0  # seconds that are waited for a connection that takes or brings nothing
_IDLE = 16  # connections to an actor that are kept while no call uses them
_PAUSES = 1.0, 3600.0  # seconds until an actor that cannot be reached so is tried again: at first, and at most


class Address(NamedTuple):
    """Where a door is; who comes in knows `key`, and who is behind it `answer`.

    name : of its socket for processes of the same machine, where the system has such without files; half the time of
        the other for a message of 4 MB
    """

    host: str
    port: int
    name: str
    key: bytes
    answer: bytes


class LineError(Exception):
    """A call is to be made through Ray."""


# --- in an actor


class Door:
    """Answers calls, each connection in a thread of its own, for as long as the process lives.

    Parameters
    ----------
    answer : of a method's name and its arguments; what it raises ends the connection, see Law
    """

    def __init__(self, host: str, answer: Callable[[str, tuple[Any, ...]], Any]) -> None:
        self._answer = answer
        listeners = [Listener((host, 0), "AF_INET6" if ":" in host else "AF_INET", _BACKLOG)]
        port, name = listeners[0].address[1], ""
        if sys.platform == "linux":
            name = f"\0polarindex-{secrets.token_hex(_KEY)}"
            listeners.append(Listener(name, "AF_UNIX", _BACKLOG))
        self.address = Address(host, port, name, secrets.token_bytes(_KEY), secrets.token_bytes(_KEY))
        for listener in listeners:
            threading.Thread(target=self._open, args=(listener,), daemon=True, name="door").start()

    def _open(self, listener: Listener) -> None:
        while True:
            try:
                came = listener.accept()
            except OSError:  # who came is gone already, or there are too many
                time.sleep(_STALLED)
                continue
            threading.Thread(target=self._serve, args=(came,), daemon=True, name="line").start()

    def _serve(self, came: Connection) -> None:
        with came, contextlib.suppress(Exception):  # whatever it is, it is raised again where it is told
            _prepare(came, _STALLED)
            deliver_challenge(came, self.address.key)
            answer_challenge(came, self.address.answer)
            _prepare(came, 0)
            while True:
                _send(came, self._answer(*_received(came)))


def door(answer: Callable[[str, tuple[Any, ...]], Any]) -> Door | None:
    """A door of this process at its node's address; None where what Ray sends is encrypted, and on Windows, where
    nobody has tried it."""
    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true") or sys.platform == "win32":
        return None
    return Door(imported_ray().util.get_node_ip_address(), answer)


# --- in a driver


class Line(Connection):
    """A connection to an actor's door. Whatever goes wrong with it is a LineError, after which it is of no use."""

    def __init__(self, address: Address) -> None:
        self.address = address
        with _line_errors():
            super().__init__(_connected(address))
            _prepare(self, _CONNECTING)
            answer_challenge(self, address.key)
            deliver_challenge(self, address.answer)
            _prepare(self, _STALLED)

    def ask(self, method: str, arguments: tuple[Any, ...]) -> None:
        """Begin a call."""
        with _line_errors():
            _send(self, (method, arguments))

    def answer(self) -> Any:
        """Of the call, once it begins to come."""
        with _line_errors():
            return _received(self)


@contextlib.contextmanager
def _line_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of sockets, of keys, or of pickles by another version
        raise LineError(repr(error)) from error


class Ways:
    """The ways to all actors of a sharded index."""

    def __init__(self) -> None:
        self._ways: dict[tuple[int, int], Way] = {}

    def find(self, handles: list[list[Any]], seconds: float) -> None:
        """Ask all actors where their doors are, and wait for that so long at most."""
        ways = [self.to(s, r, handle) for s, mine in enumerate(handles) for r, handle in enumerate(mine)]
        until = time.monotonic() + seconds
        for wait in (False, True):  # all are asked before one is waited for
            for way in ways:
                way.find(max(0.0, until - time.monotonic()) if wait else 0.0)

    def to(self, shard: int, replica: int, handle: Any) -> Way:
        way = self._ways.get((shard, replica))
        if way is None or way.handle != handle:
            way = self._ways[shard, replica] = Way(handle)
        return way

    def close(self) -> None:
        for way in list(self._ways.values()):
            way.close()


class Way:
    """The way to one actor: the connections that no call uses, and where to get more."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self._ray, self._turn = imported_ray(), threading.Lock()
        self._idle: list[Line] = []
        self._address: Address | None = None
        self._asked: Any = None  # for the address, through Ray
        self._pause, self._not_before = _PAUSES[0], 0.0

    def ask(self, method: str, arguments: tuple[Any, ...]) -> Line | None:
        """Begin a call by a connection; None where there is none now. LineError where one fails, maybe after a time."""
        line = self._line()
        if line is not None:
            try:
                line.ask(method, arguments)
            except LineError:
                self.lose(line)
                raise
        return line

    def _line(self) -> Line | None:
        with self._turn:
            if self._idle:
                return self._idle.pop()
            if self._address is None:
                self._find(0)
            if self._address is None:
                return None
            try:
                return Line(self._address)
            except LineError:
                self._try_later()
                raise

    def give_back(self, line: Line) -> None:
        """A call has its answer."""
        with self._turn:
            self._pause = _PAUSES[0]
            if len(self._idle) < _IDLE:
                self._idle.append(line)
            else:
                line.close()

    def lose(self, line: Line) -> None:
        """A call has none: the actor may be another process by now."""
        line.close()
        with self._turn:
            if line.address == self._address:
                self._hang_up()

    def gone(self, line: Line) -> bool:
        """Whether Ray says that who was to answer is lost: a machine that is off says nothing to a connection.

        Asked without waiting: False until Ray has answered.
        """
        with self._turn:
            if line.address == self._address:
                self._find(0)
            return line.address != self._address

    def find(self, seconds: float) -> None:
        """Ask for the address, if it is not known, and wait for that so long."""
        with self._turn:
            if self._address is None:
                self._find(seconds)

    def close(self) -> None:
        with self._turn:
            self._hang_up()

    def _find(self, seconds: float) -> None:
        """Ask for the address, as soon as that may be, and know it if Ray answers in so many seconds."""
        if time.monotonic() < self._not_before:
            return
        try:
            if self._asked is None:
                self._asked = self.handle.door.remote()
            come, _ = self._ray.wait([self._asked], timeout=seconds)
            if not come:
                return
            asked, self._asked = self._asked, None
            address = self._ray.get(asked)
        except self._ray.exceptions.RayError:  # it is lost; when it is back it has another
            address, self._asked = None, None
        if address != self._address:
            self._hang_up()
            self._address = address
        if address is None:
            self._try_later()

    def _hang_up(self) -> None:
        while self._idle:
            self._idle.pop().close()
        self._address = None

    def _try_later(self) -> None:
        """Ask again after a while, and after a longer one the next time."""
        self._address, self._not_before = None, time.monotonic() + self._pause
        self._pause = min(2 * self._pause, _PAUSES[1])


# --- messages


def _send(connection: Connection, what: Any) -> None:
    large: list[memoryview] = []

    def small(array: pickle.PickleBuffer) -> bool:
        view = array.raw()
        if view.nbytes >= _LARGE:
            large.append(view)
        return view.nbytes < _LARGE

    connection.send((pickle.dumps(what, protocol=5, buffer_callback=small), [view.nbytes for view in large]))
    for rest in large:
        while rest.nbytes:
            piece = rest[:_PIECE]
            if os.write(connection.fileno(), piece) < piece.nbytes:
                raise TimeoutError("the other side takes nothing")
            rest = rest[_PIECE:]


def _received(connection: Connection) -> Any:
    head, sizes = connection.recv()
    steps = [size + -size % _ALIGNED for size in sizes]
    room, arrays = np.empty(sum(steps), np.uint8).data, []  # of 4 MB, many take three times as long: for their pages
    for size, step in zip(sizes, steps, strict=True):
        arrays.append(room[:size])
        room = room[step:]
        _fill(arrays[-1], connection.fileno())
    return pickle.loads(head, buffers=arrays)


def _fill(room: memoryview, descriptor: int) -> None:
    """What `recv_bytes_into` would, which copies what it gets twice: 1.2 to 1.5 times as long for a batch."""
    while room.nbytes:
        got = os.readv(descriptor, [room])
        if not got:
            raise EOFError
        room = room[got:]


def _connected(address: Address) -> int:
    """The descriptor of a new connection. `Client` would wait for minutes."""
    if address.name:
        with contextlib.suppress(OSError):  # it is of another machine, or another container
            return _connected_by(socket.AF_UNIX, address.name)
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    return _connected_by(family, (address.host, address.port))


def _connected_by(family: int, where: Any) -> int:
    with socket.socket(family) as made:
        made.settimeout(_CONNECTING)
        made.connect(where)
        made.settimeout(None)
        return made.detach()


def _prepare(connection: Connection, seconds: float) -> None:
    """Wait so long at most, or for ever where it is 0, until it takes or brings something; send at once, and notice
    some time that the other side's machine is gone.
    """
    with socket.socket(fileno=os.dup(connection.fileno())) as same:
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            same.setsockopt(socket.SOL_SOCKET, option, struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6)))
        if same.family == socket.AF_UNIX:
            same.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _ROOM)
            return
        same.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        same.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
