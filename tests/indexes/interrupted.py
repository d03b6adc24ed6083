"""Operations of indexes, struck by Ctrl-C at random moments. A program: interrupted.py ROWS ROUNDS [OPERATION...]

Each round works on a copy of an index. After it the index must be as it was before the operation or as it is after it,
no lock may be held, and another operation must work. Says in one line of JSON for each operation how often Ctrl-C came
before the end, and the most CPU seconds that passed from the signal to KeyboardInterrupt.
"""

from __future__ import annotations

import copy
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import polarindex as pi

DIM = 24


def clustered(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((64, DIM)) * 2
    return (centres[rng.integers(0, 64, n)] + rng.standard_normal((n, DIM))).astype(np.float32)


class Operations:
    """Each has an index that it begins with."""

    def __init__(self, rows: int, folder: Path) -> None:
        self.rows, self.folder = rows, folder
        self.x, self.more, self.q = clustered(rows), clustered(rows, seed=1), clustered(min(rows // 4, 10_000), seed=2)
        self.flat = pi.FlatIndex(DIM, store="float32")
        self.unfitted = pi.IVFIndex(DIM, nlist=max(16, rows // 100), store="float32")
        self.ivf = copy.copy(self.unfitted).fit(self.x)
        for index in (self.flat, self.ivf):
            index.add(self.x)
            index.reconstruct(index.ids[:1])
        self.ivf.save(folder / "index")

    def all(self) -> dict[str, tuple[Any, Callable[[Any], Any]]]:
        some, new = np.arange(0, self.rows, 2), np.arange(self.rows, 2 * self.rows)
        mixed = np.concatenate([some, new])[: self.rows]
        return {
            "flat add": (self.flat, lambda index: index.add(self.more)),
            "flat add under ids": (self.flat, lambda index: index.add(self.more, new[::-1])),
            "flat upsert": (self.flat, lambda index: index.upsert(mixed, self.more)),
            "flat remove": (self.flat, lambda index: index.remove(some)),
            "flat search": (self.flat, lambda index: index.search(self.q, 10)),
            "flat search of one thread": (self.flat, lambda index: index.search(self.q, 10, num_threads=1)),
            "flat range_search": (self.flat, lambda index: index.range_search(self.q[:50], 3.0)),
            "flat knn_graph": (self.flat, lambda index: index.knn_graph(3)),
            "fit": (self.unfitted, lambda index: index.fit(self.x)),
            "ivf add": (self.ivf, lambda index: index.add(self.more)),
            "ivf add of wide ids": (self.ivf, lambda index: index.add(self.more, 2**32 + new)),
            "ivf upsert": (self.ivf, lambda index: index.upsert(mixed, self.more)),
            "ivf remove": (self.ivf, lambda index: index.remove(some)),
            "ivf search": (self.ivf, lambda index: index.search(self.q, 10, nprobe=index.nlist)),
            "ivf search of one thread": (self.ivf, lambda index: index.search(self.q, 10, nprobe=40, num_threads=1)),
            "ivf range_search": (self.ivf, lambda index: index.range_search(self.q[:20], 3.0)),
            "ivf knn_graph": (self.ivf, lambda index: index.knn_graph(3)),
            "tune": (self.ivf, lambda index: index.tune(self.q[:200], 0.9, batch=200)),
            "rebalance": (self.ivf, lambda index: index.rebalance()),
            "merge": (self.ivf.empty_like(), lambda index: index.merge(self.ivf)),
            "save": (self.flat, lambda index: index.save(self.folder / "index")),
        }


def state(index: Any, folder: Path) -> list[bytes]:
    """All that an index answers, and the one that is saved."""
    parts: list[Any] = [len(index), index.info()["next_id"] if index.kind == "flat" or index.fitted else -1]
    if len(index):
        ids = np.sort(index.ids)
        options = {"nprobe": index.nlist, "rerank": 2} if index.kind == "ivf" else {}
        parts += [ids, index.reconstruct(ids), *index.search(clustered(5, seed=3), 20, **options)]
    if index.kind == "ivf" and index.fitted:
        parts.append(index.centroids)
    saved = pi.load(folder / "index")
    parts += [saved.kind.encode(), *saved.search(clustered(3, seed=3), 5)]
    return [np.asarray(part).tobytes() for part in parts]


def strike(index: Any, operation: Callable[[Any], Any], delay: float) -> tuple[bool, float]:
    """Whether Ctrl-C came before the end, and CPU seconds from the signal to its coming."""
    sent: list[float] = []

    def send() -> None:
        sent.append(time.process_time())
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(delay, send)
    try:
        timer.start()
        operation(index)
        timer.cancel()
        timer.join()
        time.sleep(0.01)  # a signal on its way comes here
    except KeyboardInterrupt:
        return True, time.process_time() - sent[0]
    return False, 0.0


def struck(name: str, begin: Any, operation: Callable[[Any], Any], folder: Path, rounds: int) -> dict[str, Any]:
    rng = np.random.default_rng(len(name))
    before, saved = state(begin, folder), pi.load(folder / "index")
    finished = copy.copy(begin)
    operation(copy.copy(begin))  # what it compiles is compiled
    started = time.perf_counter()
    operation(finished)
    took = time.perf_counter() - started
    after = state(finished, folder)
    worst, count, unchanged = 0.0, 0, 0
    for _ in range(rounds):
        index = copy.copy(begin)
        if name == "save":
            saved.save(folder / "index")
        came, waited = strike(index, operation, rng.uniform(0, took))
        worst, count = max(worst, waited), count + came
        gate = index._gate
        if gate.readers or gate.holder or gate.closed or gate.turnstile.locked():
            sys.exit(f"{name}: a lock is held")
        found = state(index, folder)
        if found not in (before, after):
            sys.exit(f"{name}: the index is neither as before nor as after")
        unchanged += found == before
        if index.kind == "flat" or index.fitted:
            ids = index.add(clustered(20, seed=5))
            index.search(clustered(5, seed=3), 3)
            if index.remove(ids) != 20:
                sys.exit(f"{name}: rows are lost")
    return {"operation": name, "rounds": rounds, "struck": count, "unchanged": unchanged, "waited": round(worst, 3),
            "took": round(took, 3)}


def main() -> None:
    rows, rounds, *names = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        operations = Operations(int(rows), Path(folder))
        for name, (begin, operation) in operations.all().items():
            if not names or name in names:
                print(json.dumps(struck(name, begin, operation, Path(folder), int(rounds))), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
