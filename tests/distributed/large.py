"""A data set in shards answers like one index, to the bit: by connections, through Ray, and on three nodes.

    python tests/distributed/large.py sift-photos-128-euclidean.hdf5 [--shards 4 --nlist 1000 --store float16 --rows N]

The data set's first 1,000 queries with the defaults, more and fewer lists, a gap, more and fewer candidates that
originals score, 100 results, and a filter; 50 of them for all rows within a radius. The nodes are Ray's, three on this
machine, with two copies of each shard. An answer that is not the one index's ends the program with exit code 1."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

import polarindex as pi
from polarindex.distributed import ShardedIndex
from polarindex.sweep.dataset import load_dataset

QUERIES, RANGES = 1_000, 50
NODES = 3
STORE = 150 << 20  # bytes of a node's object store


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("dataset", help="a file, or the name of a data set")
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--nlist", type=int, default=1_000)
    parser.add_argument("--store", default="float16", choices=("none", "float32", "float16", "int8"))
    parser.add_argument("--rows", type=int, help="the first so many rows")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    data = load_dataset(options.dataset)
    rows, queries = np.asarray(data.train[: options.rows]), np.asarray(data.test[:QUERIES])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index"
        began = time.monotonic()
        ShardedIndex.build(
            rows, path, num_shards=options.shards, metric=data.metric, nlist=options.nlist, store=options.store,
            engine="local",
        )
        whole = pi.load(path / "frame").empty_like()
        whole.add(rows)
        print(f"{len(rows):,} rows in {options.shards} shards, built in {time.monotonic() - began:.0f} s", flush=True)
        on_this_machine(path, whole, queries)
        on_nodes(path, whole, queries)
    return 0


def on_this_machine(path: Path, whole: pi.IVFIndex, queries: np.ndarray) -> None:
    import ray

    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=STORE)
    try:
        for direct in (True, False):
            with ShardedIndex.open(path, direct=direct) as index:
                compare("this machine, " + ("directly" if direct else "through Ray"), index, whole, queries)
    finally:
        ray.shutdown()


def on_nodes(path: Path, whole: pi.IVFIndex, queries: np.ndarray) -> None:
    import ray
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": STORE}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        for _ in range(NODES - 1):
            cluster.add_node(**node)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
        with ShardedIndex.open(path, replicas=2) as index:
            compare(f"{NODES} nodes, two copies", index, whole, queries)
    finally:
        ray.shutdown()
        cluster.shutdown()


def compare(name: str, index: ShardedIndex, whole: pi.IVFIndex, queries: np.ndarray) -> None:
    """Exit where an answer differs from the one index's."""
    nlist = whole.nlist
    distances = np.sort(whole.search(queries, 100, nprobe=nlist // 8)[0][:, -1])
    radius, gap = float(np.median(distances)), float(abs(distances).mean())
    mask = np.random.default_rng(0).random(len(whole)) < 0.1  # of ids in their order, as a sharded index has them
    asked: list[tuple[int, dict[str, Any], Any]] = [
        (10, {}, None),
        (10, {"nprobe": nlist // 32, "exact_scan": True}, None),
        (10, {"nprobe": nlist // 8, "exact_scan": True}, None),
        (10, {"nprobe": nlist // 16, "gap": gap, "rerank": 2}, None),
        (10, {"rerank": 0, "exact_scan": True}, None),
        (100, {"nprobe": nlist // 32}, None),
        (10, {"nprobe": nlist // 32}, mask),
    ]
    results = 0
    for k, options, filter in asked:
        got = index.search(queries, k, filter=filter, **options)
        aligned = None if filter is None else filter[whole.ids]
        same(got, whole.search(queries, k, filter=aligned, **options), name, options)
        results += int((got[1] >= 0).sum())
    some = queries[:RANGES]
    got = index.range_search(some, radius, nprobe=nlist // 16)
    same(got, whole.range_search(some, radius, nprobe=nlist // 16), name, {"radius": radius})
    print(f"{name}: {results:,} results and {len(got[1]):,} of ranges are the one index's", flush=True)


def same(got: Any, wanted: Any, name: str, options: dict[str, Any]) -> None:
    if not all(np.array_equal(one, other) for one, other in zip(got, wanted, strict=True)):
        sys.exit(f"{name}: with {options or 'the defaults'} an answer is not the one index's")


if __name__ == "__main__":
    sys.exit(main())
