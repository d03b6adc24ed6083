"""Engines in processes of their own, and the one conversation that the measuring program has with each.

Law:       a child works only while the parent waits for it, so never two at a time. It times itself: CPU seconds of all
           its threads. It ends when the parent's end of the pipe closes, whatever became of the parent.
Why:       Ctrl-C reaches the whole group; children ignore it, and the parent ends them.
Not here:  what is asked (measure.py); the libraries (engines.py)."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from polarindex.bench.data import Floats, Source, load
from polarindex.bench.engines import ENGINES, Engine, Missing, as_ids
from polarindex.bench.plans import Plan, Setting
from polarindex.bench.resident import peak_resident, reset_peak, resident, settle

WARM_MANY, WARM_ONE = 100, 10  # queries before a setting's clock runs


class Failed(Exception):
    """What a child could not do; its message says why."""


@dataclass(frozen=True)
class Answer:
    """One setting in one turn: CPU seconds of each mode, and the ids found."""

    many_s: float
    many_ids: Any
    singles_s: float
    singles_ids: Any


# --- in the child


def child(pipe: Connection, plan: Plan, source: Source) -> None:
    """Build the planned engine, say what it cost, then take turns until told to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(ConnectionError):  # nobody waits for an answer any more
        _work(pipe, plan, source)


def _work(pipe: Connection, plan: Plan, source: Source) -> None:
    try:
        ENGINES[plan.library].library()
        engine, q, built = build(plan, source)
    except (ImportError, Missing) as error:
        pipe.send(("missing", str(error)))
        return
    except Exception as error:  # whatever a library raises is a result, too
        pipe.send(("failed", f"{type(error).__name__}: {error}"))
        return
    pipe.send(("done", built))
    del built
    serve(pipe, engine, q, source.singles)


def build(plan: Plan, source: Source) -> tuple[Engine, Floats, dict[str, Any]]:
    """The engine, its queries and what building cost; the rows are let go."""
    data = load(source)
    engine = ENGINES[plan.library](data.x.shape[1], data.metric, **plan.build)
    x, q, n = engine.rows(data.x), engine.rows(data.q), len(data.x)
    del data
    engine.warm_up(x)
    settle()
    before = resident()
    reset_peak()
    train, add = clocked(engine.train, x), clocked(engine.add, x)
    peak = peak_resident()
    rows = x.nbytes
    del x
    settle()
    held = resident()
    size, counted = engine.size()
    return engine, q, {
        "n": n,
        "train_s": None if engine.one_step else train[0],
        "train_wall_s": None if engine.one_step else train[1],
        "add_s": add[0],
        "add_wall_s": add[1],
        "peak_bytes": None if peak is None or before is None else peak - before,
        "held_bytes": None if held is None or before is None else held - (before - rows),
        "bytes_per_vector": size,
        "bytes_counted": counted,
    }  # fmt: skip


def serve(pipe: Connection, engine: Engine, q: Floats, singles: int) -> None:
    """Answer lists of settings with lists of Answers until the pipe closes."""
    single = engine.singles(q[:singles])
    while True:
        try:
            settings = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(("done", turn(engine, q, single, settings)))
        except Exception as error:
            pipe.send(("failed", f"{type(error).__name__}: {error}"))
            return


def turn(engine: Engine, q: Floats, single: list[Any], settings: list[Setting]) -> list[Answer]:
    """Every setting once, after some calls that compile, or fill the caches that another process had."""
    answers = []
    for setting in settings:
        engine.set(setting)
        engine.many(q[:WARM_MANY])
        for query in single[:WARM_ONE]:
            engine.one(query)
        start = time.process_time()
        many = engine.many(q)
        between = time.process_time()
        found = [engine.one(query) for query in single]
        end = time.process_time()
        answers.append(Answer(between - start, np.asarray(many).astype(np.int64), end - between, as_ids(found)))
    return answers


def clocked(call: Callable[[Floats], object], x: Floats) -> tuple[float, float]:
    """CPU seconds and wall-clock seconds of a call."""
    cpu, wall = time.process_time(), time.perf_counter()
    call(x)
    return time.process_time() - cpu, time.perf_counter() - wall


# --- in the parent


class Worker:
    """A child and the pipe to it."""

    def __init__(self, plan: Plan, source: Source) -> None:
        context = multiprocessing.get_context("spawn")
        self.plan = plan
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=child, args=(theirs, plan, source), daemon=True)
        self._process.start()
        theirs.close()  # so that the child's death ends our waiting

    def built(self) -> dict[str, Any]:
        """What building cost, once it is done; Missing where the library is, Failed with the reason."""
        return self._received()

    def turn(self, settings: list[Setting]) -> list[Answer]:
        """One repetition of all settings."""
        try:
            self._pipe.send(settings)
        except OSError:
            pass  # it died; receiving says how
        return self._received()

    def end(self) -> None:
        """Stop the child, whatever it does."""
        self._pipe.close()
        self._process.terminate()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _received(self) -> Any:
        try:
            what, value = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join(5)
            raise Failed(f"the process died, exit code {self._process.exitcode}") from None
        if what == "missing":
            raise Missing(f"not installed: {value}")
        if what == "failed":
            raise Failed(value)
        return value
