"""polarindex build --shards: a sharded index, errors in one line, and what Ctrl-C leaves."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import polarindex as pi
from polarindex.cli.shards import bytes_of
from polarindex.distributed import layout
from polarindex.distributed.build import build

COMMAND = [sys.executable, "-m", "polarindex"]




def test_files_become_a_sharded_index(call, file, x, tmp_path):
    done = call("build", file, "-o", tmp_path / "out", "--shards", 3, "--index", "ivf", "--nlist", 4, "--json")
    assert done.json["n"] == len(x) and done.json["num_shards"] == 3 and done.json["nlist"] == 4
    assert done.json["bytes_on_disk"] > 0 and done.err == ""
    build(x, tmp_path / "wanted", num_shards=3, kind="ivf", nlist=4)
    for name in layout.read(tmp_path / "out").shards:
        mine, theirs = pi.load(tmp_path / "out" / name), pi.load(tmp_path / "wanted" / name)
        assert np.array_equal(mine.ids, theirs.ids)
        assert np.array_equal(mine.reconstruct(mine.ids), theirs.reconstruct(mine.ids))
    assert "3 shards, 60 vectors" in call("build", file, "-o", tmp_path / "flat", "--shards", 3).out


def test_shards_may_have_spectral_codes(call, rng, tmp_path):
    np.save(tmp_path / "x.npy", (rng.standard_normal((2000, 48)) / np.arange(1, 49)).astype(np.float32))
    how = "--shards", 2, "--index", "ivf", "--nlist", 8, "--codes", "spectral", "--bits", 1.5, "--json"
    told = call("build", tmp_path / "x.npy", "-o", tmp_path / "out", *how).json
    assert (told["codes"], told["bits"], told["n"]) == ("spectral", 1.5, 2000)


def test_ids_are_a_column(call, file, tmp_path):
    ids = np.arange(60) * 7
    np.save(tmp_path / "ids.npy", ids)
    call("build", file, "-o", tmp_path / "out", "--shards", 2, "--ids", tmp_path / "ids.npy")
    there = layout.read(tmp_path / "out")
    found = np.concatenate([pi.load(tmp_path / "out" / name).ids for name in there.shards])
    assert np.array_equal(np.sort(found), ids)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--shards", 0], "num_shards must be from 1 to 65536, got 0"),
        (["--shards", 2, "--memory", "much"], "--memory must be a number of bytes such as 600MB or 4GiB, got 'much'"),
        (["--shards", 2, "--memory", "90MB"], "memory=90,000,000 bytes are too few"),
        (["--shards", 2, "--keys", "name"], "--keys is not for an index in shards"),
        (["--shards", 2, "--spill", 0.5], "--spill is not for an index in shards"),
        (["--shards", 2, "--train", 0], "--train is not for an index in shards"),
        (["--shards", 2, "--overwrite"], "--overwrite is not for an index in shards"),
        (["--shards", 2, "--nlist", 4], "nlist and scan_bits are of an inverted file"),
        (["--shards", 2, "--engine", "spark"], "engine must be one of"),
        (["--memory", "1GB"], "--memory is of an index in shards; give --shards too"),
        (["--processes", 2], "--processes is of an index in shards; give --shards too"),
    ],
)
def test_errors_are_one_line(call, file, tmp_path, options, said):
    done = call("build", file, "-o", tmp_path / "out", *options, code=2)
    assert said in done.err and done.err.startswith("error: ") and done.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_stdin_is_refused(call, tmp_path):
    done = call("build", "-", "-o", tmp_path / "out", "--shards", 2, code=2, stdin=b"")
    assert "stdin can be read once" in done.err


def test_ids_that_are_strings_are_refused(call, file, tmp_path):
    (tmp_path / "names.txt").write_text("".join(f"{number}\n" for number in range(60)))
    done = call("build", file, "-o", tmp_path / "out", "--shards", 2, "--ids", tmp_path / "names.txt", code=2)
    assert "--ids must be whole numbers for an index in shards" in done.err


def test_ctrl_c_says_how_to_go_on_and_the_same_command_does(process, tmp_path, rng):
    np.save(tmp_path / "large.npy", rng.standard_normal((300_000, 32), np.float32))
    how = ["--shards", "2", "--index", "ivf", "--nlist", "200"]
    command = ["build", tmp_path / "large.npy", "-o", tmp_path / "out", *how]
    with subprocess.Popen([*COMMAND, *map(str, command)], stderr=subprocess.PIPE, text=True) as child:
        while not (tmp_path / "out" / "frame" / "manifest.json").exists():
            assert child.poll() is None
            time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        told = child.communicate(timeout=60)[1]
    assert child.returncode == 130
    assert f"interrupted: {tmp_path / 'out'} has what is built so far; give the same command again to go on" in told
    done = process("info", tmp_path / "out")
    assert done.returncode == 2 and b"a sharded index whose build is not done: give the same build again" in done.stderr
    done = process(*command)
    assert done.returncode == 0 and b"2 shards, 300,000 vectors" in done.stdout


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("600MB", 600 * 10**6), ("4GiB", 2**32), ("1.5g", 15 * 10**8), ("2 KiB", 2048), ("123", 123), ("9kb", 9000)],
)
def test_memory_is_told_as_people_do(text, wanted):
    assert bytes_of(text) == wanted
