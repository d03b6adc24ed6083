"""The papers' headline claims, tried: claim, set-up, the figure they print, ours, and whether it is reproduced.

    python -m benchmarks.claims [--data FOLDER ...]

Writes claims.json of this machine; benchmarks/report.py makes docs/claims.md of it. Takes some minutes; the
claim about recall needs FAISS and glove-wink-100-angular.hdf5 in one of the folders: else it is listed as not tried.
Seeds are fixed: a rerun gives the same figures but for times. A figure is reproduced where it lies within four standard
errors of the printed one, or of what that may have been rounded from.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.kept import keep
from polarindex.bench.result import machine
from polarindex.codebooks import normal_codebook
from polarindex.indexes.flat import FlatIndex
from polarindex.quantizers import DRIVE, EDEN, QJL, PolarQuant, TurboQuant
from polarindex.quantizers.base import Quantizer
from polarindex.quantizers.polarquant import PUBLISHED
from polarindex.sweep.dataset import load_dataset
from polarindex.sweep.groundtruth import exact_neighbors

ROWS = 4000
GLOVE, GLOVE_ROWS, GLOVE_QUERIES = "glove-wink-100-angular.hdf5", 100_000, 1000

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Figure:
    """One number: what it is, as printed, as measured, and how far apart both may lie.

    relation   "=": within slack; "<=": ours is at most the printed one, up to slack; ">=" the other way
    slack      four standard errors, and half a unit of the printed number's last digit
    """

    what: str
    printed: float
    ours: float
    slack: float
    relation: str = "="

    @property
    def reproduced(self) -> bool:
        if self.relation == "=":
            return abs(self.ours - self.printed) <= self.slack
        above = self.ours - self.printed
        return (above if self.relation == "<=" else -above) <= self.slack


@dataclass(frozen=True)
class Claim:
    """What a paper says, how it was tried, and what came of it."""

    source: str
    says: str
    setup: str
    figures: list[Figure]
    remark: str = ""
    not_tried: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "reproduced": [figure.reproduced for figure in self.figures]}


@dataclass
class Trial:
    """A claim that waits to be tried; `needs_data` those that need the folders."""

    source: str
    says: str
    setup: str
    figures: Callable[..., list[Figure]]
    remark: str = ""
    needs_data: bool = field(default=False)


# --- measuring


def rows(n: int, d: int, seed: int = 0) -> NDArray[np.float32]:
    """(n, d) independent N(0, 1): their directions are uniform."""
    return np.random.default_rng([n, d, seed]).standard_normal((n, d)).astype(np.float32)


def unit(x: NDArray[Any]) -> Doubles:
    exact = x.astype(np.float64)
    return exact / np.linalg.norm(exact, axis=1, keepdims=True)


def decoded(quantizer: Quantizer, x: NDArray[Any]) -> Doubles:
    return quantizer.decode(quantizer.encode(x)).astype(np.float64)


def errors(quantizer: Quantizer, n: int = ROWS) -> Doubles:
    """(n,) |x - x_hat|^2 / |x|^2 of random rows."""
    x = rows(n, quantizer.dim)
    return ((x - decoded(quantizer, x)) ** 2).sum(axis=1) / (x.astype(np.float64) ** 2).sum(axis=1)


def pairs(n: int, d: int, cosine: float, seed: int) -> tuple[Doubles, Doubles]:
    """Unit vectors x, y (n, d) with <x_i, y_i> = cosine."""
    x, other = unit(rows(n, d, 2 * seed + 1)), unit(rows(n, d, 2 * seed + 2))
    other = unit(other - (other * x).sum(axis=1, keepdims=True) * x)
    return x, cosine * x + math.sqrt(1 - cosine**2) * other


def product_errors(make: Callable[[int], Quantizer], d: int, cosine: float, seeds: int, n: int = 250) -> Doubles:
    """(seeds, n) <y, x_hat> - <y, x>, a new map for every seed."""
    found = []
    for seed in range(seeds):
        x, y = pairs(n, d, cosine, seed)
        found.append((decoded(make(seed), x.astype(np.float32)) * y).sum(axis=1) - cosine)
    return np.array(found)


def mean_of(
    what: str, printed: float, samples: Doubles, digits: int, relation: str = "=", scale: float = 1.0
) -> Figure:
    """The mean of independent samples beside a number printed with so many digits after the point."""
    error = 4 * samples.std(ddof=1) / math.sqrt(len(samples))
    return Figure(what, printed, float(scale * samples.mean()), float(scale * error) + 0.5 * 10.0**-digits, relation)


def squared_product_errors(make: Callable[[int], Quantizer]) -> Doubles:
    """(24,) mean squared errors of 250 orthogonal pairs of 256 dimensions, one a map."""
    return (product_errors(make, 256, 0.0, 24) ** 2).mean(axis=1)


# --- the claims


def mean_squared_error() -> list[Figure]:
    printed = ((1, 0.36, 2), (2, 0.117, 3), (3, 0.03, 2), (4, 0.009, 3))
    return [mean_of(f"{b} bit", value, errors(TurboQuant(1536, b)), digits) for b, value, digits in printed]


def mean_squared_error_bound() -> list[Figure]:
    constant = math.sqrt(3) * math.pi / 2
    return [mean_of(f"{b} bit", constant * 4.0**-b, errors(TurboQuant(512, b)), 9, "<=") for b in range(1, 9)]


def shrinking() -> list[Figure]:
    x, y = pairs(ROWS, 512, 0.5, 0)
    products = (decoded(TurboQuant(512, 1), x.astype(np.float32)) * y).sum(axis=1) / 0.5
    return [mean_of("slope at 1 bit", 2 / math.pi, products, 4)]


def prod_bias() -> list[Figure]:
    found = []
    for b in (1, 2, 3, 4):
        per_map = product_errors(lambda seed, b=b: TurboQuant(128, b, seed, variant="prod"), 128, 0.5, 40).mean(axis=1)
        found.append(mean_of(f"{b} bit, mean error", 0.0, per_map, 9))
    return found


def prod_variance() -> list[Figure]:
    found = []
    for b, printed, digits in ((1, 1.57, 2), (2, 0.56, 2), (3, 0.18, 2), (4, 0.047, 3)):
        per_map = squared_product_errors(lambda seed, b=b: TurboQuant(256, b, seed, variant="prod"))
        found.append(mean_of(f"{b} bit, d times the variance", printed, per_map, digits, scale=256))
    return found


def prefix_codes() -> list[Figure]:
    from scipy import stats

    edges = np.concatenate([[-np.inf], normal_codebook(4).thresholds, [np.inf]])
    entropy = float(stats.entropy(np.diff(stats.norm.cdf(edges)), base=2))
    return [Figure("entropy of a 4-bit index", 3.8, entropy, 0.05)]


def qjl_bias_and_variance() -> list[Figure]:
    found = product_errors(lambda seed: QJL(64, m=256, seed=seed), 64, 0.5, 40)
    return [
        mean_of("mean error", 0.0, found.mean(axis=1), 9),
        mean_of("m times the variance", math.pi / 2, (found**2).mean(axis=1), 9, "<=", 256),
    ]


def qjl_tail() -> list[Figure]:
    """Coordinate vectors meet disjoint columns of S: independent trials."""
    epsilon, delta, half = 0.1, 0.01, 64
    m = math.ceil(4 / 3 * (1 + epsilon) * math.log(2 / delta) / epsilon**2)
    basis, failed = np.eye(2 * half, dtype=np.float32), []
    for seed in range(60):
        quantizer = QJL(2 * half, m=m, seed=seed)
        scores = quantizer.scores(basis[half:], quantizer.encode(basis[:half]))
        failed.append((np.abs(np.diag(scores)) > epsilon).mean())
    return [mean_of(f"share of errors over .1 with m = {m} signs", delta, np.array(failed), 9, "<=")]


def polar_bits() -> list[Figure]:
    quantizer = PolarQuant(128, 4, bits_per_level=PUBLISHED, radius="block")
    return [Figure("bits of angles and radii", 3.875, quantizer.rate, 1e-9)]


def polar_norm() -> list[Figure]:
    x = rows(ROWS, 128)
    kept = decoded(PolarQuant(128, 3), x)
    off = np.abs(np.linalg.norm(kept, axis=1) / np.linalg.norm(x.astype(np.float64), axis=1) - 1)
    return [Figure("largest change of a length", 0.0, float(off.max()), 1e-6)]


def drive_errors() -> list[Figure]:
    return [
        mean_of("unbiased", math.pi / 2 - 1, errors(DRIVE(1536)), 3),
        mean_of("biased", (1 - 2 / math.pi) * (1 - 1 / 1536), errors(DRIVE(1536, unbiased=False)), 4),
    ]


def eden_beats_prod() -> list[Figure]:
    found = []
    for b in (1, 2, 3):
        own = squared_product_errors(lambda seed, b=b: EDEN(256, b, seed))
        other = squared_product_errors(lambda seed, b=b: TurboQuant(256, b + 1, seed, variant="prod"))
        what = f"variance of EDEN at {b} bit less that of prod at {b + 1}, times d"
        found.append(mean_of(what, 0.0, own - other, 9, "<=", 256))
    return found


def rabitq_cosine() -> list[Figure]:
    x = rows(ROWS, 128)
    cosines = np.linalg.norm(x, axis=1) / DRIVE(128).encode(x).factors[:, 0] / math.sqrt(128)
    return [mean_of("mean cosine of code and vector at D = 128", 0.8, cosines.astype(np.float64), 2)]


def rabitq_bound() -> list[Figure]:
    d, quantizer, inside = 128, DRIVE(128), []
    for seed in range(40):
        x, q = unit(rows(50, d, seed)), unit(rows(50, d, 100 + seed))
        codes = quantizer.encode(x.astype(np.float32))
        error = np.abs(quantizer.scores(q.astype(np.float32), codes) - q @ x.T)
        cosine2 = 1 / (d * codes.factors[:, 0].astype(np.float64) ** 2)
        sine = np.sqrt(1 - (q @ x.T) ** 2)
        inside.append((error <= 1.9 * np.sqrt((1 - cosine2) / cosine2 / (d - 1)) * sine).mean())
    normal = math.erf(1.9 / math.sqrt(2))
    return [mean_of("errors within the bound at eps = 1.9", normal, np.array(inside), 2)]


def encoding_time() -> list[Figure]:
    x = rows(20_000, 1536)
    quantizer = TurboQuant(1536, 4)
    quantizer.encode(x[:256])
    began = time.process_time()
    quantizer.encode(x)
    return [Figure("seconds for 100,000 rows (one CPU core)", 0.0013, 5 * (time.process_time() - began), 0.00005)]


def first_of_k(folders: list[Path]) -> list[Figure]:
    """1@k of TurboQuant's codes beside product quantization with 8-bit sub-quantizers at equal bits."""
    import faiss

    path = next((folder / GLOVE for folder in folders if (folder / GLOVE).exists()), None)
    if path is None:
        raise FileNotFoundError(f"{GLOVE} is in none of the folders")
    data = load_dataset(path, queries=GLOVE_QUERIES)
    x, q = (unit(part).astype(np.float32) for part in (data.train[:GLOVE_ROWS], data.test))
    true, _ = exact_neighbors(x, q, 1, "ip")
    found = []
    for b in (2, 4):
        index = FlatIndex(100, "ip", b, "turboquant", center=False)
        index.add(x)
        faiss.omp_set_num_threads(1)
        other = faiss.IndexPQ(100, 100 * b // 8, 8, faiss.METRIC_INNER_PRODUCT)
        other.train(x)
        other.add(x)
        for k in (1, 8, 64):
            mine, theirs = ((ids == true).any(axis=1) for ids in (index.search(q, k)[1], other.search(q, k)[1]))
            error = 4 * (mine.astype(float) - theirs).std(ddof=1) / math.sqrt(len(q))  # of the same queries
            found.append(Figure(f"{b} bit, 1@{k}", float(theirs.mean()), float(mine.mean()), float(error), ">="))
    return found


_DIRECTIONS, _MAPS = "4,000 random directions", "24 maps x 250 orthogonal pairs, d = 256"
_TURBO, _QJL, _POLAR, _RABITQ = "TurboQuant 2025", "QJL 2024", "PolarQuant 2025", "RaBitQ 2024"
TRIALS = (
    Trial(
        _TURBO, "mean squared error .36, .117, .03, .009 at 1 to 4 bits", f"{_DIRECTIONS}, d = 1,536",
        mean_squared_error,
        "Lloyd-Max levels give .3634, .1175, .0345, .0095: at 3 and 4 bits the printed figures are cut.",
    ),
    Trial(
        _TURBO, "mean squared error at most sqrt(3) pi / 2 4^-b (Theorem 1)", f"{_DIRECTIONS}, d = 512",
        mean_squared_error_bound,
    ),
    Trial(
        _TURBO, "the mse variant shrinks inner products, at 1 bit by 2 / pi", "4,000 pairs at cosine .5, d = 512",
        shrinking,
    ),
    Trial(_TURBO, "the prod variant is unbiased (Theorem 2)", "40 maps x 250 pairs at cosine .5, d = 128", prod_bias),
    Trial(
        _TURBO, "the variance of prod is 1.57, .56, .18, .047 over d", _MAPS, prod_variance,
        "pi / 2 times a rounded distortion is printed; pi / 2 times .0345 is .0543.",
    ),
    Trial(_TURBO, "the entropy of 4-bit indices is about 3.8 bits", "the codebook alone", prefix_codes),
    Trial(
        _TURBO, "100,000 vectors of 1,536 dimensions are encoded in .0013 s (Table 2: 4 bits, a GPU)",
        "20,000 rows on one CPU core, times 5", encoding_time,
        "The rotation alone is .47 TFLOP, more than that GPU does in the time printed: it cannot be in it.",
    ),
    Trial(
        _TURBO, "1@k is higher than product quantization's at 2 and 4 bits",
        f"GloVe, d = 100, {GLOVE_ROWS:,} rows, {GLOVE_QUERIES:,} queries; FAISS PQ of 8 bits, trained on the rows",
        first_of_k, "The paper has GloVe of 200 dimensions. In place of a printed figure: what PQ reaches.", True,
    ),
    Trial(
        _QJL, "unbiased, with variance at most pi / 2 over m (Lemma 3.2)", "40 maps x 250 pairs at cosine .5, m = 256",
        qjl_bias_and_variance,
    ),
    Trial(
        _QJL, "4/3 (1 + e) ln(2 / d) / e^2 signs keep errors under e with probability 1 - d (Lemma 3.5)",
        "e = .1, d = .01, 3,840 orthogonal pairs", qjl_tail, "With pi + 4 e / 3 as the constant it holds.",
    ),
    Trial(
        _POLAR, "3.875 bits a coordinate, as published", "d = 128", polar_bits,
        "One bit of these goes to radii: the distortion is near that of 3 Lloyd-Max bits. Stored here in whole words.",
    ),
    Trial(_POLAR, "angles keep lengths", f"{_DIRECTIONS}, d = 128, full recursion, 3 bits", polar_norm),
    Trial(
        "DRIVE 2021", "one bit errs by pi / 2 - 1 unbiased, (1 - 2 / pi)(1 - 1 / d) biased",
        f"{_DIRECTIONS}, d = 1,536", drive_errors,
    ),
    Trial(
        "a note of 2026", "EDEN 2022 at b bits errs no more than TurboQuant prod at b + 1", _MAPS, eden_beats_prod
    ),
    Trial(_RABITQ, "the cosine of a code and its vector is about .8", f"{_DIRECTIONS}, D = 128", rabitq_cosine),
    Trial(_RABITQ, "the error bound at eps = 1.9 is that of a normal law", "100,000 pairs, D = 128", rabitq_bound),
)  # fmt: skip


def tried(trial: Trial, folders: list[Path]) -> Claim:
    try:
        figures = trial.figures(folders) if trial.needs_data else trial.figures()
    except (ImportError, FileNotFoundError) as error:
        return Claim(trial.source, trial.says, trial.setup, [], trial.remark, str(error))
    return Claim(trial.source, trial.says, trial.setup, figures, trial.remark)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", default=[Path()], help="folders with the sets' HDF5 files")
    options = parser.parse_args()
    claims = []
    for trial in TRIALS:
        claims.append(tried(trial, options.data))
        shown = ", ".join(f"{figure.ours:.4g}{'' if figure.reproduced else ' (not)'}" for figure in claims[-1].figures)
        print(f"{trial.source}: {trial.says}: {shown or claims[-1].not_tried}", flush=True)
    command = "python -m benchmarks.claims" + " --data FOLDER" * any(trial.needs_data for trial in TRIALS)
    result = {"command": command, "environment": machine(), "claims": [claim.as_dict() for claim in claims]}
    if any(claim.not_tried for claim in claims):
        print("not written: claims.json is for runs in which all claims are tried")
        return
    keep("claims", result)


if __name__ == "__main__":
    main()
