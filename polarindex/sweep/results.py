"""What a sweep found: rows, where and with what they were measured, and the files that hold them.

Law:       sweep.json and sweep.csv hold the same flat rows and are whole at every moment, also while a sweep runs.
Not here:  tables and pictures (report.py)."""

from __future__ import annotations

import csv
import json
import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import polarindex
from polarindex.indexes.threads import available_cores
from polarindex.sweep.cache import written_whole
from polarindex.sweep.plan import Plan

_FORMAT = "polarindex-sweep-1"
_PACKAGES = {"numpy": "numpy", "numba": "numba", "faiss": "faiss-cpu"}


@dataclass(frozen=True)
class Measurement:
    """What was measured of one cell."""

    bytes_per_vector: int  # code, scales, shifts: everything stored for one more vector
    bits_per_dim: float  # 8 * bytes_per_vector / dim
    recall: dict[int, float]  # k -> share of the k true neighbours among the k found
    vnmse: float  # mean |r - r_hat|^2 / |r|^2, r = row - mean row, of the quantizer as a compressor
    expected_vnmse: float | None  # what theory says; None where there is none
    build_seconds: float  # wall clock: centre or training, and encoding all rows
    build_cpu_seconds: float  # of all threads
    search_ms: float  # wall clock a query, all queries in one call
    note: str = ""


@dataclass(frozen=True)
class Row:
    """One cell on one data set: a measurement, or the error that stood in its way."""

    dataset: str
    metric: str
    rows: int
    dim: int
    queries: int
    method: str
    bits: float
    result: Measurement | None
    error: str = ""

    def flat(self) -> dict[str, Any]:
        """One level of names and plain values, the same for every row with the same k; None where it failed."""
        values = {key: value for key, value in vars(self).items() if key != "result"}
        if self.result is None:
            return values
        measured = dict(vars(self.result))
        recall = {f"recall@{k}": value for k, value in measured.pop("recall").items()}
        return values | recall | measured


@dataclass
class Results:
    """A sweep's rows so far, in the order they were measured."""

    plan: Plan
    environment: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    complete: bool = False

    @property
    def failures(self) -> list[Row]:
        return [row for row in self.rows if row.result is None]

    def as_dict(self) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "complete": self.complete,
            "environment": self.environment,
            "plan": asdict(self.plan),
            "rows": [row.flat() for row in self.rows],
        }

    def write(self, folder: Path) -> None:
        """Write folder/sweep.json and folder/sweep.csv, replacing what was there."""
        with written_whole(folder / "sweep.json") as path:
            path.write_text(json.dumps(self.as_dict(), indent=1) + "\n", encoding="utf-8")
        flat = [row.flat() for row in self.rows]
        with written_whole(folder / "sweep.csv") as path, open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, _columns(flat))
            writer.writeheader()
            writer.writerows(flat)


def environment(threads: int | None) -> dict[str, Any]:
    """The machine, versions and thread count that a sweep's times depend on."""
    versions = {"python": platform.python_version(), "polarindex": polarindex.__version__}
    for name, package in _PACKAGES.items():
        try:
            versions[name] = version(package)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "cpu": _cpu_name(),
        "cores": available_cores(),
        "threads": threads or available_cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions,
    }


def _columns(rows: Iterable[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))


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
