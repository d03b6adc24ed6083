"""A data set by name: an embedded sample, a registered set that was downloaded, a file like it, or vectors.

Not here:  the layout (hdf5.py), vectors alone (own.py), what can be downloaded (registry.py), and how (download.py)."""

from __future__ import annotations

import os
from pathlib import Path

from polarindex.checks import integer
from polarindex.errors import MissingDatasetError
from polarindex.sweep.cache import cache_folder
from polarindex.sweep.files import PART
from polarindex.sweep.groundtruth import Progress
from polarindex.sweep.hdf5 import Dataset, is_dataset, read_dataset, write_dataset
from polarindex.sweep.own import own_dataset
from polarindex.sweep.registry import REGISTRY

__all__ = ["SAMPLES", "Dataset", "dataset_names", "dataset_path", "load_dataset", "write_dataset"]

SAMPLES = ("fashion-mnist-sample", "glove-sample")  # come with the package; their licences lie beside them


def load_dataset(
    name_or_path: str | os.PathLike[str],
    *,
    rows: int | None = None,
    queries: int | None = None,
    metric: str | None = None,
    queries_from: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Dataset:
    """Load a data set: a sample's or registered name, an ann-benchmarks HDF5 file, or vectors alone (files.py).

    Parameters
    ----------
    name_or_path : str or path
        A file that holds several matrices is given as FILE::PART.
    rows, queries : int, optional
        Only so many first rows of `train` and `test` (all where there are fewer); with fewer rows the exact neighbours
        are computed anew and cached.
    metric : str, optional
        Of vectors alone (default cosine); a data set has its own, and another is an error.
    queries_from : str, optional
        A file with queries for vectors alone; without it, some rows are held out, by `seed`.
    seed : int
    progress : callable, optional
        Called with (done, total) while neighbours are computed.

    Raises
    ------
    MissingDatasetError
        The message says how to get it.
    FormatError
        What is wrong with the file; and what `own_dataset` raises.
    """
    for value, name in ((rows, "rows"), (queries, "queries")):
        if value is not None:
            integer(value, name, 1)
    path = dataset_path(name_or_path)
    if vectors_alone(name_or_path):
        return own_dataset(
            os.fspath(name_or_path), metric=metric or "cosine", queries_from=queries_from, rows=rows, queries=queries,
            seed=seed, progress=progress,
        )  # fmt: skip
    dataset = read_dataset(path, rows=rows, queries=queries, progress=progress)
    if metric not in (None, dataset.metric):
        raise ValueError(f"metric must be {dataset.metric!r}, that of the neighbours in {path}; got {metric!r}")
    return dataset


def vectors_alone(name_or_path: str | os.PathLike[str]) -> bool:
    """Whether a file is of vectors alone, and no data set with queries and neighbours; MissingDatasetError as above."""
    return PART in os.fspath(name_or_path) or not is_dataset(dataset_path(name_or_path))


def dataset_names() -> tuple[str, ...]:
    """Every name that `load_dataset` knows: the samples, then the sets that can be downloaded."""
    return (*SAMPLES, *REGISTRY)


def dataset_path(name_or_path: str | os.PathLike[str]) -> Path:
    """Where a data set's file is on this machine; MissingDatasetError if it is not here."""
    name = os.fspath(name_or_path)
    if name in SAMPLES:
        return _sample_path(name)
    if name in REGISTRY:
        path = downloads_folder() / REGISTRY[name].filename
        if not path.exists():
            raise MissingDatasetError(
                f"data set {name!r} is not on this machine (no {path}); "
                f"get it with: polarindex dataset get {name}"
            )
        return path
    path = Path(name.split(PART)[0]).expanduser()
    if path.is_file():
        return path
    known = f"the data sets known by name are {', '.join(dataset_names())}"
    raise MissingDatasetError(f"no file and no data set {name!r}; {known}")


def downloads_folder() -> Path:
    """Where downloaded data sets are kept."""
    return cache_folder() / "datasets"


def _sample_path(name: str) -> Path:
    package = Path(__file__).resolve().parents[1]
    candidates = [package / "samples", package.parent / "datasets" / "samples"]  # a wheel, a source checkout
    for folder in candidates:
        path = folder / f"{name}.hdf5"
        if path.is_file():
            return path
    places = " or ".join(map(str, candidates))
    raise MissingDatasetError(f"the sample {name!r} should be in {places}; install polarindex again")
