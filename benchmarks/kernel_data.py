"""What the kernels are timed on: random unit vectors, indexes of them, and the peers that can be imported.

Law:       one seed, so that every run and every contender sees the same rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import polarindex as pi

Floats = NDArray[np.float32]
Search = Callable[[Floats], Any]

_ROWS = 65_536  # made and normalised at a time
_FAISS_TRAINING = 20_000


@dataclass(frozen=True)
class Setup:
    """How much is measured: everything, or little to see that it runs."""

    quick: bool = False
    data: tuple[Path, ...] = ()

    @property
    def repeats(self) -> int:
        return 3 if self.quick else 7

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """(n, d) of the random sets, the one that most cells use first."""
        return ((10_240, 1536), (10_240, 128)) if self.quick else ((102_400, 1536), (1_000_000, 128))


@lru_cache(maxsize=1)
def rows(n: int, d: int, seed: int = 0) -> Floats:
    """(n, d) random unit vectors."""
    rng = np.random.default_rng(seed)
    x = np.empty((n, d), np.float32)
    for at in range(0, n, _ROWS):
        part = x[at : at + _ROWS]
        rng.standard_normal(out=part, dtype=np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return x


@lru_cache(maxsize=4)
def queries(d: int, count: int = 64) -> Floats:
    """(count, d) random unit vectors that are not among the rows."""
    return rows.__wrapped__(count, d, seed=1)


@lru_cache(maxsize=10)
def index(n: int, d: int, bits: int) -> pi.FlatIndex:
    """An index of `rows(n, d)` by inner product."""
    made = pi.FlatIndex(d, "ip", bits)
    made.add(rows(n, d))
    return made


def asking(search: Search, q: Floats, batch: int) -> Callable[[], None]:
    """A call that searches all of q, `batch` queries at a time."""
    parts = [q[at : at + batch] for at in range(0, len(q), batch)]

    def call() -> None:
        for part in parts:
            search(part)

    return call


def ours(made: pi.FlatIndex, k: int, **options: Any) -> Search:
    return lambda q: made.search(q, k, num_threads=1, **options)


# --- peers


@cache
def peer(name: str) -> Any:
    """The module of a peer, on one thread, or None where it is not installed."""
    try:
        module = import_module(name)
    except ImportError:
        return None
    if name == "faiss":
        module.omp_set_num_threads(1)
    return module


def turbovec_index(x: Floats, bits: int) -> Any:
    """A turbovec index of x, whose layout for searching is made too, as its first search would."""
    made = peer("turbovec").TurboQuantIndex(x.shape[1], bits)
    made.add(x)
    made.prepare()
    return made


def faiss_index(x: Floats, bits: int) -> tuple[str, Any]:
    """FAISS's fast scan at equal bits, and its name: RaBitQ for 1, PQ for 2 and 4."""
    faiss, d = peer("faiss"), x.shape[1]
    if bits == 1:
        made = faiss.IndexRaBitQFastScan(d, faiss.METRIC_INNER_PRODUCT)
        name = f"FAISS RaBitQFastScan (qb = {made.qb})"
    else:
        made = faiss.IndexPQFastScan(d, d * bits // 4, 4, faiss.METRIC_INNER_PRODUCT)
        name = "FAISS PQFastScan"
    made.train(x[:_FAISS_TRAINING])
    made.add(x)
    return name, made
