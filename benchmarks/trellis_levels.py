"""The levels of trellis codes, polarindex/trellis.json and trellis-12.json: learned from normal numbers, the same bytes
every time.

    python -m benchmarks.trellis_levels [--window 8] [--seeds 10] [--rounds 400]

Lloyd's algorithm, as for scalar levels (Max 1960, Lloyd 1982), with Viterbi's in the place of the nearest level: rows
of N(0, 1) are coded, and a window's level becomes the mean of what it was taken for. Where it ends depends on where it
begins, a random order of 256 quantiles; of some beginnings the one that is best after some rounds goes on. Levels are
then rounded to int8, as scans multiply them; the error that is written down is that of other rows.

Windows of 12 bits are folded to a byte by 64 random bytes, and learn 256 levels too: a level for each of the 4,096
would have a sixteenth of the numbers to learn from, and could not be looked up in registers. They go 1.9 times as far
as the mean in each round: at 4 bits 15 such rounds come as far as 25 others.

Indexes that are saved are read with these levels: once there are such, the files stay as they are."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import polarindex
from polarindex import kernels
from polarindex.codebooks import TRELLIS_FILES, folded
from polarindex.codes import RingLayout

BITS = (1, 2, 3, 4)
DIM, LEVELS = 1024, 256
TESTED = 4096  # rows by which the error is known to .1 %
FOLDER = Path(polarindex.__file__).parent
Floats = NDArray[np.float32]


class Course(NamedTuple):
    """How levels are learned: from so many rows, `tried` rounds of every seed, each `stride` times as far as means."""

    rows: int
    tried: int
    seeds: int
    rounds: int
    stride: float


COURSES = {8: Course(1024, 30, 10, 400, 1.0), 12: Course(512, 15, 4, 120, 1.9)}  # by the bits of a window


def normal_rows(count: int, *seed: int) -> Floats:
    """Rows of N(0, 1), of length sqrt(DIM) as rows that are coded."""
    rows = np.random.default_rng(seed).standard_normal((count, DIM))
    return (rows * (np.sqrt(DIM) / np.linalg.norm(rows, axis=1))[:, None]).astype(np.float32)


class Trellis(NamedTuple):
    """bits of a coordinate and of a window, and what folds windows to bytes, where they are longer."""

    bits: int
    window: int
    mix: tuple[int, ...]


def bytes_of(rows: Floats, levels: Floats, trellis: Trellis) -> NDArray[np.uint8]:
    """The windows' bytes (n, DIM) of the codes of rows."""
    layout = RingLayout(DIM, trellis.bits, trellis.mix)
    words, dots = np.empty((len(rows), layout.words), np.uint32), np.empty(len(rows))
    by_window = levels[folded(trellis.mix)] if trellis.mix else levels
    step = kernels.Step(trellis.bits, trellis.window)
    kernels.encode_trellis(step, rows, np.ones(len(rows)), by_window, words, dots)
    return layout.unpack(words)[:, :DIM]


def distortion(rows: Floats, levels: Floats, trellis: Trellis) -> float:
    return float(np.mean((rows - levels[bytes_of(rows, levels, trellis)]).astype(np.float64) ** 2))


def beginning(bits: int, window: int, seed: int) -> tuple[Floats, Trellis]:
    """Quantiles in a random order, and random bytes."""
    quantile, rng = NormalDist().inv_cdf, np.random.default_rng((bits, seed))
    order = rng.permutation(LEVELS)
    levels = np.array([quantile((place + 0.5) / LEVELS) for place in order], np.float32)
    mix = rng.integers(0, 256, 64).tolist() if window > 8 else ()
    return levels, Trellis(bits, window, tuple(mix))


def learned(rows: Floats, levels: Floats, trellis: Trellis, rounds: int) -> Floats:
    """Levels by a window's byte, in standard deviations."""
    stride = COURSES[trellis.window].stride
    for _ in range(rounds):
        codes = bytes_of(rows, levels, trellis).ravel()
        counts = np.bincount(codes, minlength=LEVELS)
        sums = np.bincount(codes, rows.ravel(), minlength=LEVELS)
        means = np.where(counts > 0, sums / np.maximum(counts, 1), levels)
        levels = (means if stride == 1 else levels + stride * (means - levels)).astype(np.float32)
    return levels


def rounded(levels: Floats) -> tuple[NDArray[np.int8], float]:
    """int8 levels, the largest 127, and what they are multiples of."""
    unit = float(np.abs(levels).max() / 127)
    return np.rint(levels / unit).astype(np.int8), unit


def book(bits: int, window: int, course: Course) -> dict[str, Any]:
    rows, trial, tested = (normal_rows(n, bits, part) for part, n in enumerate((course.rows, course.rows, TESTED)))
    tried = []
    for seed in range(course.seeds):
        levels, trellis = beginning(bits, window, seed)
        tried.append((distortion(trial, learned(rows, levels, trellis, course.tried), trellis), seed))
    seed = min(tried)[1]
    levels, trellis = beginning(bits, window, seed)
    levels = learned(rows, levels, trellis, course.rounds)
    table, unit = rounded(levels)
    error, exact = (distortion(tested, some, trellis) for some in ((table * unit).astype(np.float32), levels))
    print(f"{bits} bits: {error:.6f}, before rounding {exact:.6f}, seed {seed}; after {course.tried} rounds "
          f"{min(tried)[0]:.5f} to {max(tried)[0]:.5f}", flush=True)  # fmt: skip
    return {
        "bits": bits,
        "seed": seed,
        "distortion": round(error, 6),
        "before_rounding": round(exact, 6),
        "unit": unit,
        "levels": table.tolist(),
        **({"mix": trellis.mix} if trellis.mix else {}),
    }


def shipped(bits: int, window: int) -> dict[str, Any]:
    """What the file has of so many bits, and `rounds`, which is said once for all."""
    found = json.loads((FOLDER / TRELLIS_FILES[window]).read_text(encoding="utf-8"))
    book: dict[str, Any] = found["books"][bits - 1]
    return book | {"rounds": found["rounds"]}


def write(window: int, course: Course, books: list[dict[str, Any]]) -> None:
    about = f'"window": {window}, "seeds": {course.seeds}, "rounds": {course.rounds}, '
    about += f'"rows": {course.rows}, "dim": {DIM}, "books": [\n'
    text = "{" + about + ",\n".join(map(json.dumps, books)) + "\n]}\n"
    (FOLDER / TRELLIS_FILES[window]).write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--window", type=int, choices=COURSES, default=8)
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--rounds", type=int)
    options = parser.parse_args()
    course = COURSES[options.window]
    course = course._replace(seeds=options.seeds or course.seeds, rounds=options.rounds or course.rounds)
    write(options.window, course, [book(bits, options.window, course) for bits in BITS])


if __name__ == "__main__":
    main()
