"""Linear maps: random rotations (DRIVE, EDEN, TurboQuant, PolarQuant), sign sketches' projections (QJL), given bases.

Law:       <Rx, Ry> = <x, y>, R^-1 = R^T; sketches: E[S^T S] = m I for m rows.
Why:       the coordinates of a randomly rotated vector are nearly Gaussian with variance |x|^2 / d, whatever the data,
           so one codebook, known in advance, serves every coordinate.
Source:    randomized Hadamard: DRIVE, arXiv:2105.08339, section 6; Gaussian and orthogonal S: QJL, arXiv:2406.03482.
Bits:      every random number comes from the raw words of a PCG64 generator, whose stream NumPy guarantees; the
           Hadamard rotation is therefore bit-identical on every machine. Haar and Gaussian matrices pass through
           log, cos and QR and may differ in the last place.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from polarindex import kernels

Floats = NDArray[np.float32]

# One stream a purpose, so that maps with the same seed are independent.
_HADAMARD, _HAAR, _GAUSSIAN, _ORTHOGONAL = 1, 2, 3, 4
_LANES = 16  # coordinates that kernels.project makes at a time


class LinearMap(Protocol):
    """A map from `dim` to `dims` coordinates and its transpose."""

    @property
    def dim(self) -> int: ...

    @property
    def dims(self) -> int: ...

    def forward(self, x: Floats) -> Floats:
        """(n, dim) float32 -> (n, dims) float32."""

    def adjoint(self, y: Floats) -> Floats:
        """(n, dims) float32 -> (n, dim) float32."""


def raw_words(purpose: int, seed: int, count: int) -> NDArray[np.uint64]:
    """`count` random 64-bit words: the raw PCG64 stream of (purpose, seed)."""
    words = np.random.PCG64([purpose, seed]).random_raw(count)
    return np.asarray(words, np.uint64)


def gaussian_matrix(rows: int, dim: int, seed: int, purpose: int = _GAUSSIAN) -> NDArray[np.float64]:
    """(rows, dim) independent N(0, 1), by Box-Muller from raw words: NumPy's own may change between versions."""
    count = rows * dim
    words = raw_words(purpose, seed, count + count % 2)
    uniform = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    radius = np.sqrt(-2.0 * np.log(uniform[0::2]))
    angle = 2.0 * np.pi * uniform[1::2]
    normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
    return normal[:count].reshape(rows, dim)


@dataclass(frozen=True)
class HadamardRotation:
    """`rounds` of: random permutation and signs, then Walsh-Hadamard on windows that cover all coordinates.

    The windows are [0, p) and [d - p, d), p the largest power of two <= d (one window if p = d), with fresh signs
    between them. O(d log d) a row, no matrix stored. One round is not enough for sparse rows: (1, 1, 0, ...) is coded
    with 1.8 times the error of a uniform rotation; from two rounds on the difference is under 1 %
    (tests/test_rotations.py). Only signs and order are random: at d of 16 and less, sparse rows are coded up to
    twice as badly as under a Haar rotation.

    Attributes
    ----------
    dim : int
        Any dimension >= 1.
    seed, rounds : int
        Rotations with equal attributes are the same bits on every platform.
    """

    dim: int
    seed: int = 0
    rounds: int = 3

    @property
    def dims(self) -> int:
        return self.dim

    @cached_property
    def plan(self) -> tuple[NDArray[np.int64], Floats, NDArray[np.int64], int, np.float32]:
        """order, signs, starts, size and norm, as kernels.rotate takes them."""
        size = 1 << (self.dim.bit_length() - 1)
        starts = np.unique([0, self.dim - size]).astype(np.int64)
        draws = 1 + len(starts)  # an order, and signs for each window
        words = raw_words(_HADAMARD, self.seed, draws * self.rounds * self.dim).reshape(draws, self.rounds, self.dim)
        order = np.argsort(words[0], axis=1, kind="stable").astype(np.int64)
        signs = np.where(words[1:] >> np.uint64(63), np.float32(-1), np.float32(1)).transpose(1, 0, 2).copy()
        return order, signs, starts, size, np.float32(1.0 / np.sqrt(size))

    @cached_property
    def flips(self) -> Floats:
        """The signs as kernels.rotate_rows takes them."""
        _, signs, starts, size, _ = self.plan
        return np.asarray(kernels.flips_of(signs, starts, size))

    def forward(self, x: Floats) -> Floats:
        """R x of rows (n, dim) float32; (n, dim) float32, lengths kept."""
        order, signs, starts, size, norm = self.plan
        out = np.empty((len(x), self.dim), np.float32)
        kernels.rotate(np.ascontiguousarray(x), order, signs, starts, size, norm, out)
        return out

    def inverse(self, y: Floats) -> Floats:
        """R^T y of rows (n, dim) float32: inverse(forward(x)) = x to 1e-6 of its length."""
        order, signs, starts, size, norm = self.plan
        out = np.empty((len(y), self.dim), np.float32)
        kernels.rotate_back(np.ascontiguousarray(y), order, signs, starts, size, norm, out)
        return out

    adjoint = inverse


@dataclass(frozen=True)
class HaarRotation:
    """A dense rotation drawn uniformly from the orthogonal group: the Q of a Gaussian matrix. O(d^2) a row.

    The reference that the papers' proofs assume; the Hadamard rotation is the one to use.
    """

    dim: int
    seed: int = 0

    @property
    def dims(self) -> int:
        return self.dim

    @cached_property
    def matrix(self) -> Floats:
        """(dim, dim) float32, forward(x) = x @ matrix.T."""
        q, r = np.linalg.qr(gaussian_matrix(self.dim, self.dim, self.seed, _HAAR))
        return (q * np.where(np.diag(r) < 0, -1.0, 1.0)).astype(np.float32)

    def forward(self, x: Floats) -> Floats:
        """R x of rows (n, dim) float32; (n, dim) float32."""
        return x @ self.matrix.T

    def inverse(self, y: Floats) -> Floats:
        """R^T y of rows (n, dim) float32."""
        return y @ self.matrix

    adjoint = inverse


ROTATIONS: dict[str, type[HadamardRotation] | type[HaarRotation]] = {
    "hadamard": HadamardRotation,
    "haar": HaarRotation,
}


@dataclass(frozen=True)
class PaddedRotation:
    """Rows are padded with zeros to `dims` coordinates, then rotated there: a code for `dims` serves `dim`.

    The error that falls on the padding is dropped by `adjoint`, so `dim` coordinates keep dim / dims of it.
    """

    dim: int
    dims: int
    seed: int = 0

    @cached_property
    def _rotation(self) -> HadamardRotation:
        return HadamardRotation(self.dims, self.seed)

    def forward(self, x: Floats) -> Floats:
        """(n, dim) -> (n, dims) float32, lengths kept."""
        padded = np.zeros((len(x), self.dims), np.float32)
        padded[:, : self.dim] = x
        return self._rotation.forward(padded)

    def adjoint(self, y: Floats) -> Floats:
        """(n, dims) -> (n, dim) float32."""
        return np.ascontiguousarray(self._rotation.inverse(y)[:, : self.dim])


class Basis:
    """Coordinates along given orthonormal rows, those of a learned basis; maybe fewer than dim. O(dim dims) a row.

    Equal bits for equal rows on every machine, whatever rows stand beside (kernels.project).
    """

    def __init__(self, rows: Floats) -> None:
        """rows (dims, dim) float32, orthonormal; kept, not copied. groups: the same as kernels.project takes them."""
        self.rows = rows
        self.dims, self.dim = rows.shape
        lanes = -self.dims % _LANES
        padded = np.concatenate([rows, np.zeros((lanes, self.dim), np.float32)])
        self.groups = np.ascontiguousarray(padded.reshape(-1, _LANES, self.dim).transpose(0, 2, 1))

    @staticmethod
    def bytes_of(dims: int, dim: int) -> int:
        """`nbytes` of so many rows."""
        return 4 * dim * (2 * dims + -dims % _LANES)

    def split(self, sizes: Sequence[int]) -> list[Basis]:
        """Each the next `sizes` rows, whole registers but the last, in this basis's memory."""
        parts, first = [], 0
        for size in sizes:
            part = copy.copy(self)
            part.rows, part.dims = self.rows[first : first + size], size
            part.groups = self.groups[first // _LANES : -(-(first + size) // _LANES)]
            parts.append(part)
            first += size
        return parts

    @property
    def nbytes(self) -> int:
        return self.bytes_of(self.dims, self.dim)

    def padded(self, x: Floats) -> Floats:
        """(n, dim) -> (n, c) float32: dims coordinates, filled up with zeros to whole registers."""
        out = np.empty((len(x), len(self.groups) * _LANES), np.float32)
        kernels.project(np.ascontiguousarray(x), self.groups, out)
        return out

    def forward(self, x: Floats) -> Floats:
        """(n, dim) -> (n, dims) float32."""
        return np.ascontiguousarray(self.padded(x)[:, : self.dims])

    def adjoint(self, y: Floats) -> Floats:
        """(n, dims) -> (n, dim) float32. Through BLAS, whose last bit may depend on the number of rows at a time."""
        return y @ self.rows


@dataclass(frozen=True)
class GaussianSketch:
    """S with `dims` rows of independent N(0, 1) entries, as QJL and TurboQuant_prod define it. O(dim dims) a row.

    Products go through BLAS, whose last bit may depend on the number of rows at a time.
    """

    dim: int
    dims: int
    seed: int = 0

    @cached_property
    def matrix(self) -> Floats:
        """(dims, dim) float32."""
        return gaussian_matrix(self.dims, self.dim, self.seed).astype(np.float32)

    def forward(self, x: Floats) -> Floats:
        """S x of rows (n, dim) float32; (n, dims) float32."""
        return x @ self.matrix.T

    def adjoint(self, y: Floats) -> Floats:
        """S^T y of rows (n, dims) float32; (n, dim) float32."""
        return y @ self.matrix


@dataclass(frozen=True)
class OrthogonalSketch:
    """S of orthogonal rows of length sqrt(dim): independent Hadamard rotations stacked, cut to `dims` rows.

    What QJL's section on practice recommends: at dims = dim the reconstruction error falls from pi/2 to pi/2 - 1.
    """

    dim: int
    dims: int
    seed: int = 0

    @cached_property
    def _rotations(self) -> list[HadamardRotation]:
        count = -(-self.dims // self.dim)
        return [HadamardRotation(self.dim, int(seed)) for seed in raw_words(_ORTHOGONAL, self.seed, count)]

    def forward(self, x: Floats) -> Floats:
        """S x of rows (n, dim) float32; (n, dims) float32."""
        y = np.concatenate([rotation.forward(x) for rotation in self._rotations], axis=1)
        return y[:, : self.dims] * np.float32(np.sqrt(self.dim))

    def adjoint(self, y: Floats) -> Floats:
        """S^T y of rows (n, dims) float32; (n, dim) float32."""
        full = np.zeros((len(y), len(self._rotations) * self.dim), np.float32)
        full[:, : self.dims] = y
        parts = np.split(full, len(self._rotations), axis=1)
        total = sum(rotation.inverse(part) for rotation, part in zip(self._rotations, parts, strict=True))
        return np.asarray(total * np.float32(np.sqrt(self.dim)), np.float32)


SKETCHES: dict[str, type[GaussianSketch] | type[OrthogonalSketch]] = {
    "gaussian": GaussianSketch,
    "orthogonal": OrthogonalSketch,
}
