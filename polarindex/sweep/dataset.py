"""A data set by name: an embedded sample, a registered set that was downloaded, or any file of that layout.

Not here:  the layout (hdf5.py), the list of downloads (registry.py), the download (download.py)."""

from __future__ import annotations

import os
from pathlib import Path

from polarindex.checks import integer
from polarindex.errors import MissingDatasetError
from polarindex.sweep.cache import cache_folder
from polarindex.sweep.groundtruth import Progress
from polarindex.sweep.hdf5 import Dataset, read_dataset, write_dataset
from polarindex.sweep.registry import REGISTRY

__all__ = ["SAMPLES", "Dataset", "dataset_names", "dataset_path", "load_dataset", "write_dataset"]

SAMPLES = ("fashion-mnist-sample", "glove-sample")  # come with the package; their licences lie beside them


def load_dataset(
    name_or_path: str | os.PathLike[str],
    *,
    rows: int | None = None,
    queries: int | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Load a data set: a sample's or registered name, or the path of an ann-benchmarks HDF5 file.

    rows, queries   only so many first rows of `train` and `test` (all where there are fewer); with fewer rows
                    the exact neighbours are computed anew and cached
    progress        called with (done, total) while neighbours are computed

    Raises MissingDatasetError (the message says how to get it) and FormatError (what is wrong with the file).
    """
    for value, name in ((rows, "rows"), (queries, "queries")):
        if value is not None:
            integer(value, name, 1)
    path = dataset_path(name_or_path)
    return read_dataset(path, rows=rows, queries=queries, progress=progress)


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
    path = Path(name).expanduser()
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
