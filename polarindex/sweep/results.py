"""What a sweep found: rows, and where and with what they were measured.

Law:       a row written flat and read again is the same row.
Not here:  the file that rows are kept in while a sweep runs (journal.py); tables and pictures (report.py)."""

from __future__ import annotations

import csv
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import polarindex
from polarindex.indexes.threads import available_cores
from polarindex.sweep.cache import written_whole
from polarindex.sweep.plan import Plan, described

FORMAT = "polarindex-sweep-2"
_PACKAGES = {"numpy": ("numpy",), "numba": ("numba",), "faiss": ("faiss-cpu", "faiss-gpu", "faiss")}
_RECALL = re.compile(r"recall@(\d+)")


class Recall(NamedTuple):
    """Of the k true neighbours, the share among the k found: the mean over queries, and its 95 % interval.

    `ties` is ann-benchmarks' recall, which counts what is no farther than the k-th neighbour (metrics.recall_at).
    """

    mean: float
    low: float
    high: float
    ties: float


@dataclass(frozen=True)
class Measurement:
    """What was measured of one cell."""

    bytes_per_vector: float  # codes, scales, shifts, ids, originals: everything stored for one more vector
    bits_per_dim: float  # 8 * bytes_per_vector / dim
    recall: dict[int, Recall]  # by k
    vnmse: float  # mean |r - r_hat|^2 / |r|^2, r = row - mean row, of the quantizer as a compressor
    expected_vnmse: float | None  # what theory says; None where there is none
    ip_rmse: float  # of estimated <query, r>, in units of |query| |r|, queries centred as rows are
    ip_bias: float
    ip_slope: float | None  # of estimates on truths: 1 where they are unbiased
    build_seconds: float  # wall clock: centre, training or k-means, and encoding all rows
    build_cpu_seconds: float  # of all threads
    search_ms: float  # wall clock a query, all queries in one call
    search_cpu_ms: float  # of all threads
    single_ms: float  # wall clock of a query asked alone, one thread
    note: str = ""


@dataclass(frozen=True)
class Row:
    """One cell on one data set: a measurement, or the error that stood in its way."""

    key: str  # a hash of the data, the cell and all that the measurement depends on
    dataset: str
    metric: str
    rows: int
    dim: int
    queries: int
    method: str
    bits: float
    index: str
    nlist: int
    nprobe: int
    store: str
    rerank: int
    seed: int
    threads: int
    result: Measurement | None
    error: str = ""

    def __str__(self) -> str:
        return described(self)

    def flat(self) -> dict[str, Any]:
        """One level of names and plain values, the same for every measured row with the same k."""
        values = {key: value for key, value in vars(self).items() if key != "result"}
        if self.result is None:
            return values
        measured = dict(vars(self.result))
        recall: dict[str, float] = {}
        for k, share in measured.pop("recall").items():
            recall |= dict(zip(_recall_names(k), share, strict=True))
        flat = values | recall | measured
        return {name: None if value != value else value for name, value in flat.items()}  # NaN is no JSON

    @classmethod
    def from_flat(cls, values: dict[str, Any]) -> Row:
        """The row that `flat` was taken of; other names are ignored. KeyError where one is missing."""
        own = {part.name: values[part.name] for part in fields(cls) if part.name != "result"}
        if own["error"]:
            return cls(**own, result=None)
        ks = [int(found[1]) for name in values if (found := _RECALL.fullmatch(name))]
        shares = {k: Recall(*(values[name] for name in _recall_names(k))) for k in ks}
        measured = {part.name: values[part.name] for part in fields(Measurement) if part.name != "recall"}
        return cls(**own, result=Measurement(recall=shares, **measured))


@dataclass(frozen=True)
class Bound:
    """What theory leaves possible on one data set: pairs of bits a coordinate and least relative error (theory.py)."""

    dataset: str
    content: str  # a hash of the rows and queries that it is of
    points: tuple[tuple[float, float], ...]


@dataclass
class Results:
    """A sweep's rows so far, in the order they were measured."""

    plan: Plan
    environment: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    bounds: dict[str, Bound] = field(default_factory=dict)  # by data set
    complete: bool = False

    @property
    def failures(self) -> list[Row]:
        return [row for row in self.rows if row.result is None]

    def add(self, row: Row) -> None:
        """A row, in place of one of the same key."""
        self.rows[:] = [other for other in self.rows if other.key != row.key] + [row]

    def keep(self, dataset: str, content: str, keys: Sequence[str]) -> None:
        """Of a data set only what is of this content and has one of these keys, in their order; others as they were."""
        order = {key: place for place, key in enumerate(keys)}
        mine = sorted((row for row in self.rows if row.key in order), key=lambda row: order[row.key])
        first = next((place for place, row in enumerate(self.rows) if row.dataset == dataset), len(self.rows))
        before = [row for row in self.rows[:first] if row.key not in order]
        after = [row for row in self.rows[first:] if row.dataset != dataset and row.key not in order]
        self.rows[:] = before + mine + after
        if dataset in self.bounds and self.bounds[dataset].content != content:
            del self.bounds[dataset]

    def as_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "complete": self.complete,
            "environment": self.environment,
            "plan": self.plan.as_dict(),
            "bounds": {name: bound.points for name, bound in self.bounds.items()},
            "rows": [row.flat() for row in self.rows],
        }

    def write_csv(self, path: Path) -> None:
        """All rows as a table; replaces what was there."""
        flat = [row.flat() for row in self.rows]
        columns = list(dict.fromkeys(key for row in flat for key in row))
        with written_whole(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(flat)


def environment(threads: int | None) -> dict[str, Any]:
    """The machine, versions and thread count that a sweep's times depend on."""
    versions = {"python": platform.python_version(), "polarindex": polarindex.__version__}
    versions |= {name: _version(packages) for name, packages in _PACKAGES.items()}
    return {
        "cpu": _cpu_name(),
        "cores": available_cores(),
        "threads": threads or available_cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions,
    }


def _version(packages: tuple[str, ...]) -> str:
    """Of the first of these that is installed."""
    for package in packages:
        try:
            return version(package)
        except PackageNotFoundError:
            pass
    return "not installed"


def _recall_names(k: int) -> tuple[str, str, str, str]:
    """The flat names of a Recall's parts."""
    return f"recall@{k}", f"recall@{k}_low", f"recall@{k}_high", f"recall_ties@{k}"


def _cpu_name() -> str:
    system = platform.system()
    try:
        if system == "Linux":
            text = Path("/proc/cpuinfo").read_text()
            names = [line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")]
            return names[0] if names else platform.machine()
        if system == "Darwin":
            command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        pass
    return os.environ.get("PROCESSOR_IDENTIFIER") or platform.processor() or platform.machine()
