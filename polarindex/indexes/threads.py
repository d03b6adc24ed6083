"""A small pool of threads above the kernels, which release the GIL. Made at first use, and anew after a fork."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}  # (process, threads): a forked child has none of its parent's


def available_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_all(task: Callable[[T], R], items: Iterable[T], threads: int) -> list[R]:
    """[task(item) for item in items], on `threads` threads."""
    if threads == 1:
        return [task(item) for item in items]
    key = os.getpid(), threads
    if key not in _pools:
        _pools[key] = ThreadPoolExecutor(threads, thread_name_prefix="polarindex")
    return list(_pools[key].map(task, items))
