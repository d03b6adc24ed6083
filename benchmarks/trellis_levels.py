"""The levels of trellis codes, polarindex/trellis.json: learned from normal numbers, the same bytes every time.

    python -m benchmarks.trellis_levels [--seeds 10] [--rounds 400]

Lloyd's algorithm, as for scalar levels (Max 1960, Lloyd 1982), with Viterbi's in the place of the nearest level: rows
of N(0, 1) are coded, and a window's level becomes the mean of what it was taken for. Where it ends depends on where it
begins, a random order of 256 quantiles; of some beginnings the one that is best after some rounds goes on. Levels are
then rounded to int8, as scans multiply them; the error that is written down is that of other rows.

Indexes that are saved are read with these levels: once there are such, the file stays as it is."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

import polarindex
from polarindex import kernels
from polarindex.codes import RingLayout

BITS = (1, 2, 3, 4)
ROWS, DIM, STATES = 1024, 1024, 256
TRIED = 30  # rounds of every seed
TESTED = 4096  # rows by which the error is known to .1 %
FILE = Path(polarindex.__file__).parent / "trellis.json"
Floats = NDArray[np.float32]


def normal_rows(count: int, *seed: int) -> Floats:
    """Rows of N(0, 1), of length sqrt(DIM) as rows that are coded."""
    rows = np.random.default_rng(seed).standard_normal((count, DIM))
    return (rows * (np.sqrt(DIM) / np.linalg.norm(rows, axis=1))[:, None]).astype(np.float32)


def windows_of(rows: Floats, levels: Floats, bits: int) -> NDArray[np.uint8]:
    layout = RingLayout(DIM, bits)
    words, dots = np.empty((len(rows), layout.words), np.uint32), np.empty(len(rows))
    kernels.encode_trellis(kernels.Step(bits), rows, np.ones(len(rows)), levels, words, dots)
    return layout.unpack(words)[:, :DIM]


def distortion(rows: Floats, levels: Floats, bits: int) -> float:
    return float(np.mean((rows - levels[windows_of(rows, levels, bits)]).astype(np.float64) ** 2))


def learned(rows: Floats, bits: int, rounds: int, seed: int) -> Floats:
    """Levels by window, in standard deviations."""
    quantile = NormalDist().inv_cdf
    order = np.random.default_rng((bits, seed)).permutation(STATES)
    levels = np.array([quantile((place + 0.5) / STATES) for place in order], np.float32)
    for _ in range(rounds):
        windows = windows_of(rows, levels, bits).ravel()
        counts = np.bincount(windows, minlength=STATES)
        sums = np.bincount(windows, rows.ravel(), minlength=STATES)
        levels = np.where(counts > 0, sums / np.maximum(counts, 1), levels).astype(np.float32)
    return levels


def rounded(levels: Floats) -> tuple[NDArray[np.int8], float]:
    """int8 levels, the largest 127, and what they are multiples of."""
    unit = float(np.abs(levels).max() / 127)
    return np.rint(levels / unit).astype(np.int8), unit


def book(bits: int, seeds: int, rounds: int) -> dict[str, Any]:
    rows, trial, tested = normal_rows(ROWS, bits, 0), normal_rows(ROWS, bits, 1), normal_rows(TESTED, bits, 2)
    tried = [(distortion(trial, learned(rows, bits, TRIED, seed), bits), seed) for seed in range(seeds)]
    seed = min(tried)[1]
    levels = learned(rows, bits, rounds, seed)
    table, unit = rounded(levels)
    error, exact = (distortion(tested, some, bits) for some in ((table * unit).astype(np.float32), levels))
    print(f"{bits} bits: {error:.6f}, before rounding {exact:.6f}, seed {seed}; after {TRIED} rounds "
          f"{min(tried)[0]:.5f} to {max(tried)[0]:.5f}", flush=True)  # fmt: skip
    return {
        "bits": bits,
        "seed": seed,
        "distortion": round(error, 6),
        "before_rounding": round(exact, 6),
        "unit": unit,
        "levels": table.tolist(),
    }


def shipped(bits: int) -> dict[str, Any]:
    """What the file has of so many bits, and `rounds`, which is said once for all."""
    found = json.loads(FILE.read_text(encoding="utf-8"))
    book: dict[str, Any] = found["books"][bits - 1]
    return book | {"rounds": found["rounds"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=400)
    options = parser.parse_args()
    books = [json.dumps(book(bits, options.seeds, options.rounds)) for bits in BITS]
    about = f'"window": 8, "seeds": {options.seeds}, "rounds": {options.rounds}, "rows": {ROWS}, "dim": {DIM}'
    FILE.write_text("{" + about + ', "books": [\n' + ",\n".join(books) + "\n]}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
