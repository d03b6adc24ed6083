"""The sets that frontiers are measured on, as an engine needs them: float32 rows, queries and their true neighbours.

Law:       every engine sees the same rows in the same order, so that ids are row numbers for all; cosine rows have unit
           length for those that know inner products only.
Not here:  the layout of the files (polarindex/sweep/hdf5.py)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polarindex.sweep.dataset import load_dataset

QUERIES = 1_000
K = 10
SETS = (
    "fashion-mnist-784-euclidean",
    "minilm-384-angular",
    "glove-wink-100-angular",
    "sift-photos-128-euclidean",
)

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Source:
    """A set on this machine, and how much of it is used.

    rows : the first so many of `train`, or all
    queries : the first so many of `test`
    singles : the first so many of the queries are asked one by one, too
    """

    path: Path
    rows: int | None
    queries: int = QUERIES
    singles: int = QUERIES

    @property
    def name(self) -> str:
        return self.path.stem


@dataclass(frozen=True, eq=False)
class Data:
    """x (n, d) and q (nq, d) float32, true (nq, >= K) row numbers, best first."""

    metric: str  # "l2" | "cosine"
    x: Floats
    q: Floats
    true: NDArray[np.int64]


def load(source: Source) -> Data:
    """Rows and queries as stored, in float32. The neighbours are the file's, or computed (once) of fewer rows."""
    found = load_dataset(source.path, rows=source.rows, queries=source.queries)
    return Data(found.metric, as_float32(found.train), as_float32(found.test), found.neighbors)


def as_float32(x: NDArray[Any]) -> Floats:
    return np.ascontiguousarray(x, np.float32)


def unit(x: Floats) -> Floats:
    """Rows divided by their length."""
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def recall(ids: NDArray[Any], true: NDArray[np.int64]) -> float:
    """The share of the first K true neighbours among the first K ids; a missing id is none of them.

    ids (nq, K) integers;  true (>= nq, >= K)
    """
    hits = (ids[:, :K, None] == true[: len(ids), None, :K]).any(axis=1)
    return float(hits.mean())
