"""A data set as an engine needs it: float32 rows, queries and their true neighbours.

Law:       every engine sees the same rows in the same order, so that ids are row numbers for all; cosine rows have unit
           length for those that know inner products only.
Not here:  the layout of files (polarindex/sweep/dataset.py)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polarindex.sweep.dataset import load_dataset
from polarindex.sweep.files import PART

QUERIES = 1_000
K = 10

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Source:
    """A set on this machine, and how much of it is used.

    data : a name or file that load_dataset knows
    rows : the first so many of `train`, or all
    queries : the first so many of `test`
    singles : the first so many of the queries are asked one by one, too
    metric, queries_from, seed : as load_dataset has them, for files of vectors alone
    """

    data: str
    rows: int | None = None
    queries: int = QUERIES
    singles: int = QUERIES
    metric: str | None = None
    queries_from: str | None = None
    seed: int = 0

    @property
    def name(self) -> str:
        path, mark, part = self.data.partition(PART)
        return Path(path).stem + mark + part


@dataclass(frozen=True, eq=False)
class Data:
    """x (n, d) and q (nq, d) float32, true (nq, >= K) row numbers, best first."""

    metric: str  # "l2" | "ip" | "cosine"
    x: Floats
    q: Floats
    true: NDArray[np.int64]


def load(source: Source) -> Data:
    """Rows and queries as stored, in float32. The neighbours are the file's, or computed, once.

    Raises what load_dataset raises; ValueError where there are fewer than K neighbours a query.
    """
    found = load_dataset(
        source.data, rows=source.rows, queries=source.queries, metric=source.metric, queries_from=source.queries_from,
        seed=source.seed,
    )  # fmt: skip
    if found.neighbors.shape[1] < K:
        raise ValueError(f"{source.data} has {found.neighbors.shape[1]} neighbours a query; {K} are compared")
    return Data(found.metric, as_float32(found.train), as_float32(found.test), found.neighbors)


def as_float32(x: NDArray[Any]) -> Floats:
    return np.ascontiguousarray(x, np.float32)


def unit(x: Floats) -> Floats:
    """Rows divided by their length."""
    return x / np.linalg.norm(x, axis=1, keepdims=True)
