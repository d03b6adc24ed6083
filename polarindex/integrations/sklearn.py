"""scikit-learn: nearest neighbours by a polarindex index, as estimators.

>>> from sklearn.manifold import TSNE
>>> from sklearn.pipeline import make_pipeline
>>> neighbours = PolarNeighborsTransformer(n_neighbors=90, mode="distance")
>>> embedding = make_pipeline(neighbours, TSNE(metric="precomputed", init="random")).fit_transform(x)

Law:       they obey sklearn's check_estimator. Distances are as scikit-learn has them, the smaller the nearer:
           Euclidean for l2 (not squared), 1 - similarity for cosine. ip is no distance, and not offered.
Why:       KNeighborsTransformer and NearestNeighbors by name and meaning, so that one replaces the other in a pipeline;
           neighbours are approximate, as the index is.
Not here:  the index (indexes/)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from polarindex import checks
from polarindex.errors import MissingExtraError
from polarindex.indexes.flat import FlatIndex

try:
    from joblib import effective_n_jobs
    from scipy.sparse import csr_matrix
    from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise MissingExtraError("scikit-learn is not installed; get it with: pip install 'polarindex[sklearn]'") from error

if TYPE_CHECKING:
    from typing_extensions import Self

_METRICS = "l2", "cosine"


class _Neighbors(BaseEstimator):
    """What both estimators share: an index of the rows they were fitted to, and searches in it."""

    n_neighbors: int
    metric: str
    bits: int
    store: str
    seed: int
    n_jobs: int | None

    def fit(self, X: Any, y: Any = None) -> Self:
        """Make an index of the rows of X, (n_samples, n_features) real numbers; y is not looked at."""
        X = validate_data(self, X, dtype=np.float32)
        checks.integer(self.n_neighbors, "n_neighbors", low=1)
        checks.choice(self.metric, "metric", _METRICS)
        index = FlatIndex(X.shape[1], self.metric, self.bits, seed=self.seed, store=self.store)
        index.add(_nowhere_zero(X, self.metric))
        self.index_, self.n_samples_fit_ = index, len(X)
        return self

    def _queries(self, X: Any) -> NDArray[np.float32]:
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float32, reset=False)
        return _nowhere_zero(X, self.metric)

    def _nearest(self, X: NDArray[np.float32], k: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Distances and positions (n, k), the nearest first."""
        scores, positions = self.index_.search(X, k, num_threads=_threads(self.n_jobs))
        return _distances(scores, self.metric), positions

    def _nearest_others(self, k: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Of each row it was fitted to, the k nearest that are not itself."""
        rows = self.index_.reconstruct(np.arange(self.n_samples_fit_))
        distances, positions = self._nearest(rows, k + 1)
        own = positions == np.arange(len(rows))[:, None]
        own[~own.any(axis=1), -1] = True  # among many equal rows it may not have been found: one of those goes
        return distances[~own].reshape(-1, k), positions[~own].reshape(-1, k)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = False
        return tags


class PolarNearestNeighbors(_Neighbors):
    """Neighbours of rows among the rows it was fitted to, as sklearn.neighbors.NearestNeighbors.

    Parameters
    ----------
    n_neighbors : int
    radius : float
        Of radius_neighbors, as a distance.
    metric : {"l2", "cosine"}
    bits, store, seed : as of FlatIndex
        By default 8 bits, and the rows as they are, by which candidates are re-ranked: distances are then exact.
    n_jobs : int, optional
        Threads; None: as many as an index takes by itself; negative as in scikit-learn.
    """

    def __init__(
        self,
        n_neighbors: int = 5,
        *,
        radius: float = 1.0,
        metric: str = "l2",
        bits: int = 8,
        store: str = "float32",
        seed: int = 0,
        n_jobs: int | None = None,
    ) -> None:
        self.n_neighbors, self.radius, self.metric = n_neighbors, radius, metric
        self.bits, self.store, self.seed, self.n_jobs = bits, store, seed, n_jobs

    def kneighbors(
        self, X: Any = None, n_neighbors: int | None = None, return_distance: bool = True
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]] | NDArray[np.int64]:
        """The nearest rows of each row of X; of each of its own rows, without that one itself, where X is None.

        Returns
        -------
        distances : (n, n_neighbors) float64, ascending; only with return_distance
        positions : (n, n_neighbors) int64
        """
        check_is_fitted(self)
        k = checks.integer(self.n_neighbors if n_neighbors is None else n_neighbors, "n_neighbors", low=1)
        most = self.n_samples_fit_ - (X is None)
        if k > most:
            raise ValueError(f"n_neighbors must be at most {most}, the rows it was fitted to, got {k}")
        distances, positions = self._nearest_others(k) if X is None else self._nearest(self._queries(X), k)
        return (distances, positions) if return_distance else positions

    def kneighbors_graph(self, X: Any = None, n_neighbors: int | None = None, mode: str = "connectivity") -> csr_matrix:
        """The same as a sparse matrix (n, n_samples_fit): of ones, or, with mode="distance", of the distances."""
        checks.choice(mode, "mode", ("connectivity", "distance"))
        distances, positions = self.kneighbors(X, n_neighbors)
        return _graph(distances, positions, mode, self.n_samples_fit_)

    def radius_neighbors(
        self, X: Any, radius: float | None = None, return_distance: bool = True
    ) -> tuple[NDArray[np.object_], NDArray[np.object_]] | NDArray[np.object_]:
        """The rows within a radius of each row of X, the nearest first: (n,) arrays of distances and of positions.

        By the codes alone: distances are estimates, and rows near to the radius may be in or out.
        """
        queries = self._queries(X)
        limit = checks.real(self.radius if radius is None else radius, "radius", low=0)
        score = limit**2 if self.metric == "l2" else 1 - limit
        bounds, scores, positions = self.index_.range_search(queries, score)
        distances = _distances(scores, self.metric)
        found_distances, found = (_parts(values, bounds) for values in (distances, positions))
        return (found_distances, found) if return_distance else found


class PolarNeighborsTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, _Neighbors):
    """The graph of each row's nearest neighbours, as sklearn.neighbors.KNeighborsTransformer.

    Parameters
    ----------
    mode : {"distance", "connectivity"}
        "distance": n_neighbors + 1 entries a row, as the row itself is among its own neighbours.
    n_neighbors, metric, bits, store, seed, n_jobs : as of PolarNearestNeighbors
    """

    def __init__(
        self,
        *,
        mode: str = "distance",
        n_neighbors: int = 5,
        metric: str = "l2",
        bits: int = 8,
        store: str = "float32",
        seed: int = 0,
        n_jobs: int | None = None,
    ) -> None:
        self.mode, self.n_neighbors, self.metric = mode, n_neighbors, metric
        self.bits, self.store, self.seed, self.n_jobs = bits, store, seed, n_jobs

    def fit(self, X: Any, y: Any = None) -> Self:
        checks.choice(self.mode, "mode", ("distance", "connectivity"))
        return super().fit(X, y)

    def transform(self, X: Any) -> csr_matrix:
        """The graph (n, n_samples_fit) of X's rows to the rows it was fitted to."""
        queries = self._queries(X)
        k = self.n_neighbors + (self.mode == "distance")
        if k > self.n_samples_fit_:
            raise ValueError(
                f"n_neighbors={self.n_neighbors} needs {k} rows to be fitted to, got {self.n_samples_fit_}"
            )
        return _graph(*self._nearest(queries, k), self.mode, self.n_samples_fit_)

    @property
    def _n_features_out(self) -> int:
        return self.n_samples_fit_


def _nowhere_zero(X: NDArray[np.float32], metric: str) -> NDArray[np.float32]:
    if metric == "cosine" and not X.any(axis=1).all():
        raise ValueError(
            f"X[{int((~X.any(axis=1)).argmax())}] is zero, which has no direction: metric='cosine' needs one"
        )
    return X


def _distances(scores: NDArray[np.float32], metric: str) -> NDArray[np.float64]:
    values = scores.astype(np.float64)
    return np.sqrt(np.maximum(values, 0)) if metric == "l2" else np.maximum(1 - values, 0)


def _graph(distances: Any, positions: Any, mode: str, columns: int) -> csr_matrix:
    n, k = positions.shape
    data = distances.ravel() if mode == "distance" else np.ones(n * k)
    return csr_matrix((data, positions.ravel(), np.arange(0, n * k + 1, k)), shape=(n, columns))


def _parts(values: NDArray[Any], bounds: NDArray[np.int64]) -> NDArray[np.object_]:
    parts = np.empty(len(bounds) - 1, object)
    for at in range(len(parts)):
        parts[at] = values[bounds[at] : bounds[at + 1]]
    return parts


def _threads(n_jobs: int | None) -> int | None:
    return None if n_jobs is None else int(effective_n_jobs(checks.integer(n_jobs, "n_jobs")))
