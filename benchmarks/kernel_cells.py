"""What is measured of the kernels, suite by suite; docs/benchmarks.md says how to read it.

A suite is a function of SUITES that yields a Cell for every contender at every setting, and a Skip for what cannot be
measured here. To add one, write it and give it a row of SUITES, and a table in kernel_tables.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

import polarindex as pi
from benchmarks.kernel_data import Floats, Setup, asking, faiss_index, index, ours, peer, queries, rows, turbovec_index
from benchmarks.kernel_peak import dot_call, read_calls
from benchmarks.timing import Cell, Skip, alternating
from polarindex import kernels
from polarindex.kernels.simd import SETS
from polarindex.sweep.dataset import load_dataset
from polarindex.sweep.groundtruth import exact_neighbors
from polarindex.sweep.metrics import overlap_at
from polarindex.vectors import unit_rows

Found = Iterator[Cell | Skip]
BITS = (1, 2, 3, 4, 8)
BATCHES = (64, 8, 1)
PEER_BATCHES = (64, 32, 16, 8, 4, 1)
FEW = 16  # queries timed together where batches are small, up to 8
K = 64
LEVEL = "FAISS_SIMD_LEVEL"
PEERS = ("turbovec", "faiss")


def timed(
    suite: str, what: dict[str, Any], calls: Mapping[str, Callable[[], object]], count: int, repeats: int
) -> list[Cell]:
    """A cell of milliseconds a query for each of several calls that answer `count` queries."""
    return against_ours(
        [
            Cell(suite, who, what, "ms a query", [1e3 * t / count for t in times])
            for who, times in alternating(calls, repeats).items()
        ]
    )


def against_ours(cells: list[Cell]) -> list[Cell]:
    """Cells of times, those of peers with how many times faster the first is, which is ours."""
    for cell in cells[1:]:
        if cell.who in PEERS or cell.who.startswith("FAISS"):
            cell.facts.update(our_speedup=cell.median / cells[0].median)
    return cells


def some(q: Floats, batch: int) -> Floats:
    """The queries that are asked in batches of a size."""
    return q[:FEW] if batch <= 8 else q


# --- ceilings


@lru_cache(maxsize=1)
def ceilings(setup: Setup) -> tuple[Cell, ...]:
    """Multiply-adds of each instruction set and bytes read, G a second."""
    found = []
    dots = {name: dot_call(name, 2e9 if setup.quick else 2e10) for name in SETS if name in kernels.available()}
    work = {name: count for name, (_, count) in dots.items()}
    for name, times in alternating({name: call for name, (call, _) in dots.items()}, setup.repeats).items():
        found.append(Cell("peak", "dots", {"isa": name}, "G multiply-adds/s", [work[name] / t / 1e9 for t in times]))
    calls, nbytes = read_calls(kernels.selected(), 100_000_000 if setup.quick else 400_000_000)
    for name, times in alternating(calls, setup.repeats).items():
        found.append(Cell("peak", "reads", {"variant": name}, "GB/s", [nbytes / t / 1e9 for t in times]))
    return tuple(found)


def peak(setup: Setup) -> Found:
    yield from ceilings(setup)


def ceiling(setup: Setup, name: str | None = None) -> float | None:
    """The multiply-adds of an instruction set, None where there are no registers; without a name, the bytes read."""
    cells = [cell.median for cell in ceilings(setup) if (cell.what.get("isa") == name if name else cell.who == "reads")]
    return max(cells, default=None)


# --- the full scan


def scan(setup: Setup) -> Found:
    """All codes scored in full, with every instruction set but plain loops, which take an hour."""
    for n, d in setup.shapes:
        for bits in BITS:
            for batch in BATCHES:
                yield from scan_cells(setup, n, d, bits, batch)


def scan_cells(setup: Setup, n: int, d: int, bits: int, batch: int) -> Found:
    q = some(queries(d), batch)
    call = asking(ours(index(n, d, bits), K, exact_scan=True), q, batch)
    calls = {name: within(name, call) for name in kernels.available() if name != kernels.GENERIC}
    read = ceiling(setup)
    for name, times in alternating(calls, setup.repeats).items():
        cell = Cell(
            "scan",
            "polarindex",
            {"n": n, "d": d, "bits": bits, "batch": batch, "k": K, "isa": name},
            "ms a query",
            [1e3 * t / len(q) for t in times],
        )
        macs = n * d / cell.median / 1e6
        codes = n * d * bits / 8 / (cell.median * batch) / 1e6  # read once a batch
        top = ceiling(setup, name)
        cell.facts.update(gmacs=macs, of_peak=macs / top if top else None)
        cell.facts.update(code_gbs=codes, of_read=codes / read if read else None)
        yield cell


def within(name: str, call: Callable[[], object]) -> Callable[[], object]:
    def run() -> None:
        with kernels.using(name):
            call()

    return run


# --- beside peers


def plan(setup: Setup) -> Found:
    """The plan that search takes by itself, beside turbovec and FAISS's fast scans."""
    for name in PEERS:
        if peer(name) is None:
            yield Skip("plan", name, "not installed")
    for n, d in setup.shapes:
        for bits in (1, 2, 3, 4):
            yield from plan_cells(setup, n, d, bits)


def plan_cells(setup: Setup, n: int, d: int, bits: int) -> Found:
    rivals = {}
    if bits > 1 and peer("turbovec"):
        rivals["turbovec"] = turbovec_index(rows(n, d), bits)
    if bits == 1 and peer("faiss") and not hasattr(peer("faiss"), "IndexRaBitQFastScan"):
        yield Skip("plan", "faiss", "this version has no RaBitQFastScan")
    elif bits != 3 and peer("faiss"):
        name, made = faiss_index(rows(n, d), bits)
        rivals[name] = made
    for batch in PEER_BATCHES:
        q = some(queries(d), batch)
        calls = {"polarindex": asking(ours(index(n, d, bits), K), q, batch)}
        for name, rival in rivals.items():
            if name == "turbovec" or batch == 64:
                calls[name] = asking(partial(rival.search, k=K), q, batch)
        what = {"n": n, "d": d, "bits": bits, "batch": batch, "k": K}
        if len(calls) > 1 or batch in BATCHES:
            for cell in timed("plan", what, calls, len(q), setup.repeats):
                if cell.who.startswith("FAISS"):
                    cell.facts.update(simd=peer("faiss").SIMDConfig.get_level_name())
                yield cell


def avx2(setup: Setup) -> Found:
    """AVX2 against FAISS's AVX2, in a process of its own: FAISS reads its level when it is imported."""
    if "avx2" not in kernels.available():
        yield Skip("avx2", "polarindex", "this machine has no AVX2")
    elif peer("faiss") is None:
        yield Skip("avx2", "faiss", "not installed")
    elif os.environ.get(LEVEL) == "AVX2":
        n, d = setup.shapes[0]
        _, made = faiss_index(rows(n, d), 4)
        who = f"FAISS PQFastScan ({peer('faiss').SIMDConfig.get_level_name()})"
        q = queries(d)
        calls = {
            "polarindex": within("avx2", asking(ours(index(n, d, 4), K), q, len(q))),
            who: asking(partial(made.search, k=K), q, len(q)),
        }
        what = {"n": n, "d": d, "bits": 4, "batch": len(q), "k": K, "isa": "avx2"}
        yield from timed("avx2", what, calls, len(q), setup.repeats)
    else:
        yield from child("avx2", setup)


def child(suite: str, setup: Setup) -> Found:
    """A suite's cells from a process that starts with FAISS held to AVX2."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "cells.json"
        command = [sys.executable, "-m", "benchmarks.kernels", "--only", suite, "--out", str(out)]
        command += ["--quick"] * setup.quick
        done = subprocess.run(command, env={**os.environ, LEVEL: "AVX2"}, capture_output=True, text=True)
        if done.returncode:
            yield Skip(suite, "polarindex", f"the process ended with {done.returncode}: {done.stderr[-200:]}")
            return
        for cell in json.loads(out.read_text())["cells"]:
            what = {key: cell[key] for key in ("n", "d", "bits", "batch", "k", "isa")}
            facts = {key: cell[key] for key in ("our_speedup",) if key in cell}
            yield Cell(suite, cell["who"], what, cell["unit"], cell["times"], facts)


def data(setup: Setup) -> Found:
    """Real embeddings, where neighbours are near: time and recall."""
    if not setup.data:
        yield Skip("data", "polarindex", "no --data file given")
    elif peer("turbovec") is None:
        yield Skip("data", "turbovec", "not installed")
    for path in setup.data:
        yield from data_cells(setup, path)


def data_cells(setup: Setup, path: Path) -> Found:
    held = load_dataset(path, rows=setup.shapes[0][0] if setup.quick else None, queries=1000)
    x, q = held.train.astype(np.float32), held.test.astype(np.float32)
    if held.metric == "cosine":
        x, q = unit_rows(x, "train"), unit_rows(q, "test")
    truth = exact_neighbors(x, q, 10, "ip" if held.metric == "cosine" else held.metric)[0]
    rival = peer("turbovec") if held.metric == "cosine" else None
    if rival is None and peer("turbovec"):
        yield Skip("data", "turbovec", f"{path.stem}: turbovec has inner products only, this is {held.metric}")
    spare = -x.shape[1] % 8  # turbovec wants a multiple of 8; zeros change no inner product
    for bits in (4, 2):
        made = pi.FlatIndex(x.shape[1], held.metric, bits)
        made.add(x)
        searches = {"polarindex": ours(made, 10), "polarindex, full scan": ours(made, 10, exact_scan=True)}
        if rival:
            other = turbovec_index(np.pad(x, ((0, 0), (0, spare))), bits)
            searches["turbovec"] = partial(other.search, k=10)
        asked = {who: np.pad(q, ((0, 0), (0, spare))) if who == "turbovec" else q for who in searches}
        recall = {who: overlap_at(search(asked[who])[1], truth, 10) for who, search in searches.items()}
        for batch, count in ((64, 256), (1, 64)):
            calls = {who: asking(search, asked[who][:count], batch) for who, search in searches.items()}
            what = {"data": path.stem, "metric": held.metric, "n": len(x), "d": x.shape[1], "bits": bits}
            for cell in timed("data", what | {"batch": batch, "k": 10}, calls, count, setup.repeats):
                cell.facts.update(recall_10=recall[cell.who])
                if cell.who == "polarindex":
                    cell.facts.update(recall_10_less_full_scan=recall[cell.who] - recall["polarindex, full scan"])
                yield cell


def add(setup: Setup) -> Found:
    """Vectors coded and stored, a second."""
    if peer("turbovec") is None:
        yield Skip("add", "turbovec", "not installed")
    n = 10_240 if setup.quick else 102_400
    for d in (1536, 128):
        x = rows(n, d)
        for bits in (4, 1, 2, 8):
            calls: dict[str, Callable[[], object]] = {"polarindex": partial(coded, x, bits)}
            if bits in (2, 4) and peer("turbovec"):
                calls["turbovec"] = partial(turbovec_index, x, bits)
            found = alternating(calls, setup.repeats)
            for who, times in found.items():
                cell = Cell("add", who, {"n": n, "d": d, "bits": bits}, "vectors/s", [n / t for t in times])
                if who != "polarindex":
                    cell.facts.update(our_speedup=np.median(times) / np.median(found["polarindex"]))
                yield cell


def coded(x: Floats, bits: int) -> None:
    pi.FlatIndex(x.shape[1], "ip", bits).add(x)


# --- the library around the kernels


def call(setup: Setup) -> Found:
    """What a search costs where there is next to nothing to scan: wall clock."""
    n, d = 1000, 128
    x, q = rows(n, d), queries(d)[:1]
    made = pi.FlatIndex(d, "ip")
    made.add(x)
    calls: dict[str, Callable[[], object]] = {"polarindex": lambda: made.search(q, 10)}
    if peer("turbovec"):
        other = turbovec_index(x, 4)
        calls["turbovec"] = lambda: other.search(q, 10)
    else:
        yield Skip("call", "turbovec", "not installed")
    repeats = 200 if setup.quick else 2000
    what = {"n": n, "d": d, "bits": 4, "batch": 1, "k": 10}
    found = alternating(calls, repeats, time.perf_counter)
    yield from against_ours(
        [Cell("call", who, what, "us a call", [1e6 * t for t in times]) for who, times in found.items()]
    )


def threads(setup: Setup) -> Found:
    """A large batch on one thread and on two: wall clock."""
    n, d = 10_240 if setup.quick else 102_400, 384
    q = queries(d, 1000)
    for exact in (False, True):
        search = partial(index(n, d, 4).search, q, 10, exact_scan=exact)
        calls = {str(count): partial(search, num_threads=count) for count in (1, 2)}
        found = alternating(calls, setup.repeats, time.perf_counter)
        what = {"n": n, "d": d, "bits": 4, "batch": len(q), "k": 10, "plan": plan_name(exact)}
        cells = [
            Cell("threads", count, what, "ms a query", [1e3 * t / len(q) for t in times])
            for count, times in found.items()
        ]
        yield from relative(named(cells, "threads", int))


def k(setup: Setup) -> Found:
    """More results a query."""
    n, d = setup.shapes[0]
    q = queries(d)
    for bits in (4, 2):
        for exact in (False, True):
            calls = {
                str(k): asking(ours(index(n, d, bits), k, exact_scan=exact), q, len(q)) for k in (10, 100, 1000, 10_000)
            }
            what = {"n": n, "d": d, "bits": bits, "batch": len(q), "plan": plan_name(exact)}
            yield from relative(named(timed("k", what, calls, len(q), setup.repeats), "k", int))


def filters(setup: Setup) -> Found:
    """Masks that allow a few rows, together or scattered."""
    n, d = setup.shapes[0]
    together = np.zeros(n, bool)
    together[n // 2 : n // 2 + n // 10] = True
    scattered = np.random.default_rng(2).random(n) < 0.01
    masks = {"none": None, "10 % in one run": together, "1 % at random": scattered}
    for batch in (64, 1):
        q = some(queries(d), batch)
        for exact in (False, True):
            calls = {
                name: asking(ours(index(n, d, 4), 10, filter=mask, exact_scan=exact), q, batch)
                for name, mask in masks.items()
            }
            what = {"n": n, "d": d, "bits": 4, "batch": batch, "k": 10, "plan": plan_name(exact)}
            yield from relative(named(timed("filter", what, calls, len(q), setup.repeats), "filter", str))


def plan_name(exact: bool) -> str:
    return "full scan" if exact else "default"


def named(cells: list[Cell], key: str, kind: Callable[[str], Any]) -> list[Cell]:
    """Cells of one contender whose name is a setting."""
    return [Cell(c.suite, "polarindex", c.what | {key: kind(c.who)}, c.unit, c.times) for c in cells]


def relative(cells: list[Cell]) -> list[Cell]:
    """Cells with their time in those of the first."""
    for cell in cells:
        cell.facts.update(relative=cell.median / cells[0].median)
    return cells


SUITES: dict[str, Callable[[Setup], Found]] = {
    "peak": peak,
    "scan": scan,
    "plan": plan,
    "avx2": avx2,
    "data": data,
    "add": add,
    "call": call,
    "threads": threads,
    "k": k,
    "filter": filters,
}
