"""Messages arrive as they were sent; only who knows a key is answered or believed; whatever is wrong is a LineError."""

from __future__ import annotations

import contextlib
import pickle
import socket
import threading
import time
from multiprocessing.connection import Client, Listener, answer_challenge, deliver_challenge, wait
from types import SimpleNamespace

import numpy as np
import pytest

from polarindex.distributed import direct
from polarindex.distributed.direct import Address, Door, Line, LineError

PATIENCE = 20.0  # seconds


@pytest.fixture
def opened():
    """Doors that answer as they are told."""
    return lambda answer: Door("127.0.0.1", answer).address


def reply(line):
    """What `answer` says when it begins to come."""
    assert wait([line], PATIENCE)
    return line.answer()


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
    """It is aligned and may be written to, so no copy is made of it: small or large, there and back."""
    sizes = (1, 3, 5, direct._LARGE, direct._LARGE + 1)
    line = Line(opened(lambda method, arguments: (arguments[0], [bool(a.flags.carray) for a in arguments[0]])))
    line.ask("name", ([np.zeros(n, kind) for n in sizes for kind in (np.uint8, np.int32, np.float64)],))
    back, there = reply(line)
    assert len(there) == len(back) == 15 and all(there) and all(array.flags.carray for array in back)
    line.close()


def test_who_has_no_key_is_not_answered(opened):
    called = []
    address = opened(lambda method, arguments: called.append(method))
    with pytest.raises(LineError):
        Line(address._replace(key=bytes(len(address.key))))
    with Client((address.host, address.port)) as stranger, pytest.raises((OSError, EOFError)):
        stranger.send((pickle.dumps(("name", ())), []))
        while stranger.poll(PATIENCE):  # a challenge, and that it is not met
            stranger.recv_bytes()
    assert not called


@pytest.fixture
def impostor(monkeypatch):
    """Somebody who listens, and does what he is told with who comes."""
    monkeypatch.setattr(direct, "_CONNECTING", 0.3)
    monkeypatch.setattr(direct, "_STALLED", 0.3)
    done = threading.Event()
    listener = Listener(("127.0.0.1", 0), "AF_INET")

    def does(what):
        def serve():
            with listener.accept() as came:
                with contextlib.suppress(OSError):  # who came is gone
                    what(came)
                done.wait(PATIENCE)

        threading.Thread(target=serve, daemon=True).start()
        return Address("127.0.0.1", listener.address[1], "", b"k" * 32, b"a" * 32)

    yield does
    done.set()
    listener.close()


class Trap:
    """What is unpickled of an impostor does what he likes."""

    def __reduce__(self):
        return exec, ("raise SystemExit('it was unpickled')",)


def welcomes(came):
    """Believe whatever is shown, and show something."""
    came.send_bytes(b"#CHALLENGE#" + bytes(20))
    came.recv_bytes()
    came.send_bytes(b"#WELCOME#")
    came.recv_bytes()
    came.send_bytes(bytes(16))
    came.send(Trap())


def knows_one_key(came):
    """As who asks has shown it."""
    deliver_challenge(came, b"k" * 32)
    with pytest.raises(Exception, match="rejected"):
        answer_challenge(came, b"k" * 32)
    came.send(Trap())


@pytest.mark.parametrize(
    "what", [welcomes, knows_one_key, lambda came: came.send(Trap()), lambda came: came.close(), lambda came: None]
)
def test_somebody_else_behind_a_port_is_not_believed(impostor, what):
    """Whether he says what a door says, something else, or nothing."""
    with pytest.raises(LineError):
        Line(impostor(what))


def test_an_error_of_a_call_and_what_cannot_be_sent_or_read_are_line_errors(opened):
    def fail(method, arguments):
        raise KeyError("of the call")

    for answer in (fail, lambda method, arguments: threading.Lock(), lambda method, arguments: Trapdoor()):
        line = Line(opened(answer))
        line.ask("name", ())
        with pytest.raises(LineError):
            reply(line)
        line.close()


class Trapdoor:
    """Cannot be read, as what another version has pickled."""

    def __reduce__(self):
        return int, ("no number",)


def greets(came):
    deliver_challenge(came, b"k" * 32)
    answer_challenge(came, b"a" * 32)


def test_who_takes_or_says_nothing_for_some_time_is_given_up(impostor):
    """As a machine that is off, or hangs: a call is held up for so long and no longer."""

    def begins(came):
        greets(came)
        came.recv()
        came.send((b"", [1000]))

    began = time.monotonic()
    line = Line(impostor(greets))
    with pytest.raises(LineError):
        line.ask("name", (np.ones(50_000_000, np.uint8),))
    line.close()
    line = Line(impostor(begins))
    line.ask("name", ())
    with pytest.raises(LineError):
        reply(line)
    line.close()
    assert time.monotonic() - began < PATIENCE / 2


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
    line = way.ask("name", ())
    reply(line)
    way.give_back(line)
    assert way.ask("name", ()) is line
    other = way.ask("name", ())
    assert other is not line
    reply(line)
    way.give_back(line)
    handle.address = opened(echo)  # the actor is another process by now
    way.lose(other)
    assert line.closed and other.closed
    assert way.ask("name", ()).address == handle.address
    way.close()


def test_a_connection_that_fails_when_it_is_used_is_lost(opened, impostor, handle):
    handle.address = impostor(greets)
    way = direct.Way(handle)
    with pytest.raises(LineError):
        way.ask("name", (np.ones(50_000_000, np.uint8),))
    handle.address = opened(echo)
    assert way.ask("name", ()).address == handle.address
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
        with pytest.raises(LineError) if wrong is nowhere else contextlib.nullcontext():
            assert way.ask("name", ()) is None
        handle.address = address
        assert way.ask("name", ()) is None  # not asked again so soon
        clock.now += 10
    handle.come = False
    assert way.ask("name", ()) is None
    handle.come = True
    assert way.ask("name", ()).address == address
    way.close()


def test_of_a_silent_connection_ray_knows_whether_somebody_is_there(opened, handle):
    handle.address = opened(echo)
    way = direct.Way(handle)
    line = way.ask("name", ())
    assert not way.gone(line)
    handle.come = False
    assert not way.gone(line)
    handle.come, handle.address = True, opened(echo)
    assert way.gone(line)
    other = way.ask("name", ())
    assert not way.gone(other)
    handle.address = handle.lost
    assert way.gone(other)
    line.close()
    other.close()


def test_nothing_is_listened_at_where_ray_encrypts(monkeypatch):
    monkeypatch.setenv("RAY_USE_TLS", "1")
    assert direct.door(echo) is None
