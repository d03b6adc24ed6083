"""The ann-benchmarks HDF5 layout: `train`, `test`, `neighbors`, `distances` and the attribute `distance`.

Law:       what is written is read again: rows and ids bit for bit, distances to float32 rounding.
Distances: files hold what ann-benchmarks holds: unsquared l2, 1 - cosine, -inner product. In memory they
           follow FAISS: squared l2 ascending, cosine and inner product descending. Files of inner products do
           not agree on the sign, so those distances are computed anew from the rows.
Not here:  where files are found (dataset.py)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from polarindex.errors import FormatError, first_line
from polarindex.sweep.cache import content_key, written_whole
from polarindex.sweep.groundtruth import Progress, cached_neighbors, exact_distances

_METRICS = {"euclidean": "l2", "l2": "l2", "angular": "cosine", "cosine": "cosine", "ip": "ip", "dot": "ip"}
_STORED = {"l2": "euclidean", "cosine": "angular", "ip": "ip"}
NEIGHBORS = 100  # how many are computed where a file has none
_UNKNOWN = "unknown"


@dataclass(frozen=True, eq=False)
class Dataset:
    """Rows to index, queries, and the queries' exact neighbours among the rows."""

    name: str
    metric: str  # "l2" | "ip" | "cosine"
    train: NDArray[Any] = field(
        repr=False
    )  # (n, d) uint8, float16, float32 ... as stored; cosine rows are not normalised
    test: NDArray[Any] = field(repr=False)  # (nq, d)
    neighbors: NDArray[np.int64] = field(repr=False)  # (nq, K) rows of train, best first
    distances: NDArray[np.float32] = field(repr=False)  # (nq, K) squared l2 ascending; ip, cosine descending
    licence: str = _UNKNOWN
    source: str = _UNKNOWN

    @property
    def dim(self) -> int:
        return int(self.train.shape[1])

    @cached_property
    def content(self) -> str:
        """A hash of the metric, of all rows, queries and their neighbours; it reads them once."""
        return content_key(self.metric, self.train, self.test, self.neighbors)


def read_dataset(
    path: Path,
    *,
    name: str | None = None,
    rows: int | None = None,
    queries: int | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Read a file in the ann-benchmarks layout; FormatError, in one line, if it is damaged or something else.

    rows, queries   only so many first rows of `train` and `test`
    progress        called with (done, total) while exact neighbours are computed (and cached), because there
                    are fewer rows or the file has no neighbours
    """
    try:
        with h5py.File(path, "r") as file:
            metric = _metric(path, file)
            train = _matrix(path, file, "train", "iuf")[:rows]
            test = _matrix(path, file, "test", "iuf")[:queries]
            total = len(file["train"])
            given = {key: _matrix(path, file, key, kinds) for key, kinds in _TRUTH.items() if key in file}
            truth = {key: values[:queries] for key, values in given.items()}
            licence, source = (str(_text(file.attrs.get(key, _UNKNOWN))) for key in ("licence", "source"))
    except (FileNotFoundError, FormatError):
        raise
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:  # what h5py raises for damage
        raise FormatError(f"{path} is not a readable HDF5 file: {first_line(error)}") from error
    if train.shape[1] != test.shape[1]:
        raise FormatError(f"{path}: train has {train.shape[1]} columns but test has {test.shape[1]}")
    if len(train) < total or not truth:
        k = min(truth["neighbors"].shape[1] if truth else NEIGHBORS, len(train))
        neighbors, distances = cached_neighbors(train, test, k, metric, progress=progress)
    else:
        neighbors, distances = _truth(path, train, test, truth, metric)
    return Dataset(name or path.stem, metric, train, test, neighbors, distances, licence, source)


def write_dataset(dataset: Dataset, path: Path) -> None:
    """Write `dataset` for `read_dataset` and every other reader of the layout, compressed with gzip.

    Equal sets give equal bytes: no times are stored (HDF5 and zlib versions may still differ).
    """
    contents = {
        "train": dataset.train,
        "test": dataset.test,
        "neighbors": dataset.neighbors.astype(np.int32),
        "distances": _as_stored(dataset.distances, dataset.metric).astype(np.float32),
    }
    with written_whole(path) as temporary, h5py.File(temporary, "w", libver="earliest") as file:
        file.attrs["type"] = "dense"
        file.attrs["distance"] = _STORED[dataset.metric]
        file.attrs["dimension"] = dataset.dim
        file.attrs["point_type"] = "float"
        file.attrs["source"] = dataset.source
        file.attrs["licence"] = dataset.licence
        for key, values in contents.items():
            chunk = (max(1, min(1000, len(values))), values.shape[1])
            options = {"compression": "gzip", "compression_opts": 9, "shuffle": values.itemsize > 1}
            file.create_dataset(key, data=values, chunks=chunk, track_times=False, **options)


_TRUTH = {"neighbors": "iu", "distances": "f"}


def is_dataset(path: Path) -> bool:
    """Whether a file is HDF5 and in the ann-benchmarks layout, or means to be: damage is for `read_dataset` to name."""
    if not h5py.is_hdf5(path):
        return False
    try:
        with h5py.File(path, "r") as file:
            return "distance" in file.attrs or {"train", "test"} <= set(file)
    except (OSError, RuntimeError):
        return True


def _metric(path: Path, file: h5py.File) -> str:
    if "distance" not in file.attrs:
        raise FormatError(f"{path} has no attribute 'distance': not in the ann-benchmarks layout")
    stored = _text(file.attrs["distance"])
    if stored not in _METRICS:
        raise FormatError(f"{path}: distance must be one of {', '.join(map(repr, _METRICS))}; got {stored!r}")
    return _METRICS[stored]


def _matrix(path: Path, file: h5py.File, key: str, kinds: str) -> h5py.Dataset:
    if key not in file:
        raise FormatError(f"{path} has no data set {key!r}: not in the ann-benchmarks layout")
    found = file[key]
    if (
        not isinstance(found, h5py.Dataset)
        or found.ndim != 2
        or 0 in found.shape
        or found.dtype.kind not in kinds
    ):
        got = f"{found.shape} {found.dtype}" if isinstance(found, h5py.Dataset) else "a group"
        raise FormatError(f"{path}: {key} must be a 2-D array of real numbers that is not empty; got {got}")
    return found


def _truth(
    path: Path, train: NDArray[Any], test: NDArray[Any], truth: dict[str, NDArray[Any]], metric: str
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The file's neighbours and distances in FAISS convention, once they are seen to belong to these rows."""
    missing = [key for key in _TRUTH if key not in truth]
    if missing:
        raise FormatError(f"{path} has no data set {missing[0]!r}: not in the ann-benchmarks layout")
    neighbors, stored = truth["neighbors"].astype(np.int64), truth["distances"]
    if neighbors.shape != stored.shape or len(neighbors) != len(test):
        raise FormatError(
            f"{path}: neighbors and distances must have a row for each of {len(test)} queries; "
            f"got {neighbors.shape} and {stored.shape}"
        )
    low, high = neighbors.min(), neighbors.max()
    if low < 0 or high >= len(train):
        raise FormatError(
            f"{path}: neighbors must be rows of train, 0 to {len(train) - 1}; got {low} to {high}"
        )
    if metric == "ip":
        return neighbors, exact_distances(train, test, neighbors, metric).astype(np.float32)
    true = _as_stored(exact_distances(train, test[:1], neighbors[:1], metric), metric)
    if not np.allclose(stored[:1], true, rtol=1e-3, atol=1e-4 * (1 + np.abs(true).max())):
        raise FormatError(f"{path}: distances are not those of the rows that neighbors name (first query)")
    exact = stored.astype(np.float64)
    return neighbors, (exact * exact if metric == "l2" else 1.0 - exact).astype(np.float32)


def _as_stored(distances: NDArray[Any], metric: str) -> NDArray[np.float64]:
    exact = distances.astype(np.float64)
    if metric == "l2":
        return np.sqrt(exact)
    return 1.0 - exact if metric == "cosine" else -exact


def _text(value: object) -> object:
    return value.decode() if isinstance(value, bytes) else value
