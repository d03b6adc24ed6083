"""The exact neighbours of queries among the rows of an index that keeps originals, and the row numbers of ids.

Law:       candidates are the best by float32 products of what is stored, less a centre; of these, SPARE more than asked
           for, the nearest are chosen by float64 distances (originals.exact_scores), ties to the smaller id.
Why:       what re-ranking can find at best is decided by the same scores, whatever the store has rounded. float32
           may lose a neighbour only where SPARE others lie within its rounding.
Not here:  neighbours in arrays that are no index (sweep/groundtruth.py)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from polarindex.indexes.arena import Arena
from polarindex.indexes.originals import exact_scores, take_originals
from polarindex.vectors import squared_norms

SPARE = 16
_ROWS = 4096  # a block: with _QUERIES, 8 MB of float32 products
_QUERIES = 512

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]


class RowNumbers:
    """Where ids stand in `index.ids`: found by bisection, so that no id table has to be built and kept."""

    def __init__(self, ids: Ids) -> None:
        self.ids = ids
        self._order = None if (ids == np.arange(len(ids))).all() else np.argsort(ids)
        self._sorted = ids if self._order is None else ids[self._order]

    def of(self, ids: Ids) -> Ids:
        """The row number of each id, of any shape; -1 where there is none."""
        at = np.searchsorted(self._sorted, ids)
        at[at == len(self._sorted)] = 0
        if not len(self._sorted):
            return np.full(np.shape(ids), -1)
        rows = at if self._order is None else self._order[at]
        return np.where(self._sorted[at] == ids, rows, -1)


def exact_rows(arena: Arena, places: Ids, ids: Ids, queries: Floats, k: int, metric: str, centre: Floats) -> Ids:
    """The numbers (nq, k), best first, of the rows nearest to queries (nq, d) as given; k <= the number of rows.

    places, ids : (n,) where the rows lie in the arena, and their ids
    centre : (d,) float32, near the rows' mean: squared distances are as sharp as rows are near to it
    """
    numbers = np.empty((len(queries), k), np.int64)
    for start in range(0, len(queries), _QUERIES):
        block = queries[start : start + _QUERIES]
        rows = _likely(arena, places, block, min(k + SPARE, len(places)), metric, centre)
        distances = exact_scores(arena, places[rows], block, metric)
        order = np.lexsort((ids[rows], distances if metric == "l2" else -distances))[:, :k]
        numbers[start : start + _QUERIES] = np.take_along_axis(rows, order, 1)
    return numbers


def _likely(arena: Arena, places: Ids, queries: Floats, count: int, metric: str, centre: Floats) -> Ids:
    """The numbers (nq, count) of the best rows by float32 products."""
    asked = queries - centre if metric == "l2" else queries
    floors = np.full(len(queries), -np.inf, np.float32)  # the count-th best score so far
    found = _Found(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    for start, stop in _blocks(len(places)):
        scores = _scores(asked, take_originals(arena, places[start:stop]), metric, centre)
        near = np.nonzero(scores >= floors[:, None])
        found = found.with_these(near[0], near[1] + start, scores[near])
        if len(found.scores) > 2 * len(queries) * count:
            found = found.best(len(queries), count)
            floors = found.scores.reshape(len(queries), count).min(axis=1)
    return found.best(len(queries), count).rows.reshape(len(queries), count)


def _scores(asked: Floats, x: Floats, metric: str, centre: Floats) -> Floats:
    """(nq, n) float32, larger is nearer, of queries less the centre for l2 and of rows as stored."""
    if metric == "ip":
        return asked @ x.T
    if metric == "cosine":
        products: Floats = asked @ x.T
        products /= np.sqrt(squared_norms(x)).astype(np.float32)
        return products
    x = x - centre
    differences: Floats = asked @ x.T - (squared_norms(x) / 2).astype(np.float32)
    return differences


def _blocks(n: int) -> Iterator[tuple[int, int]]:
    """Blocks of rows that double up to _ROWS: the first tell which of a large one's need to be looked at."""
    start, rows = 0, 2 * SPARE
    while start < n:
        yield start, min(start + rows, n)
        start, rows = start + rows, min(2 * rows, _ROWS)


class _Found(NamedTuple):
    """Rows that may be among the best: query numbers, row numbers and scores, (m,) each."""

    askers: Ids
    rows: Ids
    scores: Floats

    def with_these(self, askers: Ids, rows: Ids, scores: Floats) -> _Found:
        return _Found(
            np.concatenate([self.askers, askers]),
            np.concatenate([self.rows, rows]),
            np.concatenate([self.scores, scores]),
        )

    def best(self, nq: int, count: int) -> _Found:
        """The `count` best of each query, query after query; each has so many."""
        order = np.lexsort((-self.scores, self.askers))
        firsts = np.searchsorted(self.askers[order], np.arange(nq))
        kept = order[(firsts[:, None] + np.arange(count)).reshape(-1)]
        return _Found(self.askers[kept], self.rows[kept], self.scores[kept])
