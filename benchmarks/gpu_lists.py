"""An inverted file on a card beside the same one on the CPU: queries a second, from NumPy to NumPy, at one recall.

    python -m benchmarks.gpu_lists FILE.hdf5 [--nlist 2048] [--setting NPROBE GAP RERANK] [--quick]

FILE has `train`, `test` and `neighbors` as of ann-benchmarks. 4 bits and float16 originals. The CPU's setting is what
`tune` finds for a recall@10 of .95, or is given; the card is measured with it and with the fastest of a few of its own
that reach .95. Recall is that of all queries. Writes gpu_lists.json of this machine; medians.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from benchmarks.kept import keep
from polarindex.bench.result import machine
from polarindex.gpu.device import device
from polarindex.indexes.ivf import IVFIndex
from polarindex.indexes.threads import available_cores

RECALL, K = 0.95, 10
BATCHES = (1, 100, 1000, 10_000)
OWN = [(nprobe, None, rerank) for nprobe in (20, 24, 28, 32, 36, 40, 48, 64) for rerank in (1, 2, 4)]
_SECONDS = 0.4  # of a measurement, about

Setting = tuple[int, float | None, int]


def timed(call: Callable[[], object], most: int = 60) -> float:
    """Median seconds of a call, after one that warms up."""
    call()
    times: list[float] = []
    while len(times) < 3 or (sum(times) < _SECONDS and len(times) < most):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return float(np.median(times))


def options(setting: Setting) -> dict[str, Any]:
    return dict(zip(("nprobe", "gap", "rerank"), setting, strict=True))


def recall(ids: Any, neighbors: Any) -> float:
    return float(np.mean([len(np.intersect1d(*pair)) for pair in zip(ids, neighbors, strict=True)]) / K)


def rates(index: IVFIndex, q: Any, setting: Setting, batches: tuple[int, ...], threads: int | None) -> dict[str, float]:
    """Queries a second by the number of queries that are asked together."""
    found = {}
    for nq in batches:
        asked = np.ascontiguousarray(q[:nq])

        def search(asked: Any = asked) -> object:
            return index.search(asked, K, num_threads=threads, **options(setting))

        found[str(nq)] = nq / timed(search)
    return found


def measured(path: Path, nlist: int, setting: Setting | None, quick: bool) -> dict[str, Any]:
    with h5py.File(path) as file:
        x, q, neighbors = file["train"][:], file["test"][:], file["neighbors"][:, :K]
    index = IVFIndex(x.shape[1], nlist=nlist, bits=4, store="float16").fit(x)
    index.add(x)
    if setting is None:
        some = np.random.default_rng(0).permutation(len(q))[:2000]
        tuned = index.tune(q[some], RECALL + 0.003, K, neighbors=neighbors[some], num_threads=1, batch=1000)
        setting = tuned.nprobe, tuned.gap, tuned.rerank
    gpu, batches = index.to_gpu(), tuple(nq for nq in BATCHES if nq <= len(q))
    ours, theirs = gpu.search(q, K, **options(setting)), index.search(q, K, **options(setting))
    result: dict[str, Any] = {
        "data": path.stem, "n": len(x), "dim": x.shape[1], "metric": "l2", "k": K, "nlist": nlist, "bits": 4,
        "store": "float16", "queries": len(q), "setting": options(setting), "recall": recall(theirs[1], neighbors),
        "equal": all(np.array_equal(one, two) for one, two in zip(ours, theirs, strict=True)),
        "device": gpu.info()["device"],
    }  # fmt: skip
    print(result, flush=True)
    result["gpu"] = rates(gpu, q, setting, batches, None)
    print("gpu", result["gpu"], flush=True)
    reaching = []
    for own in OWN:
        found = recall(gpu.search(q, K, **options(own))[1], neighbors)
        if found >= RECALL:
            reaching.append((rates(gpu, q, own, batches[-1:], None)[str(batches[-1])], found, own))
    if reaching:
        _, found, own = max(reaching)
        result["own"] = {"setting": options(own), "recall": found, "gpu": rates(gpu, q, own, batches, None)}
        print("own", result["own"], flush=True)
    for name, threads in (("cpu_one_thread", 1), ("cpu_all_threads", None)):
        result[name] = rates(index, q, setting, (1000,) if quick else batches[-2:], threads)
        print(name, result[name], flush=True)
    return {**result, "threads": available_cores()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--nlist", type=int, default=2048)
    parser.add_argument("--setting", nargs=3, metavar=("NPROBE", "GAP", "RERANK"), help="in place of tuning; GAP or -")
    parser.add_argument("--quick", action="store_true", help="fewer measurements; writes nothing")
    given = parser.parse_args()
    setting = None
    if given.setting:
        nprobe, gap, rerank = given.setting
        setting = int(nprobe), None if gap == "-" else float(gap), int(rerank)
    facts = {"environment": machine(), "card": device(0).name}
    command = " ".join(["python -m benchmarks.gpu_lists", given.file.name, *sys.argv[2:]])
    result = measured(given.file, given.nlist, setting, given.quick)
    if not given.quick:
        keep("gpu_lists", {**facts, "command": command, **result})


if __name__ == "__main__":
    main()
