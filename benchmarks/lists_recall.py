"""Recall of the codes alone in an inverted file, every list probed: what coding relative to centroids is worth.

    python -m benchmarks.lists_recall FILE.hdf5 ... [--rows 60000] [--queries 1000] [--nlist 256]

Writes lists-recall.json of this machine: IVFIndex without originals, nprobe = nlist, and FlatIndex beside it; the
quantizer is EDEN, the seed 0. Neighbours are exact among the rows that are used.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import polarindex as pi
from benchmarks.kept import keep
from polarindex.sweep.dataset import Dataset, load_dataset
from polarindex.sweep.metrics import overlap_at
from polarindex.sweep.results import environment

BITS = (1, 2, 3, 4)


def rows(data: Dataset, nlist: int) -> list[dict[str, Any]]:
    dim, found = data.train.shape[1], []
    for bits in BITS:
        lists, flat = pi.IVFIndex(dim, data.metric, bits, nlist=nlist), pi.FlatIndex(dim, data.metric, bits)
        lists.fit(data.train)
        recalls = []
        for index in (lists, flat):
            index.add(data.train)
            probes = {"nprobe": nlist} if index is lists else {}
            ids = index.search(data.test, 10, exact_scan=True, **probes)[1]
            recalls.append(round(float(overlap_at(ids, data.neighbors, 10)), 4))
        size = lists.bytes_per_vector
        found.append({"bits": bits, "bytes_per_vector": size, "lists": recalls[0], "flat": recalls[1]})
        print(f"{bits} bits: {recalls[0]:.4f}, without lists {recalls[1]:.4f}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--nlist", type=int, default=256)
    options = parser.parse_args()
    sets = []
    for file in options.files:
        print(file)
        data = load_dataset(file, rows=options.rows, queries=options.queries)
        facts = {"name": Path(file).stem, "metric": data.metric, "rows": len(data.train), "dim": data.train.shape[1]}
        sets.append(facts | {"results": rows(data, options.nlist)})
    names = " ".join(Path(file).name for file in options.files)
    result = {
        "nlist": options.nlist,
        "queries": options.queries,
        "command": f"python -m benchmarks.lists_recall {names} --rows {options.rows} --queries {options.queries}",
        "environment": environment(threads=1),
        "sets": sets,
    }
    keep("lists-recall", result)


if __name__ == "__main__":
    main()
