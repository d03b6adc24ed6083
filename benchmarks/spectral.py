"""Spectral beside plain codes of flat indexes: recall, bytes, and what fitting, adding and searching take.

`batch_slower` and `single_slower` are what the chosen scan of spectral codes takes, as a multiple of the faster scan of
plain ones of as many bits; of the second `indexes/planning.py` has the largest of each width.

    python -m benchmarks.spectral --data FOLDER [--bits 1,2,4] [--rows 60000] [--repeats 7] FILE.hdf5 ...

Files in FOLDER have train, test and the attribute distance, as ann-benchmarks' have. Writes spectral.json of this
machine. Times are CPU seconds of one thread, medians; all of a file's searches take turns in one process."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

import polarindex as pi
from benchmarks.kept import keep
from polarindex.indexes.threads import limited
from polarindex.sweep.results import environment

METRICS = {"euclidean": "l2", "angular": "cosine"}
BATCH, SINGLES, K = 64, 20, 10
Floats = NDArray[np.float32]


def seconds(task: Callable[[], object]) -> float:
    started = time.thread_time()
    task()
    return time.thread_time() - started


def nearest(x: Floats, q: Floats, metric: str) -> NDArray[np.int64]:
    """The K nearest of each query, by float64."""
    x, q = x.astype(np.float64), q.astype(np.float64)
    if metric == "cosine":
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    keys = q @ x.T if metric == "cosine" else 2 * q @ x.T - (x * x).sum(axis=1)
    return np.argsort(-keys, axis=1)[:, :K]


def search_times(indexes: dict[str, pi.FlatIndex], q: Floats, repeats: int) -> dict[str, float]:
    """Milliseconds a query in a batch and alone: each kind's full scan, and the scan that its plan chooses."""
    found: dict[str, list[float]] = {}
    for _ in range(repeats + 1):  # the first compiles
        for kind, index in indexes.items():
            for name, exact in (("full", True), ("chosen", False)):

                def search(part: Floats, index: pi.FlatIndex = index, exact: bool = exact) -> None:
                    index.search(part, K, num_threads=1, exact_scan=exact)

                batch = seconds(lambda: search(q[:BATCH])) / BATCH  # noqa: B023  # called at once
                alone = seconds(lambda: [search(q[i : i + 1]) for i in range(SINGLES)]) / SINGLES  # noqa: B023
                found.setdefault(f"{kind}_{name}_batch_ms", []).append(1e3 * batch)
                found.setdefault(f"{kind}_{name}_single_ms", []).append(1e3 * alone)
    times = {name: float(np.median(values[1:])) for name, values in found.items()}
    for way in ("batch", "single"):
        plain = min(times[f"plain_{name}_{way}_ms"] for name in ("full", "chosen"))
        times[f"{way}_slower"] = times[f"spectral_chosen_{way}_ms"] / plain
    return times


def measured(path: Path, bits: float, rows: int, repeats: int) -> dict[str, Any]:
    with h5py.File(path) as file:
        metric = METRICS[str(file.attrs["distance"])]
        x, q = file["train"][:rows].astype(np.float32), file["test"][:200].astype(np.float32)
    plain, spectral = (pi.FlatIndex(x.shape[1], metric, bits, codes=codes) for codes in ("plain", "spectral"))
    plain.add(x)
    fit = seconds(lambda: spectral.fit(x[:20_000]))
    with limited(1):
        add = seconds(lambda: spectral.add(x))
    truth = nearest(x, q, metric)
    recall = {}
    for kind, index in (("plain", plain), ("spectral", spectral)):
        pairs = zip(truth, index.search(q, K)[1], strict=True)
        recall[f"{kind}_recall"] = float(np.mean([len(set(a) & set(b)) / K for a, b in pairs]))
    same = all(
        np.array_equal(one, other)
        for part in (q, *(q[i : i + 1] for i in range(SINGLES)))
        for one, other in zip(spectral.search(part, K), spectral.search(part, K, exact_scan=True), strict=True)
    )
    return {
        "set": path.stem,
        "rows": len(x),
        "dim": x.shape[1],
        "bits": bits,
        **recall,
        "plain_bytes": plain.bytes_per_vector,
        "spectral_bytes": spectral.bytes_per_vector,
        "segments": spectral.info()["spectral"]["segments"],
        "plan": spectral.info()["scan"],
        "fit_seconds": fit,
        "added_per_second": len(x) / add,
        "same_as_full_scan": same,
        **search_times({"plain": plain, "spectral": spectral}, q, repeats),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--data", type=Path, default=Path())
    parser.add_argument("--bits", default="1,2,4")
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    runs = []
    for name in options.files:
        for bits in options.bits.split(","):
            runs.append(measured(options.data / name, int(bits), options.rows, options.repeats))
            print("\n".join(f"{key:26} {value}" for key, value in runs[-1].items()), end="\n\n", flush=True)
    keep("spectral", {"environment": environment(threads=1), "runs": runs})


if __name__ == "__main__":
    main()
