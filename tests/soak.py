"""Hours in minutes: threads change, search, copy, save and sync one index, which must end as one that is made at once.

    python tests/soak.py --kind ivf --seconds 1800

Each writer has ids of its own and remembers their vectors; some rows are nobody's and never change, and every search
for one of them must find it at distance 0, whatever happens around it. The index is open for writing, and a second one
follows it: opened to read, refreshed after each sync and compaction, and searched by the same threads.

Fails:     with an error in any thread; where a sync holds other rows than its follower or a load; where the answers at
           the end, from all rows, of the index, its follower and one that is opened anew, are not those of an index
           that is given the same rows at once, bit for bit; where the process grows after its first third."""

from __future__ import annotations

import argparse
import copy
import json
import pickle
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

import polarindex as pi

DIM, NLIST = 24, 64
WRITERS, READERS = 3, 3
KEPT = 500  # rows that never change
MOST = 12_000  # rows of a writer
GROWTH = 64_000_000  # bytes by which a process may grow: threads' heaps keep some of what they had
LARGE = 1 << 32  # from which ids take two words in lists; the last writer's begin here


def clustered(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((32, DIM)) * 2
    return (centres[rng.integers(0, 32, n)] + rng.standard_normal((n, DIM))).astype(np.float32)


def empty(kind: str) -> Any:
    index: Any = pi.FlatIndex(DIM, store="float32")
    if kind == "ivf":
        index = pi.IVFIndex(DIM, nlist=NLIST, store="float32")
    return index.fit(clustered(5000, 1))


def everywhere(index: Any) -> dict[str, int]:
    return {"nprobe": NLIST} if index.kind == "ivf" else {}


class Soak:
    """One index, its threads, and what it should hold."""

    def __init__(self, kind: str, seconds: float, folder: Path) -> None:
        self.kind, self.folder, self.home = kind, folder, folder / "home"
        self.until = time.monotonic() + seconds
        self.kept = clustered(KEPT, 2)
        made = empty(kind)
        made.add(self.kept)
        made.save(self.home)
        self.index = pi.open(self.home)
        self.follower = pi.open(self.home, read_only=True)
        self.models: list[dict[int, np.ndarray]] = [{} for _ in range(WRITERS)]
        self.counts: dict[str, int] = {}
        self.turns = 0  # of `keep`
        self.failed = threading.Event()

    def run(self) -> dict[str, Any]:
        sizes: list[int] = []
        with ThreadPoolExecutor(WRITERS + READERS + 1) as pool:
            tasks = [pool.submit(self.guarded, self.write, number) for number in range(WRITERS)]
            tasks += [pool.submit(self.guarded, self.read, number) for number in range(READERS)]
            tasks.append(pool.submit(self.guarded, self.keep, 0))
            while time.monotonic() < self.until and not self.failed.is_set():
                time.sleep(0.25)
                sizes.append(resident_bytes())
            for task in tasks:
                task.result()
        third = len(sizes) // 3
        growth = max(sizes[-third:]) - max(sizes[third : 2 * third])
        self.compare()
        if growth > GROWTH:
            sys.exit(f"the process grew by {growth:,} bytes in its last third, to {max(sizes):,}")
        return {"kind": self.kind, "rows": len(self.index), "growth": growth, "resident": max(sizes), **self.counts}

    def guarded(self, work: Any, number: int) -> None:
        """Do some work again and again until the time is over, or an error ends it for all."""
        rng = np.random.default_rng(number)
        try:
            while time.monotonic() < self.until and not self.failed.is_set():
                self.count(work(number, rng))
        except BaseException:
            self.failed.set()
            raise

    def count(self, name: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1

    # --- what threads do

    def write(self, number: int, rng: np.random.Generator) -> str:
        model, index = self.models[number], self.index
        first = KEPT + 10_000_000 * number if number < WRITERS - 1 else LARGE
        mine = np.fromiter(model, np.int64, len(model))
        some = rng.permutation(mine)[: rng.integers(0, 1500)]
        turn, seed = rng.random(), int(rng.integers(2**31))
        if turn < 0.05 or len(model) > MOST:
            gone = rng.permutation(mine)[len(mine) // 10 :]
            if index.remove(gone) != len(gone):
                raise AssertionError("rows are lost")
            for ident in gone.tolist():
                del model[ident]
            return "removals of most"
        if turn < 0.3:
            index.remove(some)
            for ident in some.tolist():
                del model[ident]
            return "removals"
        if turn < 0.55:
            x = clustered(len(some), seed)
            index.update(some, x)
            model.update(zip(some.tolist(), x, strict=True))
            return "updates"
        start = max(model, default=first) + 1
        new = np.arange(start, start + rng.integers(1, 2000))
        ids = new if turn < 0.8 else rng.permutation(np.concatenate([new, some]))
        x = clustered(len(ids), seed)
        (index.add if turn < 0.8 else index.upsert)(*((x, ids) if turn < 0.8 else (ids, x)))
        model.update(zip(ids.tolist(), x, strict=True))
        return "additions" if turn < 0.8 else "upserts"

    def read(self, number: int, rng: np.random.Generator) -> str:
        index = self.follower if rng.random() < 0.25 else self.index
        chosen = rng.integers(0, KEPT, rng.choice([1, 3, 40]))
        turn = rng.random()
        if turn < 0.1:
            lims, distances, ids = index.range_search(self.kept[chosen[:2]], 5.0, **everywhere(index))
            if any(one not in ids[lims[i] : lims[i + 1]] for i, one in enumerate(chosen[:2])):
                raise AssertionError("a row that never changes is not in its own range")
            return "range searches"
        if turn < 0.2:
            if (index.reconstruct(chosen) != self.kept[chosen]).any():
                raise AssertionError("a row that never changes was read as another")
            return "rows read"
        ids = None if turn < 0.8 else np.concatenate([chosen, np.arange(0, 5_000_000, 97)])
        distances, found = index.search(self.kept[chosen], 5, filter=ids, **everywhere(index))
        if (distances[:, 0] != 0).any() or (found[:, 0] != chosen).any():
            raise AssertionError("a row that never changes is not the nearest to itself")
        return "searches" if ids is None else "filtered searches"

    def keep(self, number: int, rng: np.random.Generator) -> str:
        """What wants no change for long: saves, copies, syncs, in turns."""
        time.sleep(0.2)
        self.turns += 1
        turn = self.turns % 5
        if turn == 1:
            self.index.save(self.folder / "index")
            other, name = pi.load(self.folder / "index", mmap=bool(rng.integers(2))), "saves"
        elif turn == 2:
            other, name = copy.copy(self.index), "copies"
        elif turn == 3:
            other, name = pickle.loads(pickle.dumps(self.index)), "pickles"
        else:
            other, name = self.synced(compact=self.turns % 20 == 0, mmap=bool(rng.integers(2)))
        if (other.search(self.kept, 1, **everywhere(other))[1][:, 0] != np.arange(KEPT)).any():
            raise AssertionError(f"{name}: a row that never changes is not in one")
        return name

    def synced(self, compact: bool, mmap: bool) -> tuple[Any, str]:
        """Nobody else syncs: what is loaded then is what the follower has."""
        self.index.compact() if compact else self.index.sync()
        self.follower.refresh()
        other = pi.load(self.home, mmap=mmap)
        if not np.array_equal(np.sort(other.ids), np.sort(self.follower.ids)):
            raise AssertionError("who follows holds other ids than who loads")
        return other, "compactions" if compact else "syncs"

    # --- the end

    def compare(self) -> None:
        """The index answers as one that is given the same rows at once."""
        model = dict(enumerate(self.kept)) | {ident: x for part in self.models for ident, x in part.items()}
        ids = np.array(sorted(model))
        other = empty(self.kind)
        other.add(np.array([model[ident] for ident in ids.tolist()]), ids)
        self.index.close()
        self.follower.refresh()
        again = pi.open(self.home)
        for name, index in (("the index", self.index), ("who follows", self.follower), ("opened again, it", again)):
            self.check_same(name, index, other, ids)
        again.close()
        if self.index.nbytes > 4 * other.nbytes:
            raise AssertionError(f"the index takes {self.index.nbytes:,} bytes, and anew {other.nbytes:,}")

    def check_same(self, name: str, found: Any, other: Any, ids: np.ndarray) -> None:
        if not np.array_equal(np.sort(found.ids), ids):
            raise AssertionError(f"{name} holds other ids than were left in it")
        q = clustered(200, 7)
        for rerank in (0, 4):
            one, wanted = (index.search(q, 50, rerank=rerank, **everywhere(index)) for index in (found, other))
            if not all(np.array_equal(a, b) for a, b in zip(one, wanted, strict=True)):
                raise AssertionError(f"{name} answers otherwise than an index that is given its rows at once")
        if not np.array_equal(found.reconstruct(ids), other.reconstruct(ids)):
            raise AssertionError(f"{name} holds other vectors than were left in it")


def resident_bytes() -> int:
    """Of this process; 0 where nobody says."""
    status = Path("/proc/self/statm")
    return 4096 * int(status.read_text(encoding="ascii").split()[1]) if status.exists() else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=("flat", "ivf"), default="ivf")
    parser.add_argument("--seconds", type=float, default=1800)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(Soak(arguments.kind, arguments.seconds, Path(folder)).run()))  # noqa: T201


if __name__ == "__main__":
    main()
