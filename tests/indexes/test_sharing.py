"""Indexes in many threads: searches go on beside changes and see one state, changes take turns, copies are whole.

Steps and searches are held where they are by events, so that what must wait is seen to wait, and what must not, not.
"""

import copy
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import polarindex as pi
from polarindex import kernels
from polarindex.indexes.sharing import Gate, changing, keeping, reading
from polarindex.memory import LINE

DIM, NLIST = 24, 12
LONG = 60  # seconds: something is wrong
SHORT = 0.15  # in which what is not held back would be done

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
signals = pytest.mark.skipif(sys.platform == "win32", reason="signals are sent to the process itself")


def clustered(n, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((8, DIM)) * 2
    return (centres[rng.integers(0, 8, n)] + rng.standard_normal((n, DIM))).astype(np.float32)


def flat(n=600, store="none", **options):
    index = pi.FlatIndex(DIM, store=store, **options)
    index.add(clustered(n))
    return index


def ivf(n=600, store="none", **options):
    index = pi.IVFIndex(DIM, nlist=NLIST, store=store, **options).fit(clustered(800, seed=77))
    index.add(clustered(n))
    return index


MAKERS = [flat, ivf]


def start(work, *arguments):
    """A thread that does some work; `result` waits for it."""
    return ThreadPoolExecutor(1).submit(work, *arguments)


def waits(future):
    """Whether work is not done though it had time for it."""
    time.sleep(SHORT)
    return not future.done()


@contextmanager
def held_step(index, monkeypatch):
    """A step that stops half way: yields the add that takes it, and what lets it go on."""
    inside, go_on = threading.Event(), threading.Event()
    part = index._ids if isinstance(index, pi.FlatIndex) else index._held.ids
    appended = part.appended

    def slow(*arguments):
        inside.set()
        assert go_on.wait(LONG)
        appended(*arguments)

    monkeypatch.setattr(part, "appended", slow)
    adding = start(index.add, clustered(50, seed=5))
    assert inside.wait(LONG)
    try:
        yield adding, go_on
    finally:
        go_on.set()
        adding.result(LONG)
        monkeypatch.undo()


class Slow:
    """Vectors that are not read before they may be."""

    dtype = np.dtype(np.float32)

    def __init__(self, x):
        self.x, self.shape = x, x.shape
        self.asked, self.may = threading.Event(), threading.Event()

    def __getitem__(self, rows):
        self.asked.set()
        assert self.may.wait(LONG)
        return self.x[rows]


# --- what waits and what does not


READS = {
    "search": lambda index: index.search(clustered(3), 5),
    "search again": lambda index: index.search(clustered(3), 5),
    "filtered search": lambda index: index.search(clustered(3), 5, filter=np.arange(640)),
    "range_search": lambda index: index.range_search(clustered(2), 5.0),
    "reconstruct": lambda index: index.reconstruct([0, 5]),
    "ids": lambda index: index.ids,
    "info": lambda index: index.info(),
    "nbytes": lambda index: index.nbytes,
}


@pytest.mark.parametrize("maker", MAKERS)
def test_nothing_is_read_while_a_step_is_half_taken(maker, monkeypatch):
    index, wanted = maker(), maker()
    index.search(clustered(3), 5)  # its arguments are known from here on
    wanted.add(clustered(50, seed=5))
    with held_step(index, monkeypatch) as (adding, go_on):
        reads = {name: start(read, index) for name, read in READS.items()}
        if maker is ivf:
            reads["len"] = start(len, index)
        time.sleep(SHORT)
        assert [name for name, read in reads.items() if read.done()] == []
        go_on.set()
        for name, read in reads.items():
            got, after = read.result(LONG), (READS | {"len": len})[name](wanted)
            for a, b in zip(*(part if isinstance(part, tuple) else (part,) for part in (got, after)), strict=True):
                np.testing.assert_array_equal(a, b) if name not in ("info", "nbytes") else None


@pytest.mark.parametrize("maker", MAKERS)
def test_searches_go_on_while_rows_are_read_and_coded(maker):
    """An add may take minutes; only its last step is alone. A second change waits for the first."""
    index = maker()
    before = index.search(clustered(5, 1), 7)
    source = Slow(clustered(9000, seed=2))
    adding = start(index.add, source)
    assert source.asked.wait(LONG)
    for _ in range(3):
        for a, b in zip(index.search(clustered(5, 1), 7), before, strict=True):
            np.testing.assert_array_equal(a, b)
    assert len(index) == 600 == index.info()["n"] == len(index.ids)
    other = start(index.add, clustered(1))
    assert waits(adding) and waits(other)
    source.may.set()
    assert adding.result(LONG).tolist() == list(range(600, 9600))
    assert other.result(LONG).tolist() == [9600]


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("large", [False, True])
def test_what_is_staged_moves_nothing_that_readers_hold(maker, large):
    """Blocks grow by copies, ids take a second word: readers find the old ones until the step."""
    index = maker(store="float32")
    arena = index._arena if maker is flat else index._held.rows.arena
    blocks = [dict(block) for block in arena.blocks]
    n, columns = arena.n, dict(arena.columns)
    source = Slow(clustered(9000, seed=2))
    adding = start(index.add, source, np.arange(9000) + (2**40 if large else 600))
    assert source.asked.wait(LONG)
    source.may.set()
    steps, held = [], index._gate.alone

    def watched(step):
        steps.append((arena.n, dict(arena.columns), [dict(block) for block in arena.blocks]))
        held(step)

    index._gate.alone = watched
    adding.result(LONG)
    del index._gate.alone
    (found_n, found_columns, found), *rest = steps
    assert rest == [] and found_n == n and found_columns == columns
    assert all(block[name] is old[name] for block, old in zip(found, blocks, strict=True) for name in old)
    assert len(index) == 9600


@pytest.mark.parametrize("maker", MAKERS)
def test_a_step_waits_for_searches_and_searches_after_it_wait_for_the_step(maker):
    index = maker()

    class Mask:
        """A filter that is asked for when the search has begun."""

        began, may = threading.Event(), threading.Event()

        def __array__(self, dtype=None, copy=None):
            self.began.set()
            assert self.may.wait(LONG)
            return np.ones(600, bool)

    Mask.began.clear()
    Mask.may.clear()
    wanted = index.search(clustered(3), 5)
    searching = start(lambda: index.search(clustered(3), 5, filter=Mask()))
    assert Mask.began.wait(LONG)
    adding = start(index.add, clustered(40, seed=3))
    assert waits(adding)
    later = [start(lambda: index.search(clustered(3), 5)), start(lambda: index.range_search(clustered(1), 3.0))]
    assert all(waits(read) for read in later) and len(index._gate.readers) == 1
    Mask.may.set()
    for a, b in zip(searching.result(LONG), wanted, strict=True):
        np.testing.assert_array_equal(a, b)
    adding.result(LONG)
    for read in later:
        read.result(LONG)
    assert len(index) == 640 and not index._gate.readers


@pytest.mark.skipif(kernels.selected() == kernels.GENERIC, reason="plain loops have no arguments seen before")
def test_a_step_waits_for_searches_whose_arguments_were_seen_before():
    """They take a way of their own, in which they are let in and out."""
    index, adding = ivf(), []
    wanted = index.search(clustered(3), 5)
    ((arguments, seen),) = index._seen.items()

    def answer(*told):
        adding.append(start(index.add, clustered(40, seed=3)))
        assert waits(adding[0])
        return seen.answer(*told)

    index._seen[arguments] = seen._replace(answer=answer)
    for a, b in zip(index.search(clustered(3), 5), wanted, strict=True):
        np.testing.assert_array_equal(a, b)
    adding[0].result(LONG)
    assert len(index) == 640 and not index._gate.readers


def test_a_stream_of_searches_does_not_hold_off_a_change():
    index, stop = ivf(), threading.Event()

    def stream():
        while not stop.is_set():
            index.search(clustered(3), 5)

    searches = [start(stream) for _ in range(4)]
    try:
        for i in range(30):
            start(index.add, clustered(3, seed=i)).result(LONG)
    finally:
        stop.set()
    for search in searches:
        search.result(LONG)
    assert len(index) == 690


# --- one state


CHANGES = 40


def script(index, number):
    """Change number `number` of a series, the same for equal indexes."""
    rng = np.random.default_rng(number)
    ids = rng.permutation(np.sort(index.ids))
    if number % 8 == 7:
        index.remove(ids[: 4 * len(ids) // 5])  # memory is given back
    elif number % 8 == 3 and isinstance(index, pi.IVFIndex):
        other = index.empty_like()
        other.add(clustered(300, seed=number), 10**6 * number + np.arange(300))
        index.merge(other)
    elif number == 17 and isinstance(index, pi.IVFIndex):
        index.rebalance()
    elif number == 21:
        index.add(clustered(5, seed=number), 2**33 + np.arange(5))
    elif number % 3 == 0:
        index.add(clustered(400, seed=number))
    elif number % 3 == 1:
        index.update(ids[:200], clustered(len(ids[:200]), seed=number))
    else:
        index.upsert(np.concatenate([ids[:50], 10**8 + 1000 * number + np.arange(50)]), clustered(100, seed=number))


def asked(index, number):
    """One of several questions, all of whose answers depend on every row; as bytes."""
    q, kind = clustered(4, seed=1), number % 6
    if kind == 0:
        found = index.search(q, 15, **({"nprobe": NLIST} if isinstance(index, pi.IVFIndex) else {}))
    elif kind == 1:
        found = index.search(q[0], 9)
    elif kind == 2:
        found = index.range_search(q[:2], 20.0)
    elif kind == 3:
        found = (np.sort(index.ids),)
    elif kind == 4:
        info = index.info()
        found = (np.array([info["n"], info["next_id"]]),)
    else:
        graph = index.knn_graph(3)
        found = (np.array([len(graph.indptr), graph.indptr[-1]]), np.sort(graph.distances))
    return kind, b"".join(np.ascontiguousarray(part).tobytes() for part in found)


@pytest.mark.parametrize("store", ["none", "float32"])
@pytest.mark.parametrize("maker", MAKERS)
def test_every_answer_is_that_of_one_state(maker, store):
    """A replay says what each state answers; threads must find one of the states that there were meanwhile."""
    replay, index = maker(300, store), maker(300, store)
    answers = []
    for number in range(CHANGES + 1):
        answers.append([asked(replay, kind)[1] for kind in range(6)])
        if number < CHANGES:
            script(replay, number)
    at, stop, seen = [0, 0], threading.Event(), [0] * 6  # at: the first and last state that may be found

    def read(number):
        while not stop.is_set():
            first = at[0]
            kind, found = asked(index, number)
            last = at[1]
            assert found in [answers[state][kind] for state in range(first, last + 1)], (kind, first, last)
            seen[kind] += 1
            number += 1

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(3) as pool:
            readers = [pool.submit(read, number) for number in range(3)]
            try:
                for number in range(CHANGES):
                    at[1] = number + 1
                    script(index, number)
                    at[0] = number + 1
            finally:
                stop.set()
            for reader in readers:
                reader.result(LONG)
    finally:
        sys.setswitchinterval(interval)
    assert min(seen) > 0
    assert [asked(index, kind)[1] for kind in range(6)] == answers[-1]


def test_changes_of_many_threads_come_one_after_the_other():
    index = ivf(0, store="float32")

    def change(number):
        ids = index.add(clustered(20, seed=number))
        index.update(ids[:5], clustered(5, seed=100 + number))
        assert index.remove(ids[:1]) == 1
        return ids

    with ThreadPoolExecutor(6) as pool:
        ids = list(pool.map(change, range(30)))
    assert sorted(np.concatenate(ids).tolist()) == list(range(600))
    assert len(index) == 570 and set(index.ids) == set(np.concatenate([part[1:] for part in ids]))
    for number, part in enumerate(ids):
        np.testing.assert_array_equal(index.reconstruct(part[1:5]), clustered(5, seed=100 + number)[1:])
        np.testing.assert_array_equal(index.reconstruct(part[5:]), clustered(20, seed=number)[5:])


def test_indexes_that_merge_into_each_other_do_not_wait_for_ever():
    one = ivf(0)
    other = one.empty_like()
    one.add(clustered(100), np.arange(100))
    other.add(clustered(100), 1000 + np.arange(100))

    def turns(index, rest):
        for _ in range(20):
            with pytest.raises(ValueError, match="which is in this index already"):
                index.merge(index)
            try:
                index.merge(rest)
            except ValueError:
                pass

    futures = [start(turns, one, other), start(turns, other, one)]
    for future in futures:
        future.result(LONG)
    assert {len(one), len(other)} == {200, 100} or len(one) == len(other) == 200


# --- from inside


@pytest.mark.parametrize("maker", MAKERS)
def test_a_callback_may_search_and_may_not_change(maker):
    index = maker()
    wanted = index.search(clustered(2), 4)[1]

    def search(done, total):
        np.testing.assert_array_equal(index.search(clustered(2), 4)[1], wanted)
        assert len(index.ids) == len(copy.copy(index)) == 600

    def change(done, total):
        index.add(clustered(1))

    index.knn_graph(3, progress=search)
    with pytest.raises(RuntimeError, match=r"add\(\) was called from inside knn_graph\(\)"):
        index.knn_graph(3, progress=change)
    if maker is ivf:
        index.rebalance(clustered(600), progress=lambda done, total: index.search(clustered(2), 4))
        with pytest.raises(RuntimeError, match=r"remove\(\) was called from inside rebalance\(\)"):
            index.rebalance(clustered(600), progress=lambda done, total: index.remove([0]))
    assert index.add(clustered(1)).tolist() == [600]

    class Changing:
        def __array__(self, dtype=None, copy=None):
            index.add(clustered(1))

    with pytest.raises(RuntimeError, match=r"add\(\) was called while the same thread searches"):
        index.search(clustered(2), 4, filter=Changing())
    assert index.remove([600]) == 1


# --- the gate


class Counter:
    """Two numbers that are equal between steps."""

    def __init__(self):
        self._gate, self.a, self.b = Gate(), 0, 0

    @reading
    def both(self):
        a = self.a
        time.sleep(0)
        return a, self.b

    @reading
    def twice(self):
        return self.both(), self.both()

    @keeping
    def long(self, work=lambda: None):
        first = self.both()
        work()
        return first, self.both()

    @changing
    def change(self, error=None):
        def step():
            self.a += 1
            time.sleep(0)
            if error:
                self.b = self.a
                raise error
            self.b += 1
            assert self.both() == (self.a, self.b)

        before = self.both()
        self._gate.alone(step)
        assert self.both() == (before[0] + 1,) * 2


def test_a_gate_lets_no_reader_see_half_a_step():
    counter, stop = Counter(), threading.Event()

    def read(i):
        while not stop.is_set():
            one, other = (counter.twice, counter.long)[i % 2]()
            assert one[0] == one[1] == other[0] == other[1]

    with ThreadPoolExecutor(6) as pool:
        readers = [pool.submit(read, i) for i in range(4)]
        writers = [pool.submit(lambda: [counter.change() for _ in range(200)]) for _ in range(2)]
        try:
            for writer in writers:
                writer.result(LONG)
        finally:
            stop.set()
        for reader in readers:
            reader.result(LONG)
    assert counter.both() == (400, 400)


def test_errors_give_everything_back():
    counter = Counter()
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            counter.change(ZeroDivisionError())
        with pytest.raises(KeyError):
            counter.long(lambda: {}[0])
    gate = counter._gate
    assert not gate.readers and gate.closed is None and gate.holder is None
    assert not gate.turnstile.locked() and gate.mutex.acquire(blocking=False)
    gate.mutex.release()
    assert start(counter.both).result(LONG) == (3, 3)
    start(counter.change).result(LONG)


def test_a_lost_word_of_a_reader_costs_a_moment():
    """Ctrl-C may come between a reader's leaving and its word."""
    counter = Counter()
    counter._gate.readers[-1] = None
    changing = start(counter.change)
    assert waits(changing)
    del counter._gate.readers[-1]
    changing.result(5)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers on this platform")
def test_ctrl_c_at_any_moment_leaves_no_lock_held():
    """Thousands of interrupts, microseconds after a reader, a long reader or a change has begun."""
    counter, gate, struck = Counter(), None, 0
    rng = np.random.default_rng(0)
    previous = signal.signal(signal.SIGALRM, lambda number, frame: signal.raise_signal(signal.SIGINT))
    try:
        for delay in rng.exponential(2e-5, 6000):
            method = (counter.both, counter.change, counter.long)[struck % 3]
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-6 + delay)
                for _ in range(20):
                    method()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                struck += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            gate = counter._gate
            assert not gate.readers and gate.holder is None and gate.closed is None and not gate.turnstile.locked()
            assert counter.a == counter.b
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert struck > 1000
    start(counter.change).result(LONG)  # another thread can take every lock


@signals
def test_waits_for_a_lock_end_by_ctrl_c():
    program = """
import os, signal, threading, time
import numpy as np, polarindex as pi
index = pi.FlatIndex(8)
index.add(np.eye(8))
for lock, call in (
    (index._gate.mutex, lambda: index.add(np.eye(8))),
    (index._gate.turnstile, lambda: index.add(np.eye(8))),
):
    may, held = threading.Event(), threading.Event()
    def hold():
        with lock:
            held.set()
            may.wait(60)
    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    threading.Timer(.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    try:
        call()
        raise SystemExit("it did not wait")
    except KeyboardInterrupt:
        pass
    may.set()
    thread.join()
    assert len(index) == 8 and not index._gate.readers
assert len(index.add(np.eye(8))) == 8
"""
    run(program)


def run(program):
    places = os.environ | {"PYTHONPATH": str(Path(pi.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", program], env=places, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr


# --- forks


def in_a_fork(work):
    """Whether some work is true in a forked child."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of any fork beside threads
        child = os.fork()
    if child == 0:
        code = 2
        try:
            signal.alarm(60)  # a deadlock ends here
            code = 0 if work() else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@forks
@pytest.mark.parametrize("maker", MAKERS)
def test_a_child_forked_beside_an_add_has_the_index_as_it_was(maker):
    """The add is reading its rows, another thread waits to change the index, and a third one searches."""
    index, wanted = maker(), maker()
    q = clustered(300, seed=4)
    before = index.search(q, 5, num_threads=2)
    wanted.add(clustered(70, seed=6))
    after = wanted.search(q, 5, num_threads=2)
    source, stop = Slow(clustered(9000, seed=2)), threading.Event()
    adding = start(index.add, source)
    assert source.asked.wait(LONG)
    waiting = start(index.remove, [3])

    def stream():
        while not stop.is_set():
            index.search(q, 5)

    def child():
        found = index.search(q, 5, num_threads=2)
        same = all((a == b).all() for a, b in zip(found, before, strict=True))
        index.add(clustered(70, seed=6))
        found = index.search(q, 5, num_threads=2)
        return same and all((a == b).all() for a, b in zip(found, after, strict=True)) and len(index) == 670

    searching = start(stream)
    try:
        for _ in range(5):
            assert in_a_fork(child)
    finally:
        stop.set()
        source.may.set()
    searching.result(LONG)
    adding.result(LONG)
    assert waiting.result(LONG) == 1 and len(index) == 9599


@forks
@pytest.mark.parametrize("maker", MAKERS)
def test_a_fork_waits_until_a_step_is_taken(maker, monkeypatch):
    index = maker()
    with held_step(index, monkeypatch) as (adding, go_on):
        threading.Timer(0.3, go_on.set).start()
        assert in_a_fork(lambda: len(index) == 650 and len(index.ids) == 650 and len(index.add(clustered(2))) == 2)
    assert len(index) == 650


@forks
def test_a_child_forked_from_a_callback_goes_on_with_it():
    index = ivf()
    children = []

    def fork(done, total):
        children.append(in_a_fork(lambda: len(index.search(clustered(2), 3)[1]) == 2 and len(copy.copy(index)) == 600))

    index.knn_graph(3, progress=fork)
    assert children == [True]


# --- copies


def contents(index):
    ids = np.sort(index.ids)
    return ids, index.reconstruct(ids), *index.search(clustered(5, 9), 8), index.info()["next_id"]


@pytest.mark.parametrize("store", ["none", "float32"])
@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("how", ["copy", "deepcopy", "pickle"])
def test_a_copy_is_an_index_of_its_own(maker, store, how):
    index = maker(store=store)
    index.remove(np.arange(0, 600, 7))
    index.search(clustered(5, 9), 8)
    make = {"copy": copy.copy, "deepcopy": copy.deepcopy, "pickle": lambda one: pickle.loads(pickle.dumps(one))}[how]
    other = make(index)
    before = contents(index)
    for a, b in zip(before, contents(other), strict=True):
        np.testing.assert_array_equal(a, b)
    assert other.parameters() == index.parameters() and other._gate is not index._gate
    for block in (other._arena if maker is flat else other._held.rows.arena).blocks:
        assert all(array.ctypes.data % LINE == 0 for array in block.values())
    other.remove(other.ids[:300])
    other.add(clustered(900, seed=3))
    other.upsert([1, 700], clustered(2, seed=8))
    for a, b in zip(before, contents(index), strict=True):
        np.testing.assert_array_equal(a, b)
    changed = contents(other)
    index.add(clustered(30, seed=2))
    index.remove(index.ids[::2])
    for a, b in zip(changed, contents(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("maker", MAKERS)
def test_copies_beside_changes_are_whole(maker):
    """Each is an index as it was between two changes of 50 rows."""
    index, stop = maker(0), threading.Event()

    def change():
        for i in range(40):
            index.add(clustered(50, seed=i))
            index.remove(np.arange(50 * i, 50 * i + 50, 2))
        stop.set()

    changing = start(change)
    sizes = set()
    while not stop.is_set():
        for make in (copy.copy, lambda one: pickle.loads(pickle.dumps(one))):
            other = make(index)
            ids = other.ids
            sizes.add(len(other))
            assert len(ids) == len(other) == other.info()["n"] and len(ids) % 25 == 0
            if len(ids):
                assert (other.search(clustered(4), len(ids))[1] >= -1).all()
                other.reconstruct(ids)
    changing.result(LONG)
    assert len(sizes) > 1


def test_a_spawned_process_searches_a_pickled_index(tmp_path):
    index = ivf(store="float32")
    wanted = index.search(clustered(6, 3), 5)
    program = tmp_path / "program.py"
    program.write_text(
        """
import multiprocessing, pickle, sys
import numpy as np
def search(index, q):
    index.add(q)
    return index.search(q, 5, num_threads=2)[1].tolist(), len(index)
if __name__ == "__main__":
    index, q = pickle.loads(open(sys.argv[1], "rb").read())
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        far = pool.apply(search, (index, q))
    assert far == search(index, q), far
    assert far[0][0][0] == 600 and far[1] == 606
""",
        encoding="utf-8",
    )
    file = tmp_path / "index.pickle"
    file.write_bytes(pickle.dumps((index, clustered(6, 3))))
    places = os.environ | {"PYTHONPATH": str(Path(pi.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, str(program), str(file)], env=places, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stderr
    for a, b in zip(index.search(clustered(6, 3), 5), wanted, strict=True):
        np.testing.assert_array_equal(a, b)
