"""Scalar codebooks known in advance: Lloyd-Max levels for the law that a rotated coordinate obeys.

Law:       level_i = E[v | cell i], threshold_i = (level_i + level_(i+1)) / 2  (Max 1960, Lloyd 1982).
Laws of v: N(0, 1), the d -> infinity limit (EDEN, arXiv:2108.08842, section 4); sqrt(d) times a coordinate of a uniform
           point on the sphere (TurboQuant, arXiv:2504.19874, Lemma 1: a Beta law); PolarQuant's angles
           (arXiv:2502.02617, Lemma 2).
How:       computed to 1e-12 by Newton's method on the centroid condition, cells integrated by Gauss-Legendre.
Trellis:   levels of trellis codes are learned once and shipped (trellis.json, benchmarks/trellis_levels.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(48)
# measured on MiniLM, Fashion-MNIST, SIFT and GloVe at 2-4 bits: at most .0003 of R10@10 lost with one plane. With two
# the same loss needs more, for fewer vectors survive by chance
_LIFTS = {1: 2.8, 2: 3.4}
_TAIL = 12.0  # standard deviations; the mass beyond is under 1e-32


@dataclass(frozen=True)
class Codebook:
    """Levels and thresholds, ascending, in units of the coordinate's standard deviation (angles: radians).

    Attributes
    ----------
    levels : (2**bits,) float64
    thresholds : (2**bits - 1,) float64; code i is for thresholds[i - 1] <= v < thresholds[i]
    distortion : float
        E (v - level)^2.
    """

    levels: Array
    thresholds: Array
    distortion: float


@dataclass(frozen=True)
class _Law:
    """A density given on a parameter u: v = value(u), with weight(u) du the unnormalised probability.

    The parameter keeps integrands smooth: a sphere coordinate is sin(u), so that the Beta law's end points are regular.
    """

    low: float
    high: float
    weight: Callable[[Array], Array]
    value: Callable[[Array], Array]
    parameter: Callable[[Array], Array]  # the inverse of value
    slope: Callable[[Array], Array]  # dv/du
    symmetric: bool = True

    def moments(self, edges: Array) -> tuple[Array, Array, Array]:
        """Integrals of 1, v and v^2 over the cells between edges (in u), each (len(edges) - 1,)."""
        middle, half = (edges[1:] + edges[:-1]) / 2, (edges[1:] - edges[:-1]) / 2
        u = middle[:, None] + half[:, None] * _NODES
        mass = self.weight(u) * _WEIGHTS * half[:, None]
        v = self.value(u)
        return mass.sum(1), (mass * v).sum(1), (mass * v * v).sum(1)

    def edges(self, thresholds: Array) -> Array:
        return np.concatenate([[self.low], self.parameter(thresholds), [self.high]])

    def distortion(self, levels: Array, thresholds: Array) -> float:
        """E (v - level)^2 of any levels and thresholds."""
        mass, first, second = self.moments(self.edges(thresholds))
        return float((second - 2 * levels * first + levels**2 * mass).sum() / mass.sum())


def _identity(u: Array) -> Array:
    return u


_NORMAL = _Law(-_TAIL, _TAIL, lambda u: np.exp(-u * u / 2), _identity, _identity, np.ones_like)


def _sphere_law(dim: int) -> _Law:
    """sqrt(dim) x_1, x uniform on the sphere of `dim` >= 2 dimensions: density (1 - x^2)^((dim - 3) / 2), x = sin u."""
    root = np.sqrt(dim)
    high = np.arcsin(min(1.0, _TAIL / root))
    return _Law(
        -high,
        high,
        lambda u: np.cos(u) ** (dim - 2),
        lambda u: root * np.sin(u),
        lambda v: np.arcsin(np.clip(v / root, -1.0, 1.0)),
        lambda u: root * np.cos(u),
    )


def _polar_law(level: int) -> _Law:
    """PolarQuant's angle at `level` >= 2: density sin(2 psi)^(2^(level - 1) - 1) on [0, pi / 2]."""
    power = 2 ** (level - 1) - 1
    deviation = 2.0 ** (-(level + 1) / 2)
    low = max(0.0, np.pi / 4 - _TAIL * deviation)
    return _Law(
        low, np.pi / 2 - low, lambda u: np.sin(2 * u) ** power, _identity, _identity, np.ones_like, symmetric=False
    )


def _first_guess(law: _Law, count: int) -> Array:
    """Panter-Dite companding: levels at equal steps of the integral of density^(1/3)."""
    u = np.linspace(law.low, law.high, 20001)[1:-1]
    slope = law.slope(u)
    compressed = np.cumsum((law.weight(u) / slope) ** (1 / 3) * slope)
    return np.interp((np.arange(count) + 0.5) / count, compressed / compressed[-1], law.value(u))


def _centroids(law: _Law, levels: Array) -> tuple[Array, Array, Array]:
    """The centroids of the cells of `levels`, with the cells' masses and inner edges (in u)."""
    edges = law.edges((levels[1:] + levels[:-1]) / 2)
    mass, first, _ = law.moments(edges)
    return first / mass, mass, edges[1:-1]


def _lloyd_max(law: _Law, count: int) -> Codebook:
    """Newton's method on levels - centroids(levels) = 0, whose Jacobian is tridiagonal; a few Lloyd steps first."""
    levels = _first_guess(law, count)
    for _ in range(30):
        levels = _centroids(law, levels)[0]
    for _ in range(50):
        centroids, mass, inner = _centroids(law, levels)
        residual = levels - centroids
        if np.abs(residual).max() < 1e-13:
            break
        thresholds = law.value(inner)
        density = law.weight(inner) / law.slope(inner) / 2
        # d centroid_i / d threshold below and above it, halved: each threshold is half of either neighbouring level
        below = density * (centroids[1:] - thresholds) / mass[1:]
        above = density * (thresholds - centroids[:-1]) / mass[:-1]
        jacobian = np.eye(count)
        rows = np.arange(count - 1)
        jacobian[rows + 1, rows] -= below
        jacobian[rows + 1, rows + 1] -= below
        jacobian[rows, rows + 1] -= above
        jacobian[rows, rows] -= above
        levels = levels - np.linalg.solve(jacobian, residual)
    if law.symmetric:
        levels = (levels - levels[::-1]) / 2  # exactly, so that the middle threshold is 0
    thresholds = (levels[1:] + levels[:-1]) / 2
    return Codebook(levels, thresholds, law.distortion(levels, thresholds))


@lru_cache(maxsize=64)
def normal_codebook(bits: int) -> Codebook:
    """Lloyd-Max for N(0, 1) at 1-8 bits: distortion .3634, .1175, .03455, .00950, ..."""
    return _lloyd_max(_NORMAL, 2**bits)


@lru_cache(maxsize=64)
def sphere_codebook(dim: int, bits: int) -> Codebook:
    """Lloyd-Max for sqrt(dim) times a coordinate of a uniform unit vector; the limit dim -> infinity is N(0, 1).

    In one dimension the coordinate is -1 or 1: the outermost levels are these, and the distortion is 0.
    """
    if dim == 1:
        levels = np.linspace(-1.0, 1.0, 2**bits)
        return Codebook(levels, (levels[1:] + levels[:-1]) / 2, 0.0)
    return _lloyd_max(_sphere_law(dim), 2**bits)


@lru_cache(maxsize=256)
def polar_codebook(level: int, bits: int) -> Codebook:
    """1-D k-means for PolarQuant's angle at `level` (1 = pairs of coordinates: uniform on [0, 2 pi), equal cells).

    With 0 bits the one level is the law's mean. `distortion` is E[2 - 2 cos(angle - level)], what the angle adds to
    the relative error of the vector.
    """
    count = 2**bits
    if level == 1:
        levels = 2 * np.pi * (np.arange(count) + 0.5) / count
        thresholds = (levels[1:] + levels[:-1]) / 2
        return Codebook(levels, thresholds, float(2 - 2 * np.sinc(1 / count)))
    law = _polar_law(level)
    book = _lloyd_max(law, count) if bits else Codebook(np.array([np.pi / 4]), np.empty(0), 0.0)
    edges = law.edges(book.thresholds)
    middle, half = (edges[1:] + edges[:-1]) / 2, (edges[1:] - edges[:-1]) / 2
    u = middle[:, None] + half[:, None] * _NODES
    mass = law.weight(u) * _WEIGHTS * half[:, None]
    error = (mass * (2 - 2 * np.cos(u - book.levels[:, None]))).sum() / mass.sum()
    return Codebook(book.levels, book.thresholds, float(error))


# --- levels as the scan kernel sees them ---------------------------------------------------------------------------


@dataclass(frozen=True)
class IntegerCodebook:
    """A codebook whose levels are int8 multiples of `unit`.

    Attributes
    ----------
    table : (2**bits,) int8 in -127 .. 127; level of code i = unit * table[i]
    thresholds : (2**bits - 1,) float64, in standard deviations
    unit : float
    distortion : float
        E (v - unit * table)^2 for N(0, 1).
    """

    table: NDArray[np.int8]
    thresholds: Array
    unit: float
    distortion: float

    def moments(self) -> tuple[float, float]:
        """E v table and E table^2 for N(0, 1)."""
        mass, first, _ = _NORMAL.moments(_NORMAL.edges(np.maximum(self.thresholds, -_TAIL)))
        levels = self.table.astype(np.float64)
        return float((levels * first).sum() / mass.sum()), float((levels**2 * mass).sum() / mass.sum())


def integer_codebook(book: Codebook) -> IntegerCodebook:
    """Round a codebook's levels to int8: up to 5 bits this adds under 5e-5 of the variance, at 7 bits 1e-4.

    A 256-level codebook is replaced by the best uniform grid of 255 int8 steps (distortion 9e-5): rounding its
    levels would only add error to it.
    """
    if len(book.levels) == 256:
        return _uniform_grid()
    unit = float(book.levels.max() / 127)
    table = np.rint(book.levels / unit).astype(np.int8)
    distortion = _NORMAL.distortion(table.astype(np.float64) * unit, book.thresholds)
    return IntegerCodebook(table, book.thresholds, unit, distortion)


@lru_cache(maxsize=1)
def _uniform_grid() -> IntegerCodebook:
    """255 equal steps -127 .. 127 with the step that is best for N(0, 1), found by golden section; code 0 is unused."""
    table = np.maximum(np.arange(-128, 128), -127).astype(np.int8)
    levels: Array = np.arange(-127.0, 128.0)
    steps: Array = np.arange(-126.5, 127.0)

    def error(unit: float) -> float:
        return _NORMAL.distortion(levels * unit, steps * unit)

    low, high, golden = 0.02, 0.05, (5**0.5 - 1) / 2
    while high - low > 1e-7:
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if error(left) < error(right) else (left, high)
    unit = (low + high) / 2
    return IntegerCodebook(table, np.concatenate([[-np.inf], steps * unit]), unit, error(unit))


@dataclass(frozen=True)
class TrellisCodebook:
    """Levels of a trellis code by the byte of a window (codes.RingLayout), int8 multiples of `unit`.

    Attributes
    ----------
    table : (256,) int8 in -127 .. 127
    mix : tuple of 64 int
        Bytes by which windows of 12 bits are folded to one; empty where windows are of 8 bits.
    unit : float
        In standard deviations.
    distortion : float
        E (v - unit * level)^2 of N(0, 1), of long rows.
    """

    table: NDArray[np.int8]
    mix: tuple[int, ...]
    unit: float
    distortion: float

    @property
    def by_window(self) -> NDArray[np.int8]:
        """The levels (256,) or (4096,) of all windows."""
        return self.table[folded(self.mix)] if self.mix else self.table


def folded(mix: tuple[int, ...]) -> NDArray[np.int64]:
    """The bytes (4096,) of all windows of 12 bits."""
    windows = np.arange(64 * len(mix))
    return (windows & 255) ^ np.array(mix)[windows >> 6]


TRELLIS_FILES = {8: "trellis.json", 12: "trellis-12.json"}
"""Where the levels are, by the bits of a window."""


@lru_cache(maxsize=8)
def trellis_codebook(bits: int, window: int = 8) -> TrellisCodebook:
    """The shipped levels at 1 to 4 bits, for windows of 8 or 12 bits."""
    books = json.loads(Path(__file__).with_name(TRELLIS_FILES[window]).read_text(encoding="utf-8"))["books"]
    book = books[bits - 1]
    levels, mix = np.array(book["levels"], np.int8), tuple(book.get("mix", ()))
    return TrellisCodebook(levels, mix, book["unit"], book["distortion"])


def longest_levels(table: NDArray[np.int8], thresholds: Array, dims: int) -> float:
    """At least |levels| of the code of any row of `dims` coordinates, scaled to length sqrt(dims).

    A level is dear that has a large threshold below it: the most that squared levels sum to, where squared coordinates
    sum to dims, is at most dims times the concave hull of (square of the least coordinate, square of its level) at 1.
    """
    edges = np.concatenate([[-np.inf], thresholds, [np.inf]])
    low, high = edges[:-1], edges[1:]
    dues = np.maximum(np.maximum(low, -high), 0) ** 2  # 0 where the cell has 0 in it
    there = dues < np.inf
    dues, gifts = dues[there], table[there].astype(np.float64) ** 2
    hull = gifts[dues <= 1].max()
    for due, gift in zip(dues[dues > 1], gifts[dues > 1], strict=True):
        cheap = dues <= 1
        share = (1 - dues[cheap]) / (due - dues[cheap])
        hull = max(hull, float((gifts[cheap] + share * (gift - gifts[cheap])).max()))
    return float(np.sqrt(dims * hull)) * (1 + 1e-5)  # the scaling is in float32


@dataclass(frozen=True)
class FirstPlanes:
    """What the first planes of a code say of its level, as the scan sees it.

    The level's estimate is base + sum of weights[p] * bit p; estimates of inner products with it are as unbiased as
    with the whole code's levels.

    Attributes
    ----------
    base : float
    weights : (planes,) float64
    deviation : float
        Root mean square of level - estimate for N(0, 1), in units of the levels; 0 where it is all of the code.
    lift : float
        Deviations of a sum that a bound allows for, so that a search loses less than .0005 of its recall.
    """

    base: float
    weights: Array
    deviation: float
    lift: float


def first_planes(
    table: NDArray[np.int8], thresholds: Array, planes: int, lift: float | None = None
) -> FirstPlanes:
    """The first one to three planes of the code of a scalar table (2^bits,), symmetric where more than one.

    With y ~ N(0, 1), L(y) its level and m(y) = E[L | planes]: the estimate is c m with c = E[y L] / E[y m]. Of three
    planes it is the sum of weights that is nearest to it and as unbiased. Without a lift it is what one or two planes
    of a whole code need.
    """
    levels = table.astype(np.float64).reshape(1 << planes, -1)
    mass, first = _moments_of(thresholds, planes)
    if levels.shape[1] == 1:
        estimates = levels[:, 0]
    else:
        means = (mass * levels).sum(axis=1) / mass.sum(axis=1)
        estimates = means * ((first * levels).sum() / (first.sum(axis=1) * means).sum())
    if planes > 2:
        estimates = _summed(estimates, mass.sum(axis=1), first.sum(axis=1))
    weights = np.array([estimates[1 << (planes - 1 - p)] - estimates[0] for p in range(planes)])
    deviation = float(np.sqrt((mass * (levels - estimates[:, None]) ** 2).sum()))
    return FirstPlanes(float(estimates[0]), weights, deviation, _LIFTS[planes] if lift is None else lift)


def _summed(estimates: Array, mass: Array, first: Array) -> Array:
    """The nearest sums of a base and a weight a bit to estimates (2^planes,), with the same E[y estimate]."""
    planes = len(estimates).bit_length() - 1
    bits = np.arange(len(estimates))[:, None] >> np.arange(planes - 1, -1, -1) & 1
    terms, roots = np.column_stack([np.ones(len(bits)), bits]), np.sqrt(mass)
    summed = terms @ np.linalg.lstsq(terms * roots[:, None], estimates * roots, rcond=None)[0]
    fitted: Array = summed * ((first * estimates).sum() / (first * summed).sum())
    return fitted


def prefix_levels(thresholds: Array, planes: int) -> NDArray[np.int8]:
    """The levels (2^planes,) int8 of a code that is the first planes of one with these thresholds, (2^bits - 1,).

    They ascend, like E[v | planes] for N(0, 1), of which they are multiples, the largest 127: what multiplies them all
    is part of a vector's scale.
    """
    mass, first = _moments_of(thresholds, planes)
    means = first.sum(axis=1) / mass.sum(axis=1)
    return np.rint(127 * means / np.abs(means).max()).astype(np.int8)


def _moments_of(thresholds: Array, planes: int) -> tuple[Array, Array]:
    """Masses and first moments of N(0, 1) in the cells of a code, (2^planes, cells that share their first planes)."""
    edges = np.concatenate([[-_TAIL], thresholds, [_TAIL]]).clip(-_TAIL, _TAIL)
    mass, first, _ = _NORMAL.moments(edges)
    return (mass / mass.sum()).reshape(1 << planes, -1), (first / mass.sum()).reshape(1 << planes, -1)
