"""Recall of flat codes at equal bytes a row: ours beside every peer's, each at its best.

    python -m benchmarks.equal_bytes --data FOLDER [--sets glove,sift] [--engines 'spectral;OPQ'] [--again]

Files in FOLDER are those of benchmarks/published.py; the first 60,000 rows and 1,000 queries are used. Writes
equal-bytes.json of this machine. What the file has already is kept, and measured anew with --again or where it failed:
the program may be stopped, and asked for some engines only.

Law:       an engine has a process and one thread of its own; of those that are not the same twice, ours by their seeds
           and rabitqlib, means of --seeds are kept. Training that takes more CPU time than --minutes is stopped, and
           said to be.
Not here:  which codes (equal_plans.py), what they are asked with (equal_engines.py), the table (equal_tables.py)."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from datetime import datetime, timezone
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import published
from benchmarks.equal_engines import ENGINES
from benchmarks.equal_plans import cells, plans
from benchmarks.kept import keep, place
from polarindex.bench.data import K, Source, load
from polarindex.bench.plans import Plan
from polarindex.bench.result import machine, rounded
from polarindex.bench.threads import one_thread
from polarindex.bench.worker import clocked
from polarindex.sweep.metrics import overlap_with_interval

NAME = "equal-bytes"
ROWS, QUERIES = 60_000, 1_000
PACKAGES = ("llvmlite", *dict.fromkeys(engine.package for engine in ENGINES.values()))

Row = dict[str, Any]


# --- in a process of its own


def measured(plan: Plan, source: Source, seeds: int, seconds: int) -> Row:
    """Recall, bytes and CPU seconds of an engine."""
    data = load(source)
    found: list[tuple[float, ...]] = []
    times: list[tuple[float, float]] = []
    for seed in range(seeds if plan.library in ("polarindex", "rabitqlib") else 1):
        own = {"seed": seed} if plan.library == "polarindex" else {}
        engine: Any = ENGINES[plan.library](data.x.shape[1], data.metric, **plan.build, **own)
        x, q = engine.rows(data.x), engine.rows(data.q)
        with no_longer_than(seconds):
            train = clocked(engine.train, x)[0]
        times.append((train, clocked(engine.add, x)[0]))
        for setting in plan.settings:
            engine.set(setting)
        found.append(tuple(overlap_with_interval(engine.many(q), data.true, K)))
    recall, low, high = np.mean(found, axis=0)
    train, add = np.median(times, axis=0)
    spread = np.std([mean for mean, *_ in found])
    facts = {"recall": recall, "low": low, "high": high, "deviation": spread, "train_s": train, "add_s": add}
    return {
        "bytes": engine.row_bytes,
        **({"bits": engine.bits} if plan.library == "polarindex" else {}),
        "runs": len(found),
        **{key: rounded(float(value)) for key, value in facts.items()},
    }


@contextmanager
def no_longer_than(seconds: int) -> Iterator[None]:
    """End the process by SIGXCPU once it takes more CPU time: nothing else stops a library that is training."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + 1 + seconds, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def child(pipe: Connection, plan: Plan, source: Source, seeds: int, seconds: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        pipe.send(measured(plan, source, seeds, seconds))
    except Exception as error:  # whatever a library raises is a result, too
        pipe.send({"why": f"{type(error).__name__}: {error}"})


# --- in the program


def row(plan: Plan, source: Source, seeds: int, minutes: int) -> Row:
    """What became of a plan, whatever became of its process."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=child, args=(theirs, plan, source, seeds, 60 * minutes), daemon=True)
    process.start()
    theirs.close()  # so that the child's death ends our waiting
    try:
        found: Row = ours.recv()
    except EOFError:
        process.join()
        late = process.exitcode == -signal.SIGXCPU
        found = {"minutes": minutes} if late else {"why": f"the process died, exit code {process.exitcode}"}
    process.join()
    head = {"set": source.name, "family": plan.family, "name": plan.name}
    return head | found | {"date": datetime.now(timezone.utc).isoformat(timespec="minutes")}


def identity(row: Row) -> tuple[str, str, str]:
    return row["set"], row["family"], row["name"]


def kept() -> dict[str, Any]:
    """What was measured on this machine before."""
    path = place(NAME)
    if not path.exists():
        return {"sets": [], "rows": []}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def with_row(result: dict[str, Any], facts: Row, new: Row) -> dict[str, Any]:
    """The result with a row, and the facts of its set, in the place of earlier ones of the same engine and set."""
    sets = [one for one in result["sets"] if one["set"] != facts["set"]]
    rows = [row for row in result["rows"] if identity(row) != identity(new)]
    order = list(published.GRIDS)
    return result | {
        "sets": sorted([*sets, facts], key=lambda one: order.index(one["set"])),
        "rows": sorted([*rows, new], key=identity),
    }


def compare(source: Source, options: argparse.Namespace) -> None:
    """Measure what is asked of a set, and keep each row once it is there."""
    data = load(source)  # finds the neighbours, once for all processes
    facts = {"set": source.name, "n": len(data.x), "dim": data.x.shape[1], "metric": data.metric}
    facts["cells"] = cells(facts["dim"])
    wanted = [plan for plan in plans(facts["dim"], data.metric) if plan.named(published.engines(options))]
    del data
    run = {
        "queries": QUERIES,
        "command": "python -m benchmarks.equal_bytes --data FOLDER",
        "environment": machine(PACKAGES),
    }
    if not options.again:
        there = {identity(row) for row in kept()["rows"] if "why" not in row}
        wanted = [plan for plan in wanted if (source.name, plan.family, plan.name) not in there]
    work = partial(row, source=source, seeds=options.seeds, minutes=options.minutes)
    with ThreadPoolExecutor(options.processes) as pool:
        for done in as_completed([pool.submit(work, plan) for plan in wanted]):
            new = done.result()
            keep(NAME, with_row(kept() | run, facts, new))
            print("  ".join(f"{value}" for value in new.values()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", default=[Path()], help="folders with the sets' HDF5 files")
    parser.add_argument("--sets", default="", help="parts of names of sets, with commas between")
    parser.add_argument("--engines", default="", help="parts of names of families or engines, with semicolons between")
    parser.add_argument("--again", action="store_true", help="measure what was measured before, too")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=int, default=15, help="of CPU time that training may take")
    parser.add_argument("--processes", type=int, default=1, help="engines measured at a time")
    options = parser.parse_args()
    one_thread()
    for path in published.files(options):
        compare(Source(str(path), ROWS, QUERIES), options)


if __name__ == "__main__":
    main()
