"""The nearest neighbours of all rows of an index, as a graph in compressed sparse rows.

Law:       row i's neighbours are what a search for its vector finds, itself left out by its id.
Order:     rows of an inverted file are asked for list by list, because the rows of a list probe the same lists, which a
           batch decodes once. The result does not depend on it.
Memory:    the graph (12 bytes an entry), the ids in order, and one batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polarindex.errors import MissingExtraError
from polarindex.indexes.exact import RowNumbers
from polarindex.memory import require

if TYPE_CHECKING:
    from polarindex.indexes.base import Index

SCORINGS = "asymmetric", "symmetric"
_BATCH_BYTES, _FEWEST, _MOST = 1 << 24, 256, 8192  # of a batch's vectors, and its rows

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]
Progress = Callable[[int, int], None]


class KnnGraph(NamedTuple):
    """The neighbours of row i are indices[indptr[i] : indptr[i + 1]], best first.

    Attributes
    ----------
    indptr : (n + 1,) int64
    indices : (entries,) int64
        Row numbers: places in `index.ids`.
    distances : (entries,) float32
        As of `search`.
    """

    indptr: Ids
    indices: Ids
    distances: Floats

    def to_scipy(self) -> Any:
        """A scipy.sparse.csr_array (n, n) of distances, which shares the memory. MissingExtraError without SciPy."""
        try:
            from scipy.sparse import csr_array
        except ImportError:
            raise MissingExtraError("a sparse matrix needs SciPy; get it with: pip install scipy") from None
        n = len(self.indptr) - 1
        return csr_array((self.distances, self.indices, self.indptr), shape=(n, n))


def knn_graph(
    index: Index, k: int, scoring: str, include_self: bool, threads: int | None, progress: Progress | None
) -> KnnGraph:
    """See Index.knn_graph, where arguments are checked."""
    n, numbers = len(index), RowNumbers(index.ids)
    positions, order = index._rows_to_visit()
    exact = scoring == "asymmetric" and index.store != "none"
    vectors = index._vectors_at if exact else index._decoded_at
    require(12 * n * k, f"{k:,} neighbours of {n:,} rows")
    indices, distances, counts = np.empty((n, k), np.int64), np.empty((n, k), np.float32), np.zeros(n, np.int64)
    step = min(max(_BATCH_BYTES // (4 * index.dim), _FEWEST), _MOST)
    for start in range(0, n, step):
        rows = order[start : start + step]
        queries = vectors(positions[rows])
        rerank = 0 if index.store != "none" and not exact else None
        found, ids = index.search(queries, k + (not include_self), rerank=rerank, num_threads=threads)
        kept = ids >= 0
        if not include_self:
            kept &= ids != numbers.ids[rows][:, None]
        places = np.cumsum(kept, axis=1) - 1
        kept &= places < k
        of, _ = np.nonzero(kept)
        indices[rows[of], places[kept]] = numbers.of(ids[kept])
        distances[rows[of], places[kept]] = found[kept]
        counts[rows] = kept.sum(axis=1)
        if progress:
            progress(min(start + step, n), n)
    indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    if indptr[-1] == n * k:
        return KnnGraph(indptr, indices.reshape(-1), distances.reshape(-1))
    there = np.arange(k) < counts[:, None]
    return KnnGraph(indptr, indices[there], distances[there])
