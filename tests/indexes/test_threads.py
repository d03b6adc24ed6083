"""The thread pool: order kept, errors passed on, forks survived, Ctrl-C held back where a change must be whole."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
import weakref
from pathlib import Path

import numpy as np
import pytest

import polarindex as pi
from polarindex import kernels
from polarindex.indexes import threads
from polarindex.indexes.interrupts import uninterrupted


def test_results_come_in_the_order_of_the_items():
    assert threads.run_all(lambda item: item * item, range(50), 4) == [item * item for item in range(50)]


def test_work_really_runs_on_several_threads():
    meeting = threading.Barrier(3, timeout=30)
    assert sorted(threads.run_all(lambda item: meeting.wait(), range(3), 3)) == [0, 1, 2]


def test_an_error_in_a_thread_reaches_the_caller():
    with pytest.raises(ZeroDivisionError):
        threads.run_all(lambda item: 1 // item, [1, 0], 2)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_forked_child_searches_with_threads_of_its_own():
    index = pi.FlatIndex(16)
    index.add(np.random.default_rng(0).standard_normal((2000, 16)))
    wanted = index.search(index.reconstruct([5]), 3, num_threads=2)[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of any fork beside threads
        child = os.fork()
    if child == 0:
        try:
            signal.alarm(60)  # a deadlock ends here
            found = index.search(index.reconstruct([5]), 3, num_threads=2)[1]
            os._exit(0 if (found == wanted).all() else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_spawned_processes_search_an_index_from_a_file(tmp_path):
    index = pi.FlatIndex(16)
    x = np.random.default_rng(0).standard_normal((2000, 16))
    index.add(x)
    index.save(tmp_path / "index")
    program = tmp_path / "program.py"
    program.write_text(
        """
import json, multiprocessing, sys
import numpy as np, polarindex as pi
def search(path):
    index = pi.load(path, mmap=True)
    return index.search(index.reconstruct([5]), 3, num_threads=2)[1].tolist()
if __name__ == "__main__":
    here = search(sys.argv[1])
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        print(json.dumps([here, *pool.map(search, [sys.argv[1]] * 2)]))
""",
        encoding="utf-8",
    )
    places = os.environ | {"PYTHONPATH": str(Path(pi.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, str(program), str(tmp_path / "index")], env=places, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [index.search(index.reconstruct([5]), 3)[1].tolist()] * 3


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent to the process itself")
def test_ctrl_c_comes_after_the_block_and_only_once():
    steps = []
    with pytest.raises(KeyboardInterrupt):
        with uninterrupted():
            with uninterrupted():
                os.kill(os.getpid(), signal.SIGINT)
                steps.append("inner")
            steps.append("outer")
        steps.append("never")
    assert steps == ["inner", "outer"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent to the process itself")
def test_what_was_begun_ends_before_ctrl_c_reaches_the_caller():
    """Else a task might go on writing into memory that the caller has let go of."""
    begun, ended = threading.Event(), []

    def task(item):
        if item == 0:
            begun.set()
            time.sleep(0.3)
        elif item == 1:
            begun.wait(30)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
        ended.append(item)

    with pytest.raises(KeyboardInterrupt):
        threads.run_all(task, range(50), 2)
    assert {0, 1} <= set(ended)
    count = len(ended)
    time.sleep(0.1)
    assert len(ended) == count


def test_uninterrupted_is_harmless_in_other_threads():
    done = threads.run_all(lambda item: uninterrupted().__enter__() or item, range(4), 2)
    assert done == [0, 1, 2, 3]


def test_what_a_task_holds_is_let_go_though_a_thread_is_slow_to_forget_its_work(monkeypatch):
    """Else an index that was searched, and dropped, would keep its lock until the pool's threads wake up."""
    pool, works = threads._pool(2), []

    class SlowToForget:
        def submit(self, work):
            works.append(work)
            return pool.submit(work)

    class Held:
        def task(self, item):
            return item

    monkeypatch.setattr(threads, "_pool", lambda count: SlowToForget())
    held = Held()
    known = weakref.ref(held)
    assert threads.run_all(held.task, [1, 2], 2) == [1, 2]
    del held
    assert len(works) == 2
    assert known() is None


def test_many_threads_may_search_one_index():
    x = np.random.default_rng(0).standard_normal((3000, 16)).astype(np.float32)
    index = pi.FlatIndex(16)
    index.add(x, ids=np.arange(3000) * 2)
    wanted = [index.search(row, 4) for row in x[:40]]
    for one, other in zip(wanted, threads.run_all(lambda row: index.search(row, 4), x[:40], 8), strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_task_whose_caller_has_given_up_ends_where_it_asks():
    """Between two of its steps, not after the last of them."""
    begun, steps = threading.Event(), []

    def task(item):
        if item == 0:
            begun.wait(30)
            raise KeyError("the caller's error")
        for step in range(1000):
            begun.set()
            time.sleep(0.01)
            threads.go_on()
            steps.append(step)

    with pytest.raises(KeyError, match="the caller's error"):
        threads.run_all(task, [0, 1], 2)
    assert len(steps) < 500
    threads.go_on()  # outside of tasks nobody gives up
    assert threads.run_all(lambda item: threads.go_on() or item, range(4), 2) == [0, 1, 2, 3]


def test_a_long_scan_asks_whether_to_go_on(monkeypatch):
    """In each of the three ways of a flat search, and for the nearest centroids."""
    index = pi.FlatIndex(16)
    index.add(np.random.default_rng(0).standard_normal((6000, 16)))
    asked = []
    for module in ("lines", "scan", "probing", "assign"):
        monkeypatch.setattr(f"polarindex.indexes.{module}.go_on", lambda module=module: asked.append(module))
    monkeypatch.setattr("polarindex.indexes.lines._WORK", 1)
    x = np.random.default_rng(1).standard_normal((600, 16)).astype(np.float32)
    index.search(x, 3)
    in_registers = asked.count("lines")
    index.search(x, 3, query_bits=16)
    lists = pi.IVFIndex(16, nlist=4).fit(x)
    lists.add(x)
    lists.search(x[:3], query_bits=16)
    assert (in_registers >= 5 or kernels.selected() == kernels.GENERIC) and {"scan", "probing", "assign"} <= set(asked)


@pytest.mark.skipif(kernels.selected() == kernels.GENERIC, reason="plain loops are short calls anyway")
def test_large_batches_are_split_into_calls_that_end_soon(monkeypatch):
    """A batch in lists by tiles of queries, originals by single ones; the answers are the same."""
    x = np.random.default_rng(0).standard_normal((900, 24)).astype(np.float32)
    index = pi.IVFIndex(24, nlist=12, store="float32").fit(x)
    index.add(x)
    flat = pi.FlatIndex(24, store="float32")
    flat.add(x)
    wanted = *index.search(x[:100], 5, num_threads=1), *flat.search(x[:100], 5)
    sizes = []
    for module, name in (("answers", "answer"), ("originals", "rescore_rows")):
        monkeypatch.setattr(f"polarindex.indexes.{module}._WORK", 1)
        real = getattr(kernels, name)

        def counted(*arguments, real=real, name=name):
            sizes.append((name, len(arguments[3] if name == "answer" else arguments[6])))
            return real(*arguments)

        monkeypatch.setattr(kernels, name, counted)
    monkeypatch.setattr(kernels, "entry", lambda kernel, *arguments: kernel)
    index._seen.clear()
    found = *index.search(x[:100], 5, num_threads=1), *flat.search(x[:100], 5)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(a, b)
    assert {size for name, size in sizes if name == "rescore_rows"} == {1}
    assert {size for name, size in sizes if name == "answer"} <= {8, 4}


def test_cores_may_be_limited_for_a_while():
    before = threads.available_cores()
    with threads.limited(1):
        assert threads.available_cores() == 1
        with threads.limited(None):
            assert threads.available_cores() == before
        with threads.limited(10**6):
            assert threads.available_cores() == before
        assert threads.available_cores() == 1
    assert threads.available_cores() == before
    with pytest.raises(ValueError, match="threads must be at least 1, got 0"), threads.limited(0):
        pass
