"""Opened indexes: what was synced is there, whole, whatever fails; readers see what was synced and no more."""

import copy
import gc
import itertools
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import polarindex as pi
from polarindex.indexes import durable, log, manifest, reading, segment

DIM, NLIST = 20, 7
KINDS = ["flat", "ivf"]
kinds = pytest.mark.parametrize("kind", KINDS)


def rows(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, DIM)).astype(np.float32) + 1


def made(kind, n=100, **settings):
    """An index of n rows, whose inverted file has learned 7 lists."""
    if kind == "flat":
        index = pi.FlatIndex(DIM, **settings)
    else:
        index = pi.IVFIndex(DIM, nlist=NLIST, **settings).fit(rows(300, 9))
    index.add(rows(n))
    return index


@pytest.fixture
def saved(tmp_path, kind):
    """The directory of an index of 100 rows."""
    made(kind, store="float32").save(tmp_path / "index")
    return tmp_path / "index"


def same(one, other):
    """Equal to the bit in all that an index tells; a flat one also in the order of its rows."""
    assert type(one) is type(other) and one.parameters() == other.parameters()
    if one.kind == "flat":
        np.testing.assert_array_equal(one.ids, other.ids)
    ids = np.sort(one.ids)
    np.testing.assert_array_equal(ids, np.sort(other.ids))
    assert one._state()["next_id"] == other._state()["next_id"]
    np.testing.assert_array_equal(one.reconstruct(ids), other.reconstruct(ids))
    everywhere = {} if one.kind == "flat" else {"nprobe": NLIST}
    for arguments in ({}, {"filter": ids[::3]}, {"rerank": 0}):
        for a, b in zip(*(i.search(rows(3, 1), 7, **everywhere, **arguments) for i in (one, other)), strict=True):
            np.testing.assert_array_equal(a, b)


def changed(index, seed):
    """Every kind of change, under ids of both ways."""
    ids = np.sort(index.ids)
    index.add(rows(5, seed))
    index.remove(ids[[0, 4, 50]])
    index.update(ids[[1, 2]], rows(2, seed + 1))
    index.upsert([ids[3], 1000 + seed, 2**33 + seed], rows(3, seed + 2))
    index.remove(index.add(rows(2, seed + 3))[:1])


def contents(index):
    """What is under which id."""
    ids = np.sort(index.ids)
    return index._state()["next_id"], dict(zip(ids.tolist(), map(bytes, index.reconstruct(ids)), strict=True))


def names(folder):
    return sorted(path.name.partition("-")[0] for path in folder.iterdir() if path.name not in ("lock", "lock-holder"))


# --- what is durable


@kinds
@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("store", ["none", "float16", "int8"])
def test_what_was_synced_is_read_again_to_the_bit(tmp_path, kind, store, mmap):
    made(kind, store=store).save(tmp_path / "index")
    index = pi.open(tmp_path / "index", mmap=mmap)
    for seed in (10, 20, 30):
        changed(index, seed)
        index.sync()
        for other in (pi.load(tmp_path / "index"), pi.load(tmp_path / "index", mmap=True)):
            same(index, other)
    assert index.info()["log_records"] == 3
    index.compact()
    same(index, pi.load(tmp_path / "index"))
    assert names(tmp_path / "index") == ["manifest.json", "segment"] and index.info()["log_bytes"] == 0


@kinds
def test_what_was_not_synced_is_not_there(saved, kind):
    before = pi.load(saved)
    index = pi.open(saved)
    changed(index, 10)
    same(pi.load(saved), before)
    del index  # lets the lock go, as the end of the process would
    same(pi.open(saved), before)


@kinds
def test_a_sync_without_a_change_writes_nothing(saved, kind):
    index = pi.open(saved)
    before = {path: path.read_bytes() for path in saved.rglob("*") if path.is_file()}
    index.sync()
    index.compact()
    with pytest.raises(KeyError):
        index.remove([5, 10**7])
    index.remove([10**7], missing="ignore")
    index.add(rows(0))
    index.sync()
    assert {path: path.read_bytes() for path in saved.rglob("*") if path.is_file()} == before
    index.add(rows(1))
    index.sync()
    after = (saved / "manifest.json").read_bytes()
    index.sync()
    assert (saved / "manifest.json").read_bytes() == after != before[saved / "manifest.json"]


@kinds
def test_a_sync_costs_what_changed_and_not_what_is_there(tmp_path, kind):
    sizes = {}
    for n in (2000, 8000):
        made(kind, n).save(tmp_path / str(n))
        index = pi.open(tmp_path / str(n))
        for _ in range(2):
            before = index.info()["log_bytes"]
            index.remove(np.arange(10))
            index.upsert(np.arange(10), rows(10))
            index.sync()
            sizes[n] = index.info()["log_bytes"] - before
        assert len((tmp_path / str(n) / "manifest.json").read_bytes()) < 4000
    assert abs(sizes[2000] - sizes[8000]) < 10 and sizes[8000] < 3000  # numbers have more digits


def test_the_frozen_centre_of_a_flat_index_is_durable(tmp_path):
    """The rows before are coded anew: a record of the new ones would not tell of it."""
    made("flat", 1000).save(tmp_path / "index")
    index = pi.open(tmp_path / "index")
    index.add(rows(10, 1))
    index.sync()
    assert not index.info()["center_frozen"] and index.info()["log_records"] == 1
    index.add(rows(30, 2))
    assert index.info()["center_frozen"]
    index.sync()
    assert index.info()["log_records"] == 0
    same(index, pi.load(tmp_path / "index"))


def test_a_fitted_flat_index_is_durable(tmp_path):
    made("flat", 10).save(tmp_path / "index")
    index = pi.open(tmp_path / "index")
    index.fit(rows(50, 1))
    index.sync()
    same(index, pi.load(tmp_path / "index"))


def test_lists_of_an_inverted_file_are_durable(tmp_path):
    pi.IVFIndex(DIM, nlist=NLIST, store="float32").save(tmp_path / "index")
    index = pi.open(tmp_path / "index")
    reader = pi.open(tmp_path / "index", read_only=True)
    for change in (
        lambda: index.fit(rows(300)),
        lambda: index.add(rows(600, 1)),
        lambda: index.rebalance(nlist=5),
        lambda: index.remove(np.arange(400)),
    ):
        change()
        index.sync()
        assert reader.refresh()
        for other in (pi.load(tmp_path / "index"), reader):
            np.testing.assert_array_equal(index.centroids, other.centroids)
            same(index, other)


def test_what_tune_found_and_merged_rows_are_durable(tmp_path):
    made("ivf", 300, store="float32").save(tmp_path / "index")
    index = pi.open(tmp_path / "index")
    index.tune(rows(100, 3), 0.5)
    index.sync()
    assert index.info()["log_records"] == 1 and pi.load(tmp_path / "index")._default == index._default is not None
    other = index.empty_like()
    other.add(rows(20, 4), ids=np.arange(500, 520))
    index.merge(other)
    index.sync()
    assert index.info()["log_records"] == 2
    same(index, pi.load(tmp_path / "index"))


@kinds
def test_a_change_of_more_than_half_the_rows_is_a_new_segment(tmp_path, kind):
    made(kind, 3000).save(tmp_path / "index")
    index = pi.open(tmp_path / "index")
    index.add(rows(4096, 1))
    index.sync()
    assert index.info()["log_records"] == 1
    index.add(rows(7096, 2))
    index.sync()
    assert index.info()["log_records"] == 2
    index.add(rows(14_194, 3))
    index.sync()
    assert index.info()["log_records"] == 0
    same(index, pi.load(tmp_path / "index"))


@kinds
def test_rows_that_change_again_and_again_are_written_once(saved, kind):
    index = pi.open(saved)
    for seed in range(300):
        index.update(np.arange(40), rows(40, seed))
    assert sum(map(len, index._changes._parts)) < 300 * 40
    index.sync()
    assert index.info()["log_bytes"] < 40 * index.bytes_per_vector + 40 * (8 + 4 * DIM) + 2000
    same(index, pi.load(saved))


# --- what fails


class Faults:
    """Calls that reach the disk, of which one fails before it is done, or when half of a write or all else is."""

    def __init__(self, monkeypatch):
        self.calls, self.at, self.when, self.error = 0, None, "before", None
        for name in ("fsync", "fdatasync"):  # the disk's time is not the matter here
            monkeypatch.setattr(os, name, self.failing(lambda handle: None), raising=False)
        for owner, name in [
            (os, "replace"),
            (os, "truncate"),
            (Path, "mkdir"),
            (Path, "unlink"),
            (shutil, "rmtree"),
        ]:
            monkeypatch.setattr(owner, name, self.failing(getattr(owner, name)))
        for module in (log, segment, durable):
            monkeypatch.setattr(module, "open", self.opened, raising=False)
        real = reading.open_for_change
        monkeypatch.setattr(reading, "open_for_change", lambda path: File(real(path), self))

    def failing(self, real):
        def call(*arguments, **options):
            fails = self.fails()
            if fails and self.when == "before":
                raise self.error
            result = real(*arguments, **options)
            if fails:
                raise self.error
            return result

        return call

    def fails(self):
        self.calls += 1
        return self.calls - 1 == self.at

    def opened(self, path, mode="r", **options):
        file = open(path, mode, **options)
        return file if mode == "rb" else File(file, self)

    def begin(self, at, when, error):
        self.calls, self.at, self.when, self.error = 0, at, when, error

    def end(self):
        """Whether the call was reached."""
        reached, self.at, self.error = self.calls > self.at, None, None
        return reached


class File:
    """A file whose writes may fail."""

    def __init__(self, file, faults):
        self._file, self._faults = file, faults

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()

    def write(self, data):
        if self._faults.fails():
            self._file.write(data[: len(data) // 2 * (self._faults.when == "half")])
            self._file.flush()
            raise self._faults.error
        return self._file.write(data)

    def writelines(self, parts):
        for part in parts:
            self.write(part)


def left_by_a_crash(folder):
    """The index, as a crash at this moment may leave it: what lies beyond the log's length is anything."""
    yield pi.load(folder)
    length = manifest.read(folder).get("log", {}).get("bytes", 0)
    for path in folder.glob("log-*"):
        before = path.read_bytes()
        for tail in (b"", b"\0" * 5000, b"polarlog"):
            path.write_bytes(before[:length] + tail)
            yield pi.load(folder)
        path.write_bytes(before)


@pytest.mark.parametrize("act", ["sync", "first sync", "compact"])
@kinds
def test_whatever_fails_the_old_state_or_the_new_one_is_there_and_the_next_sync_mends_it(
    tmp_path, monkeypatch, kind, act
):
    """Every write, sync, rename and removal fails in turn: the disk is full, or Ctrl-C comes."""
    base, folder = tmp_path / "base", tmp_path / "index"
    made(kind, 60, store="float32").save(base)
    if act != "first sync":
        with pi.open(base) as index:
            index.add(rows(3, 40))
    old, new = pi.load(base), pi.load(base)
    changed(new, 50)
    faults, reached = Faults(monkeypatch), dict.fromkeys(("before", "half"), 0)
    for when in reached:
        for at in itertools.count():
            shutil.copytree(base, folder)
            index = pi.open(folder)
            changed(index, 50)
            faults.begin(at, when, [KeyboardInterrupt, OSError(28, "No space left on device")][at % 2])
            try:
                index.compact() if act == "compact" else index.sync()
            except (KeyboardInterrupt, OSError) as error:
                assert isinstance(error, KeyboardInterrupt) or "in memory only" in str(error)
                reached[when] += 1
            failed = faults.end()
            for found in left_by_a_crash(folder):
                assert contents(found) == contents(old if len(found) == len(old) else new)
            assert contents(index) == contents(new) != contents(old)
            index.sync()
            assert contents(pi.load(folder)) == contents(new)
            del index
            same(pi.open(folder), new)
            assert names(folder) in (["manifest.json", "segment"], ["log", "manifest.json", "segment"])
            shutil.rmtree(folder)
            if not failed:
                break
    assert all(count >= (10 if act == "compact" else 7) for count in reached.values())


@kinds
def test_bytes_are_on_the_disk_before_anything_names_them(saved, kind, monkeypatch):
    """What a crash of the system may undo is what was not synced: the order is all that there is against it."""
    events, index = [], pi.open(saved)

    def noted(owner, name, of):
        real = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a: (real(*a), events.append(of(*a)))[0])

    noted(durable, "sync", lambda file: Path(file.name).name.rpartition(".json.")[0] or Path(file.name).name)
    noted(durable, "sync_directory", lambda folder: f"{folder.name}/")
    noted(os, "replace", lambda source, target: "replace")
    swapped = [".manifest", "replace", "index/"]
    for number in range(2):
        index.add(rows(1))
        index.sync()
        (name,) = (path.name for path in saved.glob("log-*"))
        assert events == [name, *["index/"] * (number == 0), *swapped]
        events.clear()
    index.compact()
    (segment_folder,) = saved.glob("segment-*")
    files = {path.name for path in segment_folder.iterdir()}
    assert set(events[: len(files)]) == files
    assert events[len(files) :] == [f"{segment_folder.name}/", "index/", *swapped]


@kinds
def test_a_disk_that_is_full_says_so_and_takes_the_changes_when_there_is_room(saved, kind, monkeypatch):
    index = pi.open(saved)
    changed(index, 10)
    with monkeypatch.context() as patch:
        Faults(patch).begin(0, "half", OSError(28, "No space left on device", str(saved / "log")))
        with pytest.raises(OSError, match="No space left on device; what changed since the last sync of .*index"):
            index.close()
    same(pi.open(saved, read_only=True), pi.load(saved))
    index.close()
    same(pi.load(saved), index)


@kinds
def test_ctrl_c_while_rows_change_leaves_nothing_out(saved, kind, monkeypatch):
    """Where it comes when rows have changed, they are noted: the next sync has them."""
    index = pi.open(saved)

    def then_interrupted(real):
        def call(*arguments):
            real(*arguments)
            raise KeyboardInterrupt

        return call

    with monkeypatch.context() as patch:
        for step in {"_commit", "_exchange"} & set(dir(index)):
            patch.setattr(type(index), step, then_interrupted(getattr(type(index), step)))
        for change in (lambda: index.add(rows(3)), lambda: index.upsert([2, 500], rows(2, 1))):
            with pytest.raises(KeyboardInterrupt):
                change()
    index.sync()
    if kind == "ivf":
        same(pi.load(saved), index)
    else:  # the updated row of a flat index comes after the new one
        assert contents(pi.load(saved)) == contents(index)


@pytest.mark.soak
@kinds
def test_a_writer_killed_at_random_loses_nothing(kind):
    """The program's own 500 rounds are for a change of what is written: docs/durability.md."""
    program = Path(__file__).parents[1] / "kill.py"
    places = {"PYTHONPATH": str(Path(pi.__file__).parents[1])}
    command = [sys.executable, str(program), "--kind", kind, "--rounds", "40", "--seed", "1"]
    done = subprocess.run(command, env=os.environ | places, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "40 rounds" in done.stdout and "nothing lost" in done.stdout


# --- readers


@kinds
@pytest.mark.parametrize("mmap", [False, True])
def test_a_reader_sees_what_was_synced_when_it_looks_and_not_before(saved, kind, mmap):
    writer, reader = pi.open(saved), pi.open(saved, read_only=True, mmap=mmap)
    kept, allowed = pi.load(saved), pi.IdFilter(range(0, 120, 3))
    for seed in (10, 20, 30):
        reader.search(rows(2), 3, filter=allowed)  # what is remembered for a filter must not outlive a refresh
        changed(writer, seed)
        assert reader.refresh() is False
        writer.sync() if seed != 20 else writer.compact()
        same(reader, kept)
        assert reader.refresh() is True and reader.refresh() is False and writer.refresh() is False
        same(reader, writer)
        everywhere = {} if kind == "flat" else {"nprobe": NLIST}
        found = [index.search(rows(2), 3, filter=allowed, **everywhere)[1] for index in (reader, writer)]
        np.testing.assert_array_equal(*found)
        kept = pi.load(saved)
    changed(writer, 40)
    writer.close()
    assert reader.refresh()
    same(reader, writer)


@kinds
def test_a_reader_may_look_after_any_number_of_syncs_and_compactions(saved, kind):
    writer, reader = pi.open(saved), pi.open(saved, read_only=True)
    for seed, act in enumerate(("sync", "sync", "compact", "sync", "compact", "compact", "sync")):
        changed(writer, 10 * seed)
        getattr(writer, act)()
    assert reader.refresh()
    same(reader, writer)
    assert reader.info()["log_records"] == writer.info()["log_records"] == 1


@kinds
def test_a_reader_changes_and_writes_nothing(saved, kind):
    before = names(saved)
    with pi.open(saved, read_only=True) as index:
        old = contents(index)
        changes = [
            lambda: index.add(rows(1)),
            lambda: index.update([1], rows(1)),
            lambda: index.upsert([1], rows(1)),
            lambda: index.remove([1]),
            lambda: index.fit(rows(100)),
            index.sync,
            index.compact,
            lambda: index.save(saved),
        ]
        if kind == "ivf":
            changes += [index.rebalance, lambda: index.tune(rows(100)), lambda: index.merge(index.empty_like())]
        for change in changes:
            with pytest.raises(RuntimeError, match="read_only=True"):
                change()
        assert contents(index) == old and index.info()["read_only"] is True
    assert names(saved) == before and not (saved / "lock").exists()
    with pytest.raises(RuntimeError, match="is closed"):
        index.refresh()


@kinds
def test_a_reader_goes_on_when_files_vanish_under_it(saved, kind, monkeypatch):
    """A compaction comes between its look at the manifest and its look at the log, or at the segment."""
    writer, reader = pi.open(saved), pi.open(saved, read_only=True)
    for looked_at, module in (("checked", log), ("stored_sums", reading), ("checked", log)):
        real = getattr(module, looked_at)

        def compacted(*arguments, real=real):
            monkeypatch.undo()
            changed(writer, int(np.max(writer.ids)) + 10)
            writer.compact()
            return real(*arguments)

        changed(writer, int(np.max(writer.ids)) + 10)
        writer.compact() if looked_at == "stored_sums" else writer.sync()
        monkeypatch.setattr(module, looked_at, compacted)
        assert reader.refresh()
        assert not reader.refresh()
        same(reader, writer)


def test_a_reader_of_another_index_than_before_is_told(tmp_path):
    made("flat").save(tmp_path / "index")
    reader = pi.open(tmp_path / "index", read_only=True)
    for other in (made("ivf"), made("flat", metric="ip")):
        other.save(tmp_path / "index")
        with pytest.raises(pi.FormatError, match="another index now"):
            reader.refresh()
    made("flat", 30).save(tmp_path / "index")
    assert reader.refresh() and len(reader) == 30


# --- threads


LONG = 60  # seconds: something is wrong
SHORT = 0.15  # in which what is not held back would be done


class Slow:
    """Vectors that are not read before they may be."""

    dtype = np.dtype(np.float32)

    def __init__(self, x):
        self.x, self.shape = x, x.shape
        self.asked, self.may = threading.Event(), threading.Event()

    def __getitem__(self, part):
        self.asked.set()
        assert self.may.wait(LONG)
        return self.x[part]


@kinds
@pytest.mark.parametrize("act", ["sync", "compact", "close"])
def test_what_is_written_has_a_change_whole_or_not_at_all(saved, kind, act):
    index, source = pi.open(saved), Slow(rows(9000, 2))
    index.remove([3])
    with ThreadPoolExecutor(2) as pool:
        adding = pool.submit(index.add, source)
        assert source.asked.wait(LONG)
        writing = pool.submit(getattr(index, act))
        time.sleep(SHORT)
        assert not writing.done() and len(pi.load(saved)) == 100 and len(index.search(rows(1), 3)[1]) == 1
        source.may.set()
        adding.result(LONG)
        writing.result(LONG)
    assert contents(pi.load(saved)) == contents(index) and len(index) == 9099


@kinds
def test_many_threads_change_an_index_while_one_syncs_it(saved, kind):
    index, reader, seen = pi.open(saved), pi.open(saved, read_only=True), set()

    def change(number):
        for i in range(6):
            time.sleep(0.01)  # locks are not fair
            ids = 1000 * (number + 1) + 100 * i + np.arange(50)
            index.add(rows(50, number), ids=ids)
            index.remove(ids[:20])

    def search():
        everywhere = {} if kind == "flat" else {"nprobe": NLIST}
        while not done.is_set():
            assert (reader.search(rows(100)[:9], 1, **everywhere)[1][:, 0] == np.arange(9)).all()

    done = threading.Event()
    with ThreadPoolExecutor(4) as pool:
        changing = [pool.submit(change, number) for number in range(3)]
        searching = pool.submit(search)
        while not all(task.done() for task in changing):
            index.compact() if len(seen) % 5 == 4 else index.sync()
            reader.refresh()
            found = pi.load(saved)
            assert contents(found) == contents(reader) and len(found) % 10 == 0
            seen.add(len(found))
        done.set()
        for task in (*changing, searching):
            task.result(LONG)
    index.sync()
    assert len(index) == 640 and contents(pi.load(saved)) == contents(index) and len(seen) > 1


@kinds
@pytest.mark.parametrize("act", ["sync", "compact"])
def test_a_refresh_holds_searches_up_only_for_what_takes_a_record_over(saved, kind, act, monkeypatch):
    writer, reader = pi.open(saved), pi.open(saved, read_only=True)
    changed(writer, 10)
    getattr(writer, act)()
    reading_now, may, steps = threading.Event(), threading.Event(), []
    looked_at, module = ("records", log) if act == "sync" else ("Segment", reading)
    real, alone = getattr(module, looked_at), reader._gate.alone

    def slow(*arguments):
        reading_now.set()
        assert may.wait(LONG)
        return real(*arguments)

    monkeypatch.setattr(module, looked_at, slow)
    monkeypatch.setattr(reader._gate, "alone", lambda step: (steps.append(len(reader)), alone(step))[1])
    with ThreadPoolExecutor(1) as pool:
        refreshing = pool.submit(reader.refresh)
        assert reading_now.wait(LONG)
        assert len(reader.search(rows(2), 3)[1]) == 2 and len(reader.ids) == 100 and steps == []
        may.set()
        assert refreshing.result(LONG)
    same(reader, writer)
    assert steps[0] == 100  # rows, as they are before the first step


@kinds
def test_a_callback_may_not_sync_the_index_that_is_changing(saved, kind):
    index = pi.open(saved)

    class Syncing:
        dtype, shape = np.dtype(np.float32), (3, DIM)

        def __getitem__(self, part):
            index.sync()

    with pytest.raises(RuntimeError, match=r"sync\(\) was called from inside add\(\)"):
        index.add(Syncing())
    index.add(rows(1))
    index.sync()
    assert len(pi.load(saved)) == 101


# --- one writer


@kinds
def test_a_second_writer_is_refused_by_name_until_the_first_closes(saved, kind):
    first = pi.open(saved)
    for second in (lambda: pi.open(saved), lambda: made(kind).save(saved)):
        with pytest.raises(pi.LockedError, match=f"index is being written by process {os.getpid()} on "):
            second()
    first.add(rows(1))
    first.sync()
    first.close()
    first.close()
    with pi.open(saved) as second, pytest.raises(pi.LockedError):
        same(second, first)
        pi.open(saved)
    made(kind).save(saved)


@kinds
def test_a_writer_that_only_waits_for_the_collector_keeps_nobody_out(saved, kind):
    gc.collect()
    gc.disable()
    try:
        circle: list[object] = [pi.open(saved)]
        circle.append(circle)
        del circle
        pi.open(saved).close()
    finally:
        gc.enable()


def test_a_writer_that_was_killed_holds_no_lock(tmp_path):
    made("flat").save(tmp_path / "index")
    program = "import os, sys, polarindex as pi; i = pi.open(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    places = {"PYTHONPATH": str(Path(pi.__file__).parents[1])}
    command = [sys.executable, "-c", program, str(tmp_path / "index")]
    with subprocess.Popen(command, env=os.environ | places, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(pi.LockedError, match=f"process {other.pid} on"):
            pi.open(tmp_path / "index")
        assert len(pi.open(tmp_path / "index", read_only=True)) == 100
        other.kill()
        other.wait()
        pi.open(tmp_path / "index").close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_of_the_writer_cannot_write(tmp_path):
    made("flat").save(tmp_path / "index")
    index = pi.open(tmp_path / "index")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of any fork beside threads
        child = os.fork()
    if child == 0:
        refused = 0
        for change in (index.sync, index.close, lambda: index.add(rows(1))):
            try:
                change()
            except RuntimeError as error:
                refused += "this is a fork of it" in str(error)
        os._exit(refused)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    with pytest.raises(pi.LockedError):
        pi.open(tmp_path / "index")
    index.add(rows(1))
    index.close()
    assert len(pi.load(tmp_path / "index")) == 101


@kinds
def test_a_directory_that_others_wrote_meanwhile_is_not_written(saved, kind):
    """Where a file system has no working locks, or somebody copies files over it."""
    index = pi.open(saved)
    index.add(rows(2))
    made(kind, 50).save(saved.parent / "other")
    shutil.copytree(saved.parent / "other", saved, dirs_exist_ok=True)
    with pytest.raises(pi.FormatError, match="was changed by another program"):
        index.sync()
    assert len(pi.load(saved)) == 50


# --- in and out


@kinds
def test_an_index_that_was_not_opened_says_what_to_do(saved, kind):
    with pi.open(saved) as opened:
        pass
    copies = pickle.loads(pickle.dumps(pi.open(saved))), copy.deepcopy(pi.open(saved, read_only=True))
    for index in (made(kind), pi.load(saved), *copies):
        for call in (index.sync, index.refresh, index.compact, index.close, index.__enter__):
            with pytest.raises(RuntimeError, match=r"open it with polarindex.open, or save\(path\)"):
                call()
        index.add(rows(1))
        assert "log_bytes" not in index.info()
    for call in (opened.sync, opened.refresh, opened.compact, lambda: opened.add(rows(1)), lambda: opened.save(saved)):
        with pytest.raises(RuntimeError, match="is closed"):
            call()
    assert len(opened.search(rows(1), 3)[0]) == 1


@kinds
def test_leaving_the_context_syncs_and_leaving_it_by_an_error_does_not(saved, kind):
    with pi.open(saved) as index:
        index.add(rows(1))
    assert len(pi.load(saved)) == 101
    with pytest.raises(ZeroDivisionError), pi.open(saved) as index:
        index.add(rows(1))
        index.sync()
        index.add(rows(1))
        1 / 0  # noqa: B018
    assert len(pi.load(saved)) == 102
    pi.open(saved).close()


@kinds
def test_saving_an_opened_index_to_its_place_compacts_it_and_elsewhere_copies_it(saved, kind, monkeypatch):
    index = pi.open(saved)
    changed(index, 10)
    index.sync()
    index.save(saved.parent / "copy")
    assert index.info()["log_records"] == 1
    monkeypatch.chdir(saved)
    index.save(".")
    assert index.info()["log_records"] == 0 and "log" not in names(saved)
    changed(index, 20)
    index.sync()
    same(pi.load("."), index)
    assert len(pi.load(saved.parent / "copy")) == 105 == len(index) - 5


@kinds
def test_info_tells_of_the_log_and_when_to_compact(saved, kind):
    index = pi.open(saved)
    found = index.info()
    assert (found["path"], found["read_only"], found["log_bytes"], found["compact_advised"]) == (
        str(saved), False, 0, False,
    )
    while not index.info()["compact_advised"]:
        index.update(np.arange(30), rows(30))
        index.upsert([0], rows(1, index.info()["log_records"]))
        index.sync()
    held = sum(path.stat().st_size for path in saved.glob("segment-*/*") if path.name != "checksums.npy")
    assert index.info()["log_bytes"] == next(saved.glob("log-*")).stat().st_size > held
    index.compact()
    assert not index.info()["compact_advised"]


@kinds
def test_remains_of_crashes_go_when_a_writer_opens(saved, kind):
    (saved / "segment-0123456789ab").mkdir()
    (saved / "segment-0123456789ab" / "rows.npy").write_text("half")
    for name in ("log-0123456789ab", ".manifest.json.12345678"):
        (saved / name).write_text("{")
    pi.open(saved, read_only=True)
    assert len(names(saved)) == 5
    pi.open(saved)
    assert names(saved) == ["manifest.json", "segment"]


def test_what_is_no_index_is_not_opened_and_gets_no_lock(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    for read_only in (False, True):
        with pytest.raises(pi.FormatError, match="no manifest"):
            pi.open(tmp_path / "notes", read_only=read_only)
        with pytest.raises(FileNotFoundError, match="no index here"):
            pi.open(tmp_path / "nowhere", read_only=read_only)
    assert [path.name for path in (tmp_path / "notes").iterdir()] == ["mine.txt"]
    with pytest.raises(TypeError, match="read_only must be True or False, got 1"):
        pi.open(tmp_path / "notes", read_only=1)


# --- versions


DATA = Path(__file__).parents[1] / "data"


@kinds
@pytest.mark.parametrize("mmap", [False, True])
def test_an_index_of_version_1_goes_on_as_version_2_until_it_is_compacted(tmp_path, kind, mmap):
    shutil.copytree(DATA / f"format-1-{kind}", tmp_path / "index")
    index = pi.open(tmp_path / "index", mmap=mmap)
    index.add(rows(3))
    assert manifest.read(tmp_path / "index")["version"] == 1
    index.sync()
    assert manifest.read(tmp_path / "index")["version"] == 2
    assert contents(pi.load(tmp_path / "index", mmap=mmap)) == contents(index)
    index.compact()
    assert manifest.read(tmp_path / "index")["version"] == 1


def test_a_log_in_a_manifest_of_version_1_is_no_index(tmp_path):
    made("flat").save(tmp_path / "index")
    with pi.open(tmp_path / "index") as index:
        index.add(rows(1))
    path = tmp_path / "index" / "manifest.json"
    entries = json.loads(path.read_text())
    for change in ({"version": 1}, {"log": None}, {"log": {**entries["log"], "name": "../log-0123456789ab"}}):
        path.write_text(json.dumps(manifest.sealed({**entries, **change})))
        with pytest.raises(pi.FormatError, match="does not describe an index"):
            pi.load(tmp_path / "index")
