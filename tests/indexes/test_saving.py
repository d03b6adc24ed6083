"""A save is whole or has not been, whatever fails in it, wherever it goes, and whoever else saves there."""

import builtins
import errno
import itertools
import mmap  # before a test is somebody who may not read the standard library  # noqa: F401
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest

import polarindex as pi
from polarindex.indexes import durable, lock, segment
from polarindex.indexes.lock import LOCK_FILES

DIM = 20


def rows(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, DIM)).astype(np.float32) + 1


def made(kind, n, seed=0):
    if kind == "flat":
        index = pi.FlatIndex(DIM, store="int8").fit(rows(100, seed))
    else:
        index = pi.IVFIndex(DIM, nlist=3).fit(rows(100, seed))
    index.add(rows(n, seed), ids=2 * np.arange(n) + 1)
    return index


def holds(path, index):
    """Whether the index at a path is this one: by its rows, as searches would compile."""
    found = pi.load(path)
    return len(found) == len(index) and np.array_equal(found.reconstruct(index.ids), index.reconstruct(index.ids))


def entries(folder):
    """What is in a folder, but the files of the lock, which stay."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.name not in LOCK_FILES)


def top(folder):
    """How many entries a folder has itself."""
    return len([name for name in entries(folder) if "/" not in name])


class Faults:
    """Counts the calls that change a disk, and makes the n-th fail, before or after it has done its work."""

    def __init__(self, patch, error, at, late):
        self.calls, self.reached, self._error, self._at, self._late = [], False, error, at, late
        for name in ("mkdir", "replace", "rename", "fsync", "open"):
            patch.setattr(os, name, self._faulty(name, getattr(os, name)))
        if hasattr(os, "fdatasync"):
            patch.setattr(os, "fdatasync", self._faulty("fsync", os.fdatasync))
        for module in (durable, lock, segment):
            patch.setattr(module, "open", self._open, raising=False)

    def _faulty(self, name, real):
        def call(*arguments, **named):
            failing = len(self.calls) == self._at
            self.calls.append(name)
            self.reached |= failing
            if failing and isinstance(self._error, OSError) and name not in ("write", "fsync"):
                self._error.filename = str(arguments[0])  # as the system tells it
            if failing and not self._late:
                raise self._error
            result = real(*arguments, **named)
            if failing:
                if name in ("open", "create"):
                    os.close(result) if name == "open" else result.close()
                raise self._error
            return result

        return call

    def _open(self, path, mode, **named):
        return _File(self._faulty("create", builtins.open)(path, mode, **named), self)


class _File:
    """A file whose writes may fail."""

    def __init__(self, file, faults):
        self._file = file
        self.write = faults._faulty("write", file.write)
        self.flush, self.fileno = file.flush, file.fileno

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()


ERRORS = {
    "full": lambda: OSError(errno.ENOSPC, "No space left on device"),
    "forbidden": lambda: PermissionError(errno.EPERM, "Operation not permitted"),
    "stopped": KeyboardInterrupt,
}


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("existing", [False, True])
def test_a_save_that_fails_at_any_call_leaves_one_index_whole_and_no_draft(
    tmp_path, monkeypatch, existing, error, late
):
    """At every call in turn, before it did its work and after."""
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, lambda handle: None, raising=False)  # slow, and of no use here
    old, new = made("ivf", 30, 1), made("ivf", 40, 2)
    old.save(tmp_path / "old")
    outcomes = set()
    for at in itertools.count():
        folder = tmp_path / str(at)
        folder.mkdir()
        if existing:
            shutil.copytree(tmp_path / "old", folder / "index")
        with pytest.MonkeyPatch.context() as patch:
            faults = Faults(patch, ERRORS[error](), at, late)
            try:
                new.save(folder / "index")
            except (OSError, KeyboardInterrupt) as caught:
                assert isinstance(caught, type(ERRORS[error]()))
                if isinstance(caught, OSError):
                    assert str(caught.filename).startswith(str(folder)) and str(caught.filename) in str(caught)
            else:
                if not faults.reached:  # every call has failed in its turn
                    break
                assert holds(folder / "index", new)  # what failed can be done without
        now = None
        if (folder / "index" / "manifest.json").exists():
            now = holds(folder / "index", new)
            assert now or (existing and holds(folder / "index", old))
        else:
            assert not existing and entries(folder) == []
        outcomes.add(now)
        if existing and not now:
            assert top(folder / "index") == 2
        new.save(folder / "index")  # and the next save clears what one left that failed after it had replaced
        assert holds(folder / "index", new)
        assert top(folder / "index") == 2
        assert [path.name for path in folder.iterdir()] == ["index"]
    assert {"mkdir", "create", "write", "fsync", "replace", "open"} <= set(faults.calls)
    assert outcomes >= ({True, False} if existing else {True, None})


def test_a_second_interrupt_while_a_save_cleans_up_leaves_the_old_index(tmp_path, monkeypatch):
    old, new = made("flat", 30, 1), made("flat", 40, 2)
    old.save(tmp_path / "index")
    monkeypatch.setattr(os, "replace", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
    monkeypatch.setattr(shutil, "rmtree", lambda *arguments, **named: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        new.save(tmp_path / "index")
    assert holds(tmp_path / "index", old)
    monkeypatch.undo()
    new.save(tmp_path / "index")
    assert holds(tmp_path / "index", new) and top(tmp_path / "index") == 2


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
@pytest.mark.parametrize("existing", [False, True])
def test_a_directory_that_may_not_be_written_is_named_and_left_alone(existing):
    folder = Path(tempfile.mkdtemp())
    index = made("flat", 10)
    if existing:
        index.save(folder / "index")
    os.chmod(folder, 0o555)
    for part in folder.rglob("*"):
        part.chmod(0o555)
    before, root = entries(folder), os.geteuid() == 0
    try:
        if root:
            os.seteuid(65534)  # root may write everything
        with pytest.raises(PermissionError, match="index"):
            index.save(folder / "index")
        assert entries(folder) == before
        if existing:  # and read-only media are read, mapped and searched, with changes kept in memory
            for mmap in (False, True):
                loaded = pi.load(folder / "index", mmap=mmap)
                loaded.remove([1, 3])
                loaded.add(rows(2))
                assert len(loaded) == 10 and pi.verify(folder / "index") == []
    finally:
        if root:
            os.seteuid(0)
        for part in (folder, *folder.rglob("*")):
            part.chmod(0o755)


@pytest.mark.parametrize(
    "name", ["a b", "índex-索引-🧭", "x" * 255, "-", "~", "%s{0}", " ", "index.npy", "segment-0123456789ab", "a\nb"]
)
def test_any_name_that_a_directory_can_have_will_do(tmp_path, monkeypatch, name):
    index = made("flat", 10)
    index.save(tmp_path / name)
    assert holds(tmp_path / name, index) and [path.name for path in tmp_path.iterdir()] == [name]
    index.save(str(tmp_path / name))
    monkeypatch.chdir(tmp_path / name)
    index.save(Path(os.pardir) / name)
    assert holds(".", index) and top(Path(".")) == 2


def test_a_relative_path_is_the_one_of_the_moment(tmp_path, monkeypatch):
    index = made("flat", 10)
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        monkeypatch.chdir(tmp_path / folder)
        index.save("deep/er")
    assert holds(tmp_path / "one" / "deep" / "er", index) and holds(tmp_path / "two" / "deep" / "er", index)


@pytest.mark.parametrize("bad", ["a\0b", 7, None, b"bytes"])
def test_what_is_no_path_is_an_error_and_changes_nothing(tmp_path, monkeypatch, bad):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((TypeError, ValueError)):
        made("flat", 3).save(bad)
    assert entries(tmp_path) == []


def test_links_to_directories_are_followed_and_stay(tmp_path):
    index = made("flat", 10)
    (tmp_path / "real").mkdir()
    for link, target in (("link", "real"), ("dangling", "absent")):
        (tmp_path / link).symlink_to(target, target_is_directory=True)
        for _ in range(2):
            index.save(tmp_path / link)
        assert (tmp_path / link).is_symlink() and holds(tmp_path / target, index)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="loop"):
        index.save(tmp_path / "loop")


def test_a_link_among_the_remains_of_a_save_is_removed_and_not_followed(tmp_path):
    index = made("flat", 10)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    index.save(tmp_path / "index")
    (tmp_path / "index" / "segment-0123456789ab").symlink_to(tmp_path / "mine", target_is_directory=True)
    index.save(tmp_path / "index")
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"
    assert top(tmp_path / "index") == 2 and holds(tmp_path / "index", index)


def test_a_parent_that_is_a_file_is_an_error_that_names_it(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="file"):
        made("flat", 3).save(tmp_path / "file" / "index")
    assert entries(tmp_path) == ["file"]


SAVER = """
import sys, numpy as np, polarindex as pi
path, number, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
index = pi.FlatIndex(20, seed=number, store="float32")
index.add(np.full((100 + number, 20), number, np.float32), ids=1000 * number + np.arange(100 + number))
print("ready", flush=True); sys.stdin.readline()
for _ in range(count):
    index.save(path)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no locks on directories")
def test_processes_that_save_to_one_path_take_turns(tmp_path):
    """Readers in the meantime always find one of the indexes, whole; there is none only at the beginning."""
    places = os.environ | {"PYTHONPATH": str(Path(pi.__file__).parents[1])}
    savers = [
        subprocess.Popen(
            [sys.executable, "-c", SAVER, str(tmp_path / "index"), str(number), "8"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=places,
        )
        for number in (1, 2, 3)
    ]
    for saver in savers:
        assert saver.stdout.readline() == b"ready\n"
    for saver in savers:
        saver.stdin.write(b"\n")
        saver.stdin.flush()
    seen = 0
    while any(saver.poll() is None for saver in savers):
        if (tmp_path / "index" / "manifest.json").exists():
            check_one_of_them(pi.load(tmp_path / "index"))
            seen += 1
    for saver in savers:
        saver.stdin.close()
        saver.stdout.close()
    assert [saver.returncode for saver in savers] == [0, 0, 0] and seen
    check_one_of_them(pi.load(tmp_path / "index"))
    assert top(tmp_path / "index") == 2


def check_one_of_them(index):
    assert len(index) == 100 + index.seed
    np.testing.assert_array_equal(np.sort(index.ids), 1000 * index.seed + np.arange(len(index)))
    assert (index.reconstruct(index.ids) == index.seed).all()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no locks on directories")
def test_a_directory_that_goes_while_its_turn_is_waited_for_is_made_again(tmp_path):
    """As when the first save of two fails, which removes what it made."""
    order = []
    inside, waiting = threading.Event(), threading.Event()

    def first():
        with pytest.raises(ZeroDivisionError), lock.turn_at(tmp_path / "new") as made:
            inside.set()
            waiting.wait(10)
            order.append(("first", made))
            raise ZeroDivisionError

    def second():
        waiting.set()
        with lock.turn_at(tmp_path / "new") as made:
            order.append(("second", made, (tmp_path / "new").is_dir()))

    threads = [threading.Thread(target=task) for task in (first, second)]
    threads[0].start()
    assert inside.wait(10)
    threads[1].start()
    for thread in threads:
        thread.join(20)
    assert order == [("first", True), ("second", True, True)]


def test_a_directory_that_goes_while_it_is_looked_at_is_made_again(tmp_path, monkeypatch):
    """It was there when it was to be made, and is not when it is asked whether it is a directory."""
    mkdir, calls = Path.mkdir, []

    def there_a_moment_ago(path, *arguments, **options):
        calls.append(path)
        if len(calls) == 1:
            raise FileExistsError(17, "File exists", str(path))
        return mkdir(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", there_a_moment_ago)
    with lock.turn_at(tmp_path / "new") as made:
        assert made and (tmp_path / "new").is_dir()
    assert len(calls) == 2
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError), lock.turn_at(tmp_path / "file"):
        pass


def test_who_saves_beside_one_who_has_it_open_is_told_so_and_does_not_wait(tmp_path):
    made("flat", 3).save(tmp_path / "index")
    opened = pi.open(tmp_path / "index")
    with pytest.raises(pi.LockedError, match=f"process {os.getpid()} on"):
        made("flat", 4).save(tmp_path / "index")
    opened.close()
    made("flat", 4).save(tmp_path / "index")
    assert len(pi.load(tmp_path / "index")) == 4


@pytest.mark.skipif(os.name == "nt", reason="Windows has no locks on directories")
def test_who_opens_waits_for_a_save(tmp_path):
    made("flat", 3).save(tmp_path / "index")
    found = []
    with lock.turn_at(tmp_path / "index"):
        opening = threading.Thread(target=lambda: found.append(len(pi.open(tmp_path / "index"))))
        opening.start()
        opening.join(0.2)
        assert opening.is_alive() and found == []
    opening.join(20)
    assert found == [3]


@pytest.mark.skipif(os.name == "nt", reason="forks")
def test_a_fork_beside_a_save_keeps_no_turn(tmp_path):
    with lock.turn_at(tmp_path / "index"):
        child = os.fork()
        if child == 0:
            signal.pause()
            os._exit(0)
    try:
        made("flat", 3).save(tmp_path / "index")  # would wait for the child to end
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.skipif(os.name == "nt", reason="Windows locks otherwise")
def test_where_no_file_can_be_locked_indexes_are_saved_and_not_opened_for_writing(tmp_path, monkeypatch):
    import fcntl

    def no_locks(*arguments):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    for n in (3, 4):
        made("flat", n).save(tmp_path / "index")
        assert len(pi.load(tmp_path / "index")) == n == len(pi.open(tmp_path / "index", read_only=True))
    with pytest.raises(OSError, match="not supported"):
        pi.open(tmp_path / "index")


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege, and there are no pipes in folders")
@pytest.mark.parametrize("name", LOCK_FILES)
@pytest.mark.parametrize("what", ["link", "dangling", "pipe", "folder"])
def test_what_stands_in_the_place_of_a_lock_file_is_not_followed_and_does_not_hang(tmp_path, name, what):
    made("flat", 3).save(tmp_path / "index")
    (tmp_path / "mine").write_text("mine")
    path = tmp_path / "index" / name
    {"link": lambda: path.symlink_to(tmp_path / "mine"), "dangling": lambda: path.symlink_to(tmp_path / "new"),
     "pipe": lambda: os.mkfifo(path), "folder": path.mkdir}[what]()  # fmt: skip
    for call in (lambda: pi.open(tmp_path / "index").close(), lambda: made("flat", 4).save(tmp_path / "index")):
        if name == "lock":
            with pytest.raises(pi.FormatError, match="lock is "):
                call()
        else:  # only told
            call()
    assert len(pi.load(tmp_path / "index")) == (3 if name == "lock" else 4)
    assert (tmp_path / "mine").read_text() == "mine" and not (tmp_path / "new").exists()


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege, and there are no pipes in folders")
@pytest.mark.parametrize("what", ["link", "pipe", "folder", "long", "lines"])
def test_who_holds_the_lock_is_told_as_far_as_it_can_be_read(tmp_path, what):
    made("flat", 3).save(tmp_path / "index")
    opened, path = pi.open(tmp_path / "index"), tmp_path / "index" / "lock-holder"
    path.unlink()
    {"link": lambda: path.symlink_to("/dev/zero"), "pipe": lambda: os.mkfifo(path), "folder": path.mkdir,
     "long": lambda: path.write_text("x" * 10_000), "lines": lambda: path.write_text("a\nb")}[what]()  # fmt: skip
    with pytest.raises(pi.LockedError, match="is being written by another writer; wait"):
        pi.open(tmp_path / "index")
    opened.close()
