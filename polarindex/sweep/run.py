"""Run a plan: each cell builds an index, searches it, and is measured; one that fails does not stop the others.

Times:     the clock sees the index alone. Kernels are compiled, codebooks computed and threads started before, by a
           tiny index of the same kind and a small search.
Recall:    overlap with the exact neighbours, R_k@k (metrics.overlap_at).
vNMSE:     of the quantizer as a compressor of r = row - mean row (rows of unit length for cosine), relative to |r|^2
           and over the same rows for every method, so that it compares with the quantizer's expected_error(). A
           peer's decoded rows are compared with the same r. It is not the error of FlatIndex.reconstruct, which
           rescales cosine rows and rounds levels to int8.
Memory:    beside the data set and one index, a chunk of rows at a time, and 1,024 rows for vNMSE."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polarindex import checks
from polarindex.indexes.flat import FlatIndex
from polarindex.indexes.threads import available_cores
from polarindex.sweep.dataset import Dataset, dataset_path, load_dataset
from polarindex.sweep.metrics import overlap_at, vnmse
from polarindex.sweep.peers import FaissPQ, faiss_installed
from polarindex.sweep.plan import Cell, Plan
from polarindex.sweep.results import Measurement, Row
from polarindex.vectors import mean_and_energy, unit_rows

_SAMPLE_ROWS = 1024  # for vNMSE: its standard error is then about 1 % of it
_WARM_ROWS, _WARM_QUERIES = 64, 64


class Step(NamedTuple):
    """Where a sweep is: a cell begins (row is None) or has been measured.

    `total` is a guess until the last set is open: the number of peers' cells depends on its dimension.
    """

    dataset: str
    cell: Cell
    done: int
    total: int
    row: Row | None


def run(plan: Plan) -> Iterator[Step]:
    """Measure the plan's cells one by one, two steps a cell. Data sets are found first and loaded in turn.

    An error within a cell becomes its row's `error`. Errors of a data set (MissingDatasetError, FormatError,
    ValueError where it holds fewer than max(k) neighbours) are raised; KeyboardInterrupt goes through.
    """
    for name in plan.datasets:
        dataset_path(name)
    done = 0
    for position, name in enumerate(plan.datasets):
        dataset = load_dataset(name, rows=plan.rows, queries=plan.queries)
        held = dataset.neighbors.shape[1]
        if max(plan.k) > held:
            raise ValueError(f"k must be at most {held}, the neighbours a query in {name}; got {max(plan.k)}")
        sample = Sample.of(dataset, plan.seed)
        cells = plan.cells(dataset.dim, peers=faiss_installed())
        total = done + len(cells) * (len(plan.datasets) - position)
        for cell in cells:
            yield Step(dataset.name, cell, done, total, None)
            row = _row(cell, dataset, sample, plan)
            done += 1
            yield Step(dataset.name, cell, done, total, row)


@dataclass(frozen=True)
class Sample:
    """Rows that every method's distortion is measured on."""

    ids: NDArray[np.int64]  # (m,) rows of train
    centred: NDArray[np.float32]  # (m, d) these rows, of unit length for cosine, minus `mean`
    mean: NDArray[np.float32]  # (d,) of all rows of train, of unit length for cosine

    @classmethod
    def of(cls, dataset: Dataset, seed: int) -> Sample:
        ids = np.sort(np.random.default_rng(seed).permutation(len(dataset.train))[:_SAMPLE_ROWS])
        mean, _ = mean_and_energy((rows for _, rows in _chunks(dataset)), dataset.dim)
        rows = checks.vectors(dataset.train[ids], "train").array()
        return cls(ids, (unit_rows(rows, "train") if dataset.metric == "cosine" else rows) - mean, mean)


def measure(cell: Cell, dataset: Dataset, sample: Sample, plan: Plan) -> Measurement:
    """Build the cell's index over all rows, search it, and measure both."""
    threads = plan.threads or available_cores()
    if not cell.subquantizers:
        warm = _index(cell, dataset, plan.seed, threads)
        warm.fit(dataset.train[:_WARM_ROWS]).add(dataset.train[:_WARM_ROWS])
        warm.search(dataset.test[:_WARM_QUERIES], max(plan.k), num_threads=threads)
    wall, cpu = time.perf_counter(), time.process_time()
    index = _index(cell, dataset, plan.seed, threads)
    index.fit(dataset.train).add(dataset.train)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    index.search(dataset.test[:_WARM_QUERIES], max(plan.k), num_threads=threads)
    began = time.perf_counter()
    _, ids = index.search(dataset.test, max(plan.k), num_threads=threads)
    searched = time.perf_counter() - began
    error, expected = _distortion(index, sample)
    return Measurement(
        bytes_per_vector=index.bytes_per_vector,
        bits_per_dim=8 * index.bytes_per_vector / dataset.dim,
        recall={k: overlap_at(ids, dataset.neighbors, k) for k in sorted(set(plan.k))},
        vnmse=error,
        expected_vnmse=expected,
        build_seconds=wall,
        build_cpu_seconds=cpu,
        search_ms=1000 * searched / len(dataset.test),
        note=getattr(index, "note", ""),
    )


def _row(cell: Cell, dataset: Dataset, sample: Sample, plan: Plan) -> Row:
    result, error = None, ""
    try:
        result = measure(cell, dataset, sample, plan)
    except Exception as failure:  # whatever went wrong in one cell, the others are worth having
        lines = str(failure).splitlines()
        error = f"{type(failure).__name__}: {lines[0] if lines else ''}".rstrip(": ")
    return Row(
        dataset=dataset.name,
        metric=dataset.metric,
        rows=len(dataset.train),
        dim=dataset.dim,
        queries=len(dataset.test),
        method=cell.method,
        bits=round(cell.bits, 4),
        result=result,
        error=error,
    )


def _index(cell: Cell, dataset: Dataset, seed: int, threads: int) -> Any:
    if cell.subquantizers:
        rotated = cell.method.endswith("rotated")
        return FaissPQ(dataset.dim, dataset.metric, cell.subquantizers, rotated, seed, threads)
    return FlatIndex(dataset.dim, dataset.metric, int(cell.bits), cell.method, seed)


def _distortion(index: FlatIndex | FaissPQ, sample: Sample) -> tuple[float, float | None]:
    """vNMSE of the sample and what theory says of it."""
    if isinstance(index, FlatIndex):
        quantizer = index.quantizer
        decoded = quantizer.decode(quantizer.encode(sample.centred))
        return vnmse(sample.centred, decoded), quantizer.expected_error()
    return vnmse(sample.centred, index.reconstruct(sample.ids) - sample.mean), None


def _chunks(dataset: Dataset) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """(start, rows) of train, of unit length for cosine."""
    for start, rows in checks.vectors(dataset.train, "train").chunks():
        yield start, unit_rows(rows, "train", start) if dataset.metric == "cosine" else rows
