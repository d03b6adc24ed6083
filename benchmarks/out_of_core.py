"""Building out of core: time, peak memory and bytes of a sharded index of more vectors than its memory holds.

    python -m benchmarks.out_of_core FILE::PART [--rows 5000000] [--memory 600] [--shards 4] [--kills 2] [--threads N]
                                     [--folder FOLDER]

Writes out-of-core.json of this machine. The vectors are those of a set again and again, each with noise of its own, of
a tenth of the set's spread. One child process builds an index; its peak is VmHWM, the most that the system has seen
resident, with interpreter, compiled kernels and the pages of mapped files. A second index is built by children of
which the first are killed (SIGKILL), at moments that divide the first build's time evenly; its files must be those of
the first, to the byte. Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.kept import keep
from benchmarks.timing import machine
from polarindex.distributed import layout
from polarindex.indexes import manifest
from polarindex.sweep.files import PART, open_vectors

_BLOCK = 65_536  # rows that are made at a time
_GLANCE = 0.02  # seconds between two looks at a child

BUILD = """
import json, sys, time
from polarindex.distributed import ShardedIndex
source, path, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
stages = {}
def progress(done, total, what):
    stages.setdefault(what, [time.perf_counter()] * 2)[1] = time.perf_counter()
ShardedIndex.build(source, path, progress=progress, **options)
print(json.dumps({what: end - begin for what, (begin, end) in stages.items()}))
"""


def make_rows(name: str, rows: int, path: Path) -> None:
    """A .npy file of so many rows like those of a set."""
    file, _, part = name.partition(PART)
    given = np.asarray(open_vectors(file, part or None)[:], np.float32)
    noise, rng = np.float32(given.std() / 10), np.random.default_rng(0)
    with open(path, "wb") as out:
        np.lib.format.write_array_header_1_0(
            out, {"descr": "<f4", "fortran_order": False, "shape": (rows, given.shape[1])}
        )
        for start in range(0, rows, _BLOCK):
            x = given[np.arange(start, min(rows, start + _BLOCK)) % len(given)]
            out.write((x + noise * rng.standard_normal(x.shape, np.float32)).tobytes())


def build(source: Path, path: Path, options: dict[str, Any], seconds: float | None = None) -> dict[str, Any]:
    """Build in a child process, killed after so many seconds if told; its time, stages and peak of resident bytes."""
    began, peak = time.perf_counter(), 0
    arguments = [sys.executable, "-c", BUILD, str(source), str(path), json.dumps(options)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as child:
        while child.poll() is None:
            status = Path(f"/proc/{child.pid}/status").read_text(encoding="ascii")
            found = re.search(r"VmHWM:\s+(\d+) kB", status)
            peak = max(peak, 1024 * int(found[1]) if found else 0)
            if seconds is not None and time.perf_counter() - began > seconds:
                child.kill()
            time.sleep(_GLANCE)
        told = child.stdout.read() if child.stdout else ""
    if seconds is None and child.returncode:
        raise SystemExit(f"the build failed with exit code {child.returncode}")
    stages = json.loads(told) if told else {}
    return {
        "seconds": time.perf_counter() - began,
        "killed": child.returncode < 0,
        "peak_bytes": peak,
        "stages": stages,
    }


def files(path: Path) -> dict[str, Path]:
    """Every array of a sharded index by its place in it; segments have names by chance."""
    found, there = {}, layout.read(path)
    for folder in (there.frame, *there.shards):
        entry = manifest.segment(manifest.read(path / folder))
        names = [*entry["files"], "checksums.npy"]
        found |= {f"{folder}/{name}": path / folder / entry["name"] / name for name in names}
    return found


def same_bytes(first: Path, second: Path) -> bool:
    """Whether two files are equal, read some at a time."""
    with open(first, "rb") as one, open(second, "rb") as other:
        while True:
            left, right = one.read(1 << 24), other.read(1 << 24)
            if left != right:
                return False
            if not left:
                return True


def check_same(first: Path, second: Path) -> None:
    """SystemExit where two sharded indexes differ in a byte of any array, or in what their manifests say."""
    ours, theirs = files(first), files(second)
    differ = sorted(ours.keys() ^ theirs.keys())
    differ += [name for name in ours.keys() & theirs.keys() if not same_bytes(ours[name], theirs[name])]
    there = layout.read(first)
    for folder in (there.frame, *there.shards):
        one, other = (manifest.read(path / folder) for path in (first, second))
        differ += [f"{folder}: {key}" for key in ("kind", "parameters", "state", "layout") if one[key] != other[key]]
    if differ or layout.read(second) != there:
        raise SystemExit(f"the index that was killed differs: {', '.join(differ) or 'sharded.json'}")


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    source = folder / "vectors.npy"
    if not source.exists():
        make_rows(options.vectors, options.rows, source)
    load = os.getloadavg()[0]
    given = {"num_shards": options.shards, "memory": options.memory * 10**6, "threads": options.threads}
    whole = build(source, folder / "whole", given)
    print(f"built in {whole['seconds']:.0f} s, peak {whole['peak_bytes'] / 1e6:.0f} MB: {whole['stages']}", flush=True)
    runs = []
    for number in range(options.kills + 1):
        last = number == options.kills
        killed_at = None if last else whole["seconds"] / (options.kills + 1)
        runs.append(build(source, folder / "killed", given, killed_at))
        print(f"{runs[-1]}", flush=True)
        if not last and not runs[-1]["killed"]:
            raise SystemExit("the second build was done before it was killed: give more rows")
    check_same(folder / "whole", folder / "killed")
    size = sum(path.stat().st_size for path in files(folder / "whole").values())
    return {
        "command": "python -m benchmarks.out_of_core FILE::PART",
        "environment": machine(),
        "load": load,
        "threads": options.threads,
        "rows": options.rows,
        "source_bytes": source.stat().st_size,
        "index_bytes": size,
        "memory": options.memory * 10**6,
        "num_shards": options.shards,
        "whole": whole,
        "killed": runs,
        "equal_to_the_byte": True,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vectors", metavar="FILE::PART")
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--memory", type=int, default=600, help="MB of a process")
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--folder", type=Path, help="where files are made, and stay; not given: a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        result = measure(options, folder)
    keep("out-of-core", result)
    worst = max(run["peak_bytes"] for run in [result["whole"], *result["killed"]])
    print(f"equal to the byte; the highest peak was {worst / 1e6:.0f} MB of {options.memory}")


if __name__ == "__main__":
    main()
