"""A small pool of threads above the kernels, which release the GIL. Made at first use, and anew after a fork."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

from polarindex.indexes.interrupts import uninterrupted

T = TypeVar("T")
R = TypeVar("R")

_pools: dict[int, tuple[int, ThreadPoolExecutor]] = {}  # process -> (threads, pool): a forked child has none


def available_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
    waiting = iter(range(len(items)))

    def work() -> None:
        for number in waiting:  # `next` of a range is one step under the GIL: each number goes to one thread
            results[number] = task(items[number])

    pool = _pool(threads)
    futures: list[Future[None]] = []
    try:
        for _ in range(threads):
            futures.append(pool.submit(work))
        for future in futures:
            future.result()
    except BaseException:
        for _ in waiting:
            pass
        with uninterrupted():
            wait(futures)
        raise
    return results


def _pool(threads: int) -> ThreadPoolExecutor:
    """This process's pool, made anew where it is too small; a pool that nobody holds ends by itself."""
    held = _pools.get(os.getpid())
    if held is None or held[0] < threads:
        size = max(threads, available_cores())
        held = size, ThreadPoolExecutor(size, thread_name_prefix="polarindex")
        _pools.clear()
        _pools[os.getpid()] = held
    return held[1]
