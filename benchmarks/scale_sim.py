"""What an index of many shards costs, and how its slowest shard delays an answer: a model, fitted to measurements.

    python -m benchmarks.scale_sim [--quick]

Measured on one core, by CPU time: coding rows for unlike numbers of lists; a shard's part of a query for unlike numbers
of rows that it reads; the bytes of a row, of a question and of its answer. Modelled for 10 million, 1 and 100 billion
rows: those costs times their numbers. Simulated: a query waits for the slowest of all its shards, each of which takes
one of the measured times, and now and then many times that; a second copy may be asked too, at once or when the first
is late.

Law:       a row is coded in code + lists * assign seconds, a shard answers in fixed + rows * scan seconds; both are
           fitted by least squares and checked against measurements that the fit has not seen.
Not here:  Ray's share, which benchmarks/shards.py measures end to end."""

from __future__ import annotations

import argparse
import pickle
import sys
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

import polarindex as pi
from benchmarks.kept import keep
from benchmarks.timing import machine
from polarindex.indexes import halves
from polarindex.indexes.kmeans import PER_CENTROID
from polarindex.indexes.threads import limited

DIM, BITS, K = 768, 4, 10
SIZES = (10_000_000, 1_000_000_000, 100_000_000_000)
SHARD_BYTES = 8 << 30  # of a shard's codes
NPROBE = 64  # of 4 sqrt(n) lists
ITERATIONS = 7  # of k-means, in which a row of the sample meets at most all lists
LATE, SLOWER = 0.01, 10.0  # a call in a hundred takes ten times as long
HEDGE = 95  # the percentile of calls after which a second copy is asked
DRAWS = 20_000

Doubles = NDArray[np.float64]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rows and draws, and nothing is kept")
    options = parser.parse_args()
    with limited(1):
        found = measured(4_000 if options.quick else 40_000, 40 if options.quick else 300)
    result = {
        **found,
        "modelled": [modelled(n, found) for n in SIZES],
        "tails": tails(np.array(found["call_ms"]), 500 if options.quick else DRAWS),
        "assumed": {"late": LATE, "slower": SLOWER, "hedge_percentile": HEDGE, "nprobe": NPROBE, "k": K},
        "environment": machine(),
        "command": "python -m benchmarks.scale_sim",
    }
    if not options.quick:
        keep("scale", result)
    for row in result["modelled"]:
        print(row)
    for row in result["tails"]:
        print(row)
    print("checked", found["checked"])
    return 0


# --- measured


def measured(rows: int, queries: int) -> dict[str, Any]:
    """Seconds and bytes on this machine."""
    rng = np.random.default_rng(0)
    points = rng.standard_normal((64, DIM), np.float32)
    x = points[rng.integers(64, size=rows)] + 0.5 * rng.standard_normal((rows, DIM), np.float32)
    q = x[:queries] + np.float32(0.1) * rng.standard_normal((queries, DIM), np.float32)
    lists = [rows // 160, rows // 80, rows // 40]
    frames = {nlist: pi.IVFIndex(DIM, bits=BITS, nlist=nlist).fit(x, centroids=x[:nlist]) for nlist in lists}
    coding = {nlist: coded(frame, x) for nlist, frame in frames.items()}
    assign, code = fitted(lists[::2], [coding[nlist] for nlist in lists[::2]])
    frame = frames[lists[1]]
    shard = frame.empty_like()
    shard.add(x)
    probes = [1, 4, 16, 64, 128]
    times = {nprobe: answered(frame, shard, q, nprobe) for nprobe in probes}
    read = {nprobe: rows * nprobe / lists[1] for nprobe in probes}
    seen = [nprobe for nprobe in probes if nprobe != 16]
    scan, fixed = fitted([read[n] for n in seen], [float(np.mean(times[n])) for n in seen])
    question, _ = halves.asked(frame, q[:1], frame._probes(NPROBE, None), 8, halves.in_registers(frame))
    answer = halves.candidates(shard, question, None, K, None, True)
    return {
        "dim": DIM,
        "bits": BITS,
        "rows": rows,
        "bytes_per_row": shard.bytes_per_vector,
        "code_s": code,
        "assign_s": assign,
        "fixed_s": fixed,
        "scan_s": scan,
        "question_bytes": len(pickle.dumps(question, 5)),
        "answer_bytes": len(pickle.dumps(answer, 5)),
        "call_ms": [round(1e3 * seconds, 5) for seconds in times[64]],
        "checked": {  # against what the fits have not seen
            "coding": [code + assign * lists[1], coding[lists[1]]],
            "answering": [fixed + scan * read[16], float(np.mean(times[16]))],
        },
    }


def coded(frame: Any, x: Any) -> float:
    """CPU seconds a row, the least of three."""
    frame.empty_like().add(x[:256])
    took = []
    for _ in range(3):
        index, start = frame.empty_like(), time.process_time()
        index.add(x)
        took.append((time.process_time() - start) / len(x))
    return min(took)


def answered(frame: Any, shard: Any, q: Any, nprobe: int) -> list[float]:
    """CPU seconds of a shard's part of each query."""
    took = []
    for query in q:
        question, _ = halves.asked(frame, query[None], frame._probes(nprobe, None), 8, halves.in_registers(frame))
        start = time.thread_time()
        halves.candidates(shard, question, None, K, None, True)
        took.append(time.thread_time() - start)
    return took[len(took) // 10 :]  # the first ones wait for memory that is then at hand


def fitted(x: list[Any], y: list[float]) -> tuple[float, float]:
    """Slope and value at 0, neither below 0."""
    slope, first = np.polyfit(np.array(x, float), np.array(y), 1)
    return max(float(slope), 0.0), max(float(first), 0.0)


# --- modelled


def modelled(n: int, found: dict[str, Any]) -> dict[str, Any]:
    """Bytes, core hours, and what a query costs, of n rows."""
    nlist = round(4 * n**0.5)
    stored = n * found["bytes_per_row"]
    shards = max(1, -(-int(stored) // SHARD_BYTES))
    learn = ITERATIONS * min(n, PER_CENTROID * nlist) * nlist * found["assign_s"]
    read = n * NPROBE / nlist
    alone = found["fixed_s"] + read / shards * found["scan_s"]
    return {
        "rows": n,
        "bytes": stored,
        "centroid_bytes": 4 * DIM * nlist,
        "shards": shards,
        "nlist": nlist,
        "learn_core_hours_at_most": learn / 3600,
        "code_core_hours": n * (found["code_s"] + nlist * found["assign_s"]) / 3600,
        "rows_read": read,
        "shard_ms": 1e3 * alone,
        "core_ms": 1e3 * alone * shards,
        "sent_bytes": shards * found["question_bytes"],
        "received_bytes": shards * found["answer_bytes"],
    }


# --- simulated


def tails(call_ms: Doubles, draws: int, fan_outs: tuple[int, ...] = (1, 10, 50, 500, 5000)) -> list[dict[str, Any]]:
    """Percentiles of queries that wait for all their shards, in milliseconds."""
    rows = []
    for shards in fan_outs:
        row: dict[str, Any] = {"shards": shards}
        for name in ("one", "hedged", "both"):
            slowest = simulated(call_ms, shards, draws, name)
            row |= {f"{name}_p50": float(np.median(slowest)), f"{name}_p99": float(np.percentile(slowest, 99))}
        rows.append(row)
    return rows


def simulated(call_ms: Doubles, shards: int, draws: int, copies: str, seed: int = 0) -> Doubles:
    """(draws,) milliseconds of the slowest of so many shards.

    copies : "one" of each; "hedged": a second one is asked when the first takes longer than HEDGE percent of calls do;
        "both" are asked at once
    """
    rng = np.random.default_rng([seed, shards])
    patience = float(np.percentile(with_stragglers(rng, call_ms, 100_000), HEDGE))
    slowest = np.zeros(draws)
    step = max(1, 2_000_000 // shards)
    for start in range(0, draws, step):
        shape = min(step, draws - start), shards
        times = with_stragglers(rng, call_ms, shape)
        if copies != "one":
            second = with_stragglers(rng, call_ms, shape)
            late = second if copies == "both" else patience + second
            times = np.minimum(times, late)
        slowest[start : start + step] = times.max(axis=1)
    return slowest


def with_stragglers(rng: np.random.Generator, call_ms: Doubles, shape: Any) -> Doubles:
    """Calls that take one of the measured times, and some of them SLOWER times that."""
    times = rng.choice(call_ms, shape)
    times[rng.random(shape) < LATE] *= SLOWER
    return times


if __name__ == "__main__":
    sys.exit(main())
