"""Recall against bytes on whole data sets: every quantizer of the family, and FAISS product quantization beside it.

    python -m benchmarks.recall DATASET-or-FILE [--rows 60000] [--queries 1000] [--seeds 5]

Writes recall-NAME.json of this machine. Ours are means over rotation seeds, with the standard deviation; FAISS
trains on rows of the base set itself. Times are CPU seconds, so that a busy machine does not matter much.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

import polarindex as pi
from benchmarks.kept import keep
from polarindex.sweep.dataset import Dataset, load_dataset
from polarindex.sweep.metrics import overlap_at
from polarindex.sweep.peers import FaissPQ
from polarindex.sweep.plan import subquantizers
from polarindex.sweep.results import environment
from polarindex.vectors import unit_rows

# label, quantizer, options of FlatIndex, bits
OURS: list[tuple[str, str, dict[str, Any], tuple[int, ...]]] = [
    ("EDEN", "eden", {}, (1, 2, 3, 4, 8)),
    ("EDEN, no centre", "eden", {"center": False}, (1, 2, 3, 4)),
    ("EDEN biased", "eden-biased", {}, (1, 2, 3, 4)),
    ("TurboQuant (S = 1)", "turboquant", {}, (1, 2, 3, 4)),
    ("TurboQuant (S = 1), no centre", "turboquant", {"center": False}, (1, 2, 3, 4)),
    ("TurboQuant prod", "turboquant-prod", {}, (1, 2, 3, 4)),
    ("PolarQuant", "polarquant", {}, (1, 2, 3, 4)),
    ("PolarQuant as published", "polarquant-published", {}, (4,)),
    ("QJL", "qjl", {}, (1, 2, 3, 4)),
]


@dataclass(frozen=True)
class Row:
    """One method at one size."""

    method: str
    bits: int
    bytes_per_vector: float
    recall_10: float  # R10@10, overlap with the exact ten nearest
    recall_10_deviation: float  # over seeds
    recall_1: float  # R1@1
    build_s: float  # CPU seconds, training included
    search_ms: float  # CPU milliseconds a query, in one batch, one thread


def our_rows(data: Dataset, seeds: int) -> Iterator[Row]:
    dim = data.train.shape[1]
    for label, quantizer, options, every_bits in OURS:
        for bits in every_bits:
            found, build, search, size = [], [], [], 0
            for seed in range(seeds):
                index = pi.FlatIndex(dim, data.metric, bits, quantizer, seed, **options)
                start = time.process_time()
                index.add(data.train)
                build.append(time.process_time() - start)
                start = time.process_time()
                found.append(index.search(data.test, 10, num_threads=1)[1])
                search.append(time.process_time() - start)
                size = index.bytes_per_vector
            yield measured(label, bits, size, data, found, build, search)


def faiss_rows(data: Dataset) -> Iterator[Row]:
    """PQ with 4-bit sub-quantizers as FastScan reads them, the same after a random rotation, and with 8-bit ones."""
    dim = data.train.shape[1]
    for bits in (1, 2, 3, 4):
        four = subquantizers(dim, bits)
        if four == subquantizers(dim, bits - 1):
            continue  # the same divisor of dim is nearest to two sizes
        for label, rotated in (("FAISS PQ, 4-bit", False), ("FAISS rotated PQ, 4-bit", True)):
            yield faiss_row(label, bits, FaissPQ(dim, data.metric, four, rotated), data)
        if bits <= 2:  # more trains for many minutes
            eight = subquantizers(dim, bits / 2)
            yield faiss_row("FAISS PQ, 8-bit", bits, EightBitPQ(dim, data.metric, eight), data)


class EightBitPQ:
    """FAISS PQ with 8-bit sub-quantizers."""

    def __init__(self, dim: int, metric: str, count: int) -> None:
        self._unit = metric == "cosine"
        self._index = faiss.IndexPQ(dim, count, 8, faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT)
        self.bytes_per_vector = count

    def _rows(self, x: Any) -> Any:
        rows = np.ascontiguousarray(x, np.float32)
        return unit_rows(rows, "x") if self._unit else rows

    def fit(self, x: Any) -> EightBitPQ:
        self._index.train(self._rows(x))
        return self

    def add(self, x: Any) -> None:
        self._index.add(self._rows(x))

    def search(self, q: Any, k: int) -> tuple[Any, Any]:
        return self._index.search(self._rows(q), k)


def faiss_row(label: str, bits: int, index: FaissPQ | EightBitPQ, data: Dataset) -> Row:
    start = time.process_time()
    index.fit(data.train).add(data.train)
    build = time.process_time() - start
    start = time.process_time()
    found = index.search(data.test, 10)[1]
    size = index.bytes_per_vector
    return measured(label, bits, size, data, [found], [build], [time.process_time() - start])


def measured(
    label: str, bits: int, size: float, data: Dataset, found: list[Any], build: list[float], search: list[float]
) -> Row:
    recalls = [overlap_at(ids, data.neighbors, 10) for ids in found]
    return Row(
        label,
        bits,
        size,
        round(float(np.mean(recalls)), 4),
        round(float(np.std(recalls)), 4),
        round(float(np.mean([overlap_at(ids, data.neighbors, 1) for ids in found])), 4),
        round(float(np.median(build)), 2),
        round(1e3 * float(np.median(search)) / len(data.test), 3),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    faiss.omp_set_num_threads(1)
    data = load_dataset(options.dataset, rows=options.rows, queries=options.queries)
    warm = pi.FlatIndex(data.train.shape[1], data.metric)  # compile outside the clock
    warm.add(data.train[:1100])
    warm.search(data.test[:2])
    rows = []
    for row in itertools.chain(our_rows(data, options.seeds), faiss_rows(data)):
        rows.append(asdict(row))
        print(f"{row.method:32} {row.bits} bits {row.bytes_per_vector:6.0f} B  R10@10 {row.recall_10:.4f}", flush=True)
    name = Path(options.dataset).stem
    result = {
        "dataset": {"name": name, "metric": data.metric, "rows": len(data.train), "dim": data.train.shape[1]},
        "queries": len(data.test),
        "seeds": options.seeds,
        "command": f"python -m benchmarks.recall {name}.hdf5 --rows {len(data.train)} --queries {len(data.test)} "
        f"--seeds {options.seeds}",
        "environment": environment(threads=1),
        "rows": rows,
    }
    keep(f"recall-{name}", result)


if __name__ == "__main__":
    main()
