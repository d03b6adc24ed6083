"""Kill a writer at random moments, again and again, and see that what it was told is durable is there.

    python tests/kill.py [--kind flat|ivf] [--rounds 500] [--seed 0]

A round: a child process opens the index, changes it at random and makes the changes durable (sync, compact, save,
close and open). It tells its parent, in a pipe, before and after every step; the parent kills it (SIGKILL) at a random
moment, then opens the directory. That must hold exactly the last state that was acknowledged, or the one in flight,
and the next round goes on from there. A reader that stays open refreshes after every kill and must see the same.

A kill leaves what the system has in its caches, so this is a test of order and atomicity, not of the disk:
tests/indexes/test_opened.py fails every single write and sync in turn.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

import polarindex as pi
from polarindex.indexes import manifest

DIM, MOST = 16, 2500
STEPS = 400  # more than a child can take before it is killed
LONGEST = 0.15  # seconds from a child's first step to its end
ACTS = ["sync"] * 10 + ["compact", "compact", "save", "close"]

Rows = dict[int, bytes]


def step_of(seed: int, number: int, rows: Rows) -> tuple[list[tuple[str, np.ndarray, np.ndarray]], str]:
    """The changes of a step that begins with these rows, and what makes them durable: the same in parent and child."""
    rng = np.random.default_rng([seed, number])
    ids, changes = np.array(sorted(rows), np.int64), []
    for what in rng.choice(["add", "add", "upsert", "update", "remove"], int(rng.integers(1, 4))):
        known = ids[rng.random(len(ids)) < min(1, rng.choice([5, 60]) / max(len(ids), 1))]
        if what == "remove" and len(ids) > MOST:
            known = ids[rng.random(len(ids)) < 0.7]
        new = np.unique(rng.integers(0, 10**6 if rng.random() < 0.7 else 2**40, int(rng.choice([1, 12, 150]))))
        given = {"add": np.setdiff1d(new, ids), "upsert": np.union1d(known, new)}.get(what, known)
        changes.append((str(what), given, rng.standard_normal((len(given), DIM)).astype(np.float32)))
        ids = np.setdiff1d(ids, given) if what == "remove" else np.union1d(ids, given)
    return changes, str(rng.choice(ACTS))


def after(rows: Rows, changes: list[tuple[str, np.ndarray, np.ndarray]]) -> Rows:
    """The rows after some changes."""
    rows = rows.copy()
    for what, ids, x in changes:
        for ident, row in zip(ids.tolist(), x, strict=True):
            if what == "remove":
                del rows[ident]
            else:
                rows[ident] = row.tobytes()
    return rows


def held(index: pi.FlatIndex | pi.IVFIndex) -> Rows:
    ids = np.sort(index.ids)
    return dict(zip(ids.tolist(), map(bytes, index.reconstruct(ids)), strict=True))


def write(path: Path, seed: int, number: int, pipe: int) -> None:
    """The child: steps from this number on, until it is killed."""
    index = pi.open(path, mmap=bool(number % 2))
    rows = held(index)
    for step in range(number, number + STEPS):
        changes, act = step_of(seed, step, rows)
        os.write(pipe, b"b")
        for what, ids, x in changes:
            if what == "add":
                index.add(x, ids=ids)
            elif what == "remove":
                index.remove(ids)
            else:
                getattr(index, what)(ids, x)
        if act == "save":
            index.save(path)
        else:
            getattr(index, act)()
        os.write(pipe, b"a")
        if act == "close":
            index = pi.open(path, mmap=bool(step % 2))
        rows = after(rows, changes)


def killed(path: Path, seed: int, number: int, delay: float) -> str:
    """What a child has told until it was killed, `delay` seconds after its first step."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reading)
            write(path, seed, number, writing)
        except BaseException as error:  # a child must not go on as a second parent
            os.write(2, f"the writer failed: {error!r}\n".encode())
            code = 2
        finally:
            os._exit(code)
    os.close(writing)
    select.select([reading], [], [], 30)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    told = b""
    while part := os.read(reading, 4096):
        told += part
    os.close(reading)
    if ended != -signal.SIGKILL:
        raise SystemExit(f"the writer ended by itself: {ended}")
    return told.decode()


def remains(path: Path) -> list[str]:
    """What a kill has left behind that no manifest names."""
    written = manifest.read(path)
    entry = written.get("log", {"name": "", "bytes": 0})
    logs = {log.name: log.stat().st_size for log in path.glob("log-*")}
    segments = [segment.name for segment in path.glob("segment-*")]
    found = {
        "a segment": any(name != manifest.segment(written)["name"] for name in segments),
        "a log": any(name != entry["name"] for name in logs),
        "an end of the log": logs.get(entry["name"], 0) > entry["bytes"],
        "a manifest": any(path.glob(".manifest*")),
    }
    return [name for name, there in found.items() if there]


def begun(kind: str, path: Path) -> Rows:
    """Save an index for the first child; returns its rows."""
    rng = np.random.default_rng(0)
    if kind == "flat":
        index: pi.FlatIndex | pi.IVFIndex = pi.FlatIndex(DIM, store="float32")
    else:
        index = pi.IVFIndex(DIM, nlist=8, store="float32").fit(rng.standard_normal((400, DIM)))
    index.add(rng.standard_normal((300, DIM)))
    index.remove([7, 9])  # compiles and loads what children use
    index.upsert([3, 300], rng.standard_normal((2, DIM)))
    index.search(rng.standard_normal((2, DIM)), 3)
    index.save(path)
    pi.open(path).close()
    return held(index)


def run(kind: str, rounds: int, seed: int, path: Path) -> Counter[str]:
    """Rounds of killing; SystemExit at the first one that lost or invented something."""
    rng, counts, number = np.random.default_rng(seed), Counter[str](), 0
    rows = begun(kind, path)
    reader = pi.open(path, read_only=True)
    for round_ in range(rounds):
        told = killed(path, seed, number, float(rng.random() * LONGEST))
        for _ in range(told.count("a")):
            changes, act = step_of(seed, number, rows)
            rows, number = after(rows, changes), number + 1
            counts[f"{act} acknowledged"] += 1
        counts.update(f"left {name}" for name in remains(path))
        found = held(pi.load(path))
        if told.endswith("b"):
            changes, act = step_of(seed, number, rows)
            counts[f"killed in a step that ends with {act}"] += 1
            if found == after(rows, changes) != rows:
                rows, number = found, number + 1
                counts["the step in flight was durable"] += 1
        reader.refresh()
        for who, seen in (("a new process", found), ("a reader", held(reader))):
            if seen != rows:
                raise SystemExit(f"{kind}, seed {seed}, round {round_}, step {number}: {who} sees other rows")
        if round_ % 10 == 0:
            everywhere = {} if kind == "flat" else {"nprobe": 8}
            q = rng.standard_normal((2, DIM))
            answers = [index.search(q, 9, **everywhere) for index in (pi.load(path, mmap=True), reader)]
            for one, other in zip(*answers, strict=True):
                np.testing.assert_array_equal(one, other)
        number += 1  # other changes than those that were lost
        counts["rounds"] += 1
    counts["rows in the end"] = len(rows)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=("flat", "ivf"), default="flat")
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        counts = run(options.kind, options.rounds, options.seed, Path(folder) / "index")
    for name, count in sorted(counts.items()):
        print(f"{count:7,} {name}")
    print(f"nothing lost, nothing half done, in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
