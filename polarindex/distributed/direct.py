"""Calls straight to an actor's process, by connections beside Ray: what Ray does for a call takes longer than a query.

    Door   in an actor: listens at its node's address, and answers what comes in
    Ways   in a driver: to every actor a Way, the connections that no call uses
    Line   a connection, of one call at a time, which is asked and looked at without waiting

Law:       a call means what it means through Ray. Whatever goes wrong here, and every error that a call raises, is a
           LineError, after which the call is made through Ray: that knows what became of an actor, and tells errors.
Why:       1,000 queries to two shards and their answers take .5 ms so, and through Ray 4.3; one query .2 and 1.6.
Message:   how many bytes follow, how many arrays and how long a pickle (_LENGTHS); the arrays' sizes; the pickle; the
           arrays, each from a multiple of _ALIGNED on. What is received may be written to, as kernels want it.
Keys:      who connects shows a key that Ray has told him, and is shown another before he believes an answer: both
           unpickle what they are sent. An actor listens when it is first asked where; where Ray is told to encrypt
           what it sends it does not, for nothing is encrypted here.
Not here:  which calls are made so, and what becomes of them (actors.py)."""

from __future__ import annotations

import hmac
import os
import pickle
import secrets
import selectors
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from polarindex.distributed.engines import imported_ray

_LENGTHS = struct.Struct("<3Q")
_ALIGNED = 16  # bytes
_PIECES = 64  # of a message that the system is given at once; every system takes more
_KEY = 32  # bytes
_BACKLOG = 128  # who may wait at a door
_ROOM = 4 << 20  # bytes of a message that the system is asked to hold
_GREETING = 10.0  # seconds to show a key
_CONNECTING = 0.5  # seconds
_IDLE = 16  # connections to an actor that are kept while no call uses them
_PAUSES = 1.0, 3600.0  # seconds until an actor that cannot be reached so is tried again: at first, and at most


class Address(NamedTuple):
    """Where a door is; `key` opens it, and who is behind it answers with `answer`.

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
    """Answers calls, each connection in a thread of its own.

    Parameters
    ----------
    answer : of a method's name and its arguments; what it raises is told to nobody, see Law
    """

    def __init__(self, host: str, answer: Callable[[str, tuple[Any, ...]], Any]) -> None:
        self._answer = answer
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listening = [socket.create_server((host, 0), family=family, backlog=_BACKLOG)]
        port, name = self._listening[0].getsockname()[1], ""
        if sys.platform == "linux":
            name = f"\0polarindex-{secrets.token_hex(_KEY)}"
            self._listening.append(socket.socket(socket.AF_UNIX))
            self._listening[1].bind(name)
            self._listening[1].listen(_BACKLOG)
        self.address = Address(host, port, name, secrets.token_bytes(_KEY), secrets.token_bytes(_KEY))
        for listening in self._listening:
            threading.Thread(target=self._open, args=(listening,), daemon=True, name="door").start()

    def close(self) -> None:
        """Let nobody new in."""
        for listening in self._listening:
            listening.close()

    def _open(self, listening: socket.socket) -> None:
        while True:
            try:
                came, _ = listening.accept()
            except ConnectionError:  # who came is gone already
                continue
            except OSError:  # closed
                return
            threading.Thread(target=self._serve, args=(came,), daemon=True, name="line").start()

    def _serve(self, came: socket.socket) -> None:
        with came:
            try:
                _prepare(came)
                came.settimeout(_GREETING)
                if not hmac.compare_digest(_exactly(came, _KEY), self.address.key):
                    return
                came.sendall(self.address.answer)
                came.settimeout(None)
                while True:
                    self._serve_one(came)
            except OSError:
                pass  # who asked is gone

    def _serve_one(self, came: socket.socket) -> None:
        message = _Message()
        message.take_from(came)
        try:
            unsent = packed([self._answer(*message.value())])
        except Exception:  # whatever it is, it is raised again where it is told
            unsent = packed([])
        while unsent:
            _send(came, unsent)


def door(answer: Callable[[str, tuple[Any, ...]], Any]) -> Door | None:
    """A door of this process at its node's address; None where what Ray sends is encrypted, and on Windows, whose
    sockets send a message in one piece."""
    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true") or sys.platform == "win32":
        return None
    return Door(imported_ray().util.get_node_ip_address(), answer)


# --- in a driver


class Line:
    """A connection to an actor's door."""

    def __init__(self, address: Address) -> None:
        self._socket = _connected(address)
        _prepare(self._socket)
        self._socket.setblocking(False)
        self.address, self._greeting = address, b""
        self._unsent = [memoryview(address.key)]
        self._message = _Message()

    def __del__(self) -> None:
        if "_socket" in vars(self):  # a search that an error or Ctrl-C ends leaves its calls as they are
            self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def unsent(self) -> bool:
        return bool(self._unsent)

    def ask(self, method: str, arguments: tuple[Any, ...]) -> None:
        """Begin a call; `push` sends what the system does not take at once, or `answer` does."""
        self._unsent += packed((method, arguments))
        self._message = _Message()
        self.pushed()

    def answer(self) -> Any:
        """The answer in a list, or None where it has not come as a whole."""
        try:
            self._push()
            while len(self._greeting) < _KEY:
                self._greeting += _some(self._socket, _KEY - len(self._greeting))
                if len(self._greeting) == _KEY and not hmac.compare_digest(self._greeting, self.address.answer):
                    raise LineError("somebody else answers there")
            self._message.take_from(self._socket)
        except BlockingIOError:  # there is more to be sent, or to come
            return None
        except OSError as error:
            raise LineError(str(error)) from error
        try:
            answer = self._message.value()
        except Exception as error:  # it was pickled by another version
            raise LineError(f"an answer that cannot be read: {error!r}") from error
        if not answer:
            raise LineError("the call raises an error")
        return answer

    def close(self) -> None:
        self._socket.close()

    def pushed(self) -> bool:
        """Send what the system takes now; whether there is no more to do, which is so too where a line is broken."""
        try:
            self._push()
        except BlockingIOError:
            return False
        except OSError:  # `answer` says so
            return True
        return True

    def _push(self) -> None:
        while self._unsent:
            _send(self._socket, self._unsent)


def push(lines: Iterable[Line], seconds: float) -> None:
    """Send what some lines have to send, all of them at a time, and for so long at most."""
    until = time.monotonic() + seconds
    while waiting := [line for line in lines if not line.pushed()]:
        left = until - time.monotonic()
        if left <= 0:
            return
        ready(waiting, left)


def ready(lines: Iterable[Line], seconds: float) -> list[Line]:
    """Those of some lines that go on, to be sent or to be answered, as soon as one does."""
    with selectors.DefaultSelector() as selector:
        for line in lines:
            selector.register(line.fileno(), selectors.EVENT_WRITE if line.unsent else selectors.EVENT_READ, line)
        return [key.data for key, _ in selector.select(seconds)]


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

    def line(self) -> Line | None:
        """A connection for one call; None where there is none now."""
        with self._turn:
            if self._idle:
                return self._idle.pop()
            if self._address is None:
                self._find(0)
            if self._address is None:
                return None
            try:
                return Line(self._address)
            except OSError:
                self._try_later()
                return None

    def give_back(self, line: Line) -> None:
        """A call has its answer."""
        with self._turn:
            self._pause = _PAUSES[0]
            if len(self._idle) < _IDLE:
                self._idle.append(line)
                return
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


def packed(what: Any) -> list[memoryview]:
    """A message in pieces; arrays are not copied."""
    arrays: list[pickle.PickleBuffer] = []
    head = pickle.dumps(what, protocol=5, buffer_callback=arrays.append)
    views = [array.raw() for array in arrays]
    front = np.array([view.nbytes for view in views], "<u8").tobytes() + head
    pieces = [memoryview(front), _padding(len(front))]
    for view in views:
        pieces += [view, _padding(view.nbytes)]
    total = sum(piece.nbytes for piece in pieces)
    return [memoryview(_LENGTHS.pack(total, len(views), len(head))), *(piece for piece in pieces if piece.nbytes)]


class _Message:
    """A message that comes in pieces."""

    def __init__(self) -> None:
        self._room, self._at = memoryview(bytearray(_LENGTHS.size)), 0
        self._lengths: tuple[int, ...] = ()

    def take_from(self, source: socket.socket) -> None:
        """Take all that is left of it. BlockingIOError where it has not come, of a socket that does not wait."""
        while True:
            got = source.recv_into(self._room[self._at :])
            if not got:
                raise ConnectionResetError("the other side is gone")
            self._at += got
            if self._at < self._room.nbytes:
                continue
            if self._lengths:
                return
            self._lengths = _LENGTHS.unpack(self._room)
            self._room, self._at = np.empty(self._lengths[0], np.uint8).data, 0  # a bytearray would be cleared first

    def value(self) -> Any:
        _, count, length = self._lengths
        at = 8 * count + length
        sizes = np.frombuffer(self._room[: 8 * count], "<u8").tolist()
        head, arrays = self._room[8 * count : at], []
        for size in sizes:
            at += -at % _ALIGNED
            arrays.append(self._room[at : at + size])
            at += size
        return pickle.loads(head, buffers=arrays)


def _padding(size: int) -> memoryview:
    return memoryview(bytes(-size % _ALIGNED))


def _send(target: socket.socket, pieces: list[memoryview]) -> None:
    """Send some of a message, and leave in `pieces` what is not sent."""
    sent, whole = target.sendmsg(pieces[:_PIECES]), 0
    while whole < len(pieces) and sent >= pieces[whole].nbytes:
        sent -= pieces[whole].nbytes
        whole += 1
    del pieces[:whole]
    if sent:
        pieces[0] = pieces[0][sent:]


def _connected(address: Address) -> socket.socket:
    if address.name:
        near = socket.socket(socket.AF_UNIX)
        near.settimeout(_CONNECTING)
        try:
            near.connect(address.name)
            return near
        except OSError:  # of another machine, or another container
            near.close()
    return socket.create_connection((address.host, address.port), timeout=_CONNECTING)


def _prepare(line: socket.socket) -> None:
    """Send at once, and notice some time that the other side's machine is gone."""
    if line.family == socket.AF_UNIX:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _ROOM)
        return
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def _some(source: socket.socket, size: int) -> bytes:
    got = source.recv(size)
    if not got:
        raise ConnectionResetError("the other side is gone")
    return got


def _exactly(source: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size:
        got += _some(source, size - len(got))
    return got
