"""Exact nearest neighbours: float32 matrix products propose, float64 decides, no true neighbour can be lost.

Law:       neighbours are ordered by their float64 distance, ties by the smaller id.
Why sure:  a float32 score is off by at most a known `slack` (_Frame.slack), so a row whose score + slack is
           below the k-th largest score - slack cannot be among the k best. Every other row is scored again
           in float64, however many there are: duplicates and large norms widen the list, nothing cuts it.
Source:    Higham, Accuracy and Stability of Numerical Algorithms, section 3.1: a dot product of d terms,
           summed in any order, errs by at most d u / (1 - d u) * sum |x_i y_i|, with u = 2^-24 in float32.
Not here:  conversion from and to the distances that files hold (hdf5.py)."""

from __future__ import annotations

import logging
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from polarindex.checks import VectorSource, choice, integer, vectors
from polarindex.indexes.coding import METRICS
from polarindex.sweep.cache import cache_folder, content_key, written_whole

Neighbors = tuple[NDArray[np.int64], NDArray[np.float32]]
Progress = Callable[[int, int], None]  # (done, total): query-row pairs

_QUERIES = 1024  # queries and rows in a block: 16 MB of float32 scores
_ROWS = 4096
_RESCORED = 1 << 21  # float64 coordinates scored again at a time
_UNIT = 2.0**-24
_UNDERFLOW = 2.0**-124  # a product of values below 1 that underflows in float32 loses less than this
_LAYOUT = "neighbors-1"  # part of the cache key: change it when this file's answers or the .npz change

_log = logging.getLogger(__name__)


def exact_neighbors(
    train: ArrayLike, test: ArrayLike, k: int, metric: str, *, progress: Progress | None = None
) -> Neighbors:
    """The k exact nearest rows of `train` for every row of `test`, best first, ties by the smaller id.

    train (n, d), test (nq, d)   any real dtype; the values are those after rounding to float32
    -> ids (nq, k) int64, distances (nq, k) float32: squared l2 ascending, ip and cosine descending

    Time is that of the float32 matrix product and about as much again. Rows that tie within float32's error
    (many duplicates; ip or cosine rows far from the origin) are all scored again: slower, equally exact.
    """
    choice(metric, "metric", METRICS)
    base = vectors(train, "train")
    queries = vectors(test, "test", base.dim)
    integer(k, "k", 1, base.n)
    rows, questions = np.asarray(train), queries.array()
    frame = _Frame.around(base, questions, metric)
    ids = np.empty((len(questions), k), np.int64)
    distances = np.empty((len(questions), k), np.float32)
    for start in range(0, len(questions), _QUERIES):
        block = questions[start : start + _QUERIES]
        done, pairs = start * base.n, len(questions) * base.n

        def report(n: int, done: int = done, width: int = len(block), pairs: int = pairs) -> None:
            if progress:
                progress(done + n * width, pairs)

        asked, proposed = _propose(base, block, k, frame, report)
        values = _score(rows, proposed, block, asked, metric)
        order = np.lexsort((proposed, values if metric == "l2" else -values, asked))
        firsts = np.searchsorted(asked[order], np.arange(len(block)))
        best = order[firsts[:, None] + np.arange(k)]
        ids[start : start + len(block)] = proposed[best]
        with np.errstate(over="ignore"):  # beyond float32: inf, in the right order
            distances[start : start + len(block)] = values[best]
    return ids, distances


def exact_distances(train: ArrayLike, test: ArrayLike, ids: ArrayLike, metric: str) -> NDArray[np.float64]:
    """True distances, in float64, of given ids: what a search's answer is judged by.

    train (n, d), test (nq, d);  ids (nq, k) rows of `train`, -1 where missing
    -> (nq, k) float64 in FAISS convention; +inf (l2) or -inf where the id is -1
    """
    choice(metric, "metric", METRICS)
    rows, questions, ids = np.asarray(train), np.asarray(test), np.asarray(ids)
    if ids.ndim != 2 or len(ids) != len(questions):
        raise ValueError(f"ids must be (nq, k) with nq={len(questions)}; got {ids.shape}")
    if ids.size and not -1 <= ids.min() <= ids.max() < len(rows):
        raise ValueError(
            f"ids must be -1 or rows of train, below {len(rows)}; got {ids.min()} to {ids.max()}"
        )
    out = np.full(ids.shape, np.inf if metric == "l2" else -np.inf)
    real = ids >= 0
    out[real] = _score(rows, ids[real], questions, np.nonzero(real)[0], metric)
    return out


def cached_neighbors(
    train: ArrayLike, test: ArrayLike, k: int, metric: str, *, progress: Progress | None = None
) -> Neighbors:
    """`exact_neighbors`, computed once: kept in the cache folder under a hash of all rows, k and metric.

    A damaged or foreign file there is computed again; a folder that cannot be written costs only the time.
    """
    train, test = np.asarray(train), np.asarray(test)
    path = cache_folder() / "neighbors" / f"{content_key(f'{_LAYOUT} {metric} {k}', train, test)}.npz"
    found = _read(path, (len(test), k), len(train))
    if found is None:
        found = exact_neighbors(train, test, k, metric, progress=progress)
        try:
            with written_whole(path) as temporary, open(temporary, "wb") as file:
                np.savez(file, ids=found[0], distances=found[1])
        except OSError as error:
            _log.warning("exact neighbours not kept in %s: %s", path, error)
    return found


@dataclass(frozen=True)
class _Frame:
    """How rows and queries are shifted and scaled so that float32 scores are as sharp as they can be.

    A row x and a query q become x', q' with |x'|, |q'| <= 1, and the k rows with the largest
    <q', x'> - half(x') are the k nearest.
    l2:      both shifted by the centre and scaled alike, half = |x'|^2 / 2
    ip:      the rows scaled alike, each query to unit length, half = 0
    cosine:  all to unit length (zero stays zero), half = 0
    """

    metric: str
    centre: NDArray[np.float32]  # (d,), after scaling; zero but for l2
    scale: np.float32  # a power of two, so that scaling is exact

    @classmethod
    def around(cls, base: VectorSource, questions: NDArray[np.float32], metric: str) -> _Frame:
        if metric == "cosine":
            return cls(metric, np.zeros(base.dim, np.float32), np.float32(1))
        total = np.zeros(base.dim)
        largest = float(np.abs(questions).max(initial=0)) if metric == "l2" else 0.0
        for _, rows in base.chunks(_ROWS):
            largest = max(largest, float(np.abs(rows).max(initial=0)))
            total += rows.sum(axis=0, dtype=np.float64)
        bound = 2 * largest * np.sqrt(base.dim)
        exponent = np.clip(-np.ceil(np.log2(bound)), -126, 126) if bound > 0 else 0
        scale = np.float32(2.0**exponent)
        centre = total / base.n if metric == "l2" else np.zeros(base.dim)
        return cls(metric, (centre * float(scale)).astype(np.float32), scale)

    def rows(self, x: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | np.float32]:
        """x (m, d) float32 -> x' (m, d), |x'| (m,) and half(x') (m,), all float32."""
        if self.metric == "cosine":
            x = _unit(x)
        elif self.metric == "l2":
            x = x * self.scale - self.centre
        else:
            x = x * self.scale
        squares = np.einsum("ij,ij->i", x, x, dtype=np.float64)
        half = (squares / 2).astype(np.float32) if self.metric == "l2" else np.float32(0)
        return x, np.sqrt(squares).astype(np.float32), half

    def queries(self, q: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any]]:
        """q (b, d) float32 -> q' (b, d) and |q'| (b,), float32."""
        q = q * self.scale - self.centre if self.metric == "l2" else _unit(q)
        return q, np.sqrt(np.einsum("ij,ij->i", q, q, dtype=np.float64)).astype(np.float32)

    def slack(
        self, query_norms: NDArray[Any], row_norms: NDArray[Any], half: NDArray[Any] | np.float32
    ) -> NDArray[np.float32]:
        """(b, m) bound on |float32 score - true score|.

        In units of u (|q'||x'| + half): d for the dot product, 1 for each rounding of q', x', half and the
        difference, the rest of the 16 for this bound's own arithmetic, 2 % for the 1 - d u. The float64
        distance, which decides, errs in units of 2^-53 (|q'| + |x'|)^2: `far` is for queries so far away that
        this is more.
        """
        terms = 1.02 * len(self.centre) + 16
        far = query_norms * np.float32(2.0**-28)
        sizes = query_norms[:, None] * (row_norms + far[:, None]) + half
        return np.float32(terms * _UNIT) * sizes + np.float32(terms * _UNDERFLOW)


def _propose(
    base: VectorSource, block: NDArray[np.float32], k: int, frame: _Frame, report: Callable[[int], None]
) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """All (query, row) pairs that may be among the k nearest: at least k rows a query, in no order."""
    q, query_norms = frame.queries(block)
    surest = np.empty((len(q), 0), np.float32)  # (b, <= k) the largest lower bounds so far
    floor = np.full(len(q), -np.inf, np.float32)  # (b,) the k-th of them
    kept = []
    for start, chunk in base.chunks(_ROWS):
        x, row_norms, half = frame.rows(chunk)
        score = q @ x.T - half
        slack = frame.slack(query_norms, row_norms, half)
        surest = np.concatenate([surest, score - slack], axis=1)
        if surest.shape[1] >= k:
            surest = np.partition(surest, -k, axis=1)[:, -k:]
            floor = surest.min(axis=1)
        score += slack
        asked, row = np.nonzero(score >= floor[:, None])
        kept.append((asked, row + start, score[asked, row]))
        report(start + len(chunk))
    asked, rows, upper = (np.concatenate(parts) for parts in zip(*kept, strict=True))
    possible = upper >= floor[asked]
    return asked[possible], rows[possible]


def _score(
    train: NDArray[Any], ids: NDArray[Any], test: NDArray[Any], asked: NDArray[Any], metric: str
) -> NDArray[np.float64]:
    """values (p,) float64 of the pairs (row ids[i] of train, row asked[i] of test), in FAISS convention.

    Each pair is summed in the same order wherever it stands (NumPy's pairwise sum along the last axis), so
    equal rows get equal values and the smaller id wins; a matrix product or einsum does not promise that.
    """
    values = np.empty(len(ids))
    step = max(1, _RESCORED // max(1, train.shape[1]))
    for start in range(0, len(ids), step):
        pairs = slice(start, start + step)
        x, q = _exact(train[ids[pairs]]), _exact(test[asked[pairs]])
        if metric == "l2":
            x -= q
            values[pairs] = (x * x).sum(axis=1)
            continue
        values[pairs] = (x * q).sum(axis=1)
        if metric == "cosine":
            norms = np.sqrt((x * x).sum(axis=1)) * np.sqrt((q * q).sum(axis=1))
            values[pairs] /= np.where(norms > 0, norms, 1.0)
    return values


def _exact(x: NDArray[Any]) -> NDArray[np.float64]:
    return x.astype(np.float32).astype(np.float64)


def _unit(x: NDArray[np.float32]) -> NDArray[np.float32]:
    exact = x.astype(np.float64)
    norms = np.sqrt(np.einsum("ij,ij->i", exact, exact))
    return (exact / np.where(norms > 0, norms, 1.0)[:, None]).astype(np.float32)


def _read(path: Path, shape: tuple[int, int], n: int) -> Neighbors | None:
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            ids, distances = arrays["ids"], arrays["distances"]
    except FileNotFoundError:
        return None
    except (
        AttributeError, EOFError, KeyError, OSError, TypeError, ValueError, zipfile.BadZipFile, zlib.error
    ) as error:  # AttributeError: what `with` raises on a plain array in Python 3.10
        _log.warning("cached neighbours %s are damaged and computed again: %s", path, error)
        return None
    sound = (ids.dtype, ids.shape, distances.dtype, distances.shape) == (np.int64, shape, np.float32, shape)
    return (ids, distances) if sound and (not ids.size or 0 <= ids.min() <= ids.max() < n) else None
