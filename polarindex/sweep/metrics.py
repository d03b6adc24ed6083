"""What a sweep measures: recall of a search, distortion of a reconstruction, error of inner products.

Law:       every number is a mean over queries (recall) or vectors (distortion); a missing id (-1) is a miss,
           and an id returned twice counts once.
Source:    ann-benchmarks' recall (a hit is a distance, not an id); vNMSE of DRIVE, arXiv:2105.08339.
Not here:  the distances that a hit is judged by (groundtruth.py)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

EPSILON = 1e-3  # ann-benchmarks' tolerance, absolute, in its own distances: unsquared l2, 1 - cosine
_NORMAL = 1.96  # standard deviations that hold 95 % of a normal law
_BLOCK = 1 << 22  # float64 values held at a time


def recall_at(
    ids: ArrayLike,
    id_distances: ArrayLike,
    distances: ArrayLike,
    k: int,
    *,
    metric: str,
    epsilon: float = EPSILON,
) -> float:
    """ann-benchmarks' recall: the share of the first k ids that are no farther than the true k-th neighbour.

    An id counts when its true distance is at most the k-th true distance + epsilon, in the distances of
    ann-benchmarks (unsquared l2, 1 - cosine, -inner product), so a swap among tied neighbours costs nothing.
    Where neighbours lie closer together than epsilon it is generous; `overlap_at` is strict.

    ids           (nq, >= k) integers, -1 where missing
    id_distances  (nq, >= k) true distances of `ids` (`exact_distances`), FAISS convention
    distances     (nq, >= k) true distances of the true neighbours, best first, FAISS convention
    """
    ids, id_distances = _first(ids, "ids", k), _first(id_distances, "id_distances", k)
    kth = _first(distances, "distances", k)[:, k - 1 :]
    _same_queries(ids, id_distances, kth)
    hit = _lower_is_nearer(id_distances, metric) <= _lower_is_nearer(kth, metric) + epsilon
    return float((hit & _counted(ids)).sum() / ids.size) if ids.size else 1.0


def overlap_at(ids: ArrayLike, neighbors: ArrayLike, k: int) -> float:
    """R_k@k: the share of the k true neighbours that are among the first k ids.

    ids (nq, >= k) integers, -1 where missing;  neighbors (nq, >= k) true ids, best first
    """
    return _found(ids, neighbors, k, k)


def top1_at(ids: ArrayLike, neighbors: ArrayLike, k: int) -> float:
    """1@k: the share of queries whose single true nearest neighbour is among the first k ids."""
    return _found(ids, neighbors, k, 1)


def vnmse(x: ArrayLike, x_hat: ArrayLike) -> float:
    """Mean over rows of |x - x_hat|^2 / |x|^2. Rows of zeros, where it is undefined, are left out.

    x, x_hat  (n, d) any real dtype
    """
    x, x_hat = np.asarray(x), np.asarray(x_hat)
    if x.ndim != 2 or x.shape != x_hat.shape:
        raise ValueError(f"x_hat must have the shape of x, (n, d); got {x_hat.shape} for {x.shape}")
    total, count = 0.0, 0
    for rows in _row_blocks(len(x), x.shape[1]):
        block = x[rows].astype(np.float64)
        energy = np.einsum("ij,ij->i", block, block)
        block -= x_hat[rows]
        error = np.einsum("ij,ij->i", block, block)
        real = energy > 0
        total += float((error[real] / energy[real]).sum())
        count += int(real.sum())
    if not count:
        raise ValueError("x must have at least one row that is not zero; got none")
    return total / count


class Share(NamedTuple):
    """A mean over queries, and the interval that holds the mean over all queries like them in 95 of 100 cases."""

    mean: float
    low: float
    high: float


def overlap_with_interval(ids: ArrayLike, neighbors: ArrayLike, k: int) -> Share:
    """`overlap_at`, and Wilson's interval of as many trials as would scatter like the queries' shares do.

    A share of 1 that all queries agree on is of nq trials: seen 500 times, it is .992 at least.
    """
    shares = _hits(ids, neighbors, k, k) / k
    if not len(shares):
        return Share(1.0, 0.0, 1.0)
    mean = float(shares.mean())
    error2 = float(shares.var(ddof=1)) / len(shares) if len(shares) > 1 else 0.0
    trials = mean * (1 - mean) / error2 if error2 else float(len(shares))
    z2 = _NORMAL**2 / trials
    middle, half = mean + z2 / 2, np.sqrt(z2 * (mean * (1 - mean) + z2 / 4))
    return Share(mean, max(0.0, float(middle - half) / (1 + z2)), min(1.0, float(middle + half) / (1 + z2)))


class InnerProductError(NamedTuple):
    """How estimated inner products miss the true ones, in units of |q||x|."""

    rmse: float  # root of the mean squared error
    bias: float  # mean signed error
    slope: float  # least-squares slope of estimate on truth: 1 when unbiased, below 1 when estimates shrink


def inner_product_error(queries: ArrayLike, x: ArrayLike, scores: ArrayLike) -> InnerProductError:
    """Compare estimated inner products with the true ones, over all pairs of non-zero rows.

    queries (nq, d);  x (n, d);  scores (nq, n) estimates of <queries_i, x_j>

    The slope shows the bias that the mean hides: when truths are symmetric about zero, shrunken estimates
    still err by zero on average.
    """
    queries, x = np.asarray(queries, np.float64), np.asarray(x)
    scores = np.asarray(scores)
    if queries.ndim != 2 or x.ndim != 2 or queries.shape[1] != x.shape[1]:
        raise ValueError(f"queries and x must be (nq, d) and (n, d); got {queries.shape} and {x.shape}")
    if scores.shape != (len(queries), len(x)):
        raise ValueError(f"scores must be (nq, n) = {(len(queries), len(x))}; got {scores.shape}")
    units = _unit(queries)
    count, error_sum, square_sum, cross, energy = 0, 0.0, 0.0, 0.0, 0.0
    for rows in _row_blocks(len(x), max(x.shape[1], len(queries))):
        block = x[rows].astype(np.float64)
        scale = np.outer(np.linalg.norm(queries, axis=1), np.linalg.norm(block, axis=1))
        real = scale > 0
        truth = (units @ _unit(block).T)[real]
        estimate = scores[:, rows][real] / scale[real]
        error = estimate - truth
        count += error.size
        error_sum += float(error.sum())
        square_sum += float(error @ error)
        cross += float(estimate @ truth)
        energy += float(truth @ truth)
    if not count:
        raise ValueError("queries and x must have at least one row each that is not zero")
    slope = cross / energy if energy else float("nan")
    return InnerProductError(float(np.sqrt(square_sum / count)), error_sum / count, slope)


def _lower_is_nearer(distances: NDArray[Any], metric: str) -> NDArray[np.float64]:
    """FAISS convention to ann-benchmarks' distances, in float64; missing ones stay infinitely far."""
    values = distances.astype(np.float64)
    if metric == "l2":
        return np.sqrt(np.maximum(values, 0.0))
    if metric in ("ip", "cosine"):
        return -values  # 1 - cosine but for the constant
    raise ValueError(f"metric must be one of 'l2', 'ip', 'cosine'; got {metric!r}")


def _found(ids: ArrayLike, neighbors: ArrayLike, k: int, wanted: int) -> float:
    hits = _hits(ids, neighbors, k, wanted)
    return float(hits.sum()) / (len(hits) * wanted) if len(hits) else 1.0


def _hits(ids: ArrayLike, neighbors: ArrayLike, k: int, wanted: int) -> NDArray[np.int64]:
    """How many of each query's first `wanted` true ids are among its first k ids; (nq,)."""
    ids, true = _first(ids, "ids", k), _first(neighbors, "neighbors", wanted)
    _same_queries(ids, true)
    found = [np.intersect1d(row[row >= 0], want).size for row, want in zip(ids, true, strict=True)]
    return np.array(found, np.int64)


def _counted(ids: NDArray[Any]) -> NDArray[np.bool_]:
    """Which places hold an id (not -1) that did not come earlier in its row."""
    order = np.argsort(ids, axis=1, kind="stable")
    ranked = np.take_along_axis(ids, order, axis=1)
    fresh = np.ones(ids.shape, bool)
    fresh[:, 1:] = ranked[:, 1:] != ranked[:, :-1]
    counted = np.empty(ids.shape, bool)
    np.put_along_axis(counted, order, fresh & (ranked >= 0), axis=1)
    return counted


def _first(values: ArrayLike, name: str, k: int) -> NDArray[Any]:
    array = np.asarray(values)
    if k < 1:
        raise ValueError(f"k must be at least 1; got {k}")
    if array.ndim != 2 or array.shape[1] < k:
        raise ValueError(f"{name} must be (nq, k) with at least k={k} columns; got {array.shape}")
    return array[:, :k]


def _same_queries(*arrays: NDArray[Any]) -> None:
    if len({len(array) for array in arrays}) > 1:
        raise ValueError(
            f"results and truth must be for the same queries; got {[len(a) for a in arrays]} rows"
        )


def _unit(x: NDArray[np.float64]) -> NDArray[np.float64]:
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(norms > 0, norms, 1.0)


def _row_blocks(n: int, width: int) -> Iterator[slice]:
    step = max(1, _BLOCK // max(width, 1))
    return (slice(start, start + step) for start in range(0, n, step))
