"""One cell measured: an index is built, searched, and judged by exact neighbours and by the rows themselves.

Times:     the clock sees the index alone. Kernels are compiled, codebooks computed and threads started before, by a
           tiny index of the same kind and a small search. Lists of a size are learned once for a data set, by the first
           index that wants them, and that time is part of the build of every index that has them.
Recall:    overlap with the exact neighbours, R_k@k (metrics.overlap_at), and ann-benchmarks' recall beside it.
vNMSE:     of the quantizer as a compressor of r = row - mean row (rows of unit length for cosine), relative to |r|^2
           and over the same rows for every method, so that it compares with the quantizer's expected_error(). A
           peer's decoded rows are compared with the same r. It is not the error of FlatIndex.reconstruct, which
           rescales cosine rows and rounds levels to int8, nor of an inverted file, whose residuals are shorter; but of
           spectral codes in lists r are the residuals, for of these the axes are.
Memory:    beside the data set and one index, a chunk of rows at a time, and 1,024 rows for vNMSE."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polarindex import checks
from polarindex.errors import first_line
from polarindex.indexes.flat import FlatIndex
from polarindex.indexes.ivf import IVFIndex
from polarindex.indexes.spilling import homes
from polarindex.indexes.threads import available_cores
from polarindex.sweep.dataset import Dataset
from polarindex.sweep.groundtruth import exact_distances
from polarindex.sweep.metrics import InnerProductError, inner_product_error, overlap_with_interval, recall_at, vnmse
from polarindex.sweep.peers import FaissPQ
from polarindex.sweep.plan import SPECTRAL, Cell, Plan
from polarindex.sweep.results import Bound, Measurement, Recall
from polarindex.sweep.theory import gaussian_bound, spectrum
from polarindex.vectors import mean_and_energy, unit_rows

_SAMPLE_ROWS = 1024  # for vNMSE: its standard error is then about 1 % of it
_SAMPLE_QUERIES = 256  # for the error of inner products
_SINGLES = 100  # queries that are asked alone, at most
_ENOUGH = 1.0  # seconds: what takes longer is not timed again
_SPECTRUM_ROWS = 65_536
_WARM_ROWS, _WARM_QUERIES, _WARM_LISTS = 64, 64, 4
_BOUND_BITS = tuple(bits / 4 for bits in range(33))

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Sample:
    """What every method's distortion is measured on: some rows and queries, without the mean row."""

    ids: Ids  # (m,) rows of train
    rows: Floats  # (m, d) these rows, of unit length for cosine, minus `mean`
    queries: Floats  # (mq, d) the first queries, likewise
    mean: Floats  # (d,) of all rows of train, of unit length for cosine

    @classmethod
    def of(cls, dataset: Dataset, seed: int) -> Sample:
        ids = np.sort(np.random.default_rng(seed).permutation(len(dataset.train))[:_SAMPLE_ROWS])
        mean, _ = mean_and_energy(_chunks(dataset), dataset.dim)

        def centred(x: NDArray[Any], name: str) -> Floats:
            rows = checks.vectors(x, name).array()
            return (unit_rows(rows, name) if dataset.metric == "cosine" else rows) - mean

        rows, queries = centred(dataset.train[ids], "train"), centred(dataset.test[:_SAMPLE_QUERIES], "test")
        return cls(ids, rows, queries, mean)


class Distortion(NamedTuple):
    """How a quantizer errs on the sample."""

    error: float
    expected: float | None  # what theory says of it
    products: InnerProductError


class Built(NamedTuple):
    """An index that holds all rows, what that took, and how its codes err."""

    cell: Cell
    index: Any
    seconds: float
    cpu_seconds: float
    distortion: Distortion


class FailedBuild(Exception):
    """An index could not be built; the message is the first error's, with its type."""


class Lists(NamedTuple):
    """Centroids of a data set, and what it took to learn them."""

    centroids: Floats
    seconds: float
    cpu_seconds: float


class Bench:
    """One data set, on which cells are measured; it keeps the last index for cells that search it in another way."""

    def __init__(self, dataset: Dataset, plan: Plan) -> None:
        self.dataset, self.plan = dataset, plan
        self.threads = plan.threads or available_cores()
        self.sample = Sample.of(dataset, plan.seed)
        self._built: Built | None = None
        self._failed: tuple[Cell, str] | None = None  # no exception, whose frames would keep the index alive
        self._lists: dict[int, Lists] = {}

    def bound(self) -> Bound | None:
        """What theory allows on rows of this spectrum; None where all of them are equal."""
        try:
            rows = (part - self.sample.mean for part in _chunks(self.dataset, _SPECTRUM_ROWS))
            variances = spectrum(rows, self.dataset.dim)
        except ValueError:
            return None
        points = tuple((bits, gaussian_bound(variances, bits)) for bits in _BOUND_BITS)
        return Bound(self.dataset.name, self.dataset.content, points)

    def measure(self, cell: Cell) -> Measurement:
        """Build the cell's index over all rows, if it is not the last one, search it, and measure both."""
        built, k, ks = self._index_of(cell.build), max(self.plan.k), sorted(set(self.plan.k))
        ids, wall, cpu = self._searched(built.index, cell, k)
        found = exact_distances(self.dataset.train, self.dataset.test, ids, self.dataset.metric)
        error, expected, products = built.distortion
        return Measurement(
            bytes_per_vector=float(built.index.bytes_per_vector),
            bits_per_dim=8 * built.index.bytes_per_vector / self.dataset.dim,
            recall={at: self._recall(ids, found, at) for at in ks},
            vnmse=error,
            expected_vnmse=expected,
            ip_rmse=products.rmse,
            ip_bias=products.bias,
            ip_slope=products.slope,
            build_seconds=built.seconds,
            build_cpu_seconds=built.cpu_seconds,
            search_ms=1000 * wall / len(ids),
            search_cpu_ms=1000 * cpu / len(ids),
            single_ms=1000 * self._single(built.index, cell, k),
            note=getattr(built.index, "note", ""),
        )

    # --- building

    def _index_of(self, build: Cell) -> Built:
        if self._failed and self._failed[0] == build:
            raise FailedBuild(self._failed[1])
        if self._built is None or self._built.cell != build:
            self._built = None  # its memory is free before the next one takes as much
            try:
                self._built = self._build(build)
            except Exception as error:
                self._failed = build, f"{type(error).__name__}: {first_line(error)}"
                raise
        return self._built

    def _build(self, build: Cell) -> Built:
        if not build.subquantizers:
            self._warm(build)
        train, index = self.dataset.train, self._empty(build)
        if build.index == "ivf":
            if build.nlist not in self._lists:
                self._lists[build.nlist] = self._learn(build)
            learned = self._lists[build.nlist]
            index.fit(train, centroids=learned.centroids)  # whose time is that of learning them
            wall, cpu = _clocked(lambda: index.add(train))
            wall, cpu = wall + learned.seconds, cpu + learned.cpu_seconds
        else:
            wall, cpu = _clocked(lambda: index.fit(train).add(train))
        return Built(build, index, wall, cpu, self._distortion(index))

    def _learn(self, build: Cell) -> Lists:
        index = self._empty(build)
        times = _clocked(lambda: index.fit(self.dataset.train))
        return Lists(index.centroids, *times)

    def _warm(self, build: Cell) -> None:
        """Compile, and compute tables, with a tiny index of the kind."""
        few, asked = self.dataset.train[:_WARM_ROWS], self.dataset.test[:_WARM_QUERIES]
        tiny = self._empty(replace(build, nlist=min(build.nlist, _WARM_LISTS, len(few))))
        tiny.fit(few).add(few)
        tiny.search(asked, max(self.plan.k), num_threads=self.threads)
        tiny.search(asked[:1], max(self.plan.k), num_threads=1)

    def _empty(self, build: Cell) -> Any:
        dim, metric, seed = self.dataset.dim, self.dataset.metric, self.plan.seed
        if build.subquantizers:
            return FaissPQ(dim, metric, build.subquantizers, build.method.endswith("rotated"), seed, self.threads)
        kind = {"quantizer": build.method}
        if build.method in SPECTRAL:
            kind = {"codes": "spectral", "quantizer": SPECTRAL[build.method]}
        code: dict[str, Any] = {"bits": int(build.bits), **kind, "seed": seed, "store": build.store}
        if build.index == "ivf":
            return IVFIndex(dim, metric, nlist=build.nlist, **code)
        return FlatIndex(dim, metric, **code)

    # --- searching

    def _searched(self, index: Any, cell: Cell, k: int) -> tuple[Ids, float, float]:
        """Ids of the k nearest of all queries; medians of the seconds by the clock and of all threads together."""
        how, queries = _how(cell), self.dataset.test
        index.search(queries[:_WARM_QUERIES], k, num_threads=self.threads, **how)
        walls: list[float] = []
        cpus: list[float] = []
        found: list[tuple[Any, Ids]] = []
        while len(walls) < self.plan.repeats and sum(walls) < _ENOUGH:
            wall, cpu = _clocked(lambda: found.append(index.search(queries, k, num_threads=self.threads, **how)))
            walls.append(wall)
            cpus.append(cpu)
        return found[0][1], float(np.median(walls)), float(np.median(cpus))

    def _single(self, index: Any, cell: Cell, k: int) -> float:
        """The median of the seconds by the clock of a query that is asked alone."""
        how = _how(cell)
        index.search(self.dataset.test[:1], k, num_threads=1, **how)  # one query may want another kernel than many
        seconds: list[float] = []
        for query in checks.vectors(self.dataset.test[:_SINGLES], "test").array()[:, None]:
            if sum(seconds) > _ENOUGH / 3:
                break
            began = time.perf_counter()
            index.search(query, k, num_threads=1, **how)
            seconds.append(time.perf_counter() - began)
        return float(np.median(seconds))

    # --- judging

    def _recall(self, ids: Ids, found: NDArray[np.float64], k: int) -> Recall:
        share = overlap_with_interval(ids, self.dataset.neighbors, k)
        return Recall(*share, recall_at(ids, found, self.dataset.distances, k, metric=self.dataset.metric))

    def _distortion(self, index: Any) -> Distortion:
        rows, queries = self.sample.rows, self.sample.queries
        if isinstance(index, FaissPQ):
            decoded = index.reconstruct(self.sample.ids) - self.sample.mean
            return Distortion(vnmse(rows, decoded), None, inner_product_error(queries, rows, queries @ decoded.T))
        if index.codes == "spectral" and isinstance(index, IVFIndex):
            x, centroids = rows + self.sample.mean, index.centroids
            rows = x - centroids[homes(x, centroids, None).first]
        codes = index.quantizer.encode(rows)
        products = inner_product_error(queries, rows, index.quantizer.scores(queries, codes))
        return Distortion(vnmse(rows, index.quantizer.decode(codes)), index.quantizer.expected_error(), products)


def _clocked(call: Callable[[], object]) -> tuple[float, float]:
    """Seconds of a call by the clock, and of all threads."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def _how(cell: Cell) -> dict[str, int]:
    """The arguments of a cell's searches, those that its index knows."""
    how = {"nprobe": cell.nprobe} if cell.index == "ivf" else {}
    return how | ({"rerank": cell.rerank} if cell.rerank else {})


def _chunks(dataset: Dataset, most: int | None = None) -> Iterator[Floats]:
    """Rows of train, of unit length for cosine; at most about so many, in parts that are spread evenly."""
    n = len(dataset.train)
    every = 1 if most is None else max(1, -(-n // most))
    for number, (start, rows) in enumerate(checks.vectors(dataset.train, "train").chunks()):
        if number % every == 0:
            yield unit_rows(rows, "train", start) if dataset.metric == "cosine" else rows
