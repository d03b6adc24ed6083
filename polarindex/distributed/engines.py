"""Who takes the steps of a build: this process, processes of this machine, or Ray's, maybe on many.

Law:       a step is a function of a job and a number (work.py), and comes once to its end or raises; which process
           takes it, and when, makes no difference. After an error or Ctrl-C nothing new is begun.
Killed:    workers of this machine end when the process that began them does. What one was about to write appears whole
           or not.
Not here:  what the steps are."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from typing import Any, Protocol

from polarindex.distributed.work import Job, Work, code_range, write_shard
from polarindex.errors import MissingExtraError

ENGINES = ("auto", "local", "ray")
_KILLED = (
    "a process of the build was killed, maybe for want of memory; give the build again to go on, with fewer processes "
    "or less memory for each"
)
Step = Callable[[Job, int], int]


class Engine(Protocol):
    """Takes steps, and yields of each how many rows it was, when it is done."""

    def code(self, numbers: Sequence[int]) -> Iterator[int]: ...
    def write(self, numbers: Sequence[int]) -> Iterator[int]: ...


def chosen(engine: str) -> str:
    """"local" or "ray": by itself Ray is used where the caller has connected to it."""
    if engine != "auto":
        return engine
    ray = sys.modules.get("ray")
    return "ray" if ray is not None and ray.is_initialized() else "local"


class Here:
    """This process takes all steps, one after another; each of them uses all threads."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def code(self, numbers: Sequence[int]) -> Iterator[int]:
        return map(self._work.code, numbers)

    def write(self, numbers: Sequence[int]) -> Iterator[int]:
        return map(self._work.write, numbers)


class Processes:
    """So many processes of this machine, begun anew: none shares memory with this one."""

    def __init__(self, job: Job, count: int) -> None:
        self._job, self._count = job, count

    def code(self, numbers: Sequence[int]) -> Iterator[int]:
        return self._each(code_range, numbers)

    def write(self, numbers: Sequence[int]) -> Iterator[int]:
        return self._each(write_shard, numbers)

    def _each(self, step: Step, numbers: Sequence[int]) -> Iterator[int]:
        with _pool(min(self._count, max(1, len(numbers)))) as pool:
            running = {pool.submit(step, self._job, number) for number in numbers[: self._count]}
            waiting = iter(numbers[self._count :])
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    try:
                        yield future.result()
                    except BrokenProcessPool:
                        raise ChildProcessError(_KILLED) from None
                    running |= {pool.submit(step, self._job, number) for number in islice(waiting, 1)}


@contextmanager
def _pool(count: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of new processes, which are ended at once where the block is left by an error."""
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _begin)
    try:
        yield pool
    except BaseException:
        for child in set(multiprocessing.active_children()) - before:
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """Leave Ctrl-C to the process that began this one, and end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class RayTasks:
    """Ray's tasks, `count` at a time, each of which asks the cluster for a core a thread.

    Every node must reach the index's folder and the source's files under the same names.
    """

    def __init__(self, job: Job, count: int | None) -> None:
        self._ray = imported_ray()
        self._job, self._count = job, count

    def code(self, numbers: Sequence[int]) -> Iterator[int]:
        return self._each(code_range, numbers)

    def write(self, numbers: Sequence[int]) -> Iterator[int]:
        return self._each(write_shard, numbers)

    def _each(self, step: Step, numbers: Sequence[int]) -> Iterator[int]:
        ray, job = self._ray, self._job
        running: list[Any] = []
        begun = not ray.is_initialized()
        if begun:
            ray.init(log_to_driver=False, include_dashboard=False)
        try:
            cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
            threads = min(job.threads or 1, cores)
            remote = ray.remote(num_cpus=threads, max_retries=2)(step)
            most = self._count or max(1, cores // threads)
            waiting = iter(numbers)
            while True:
                for number in waiting:
                    running.append(remote.remote(job, number))
                    if len(running) >= most:
                        break
                if not running:
                    return
                done, running = ray.wait(running, num_returns=1)
                try:
                    yield from ray.get(done)
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from error
                except ray.exceptions.RayError as error:
                    raise ChildProcessError(_KILLED) from error
        finally:
            for task in running:
                ray.cancel(task, force=True)
            if begun:
                ray.shutdown()


def imported_ray() -> Any:
    """Ray; MissingExtraError says how to get it."""
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("ray is not installed; get it with: pip install 'polarindex[distributed]'") from error
    return ray
