"""A build that is killed at any moment goes on when it is given again, and ends with the same bytes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

import polarindex as pi
from polarindex.distributed import layout, work
from polarindex.distributed.build import build
from polarindex.errors import FormatError

OPTIONS = {"num_shards": 3, "nlist": 12, "threads": 1}
DISK = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.truncate"}


def killed_at(step: int, source: object, path: Path, **options) -> bool:
    """Build in a fork that is killed at its step-th touch of the disk; whether it was."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads, which hold nothing here
        child = os.fork()
    if child == 0:
        left = step

        def watch(event: str, arguments: tuple) -> None:
            nonlocal left
            if event in DISK and str(path) in str(arguments[0]):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        try:
            build(source, path, **options)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def check_killed_everywhere(every: int, source, x, folder: Path, contents, **options) -> int:
    """Kill a build at every so-manieth touch of the disk, let it go on, compare; how many times it was killed."""
    build(x, folder / "whole", **options)
    wanted, path, step = contents(folder / "whole"), folder / "killed", 1
    while killed_at(step, source, path, **options):
        if (path / layout.SHARDED).exists() and not (path / layout.BUILDING).exists():
            assert contents(path) == wanted  # killed when nothing was left to do
        else:
            if path.exists() and any(path.iterdir()) and not (path / layout.SHARDED).exists():
                with pytest.raises(FormatError, match="build is not done|is not a sharded"):
                    layout.read(path)
            build(source, path, **options)
            assert contents(path) == wanted
            assert not (path / layout.BUILDING).exists()
            for name in ("frame", *layout.read(path).shards):
                assert len(list((path / name).glob("segment-*"))) == 1
        shutil.rmtree(path)
        step += every
    return (step - 1) // every


@pytest.mark.skipif(os.name == "nt", reason="forks")
@pytest.mark.parametrize("kind", ["ivf", pytest.param("flat", marks=pytest.mark.slow)])
def test_a_build_killed_at_a_touch_of_the_disk_goes_on(kind, x, tmp_path, contents, short_ranges):
    np.save(tmp_path / "x.npy", x)
    options = {"num_shards": 3, "threads": 1, "kind": kind}
    assert check_killed_everywhere(13, tmp_path / "x.npy", x, tmp_path, contents, **options) > 10


@pytest.mark.soak
@pytest.mark.skipif("POLARINDEX_KILL_ALL" not in os.environ, reason="two minutes: POLARINDEX_KILL_ALL=1; forks")
@pytest.mark.parametrize(("kind", "source"), [("ivf", "file"), ("ivf", "ids"), ("flat", "matrix")])
def test_a_build_killed_at_every_touch_of_the_disk_goes_on(kind, source, x, tmp_path, contents, short_ranges):
    np.save(tmp_path / "x.npy", x)
    options = {"num_shards": 3, "threads": 1, "kind": kind}
    if source == "ids":
        options["ids"] = np.arange(len(x))[::-1] * 3
    given = tmp_path / "x.npy" if source == "file" else x
    assert check_killed_everywhere(1, given, x, tmp_path, contents, **options) > 130


PROGRAM = """
import sys
import numpy as np
from polarindex.distributed import build as building
from polarindex.distributed.build import build
building.RANGE_ROWS = 2000
if __name__ == "__main__":
    print("begun", flush=True)
    build(sys.argv[1], sys.argv[2], num_shards=3, nlist=64, threads=1, processes=int(sys.argv[3]))
"""


def kill_at_random(rounds: int, processes: int, folder: Path, contents, rng: np.random.Generator) -> int:
    """Builds in processes of their own, killed at random moments until one ends; how many kills there were."""
    x = rng.standard_normal((60_000, 16), np.float32)
    np.save(folder / "x.npy", x)
    (folder / "program.py").write_text(PROGRAM)
    build(folder / "x.npy", folder / "whole", num_shards=3, nlist=64, threads=1)
    wanted, kills = contents(folder / "whole"), 0
    environment = os.environ | {"PYTHONPATH": str(Path(pi.__file__).parents[1])}
    arguments = [folder / "program.py", folder / "x.npy", folder / "killed", processes]
    command = [sys.executable, *map(str, arguments)]
    for _ in range(rounds):
        longest = 0.5  # seconds; it grows, or a busy machine would never come to the end of a step
        while not (folder / "killed" / layout.SHARDED).exists():
            longest *= 1.2
            with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as child:
                child.stdout.readline()
                try:
                    child.wait(float(rng.uniform(0, longest)))
                except subprocess.TimeoutExpired:
                    child.kill()
                    kills += 1
        if (folder / "killed" / layout.BUILDING).exists():
            build(folder / "x.npy", folder / "killed", num_shards=3, nlist=64, threads=1)
        assert contents(folder / "killed") == wanted
        shutil.rmtree(folder / "killed")
    return kills


@pytest.mark.soak
@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
@pytest.mark.parametrize("processes", [1, 2])
def test_builds_killed_at_random_go_on(processes, tmp_path, contents, rng):
    assert kill_at_random(3, processes, tmp_path, contents, rng) > 3


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="reads /proc")
def test_workers_of_a_build_that_is_killed_end(tmp_path, rng):
    np.save(tmp_path / "x.npy", rng.standard_normal((60_000, 16), np.float32))
    (tmp_path / "program.py").write_text(PROGRAM)
    environment = os.environ | {"PYTHONPATH": str(Path(pi.__file__).parents[1])}
    command = [sys.executable, str(tmp_path / "program.py"), str(tmp_path / "x.npy"), str(tmp_path / "built"), "2"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as child:
        workers = wait_for(lambda: [one for one in children_of(child.pid) if "spawn_main" in command_of(one)])
        child.kill()
    assert workers
    wait_for(lambda: not any("spawn_main" in command_of(one) for one in workers))


def wait_for(found):
    """What a function finds within a minute, and fails if that is nothing."""
    for _ in range(600):
        if there := found():
            return there
        time.sleep(0.1)
    raise AssertionError("nothing came of it in a minute")


def children_of(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(entry.name))
        except OSError:  # it has ended meanwhile
            continue
    return found


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


# --- what is done is not done again


class Stopped(Exception):
    """The builder has had enough."""


def stop_at(what: str, done: int):
    def progress(now: int, total: int, stage: str) -> None:
        if stage == what and now >= done:
            raise Stopped

    return progress


def test_what_is_done_is_passed_over(x, tmp_path, monkeypatch, short_ranges):
    with pytest.raises(Stopped):
        build(x, tmp_path / "built", progress=stop_at("coding", 510), **OPTIONS)
    coded, learned = [], []
    code = work.Work.code
    monkeypatch.setattr(work.Work, "code", lambda self, number: coded.append(number) or code(self, number))
    monkeypatch.setattr(pi.IVFIndex, "fit", lambda *arguments, **options: learned.append(arguments))
    with pytest.raises(Stopped):
        build(x, tmp_path / "built", progress=stop_at("writing", 1), **OPTIONS)
    assert coded == [3, 4, 5] and learned == []
    shards = [shard for shard in range(3) if work.is_written(tmp_path / "built", shard)]
    assert shards == [0]
    wrote, write = [], work.Work.write
    monkeypatch.setattr(work.Work, "write", lambda self, shard: wrote.append(shard) or write(self, shard))
    build(x, tmp_path / "built", **OPTIONS)
    assert coded == [3, 4, 5] and wrote == [1, 2]


def test_memory_threads_and_processes_may_be_others(x, tmp_path, contents, short_ranges):
    np.save(tmp_path / "x.npy", x)
    build(tmp_path / "x.npy", tmp_path / "whole", **OPTIONS)
    with pytest.raises(Stopped):
        build(tmp_path / "x.npy", tmp_path / "built", progress=stop_at("coding", 510), **OPTIONS)
    build(tmp_path / "x.npy", tmp_path / "built", **{**OPTIONS, "memory": 2**29, "threads": 2, "processes": 2})
    assert contents(tmp_path / "built") == contents(tmp_path / "whole")


def test_less_memory_than_ranges_need_is_said(x, tmp_path, monkeypatch, short_ranges):
    with pytest.raises(Stopped):
        build(x, tmp_path / "built", progress=stop_at("coding", 170), **OPTIONS)
    monkeypatch.setattr(work, "room", lambda *arguments: 1000)
    with pytest.raises(ValueError, match="was begun with more memory: its ranges of 170 rows need"):
        build(x, tmp_path / "built", **OPTIONS)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"num_shards": 4}, "has a build that was begun with num_shards=3, not 4"),
        ({"nlist": 13}, "begun with nlist=12, not 13"),
        ({"nlist": "auto"}, "begun with nlist=12, not 'auto'"),
        ({"metric": "ip"}, "begun with metric='l2', not 'ip'"),
        ({"bits": 2}, "begun with bits=4, not 2"),
        ({"seed": 1}, "begun with seed=0, not 1"),
        ({"store": "int8"}, "begun with store='none', not 'int8'"),
        ({"scan_bits": 1}, "begun with scan_bits=None, not 1"),
        ({"ids": np.arange(1000)}, "begun with ids=None, not"),
    ],
)
def test_other_arguments_than_those_it_was_begun_with_are_said(changed, said, x, tmp_path, short_ranges):
    with pytest.raises(Stopped):
        build(x, tmp_path / "built", progress=stop_at("coding", 170), **OPTIONS)
    with pytest.raises(ValueError) as found:
        build(x, tmp_path / "built", **{**OPTIONS, **changed})
    assert said in str(found.value) and f"or remove {tmp_path / 'built'} to begin anew" in str(found.value)
    build(x, tmp_path / "built", **OPTIONS)


def test_a_source_that_has_changed_is_said(x, tmp_path, short_ranges):
    np.save(tmp_path / "a.npy", x[:400])
    np.save(tmp_path / "b.npy", x[400:])
    files = [tmp_path / "a.npy", tmp_path / "b.npy"]
    with pytest.raises(Stopped):
        build(files, tmp_path / "built", progress=stop_at("coding", 170), **OPTIONS)
    with pytest.raises(ValueError, match="whose source has changed"):
        build(files[::-1], tmp_path / "built", **OPTIONS)
    with pytest.raises(ValueError, match="whose source has changed: rows was 1000, is 400"):
        build(files[0], tmp_path / "built", **OPTIONS)
    with pytest.raises(ValueError, match="whose source has changed: files was"):
        build(x, tmp_path / "built", **OPTIONS)
    np.save(tmp_path / "b.npy", x[400:] + 1)
    os.utime(tmp_path / "b.npy", (1, 1))
    with pytest.raises(ValueError, match=r"whose source has changed: \S*b\.npy"):
        build(files, tmp_path / "built", **OPTIONS)


def test_a_matrix_that_has_changed_is_said(x, tmp_path, short_ranges):
    with pytest.raises(Stopped):
        build(x, tmp_path / "built", progress=stop_at("coding", 170), **OPTIONS)
    with pytest.raises(ValueError, match="whose source has changed: some_rows was"):
        build(x + 1, tmp_path / "built", **OPTIONS)


def test_a_matrix_that_has_changed_is_not_written_down_for_others(x, tmp_path, contents, short_ranges):
    build(x, tmp_path / "whole", **OPTIONS)
    with pytest.raises(Stopped):
        build(x, tmp_path / "built", progress=stop_at("coding", 170), **OPTIONS)
    with pytest.raises(ValueError, match="whose source has changed: some_rows was"):
        build(x + 1, tmp_path / "built", processes=2, **OPTIONS)
    build(x, tmp_path / "built", processes=2, **OPTIONS)
    assert contents(tmp_path / "built") == contents(tmp_path / "whole")


def test_rows_that_were_written_down_are_not_asked_for_again(x, tmp_path, contents, short_ranges):
    def never():
        raise AssertionError("the rows were asked for again")
        yield

    build(x, tmp_path / "whole", **OPTIONS)
    with pytest.raises(Stopped):
        build(iter([x[:600], x[600:]]), tmp_path / "built", progress=stop_at("coding", 170), **OPTIONS)
    build(never(), tmp_path / "built", **OPTIONS)
    assert contents(tmp_path / "built") == contents(tmp_path / "whole")


def test_rows_that_were_written_down_in_part_are_asked_for_again(x, tmp_path, contents, short_ranges):
    build(x, tmp_path / "whole", **OPTIONS)
    with pytest.raises(Stopped):
        build(iter([x[:600], x[600:]]), tmp_path / "built", progress=stop_at("writing down", 500), **OPTIONS)
    build(iter([x[:300], x[300:]]), tmp_path / "built", **OPTIONS)
    assert contents(tmp_path / "built") == contents(tmp_path / "whole")


def test_a_build_whose_end_was_cut_off_leaves_later_changes_alone(x, tmp_path, short_ranges):
    """Killed when sharded.json was there and what a build needs was not yet removed."""
    build(x, tmp_path / "whole", **OPTIONS)
    with pytest.raises(Stopped):
        build(x, tmp_path / "built", progress=stop_at("writing", 1000), **OPTIONS)
    layout.put(tmp_path / "built", layout.read(tmp_path / "whole"))
    with pi.open(tmp_path / "built" / "shard-00000") as shard:
        shard.remove(shard.ids[:1])
        left = len(shard)
    build(x, tmp_path / "built", **OPTIONS)
    assert len(pi.load(tmp_path / "built" / "shard-00000")) == left
    assert not (tmp_path / "built" / layout.BUILDING).exists()
