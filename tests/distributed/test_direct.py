"""Messages arrive as they were sent; only who knows a key is answered or believed; whatever is wrong is a LineError."""

from __future__ import annotations

import pickle
import socket
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from polarindex.distributed import direct
from polarindex.distributed.direct import Address, Door, Line, LineError

PATIENCE = 20.0  # seconds


@pytest.fixture
def opened():
    """Doors that answer as they are told, closed at the end."""
    doors = []

    def open_(answer):
        doors.append(Door("127.0.0.1", answer))
        return doors[-1].address

    yield open_
    for door in doors:
        door.close()


def reply(line):
    """What `answer` says when it has all."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        found = line.answer()
        if found is not None:
            return found[0]
        direct.ready([line], 0.1)
    raise TimeoutError


def echo(method, arguments):
    return method, arguments


MANY = [
    np.arange(12, dtype=np.float32).reshape(3, 4),
    np.empty((0, 7), np.int64),
    np.arange(40, dtype=np.int32)[::3],
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.frombuffer(b"some bytes", np.uint8),
    *(np.full(n, n, np.int16) for n in range(150)),
    np.random.default_rng(0).random((1500, 1000)),
]


@pytest.mark.parametrize("machine", ["same", "another"])
def test_what_is_sent_arrives_as_it_was(opened, machine):
    """Arrays of no rows, with gaps, in another order, not to be written, of odd sizes, very many, and large ones."""
    address = opened(echo)
    line = Line(address if machine == "same" else address._replace(name=""))
    for given in ((), ("words", None, 2.5, {"a": [1]}), (MANY, 7), (MANY[-1],)):
        line.ask("name", given)
        method, got = reply(line)
        assert method == "name"
        assert pickle.dumps(got) == pickle.dumps(pickle.loads(pickle.dumps(given)))
    line.close()


def test_kernels_can_take_what_arrives(opened):
    """It is aligned and may be written to, so no copy is made of it."""
    line = Line(opened(lambda method, arguments: [bool(a.flags.carray) for a in arguments[0]]))
    line.ask("name", ([np.zeros(n, kind) for n in (1, 3, 5) for kind in (np.uint8, np.int32, np.float64)],))
    assert all(reply(line))
    line.close()


def test_who_has_no_key_is_not_answered(opened):
    called = []
    address = opened(lambda method, arguments: called.append(method))
    line = Line(address._replace(key=bytes(len(address.key))))
    with pytest.raises(LineError):
        line.ask("name", ())
        reply(line)
    line.close()
    assert not called


@pytest.fixture
def impostor():
    """Somebody who listens, and says what he is told to whoever comes."""
    listening = socket.create_server(("127.0.0.1", 0))
    came = []

    def says(words):
        def serve():
            came.append(listening.accept()[0])
            came[-1].sendall(words)

        threading.Thread(target=serve, daemon=True).start()
        return Address("127.0.0.1", listening.getsockname()[1], "", b"k" * 32, b"a" * 32)

    yield says
    for one in (*came, listening):
        one.close()


class Trap:
    """What is unpickled of an impostor does what he likes."""

    def __reduce__(self):
        return exec, ("raise AssertionError('it was unpickled')",)


def test_somebody_else_behind_a_port_is_not_believed(impostor):
    message = b"".join(direct.packed([Trap()]))
    line = Line(impostor(b"b" * 32 + message))
    with pytest.raises(LineError, match="somebody else"):
        line.ask("name", ())
        reply(line)
    line.close()


def test_an_error_of_a_call_and_what_cannot_be_read_are_line_errors(opened):
    def fail(method, arguments):
        raise KeyError("of the call")

    for answer in (fail, lambda method, arguments: threading.Lock()):  # a lock cannot be sent
        line = Line(opened(answer))
        line.ask("name", ())
        with pytest.raises(LineError):
            reply(line)
        line.close()


def test_a_call_that_is_not_taken_at_once_goes_on_when_it_is_looked_at():
    """As of a machine that hangs for a while: the caller is not held up meanwhile."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = Address("127.0.0.1", listening.getsockname()[1], "", b"k" * 32, b"a" * 32)
        line = Line(address)
        began = time.monotonic()
        line.ask("name", (np.ones(50_000_000, np.uint8),))
        direct.push([line], 0.05)
        assert line.unsent and line.answer() is None and time.monotonic() - began < PATIENCE / 2

        def serve():
            came, _ = listening.accept()
            with came:
                assert direct._exactly(came, 32) == address.key
                came.sendall(address.answer)
                message = direct._Message()
                message.take_from(came)
                came.sendall(b"".join(direct.packed([int(message.value()[1][0].sum())])))

        thread = threading.Thread(target=serve)
        thread.start()
        assert reply(line) == 50_000_000
        thread.join()
        line.close()


class Asked:
    """An actor's handle, and what Ray is asked of it: where its door is, when it says so."""

    def __init__(self):
        self.address, self.come = None, True
        self.door = SimpleNamespace(remote=lambda: self)


@pytest.fixture
def handle(monkeypatch):
    class RayError(Exception):
        pass

    def get(asked):
        if isinstance(asked.address, Exception):
            raise asked.address
        return asked.address

    def wait(asked, timeout):
        return (asked, []) if asked[0].come else ([], asked)

    ray = SimpleNamespace(get=get, wait=wait, exceptions=SimpleNamespace(RayError=RayError))
    monkeypatch.setattr(direct, "imported_ray", lambda: ray)
    made = Asked()
    made.lost = RayError()
    return made


def test_connections_are_kept_until_one_is_lost(opened, handle):
    handle.address = opened(echo)
    way = direct.Way(handle)
    line = way.line()
    line.ask("name", ())
    reply(line)
    way.give_back(line)
    assert way.line() is line
    other = way.line()
    assert other is not line
    way.give_back(line)
    handle.address = opened(echo)  # the actor is another process by now
    way.lose(other)
    assert line.fileno() == other.fileno() == -1  # closed, both
    assert way.line().address == handle.address
    way.close()


def test_where_there_is_no_way_ray_is_used_and_it_is_tried_again_later(opened, handle, monkeypatch):
    way = direct.Way(handle)
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(direct.time, "monotonic", lambda: clock.now)
    address = opened(echo)
    closed = socket.create_server(("127.0.0.1", 0))
    nowhere = address._replace(port=closed.getsockname()[1], name="")
    closed.close()
    for wrong in (None, nowhere, handle.lost):  # encrypted, not to be reached, or gone
        handle.address = wrong
        assert way.line() is None
        handle.address = address
        assert way.line() is None  # not asked again so soon
        clock.now += 10
    handle.come = False
    assert way.line() is None
    handle.come = True
    assert way.line().address == address
    way.close()


def test_of_a_silent_connection_ray_knows_whether_somebody_is_there(opened, handle):
    handle.address = opened(echo)
    way = direct.Way(handle)
    line = way.line()
    assert not way.gone(line)
    handle.come = False
    assert not way.gone(line)
    handle.come, handle.address = True, opened(echo)
    assert way.gone(line)
    other = way.line()
    assert not way.gone(other)
    handle.address = handle.lost
    assert way.gone(other)
    line.close()
    other.close()


def test_nothing_is_listened_at_where_ray_encrypts(monkeypatch):
    monkeypatch.setenv("RAY_USE_TLS", "1")
    assert direct.door(echo) is None
