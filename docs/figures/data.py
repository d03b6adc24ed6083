"""What the figures of "How it works" show, computed with the library on its own samples and on random vectors.

Law:       everything is a function of the seeds written here: two runs agree but for rounding.
Not here:  pictures (drawing.py); what is said about them (docs/how)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polarindex import make_quantizer
from polarindex.codebooks import normal_codebook, polar_codebook
from polarindex.rotations import GaussianSketch, HadamardRotation, PaddedRotation
from polarindex.sweep.dataset import load_dataset
from polarindex.sweep.theory import gaussian_bound, spectrum

Floats = NDArray[np.float32]
Data = dict[str, Any]  # as JSON can hold it

BITS = (1, 2, 3, 4)
IMAGES, WORDS = "fashion-mnist-sample", "glove-sample"


def centred(name: str, rows: int) -> Floats:
    """The first rows of a sample less the mean of all: what an index codes."""
    train = load_dataset(name).train[:].astype(np.float32)
    return (train - train.mean(axis=0))[:rows]


def directions(rows: int, dim: int, seed: int) -> Floats:
    """Random unit vectors (rows, dim)."""
    x = np.random.default_rng(seed).standard_normal((rows, dim))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def relative_errors(x: Floats, decoded: Floats) -> NDArray[np.float64]:
    """|x - decoded|^2 / |x|^2 of every row."""
    gap = x.astype(np.float64) - decoded
    return (gap**2).sum(axis=1) / (x.astype(np.float64) ** 2).sum(axis=1)


def errors_by_bits(name: str, x: Floats) -> list[float]:
    """The mean relative error of a quantizer at each number of bits."""
    quantizers = [make_quantizer(name, x.shape[1], bits) for bits in BITS]
    return [float(relative_errors(x, one.decode(one.encode(x))).mean()) for one in quantizers]


def rotation() -> Data:
    """Coordinates of images as they are, before and after a rotation; what a codebook for N(0, 1) makes of either."""
    x = load_dataset(IMAGES).train[:1000].astype(np.float32)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    before = unit * np.sqrt(x.shape[1])
    after = HadamardRotation(x.shape[1]).forward(unit) * np.sqrt(x.shape[1])
    edges = np.linspace(-5, 5, 81)

    def errors(y: Floats, bits: int) -> NDArray[np.float64]:
        book = normal_codebook(bits)
        return np.asarray(((y - book.levels[np.digitize(y, book.thresholds)]) ** 2).mean(axis=1))

    return {
        "edges": edges.tolist(),
        "before": np.histogram(before, edges)[0].astype(float).tolist(),
        "after": np.histogram(after, edges)[0].astype(float).tolist(),
        "count": before.size,
        "kurtosis": [float((y.astype(np.float64) ** 4).mean()) for y in (before, after)],
        "before by bits": [float(errors(before, bits).mean()) for bits in BITS],
        "after by bits": [float(errors(after, bits).mean()) for bits in BITS],
        "worst hundredth at 2 bits": [float(np.quantile(errors(y, 2), 0.99)) for y in (before, after)],
        "law by bits": [normal_codebook(bits).distortion for bits in BITS],
    }


def lemma() -> Data:
    """Johnson-Lindenstrauss: squared distances of all pairs of 200 images after m random projections."""
    x = centred(IMAGES, 200)
    first, second = np.triu_indices(len(x), 1)
    gaps = x[first] - x[second]
    exact = (gaps.astype(np.float64) ** 2).sum(axis=1)
    rows = []
    for m in (32, 64, 128, 256, 512, 1024, 2048, 4096):
        projected = GaussianSketch(x.shape[1], m, seed=1).forward(x)
        kept = ((projected[first] - projected[second]).astype(np.float64) ** 2).sum(axis=1) / m
        off = np.abs(kept / exact - 1)
        rows.append({"m": m, "median": float(np.median(off)), "largest": float(off.max())})
        rows[-1]["promised"] = promised(m, len(exact))
    return {"pairs": len(exact), "rows": rows}


def promised(m: int, pairs: int) -> float | None:
    """The least eps for which some map keeps all pairs: 2 pairs exp(-m (eps^2 - eps^3) / 4) < 1, if there is one."""
    grid = np.linspace(1e-4, 2 / 3, 20001)
    enough = m * (grid**2 - grid**3) / 4 > np.log(2 * pairs)
    return float(grid[enough.argmax()]) if enough.any() else None


def signs() -> Data:
    """m times the variance of an inner product of unit vectors from m projections, and from their signs (QJL)."""
    dim, trials, cosines = 16, 1500, np.linspace(-0.9, 0.9, 7)
    k = np.zeros((len(cosines), dim), np.float32)
    k[:, 0], k[:, 1] = cosines, np.sqrt(1 - cosines**2)
    q = np.eye(1, dim, dtype=np.float32)
    by_signs, by_floats = np.empty((trials, len(k))), np.empty((trials, len(k)))
    for seed in range(trials):
        quantizer, sketch = make_quantizer("qjl", dim, 1, seed), GaussianSketch(dim, dim, seed)
        by_signs[seed] = quantizer.scores(q, quantizer.encode(k))[0]
        by_floats[seed] = sketch.forward(k) @ sketch.forward(q)[0] / dim
    return {
        "cosines": cosines.tolist(),
        "signs": (dim * by_signs.var(axis=0)).tolist(),
        "floats": (dim * by_floats.var(axis=0)).tolist(),
        "mean of signs": by_signs.mean(axis=0).tolist(),
    }


def polar() -> Data:
    """The angles of PolarQuant's transform at levels 1-4, of word vectors after a rotation."""
    x = centred(WORDS, 1500)
    radii = np.concatenate([PaddedRotation(x.shape[1], 128, seed).forward(x) for seed in range(8)])
    levels = []
    for level in range(1, 5):
        left, right = radii[:, 0::2], radii[:, 1::2]
        angles = np.arctan2(right, left)
        if level == 1:
            angles = np.mod(angles, 2 * np.pi)
        edges = np.linspace(0, 2 * np.pi if level == 1 else np.pi / 2, 41)
        levels.append({
            "edges": edges.tolist(),
            "counts": np.histogram(angles, edges)[0].astype(float).tolist(),
            "count": angles.size,
            "variance": float(angles.var()),
            "errors": [polar_codebook(level, bits).distortion for bits in range(1, 6)],
        })  # fmt: skip
        radii = np.hypot(left, right)
    return {"levels": levels}


def radius() -> Data:
    """Relative and absolute errors of PolarQuant's 4-bit codes beside the lengths of word vectors, some made longer."""
    x = load_dataset(WORDS).train[:150].astype(np.float32)
    longer = x * np.geomspace(0.1, 100, len(x), dtype=np.float32)[:, None]
    quantizer = make_quantizer("polarquant", x.shape[1], 4)
    relative = relative_errors(longer, quantizer.decode(quantizer.encode(longer)))
    lengths = np.linalg.norm(longer.astype(np.float64), axis=1)
    return {"lengths": lengths.tolist(), "relative": relative.tolist(), "absolute": (lengths * relative**0.5).tolist()}


def bounds() -> Data:
    """Mean relative errors by bits, beside Lloyd-Max, Shannon's bound and the bound for the spectrum of the rows."""
    sets = {"random directions": directions(1500, 256, seed=2)}
    sets |= {name: centred(name, 1500) for name in (IMAGES, WORDS)}
    spectra = {name: spectrum([centred(name, 20_000)], sets[name].shape[1]) for name in (IMAGES, WORDS)}
    measured = {name: {"eden-biased": errors_by_bits("eden-biased", x)} for name, x in sets.items()}
    noise = sets["random directions"]  # of 256 coordinates, which polar codes need not pad
    measured["random directions"]["polarquant"] = errors_by_bits("polarquant", noise)
    return {
        "bits": list(BITS),
        "law": [normal_codebook(bits).distortion for bits in BITS],
        "measured": measured,
        "water-filling": {name: [gaussian_bound(found, bits) for bits in BITS] for name, found in spectra.items()},
    }


def scales() -> Data:
    """Estimated against true inner products of unit vectors, by a fixed scale and by the unbiased one."""
    pairs, dim = 400, 256
    x, other = directions(pairs, dim, seed=3), directions(pairs, dim, seed=4).astype(np.float64)
    across = other - (other * x).sum(axis=1, keepdims=True) * x
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    true = np.linspace(-1, 1, pairs)
    q = (true[:, None] * x + np.sqrt(1 - true[:, None] ** 2) * across).astype(np.float32)
    found: Data = {"true": true.tolist(), "slopes": {}}
    for name in ("turboquant", "eden"):
        estimates = {}
        for bits in BITS:
            quantizer = make_quantizer(name, dim, bits)
            estimates[bits] = (quantizer.decode(quantizer.encode(x)).astype(np.float64) * q).sum(axis=1)
        found[name] = estimates[1].tolist()
        found["slopes"][name] = [float(estimates[bits] @ true / (true @ true)) for bits in BITS]
    return found


FIGURES: dict[str, Callable[[], Data]] = {
    "rotation": rotation,
    "projections": lambda: {"lemma": lemma(), "signs": signs()},
    "polar": polar,
    "radius": radius,
    "bounds": bounds,
    "scales": scales,
}
