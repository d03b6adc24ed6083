"""Kill actors and nodes while an index is searched and changed, and compare every answer with one index's.

    python tests/distributed/kills.py --rounds 50 [--shards 4 --replicas 2 --json FILE]

Three nodes of Ray on this machine, of which two come and go. In each round an actor (SIGKILL), or every third time a
node with all its actors, is killed at a random moment while one thread searches and changes without pause. A call may
end in a ShardError at the bound, as a slow machine may need longer to start an actor; it is counted, and made again.
An answer that is not the one index's, a change that was acknowledged and is gone, or a call beyond the bound ends the
program with exit code 1. Prints, for each kind of kill, how long the longest call of a round took."""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import numpy as np

import polarindex as pi
from polarindex.distributed import ShardedIndex

DIM, ROWS, NLIST = 32, 20_000, 64
BOUND = 60.0  # seconds: the index's timeout, after which a call is an error
AFTER = 1.0  # seconds of calls after a kill


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        took = rounds(Path(folder) / "index", options)
    figures = {kind: summary(seconds) for kind, seconds in took.items() if seconds}
    print(json.dumps({**figures, "calls that ended at the bound": len(errors)}, indent=1))
    if options.json:
        settings = {**vars(options), "json": None, "bound": BOUND}
        options.json.write_text(json.dumps({**settings, "seconds": took, "errors": errors}) + "\n")
    return 0


def summary(seconds: list[float]) -> dict[str, float]:
    return {"kills": len(seconds), "median": float(np.median(seconds)), "largest": max(seconds)}


def rounds(path: Path, options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of the longest call in each round, by kinds of kills."""
    import ray
    from ray.cluster_utils import Cluster

    rng = np.random.default_rng(options.seed)
    random.seed(options.seed)
    x = rng.normal(size=(ROWS, DIM)).astype(np.float32)
    ShardedIndex.build(x, path, num_shards=options.shards, nlist=NLIST, engine="local", processes=1)
    whole = pi.load(path / "frame").empty_like()
    whole.add(x)
    node = {"num_cpus": 1, "object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    others = [cluster.add_node(**node) for _ in range(2)]
    took: dict[str, list[float]] = {"actor": [], "node": []}
    try:
        with ShardedIndex.open(path, replicas=options.replicas, timeout=BOUND) as index:
            for number in range(options.rounds):
                kind = "node" if number % 3 == 2 else "actor"
                took[kind].append(one_round(index, whole, x, rng, kind, cluster, others))
                if kind == "node":
                    others.append(cluster.add_node(**node))
                print(f"round {number + 1}: {kind}, {took[kind][-1]:.2f} s", flush=True)
        check(path, whole, x)
    finally:
        ray.shutdown()
        cluster.shutdown()
    return took


def one_round(index, whole, x, rng, kind, cluster, others) -> float:
    """Search and change until a while after the kill; the longest call's seconds."""
    killed = threading.Event()

    def kill() -> None:
        time.sleep(random.uniform(0, 0.3))
        if kind == "node":
            cluster.remove_node(others.pop(random.randrange(len(others))), allow_graceful=False)
        else:
            os.kill(random.choice(victims), signal.SIGKILL)
        killed.set()

    victims = processes(index)
    thread = threading.Thread(target=kill)
    thread.start()
    longest, end = 0.0, None
    while end is None or time.monotonic() < end:
        if end is None and killed.is_set():
            end = time.monotonic() + AFTER
        for call in (search, change):
            began = time.monotonic()
            call(index, whole, x, rng)
            longest = max(longest, time.monotonic() - began)
    thread.join()
    return longest


def processes(index) -> list[int]:
    """Of all actors, the copies too, when all are back from the round before."""
    import ray

    end = time.monotonic() + BOUND
    while True:
        handles = [handle for mine in index._handles.handles() for handle in mine]
        try:
            return [info["process"] for info in ray.get([handle.info.remote("") for handle in handles], timeout=BOUND)]
        except ray.exceptions.RayError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


errors: list[str] = []  # of calls that ended at the bound


def done(call):
    """The result of a call, made again as long as it ends in a ShardError; no try may take longer than the bound."""
    while True:
        began = time.monotonic()
        try:
            return call()
        except pi.ShardError as error:
            errors.append(str(error))
        finally:
            took = time.monotonic() - began
            if took > BOUND + 1:
                sys.exit(f"a call took {took:.1f} s, beyond the bound of {BOUND:g} s")


def search(index, whole, x, rng) -> None:
    q = x[rng.integers(0, len(x), 64)] + np.float32(0.1)
    same(done(lambda: index.search(q, 10, nprobe=8)), whole.search(q, 10, nprobe=8))


def change(index, whole, x, rng) -> None:
    """Replace some rows, add some, remove some; what was acknowledged is asked for at once."""
    some = np.append(rng.choice(len(x), 20, replace=False), whole.info()["next_id"] + np.arange(5))
    rows = rng.normal(size=(25, DIM)).astype(np.float32)
    gone = rng.choice(whole.ids, 5, replace=False)
    done(lambda: index.upsert(some, rows))
    whole.upsert(some, rows)
    done(lambda: index.remove(gone, missing="ignore"))
    whole.remove(gone)
    same(done(lambda: index.search(rows, 3, nprobe=NLIST)), whole.search(rows, 3, nprobe=NLIST))


def check(path, whole, x) -> None:
    """What is on the disk is what was acknowledged."""
    with ShardedIndex.open(path) as index:
        if not np.array_equal(index.ids, np.sort(whole.ids)):
            sys.exit("rows were lost, or came back")
        same(index.search(x[:500], 10, nprobe=NLIST), whole.search(x[:500], 10, nprobe=NLIST))


def same(got, wanted) -> None:
    if not all(np.array_equal(one, other) for one, other in zip(got, wanted, strict=True)):
        sys.exit("an answer is not the one index's")


if __name__ == "__main__":
    sys.exit(main())
