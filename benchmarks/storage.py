"""Indexes on disk: opening, the first answer, saving, loading, and what a sync costs beside a bare one of the disk.

    python -m benchmarks.storage [--quick] [--folder FOLDER]

Writes storage.json of this machine. Random unit vectors in 128 dimensions, 4 bits, a million and 100,000; an
inverted file has 1,024 lists. Wall clock, medians; files are in the system's cache, as they are where a process begins
anew. FAISS's files have the same bits (PQ64x4fs); its write_index leaves them to the system's cache, so its files are
synced inside the time, as ours are.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import polarindex as pi
from benchmarks.kept import keep
from benchmarks.kernel_data import Floats, faiss_index, peer, queries, rows, turbovec_index
from benchmarks.timing import Cell, Skip, alternating, machine

DIM, BITS, NLIST, K = 128, 4, 1024, 10
CHANGED = 1000  # rows, for every sync
KINDS = "ivf", "flat"

Index = pi.FlatIndex | pi.IVFIndex


def made(kind: str, x: Floats) -> Index:
    index: Index = pi.FlatIndex(DIM, "ip", BITS)
    if kind == "ivf":
        index = pi.IVFIndex(DIM, "ip", BITS, nlist=NLIST).fit(x[:100_000])
    index.add(x)
    return index


def file_cells(kind: str, x: Floats, folder: Path, repeats: int) -> Iterator[Cell | Skip]:
    """Saving, loading, mapping, and the first answer of what was loaded or mapped."""
    q, what = queries(DIM)[:1], {"kind": kind, "rows": len(x)}
    index, path = made(kind, x), folder / f"{kind}-{len(x)}"
    calls: dict[tuple[str, str], Callable[[], object]] = {
        ("save", "polarindex"): partial(index.save, path),
        ("load", "polarindex"): partial(pi.load, path),
        ("map", "polarindex"): lambda: pi.load(path, mmap=True),
        ("map and answer", "polarindex"): lambda: pi.load(path, mmap=True).search(q, K),
    }
    calls |= faiss_calls(kind, x, folder / "faiss", q) if peer("faiss") else {}
    calls |= turbovec_calls(x, folder / "turbovec") if kind == "flat" and peer("turbovec") else {}
    for act in dict.fromkeys(act for act, _ in calls):
        mine = {who: call for (other, who), call in calls.items() if other == act}
        for who, times in alternating(mine, repeats, time.perf_counter).items():
            yield Cell(act, who, what, "ms", [1e3 * seconds for seconds in times])
    yield from (Skip("files", name, "not installed") for name in ("faiss", "turbovec") if peer(name) is None)


def faiss_calls(kind: str, x: Floats, path: Path, q: Floats) -> dict[tuple[str, str], Callable[[], object]]:
    faiss = peer("faiss")
    if kind == "flat":
        _, index = faiss_index(x, BITS)
    else:
        index = faiss.index_factory(DIM, f"IVF{NLIST},PQ{DIM // 2}x4fs", faiss.METRIC_INNER_PRODUCT)
        index.train(x[:100_000])
        index.add(x)

    def save() -> None:
        faiss.write_index(index, str(path))
        with open(path, "rb+") as file:
            os.fsync(file.fileno())

    def read(flags: int = 0) -> Any:
        return faiss.read_index(str(path), flags)

    calls: dict[tuple[str, str], Callable[[], object]] = {("save", "FAISS"): save, ("load", "FAISS"): read}
    if kind == "ivf":  # the only kind that it maps
        calls["map", "FAISS"] = partial(read, faiss.IO_FLAG_MMAP)
        calls["map and answer", "FAISS"] = lambda: read(faiss.IO_FLAG_MMAP).search(q, K)
    return calls


def turbovec_calls(x: Floats, path: Path) -> dict[tuple[str, str], Callable[[], object]]:
    index, turbovec = turbovec_index(x, BITS), peer("turbovec")
    return {
        ("save", "turbovec"): partial(index.write, str(path)),
        ("load", "turbovec"): partial(turbovec.TurboQuantIndex.load, str(path)),
    }


def sync_cell(kind: str, n: int, folder: Path, repeats: int) -> Cell:
    """A sync of so many changed rows, in turn with a bare one: 4 kB appended to a file."""
    x, rng = rows(n, DIM), np.random.default_rng(0)
    times: list[float] = []
    bare: list[float] = []
    with pi.open(folder / f"{kind}-{n}") as index, open(folder / "bare", "wb", buffering=0) as file:
        for turn in range(repeats + 1):  # the first builds the table of ids and begins the log: it does not count
            index.upsert(rng.choice(n, CHANGED, replace=False), x[turn * CHANGED : (turn + 1) * CHANGED])
            file.write(bytes(4096))
            start = time.perf_counter()
            os.fsync(file.fileno())
            between = time.perf_counter()
            index.sync()
            times.append(1e3 * (time.perf_counter() - between))
            bare.append(1e3 * (between - start))
        log = index.info()["log_bytes"] / index.info()["log_records"]
    facts = {"bare": float(np.median(bare[1:])), "bytes": log, "bare_times": bare[1:]}
    return Cell("sync", "polarindex", {"kind": kind, "rows": n, "changed": CHANGED}, "ms", times[1:], facts)


def measured(sizes: tuple[int, ...], folder: Path, repeats: int) -> Iterator[Cell | Skip]:
    for n in sizes:
        for kind in KINDS:
            yield from file_cells(kind, rows(n, DIM), folder, repeats)
            yield sync_cell(kind, n, folder, 5 * repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="little data: to see that it runs")
    parser.add_argument("--folder", type=Path, help="where files are written: on the disk that is to be measured")
    options = parser.parse_args()
    sizes, repeats = ((100_000,), 3) if options.quick else ((100_000, 1_000_000), 9)
    cells: list[dict[str, Any]] = []
    skipped: dict[str, str] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for found in measured(sizes, Path(folder), repeats):
            if isinstance(found, Skip):
                skipped[found.who] = found.why
                continue
            cells.append(found.as_dict())
            bare = f", a bare one {found.facts['bare']:.3g}" if found.facts else ""
            print(f"{found.suite:15} {found.who:12} {found.what}: {found.median:.4g} ms{bare}", flush=True)
    result = {
        "command": "python -m benchmarks.storage" + " --quick" * options.quick,
        "repeats": repeats,
        "environment": machine(),
        "cells": cells,
        "skipped": skipped,
    }
    if options.quick:
        print("not written: storage.json is for whole runs")
    else:
        keep("storage", result)


if __name__ == "__main__":
    main()
