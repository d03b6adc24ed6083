"""FAISS's product quantizers behind the methods of FlatIndex that a sweep calls: fit, add, search, reconstruct.

Compared:  PQ{M}x4fs and RR{d},PQ{M}x4fs, FAISS's fastest scan, on the same metric: squared l2, or inner product (of
           unit rows for cosine). Trained on 256 rows a centroid, where FAISS itself stops.
Overflow:  FastScan sums one byte a sub-quantizer in 16 bits, which may wrap from 258 sub-quantizers on; the results
           are then noise (recall .22 in place of .96, Fashion-MNIST at M = 784) though the code is good. Such an
           index is searched by exact distances to its decoded rows, the ranking of FAISS's float tables in a tenth
           of their time, and says so in `note`.
Not here:  which M are compared (plan.py)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polarindex import checks
from polarindex.errors import MissingExtraError
from polarindex.vectors import unit_rows

SAFE_SUBQUANTIZERS = 65_535 // 255
_TRAINING_ROWS = 256 * 16
_PROBES = 64  # queries whose best hit is scored again, to see whether sums wrapped
_OVERFLOW = "FastScan's 16-bit sums overflow: searched, and timed, by its decoded rows"

Floats = NDArray[np.float32]


def faiss_installed() -> bool:
    return find_spec("faiss") is not None


class FaissPQ:
    """PQ with `subquantizers` of 4 bits, after a random rotation if `rotated`; ids are row numbers."""

    def __init__(
        self, dim: int, metric: str, subquantizers: int, rotated: bool, seed: int = 0, threads: int = 1
    ) -> None:
        if not faiss_installed():
            raise MissingExtraError("FAISS is not installed; get it with: pip install 'polarindex[faiss]'")
        self._faiss = import_module("faiss")
        self.dim, self.metric, self.seed, self.threads = dim, metric, seed, threads
        self._subquantizers = subquantizers
        self._metric = self._faiss.METRIC_L2 if metric == "l2" else self._faiss.METRIC_INNER_PRODUCT
        self._scanned = self._faiss.IndexPQFastScan(dim, subquantizers, 4, self._metric)
        self._scanned.pq.cp.seed = seed
        self._rotation = self._random_rotation() if rotated else None
        self._index = self._rotated(self._scanned)
        self._overflows = False  # as far as searches have shown

    @property
    def bytes_per_vector(self) -> int:
        """Bytes of a code as the scan holds it: an odd number of sub-quantizers is padded to whole bytes."""
        return int(self._scanned.M2) // 2

    @property
    def note(self) -> str:
        return _OVERFLOW if self._overflows else ""

    def fit(self, x: Any) -> FaissPQ:
        """Train on a random sample of the rows.

        On one thread: FAISS splits each of thousands of tiny steps over its threads, which gains nothing (1.2 s on
        one or two) and on a busy machine is a disaster, for they wait for each other spinning (53 s).
        """
        n = len(x)
        chosen = np.sort(np.random.default_rng(self.seed).permutation(n)[:_TRAINING_ROWS])
        with self._threads(1):
            self._index.train(self._prepared(x[chosen], "x"))
        return self

    def add(self, x: Any) -> None:
        with self._threads():
            for start, rows in checks.vectors(x, "x", self.dim).chunks():
                self._index.add(self._unit(rows, "x", start))

    def search(self, q: Any, k: int, *, num_threads: int | None = None) -> tuple[Floats, NDArray[np.int64]]:
        """The k nearest: distances (nq, k) float32 and row numbers (nq, k) int64, -1 where missing."""
        queries = self._prepared(q, "q")
        with self._threads(num_threads):
            if not self._overflows:
                distances, ids = self._index.search(queries, k)
                few = slice(0, _PROBES)
                if self._subquantizers <= SAFE_SUBQUANTIZERS or self._sums_are_right(
                    queries[few], distances[few, 0], ids[few, 0]
                ):
                    return distances, ids
                self._overflows = True
            return self._search_decoded(queries, k)

    def reconstruct(self, ids: NDArray[np.int64]) -> Floats:
        """Decoded rows (len(ids), dim), in the caller's coordinates."""
        with self._threads():
            return self._index.reconstruct_batch(ids)

    def _sums_are_right(self, queries: Floats, found: Floats, ids: NDArray[np.int64]) -> bool:
        """Whether the scores found (nq,) of some queries' best hits ids (nq,) are near those of the decoded rows.

        Byte tables round a score by some per cent of its range; a sum that wrapped is off by most of it.
        """
        hits = self._index.reconstruct_batch(np.maximum(ids, 0))
        if self.metric == "l2":
            true = ((queries - hits) ** 2).sum(axis=1)
            size = true
        else:
            true = (queries * hits).sum(axis=1)
            size = np.linalg.norm(queries, axis=1) * np.linalg.norm(hits, axis=1)
        return bool((np.abs(found - true) <= 0.5 * size).all())

    def _search_decoded(self, queries: Floats, k: int) -> tuple[Floats, NDArray[np.int64]]:
        distances = np.full((len(queries), k), np.inf if self.metric == "l2" else -np.inf, np.float32)
        ids = np.full(distances.shape, -1, np.int64)
        for start in range(0, self._index.ntotal, checks.CHUNK_ROWS):
            rows = self._index.reconstruct_n(start, min(checks.CHUNK_ROWS, self._index.ntotal - start))
            near, places = self._faiss.knn(queries, rows, min(k, len(rows)), metric=self._metric)
            distances = np.concatenate([distances, near], axis=1)
            ids = np.concatenate([ids, places + start], axis=1)
            order = np.argsort(distances if self.metric == "l2" else -distances, axis=1, kind="stable")[:, :k]
            distances, ids = np.take_along_axis(distances, order, 1), np.take_along_axis(ids, order, 1)
        return distances, ids

    def _random_rotation(self) -> Any:
        rotation = self._faiss.RandomRotationMatrix(self.dim, self.dim)
        rotation.init(self.seed)
        return rotation

    def _rotated(self, index: Any) -> Any:
        return index if self._rotation is None else self._faiss.IndexPreTransform(self._rotation, index)

    def _prepared(self, x: Any, name: str) -> Floats:
        return self._unit(checks.vectors(x, name, self.dim).array(), name)

    def _unit(self, rows: Floats, name: str, start: int = 0) -> Floats:
        return unit_rows(rows, name, start) if self.metric == "cosine" else rows

    @contextmanager
    def _threads(self, count: int | None = None) -> Iterator[None]:
        """FAISS's thread count is one for the whole process: set it, and put the caller's back."""
        before = self._faiss.omp_get_max_threads()
        self._faiss.omp_set_num_threads(count or self.threads)
        try:
            yield
        finally:
            self._faiss.omp_set_num_threads(before)
