"""A small pool of threads above the kernels, which release the GIL. Made at first use, and anew after a fork.

Ctrl-C:    reaches the main thread, which waits for its tasks: between two kernel calls these ask whether to go on
           (`go_on`), and no call runs for more than some tenths of a second."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from polarindex import checks
from polarindex.indexes.interrupts import uninterrupted

T = TypeVar("T")
R = TypeVar("R")

_limit: int | None = None
_pools: dict[int, tuple[int, ThreadPoolExecutor]] = {}  # process -> (threads, pool): a forked child has none


def available_cores() -> int:
    """Cores this process may run on, and no more than `limited` says."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores if _limit is None else min(cores, _limit)


@contextmanager
def limited(cores: int | None) -> Iterator[None]:
    """Let this process use so many cores at most, while the block runs; None: as many as there are."""
    global _limit
    before, _limit = _limit, None if cores is None else checks.integer(cores, "threads", low=1)
    try:
        yield
    finally:
        _limit = before


def run_all(task: Callable[[T], R], items: Iterable[T], threads: int) -> list[R]:
    """[task(item) for item in items], on at most `threads` threads.

    After an error or Ctrl-C nothing new is begun, and what was begun ends before it is raised: the caller may then let
    go of what tasks write into.
    """
    items = list(items)
    threads = min(threads, len(items))
    if threads <= 1:
        return [task(item) for item in items]
    results: list[R] = [None] * len(items)  # type: ignore[list-item]
    run = _Run(task, iter(range(len(items))), {})

    def work() -> None:
        me = threading.get_ident()
        outer, _task.run = getattr(_task, "run", None), run
        run.begun[me] = None
        try:
            for number in run.waiting:  # `next` of a range is one step under the GIL: each number goes to one thread
                results[number] = run.task(items[number])
        finally:
            del run.begun[me]
            _task.run = outer

    pool = _pool(threads)
    futures: list[Future[None]] = []
    try:
        for _ in range(threads):
            futures.append(pool.submit(work))
        for future in futures:
            future.result()
    except BaseException:
        run.end()
        raise
    finally:
        run.task = None  # a thread lets go of `work` a moment after it is done, and must not keep the index till then
    return results


def go_on() -> None:
    """What a task asks between two long steps: raises GivenUp where nobody waits for its result any more."""
    run = getattr(_task, "run", None)
    if run is not None and run.given_up:
        raise GivenUp


class GivenUp(Exception):
    """The caller of `run_all` has another error to raise, or Ctrl-C."""


class _Run:
    """The task of one `run_all`, the items that wait for it, and the threads that have begun some."""

    def __init__(self, task: Any, waiting: Iterator[int], begun: dict[int, None]) -> None:
        self.task, self.waiting, self.begun = task, waiting, begun
        self.given_up = False

    def end(self) -> None:
        """Let nothing new begin, and come back when what was begun has ended, however often Ctrl-C comes."""
        while True:
            try:
                with uninterrupted():
                    self.given_up = True
                    for _ in self.waiting:
                        pass
                    while self.begun:
                        time.sleep(_GLANCE)
                return
            except KeyboardInterrupt:
                continue  # the caller has an error to raise already


_task = threading.local()  # .run: that of the task which this thread does
_GLANCE = 0.001  # seconds


def _pool(threads: int) -> ThreadPoolExecutor:
    """This process's pool, made anew where it is too small; a pool that nobody holds ends by itself."""
    held = _pools.get(os.getpid())
    if held is None or held[0] < threads:
        size = max(threads, available_cores())
        held = size, ThreadPoolExecutor(size, thread_name_prefix="polarindex")
        _pools.clear()
        _pools[os.getpid()] = held
    return held[1]
