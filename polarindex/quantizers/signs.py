"""The sign sketch of QJL: sign(S x) and |x|, for an unbiased estimate of <q, x> from exact queries.

Law:       x_hat = sqrt(pi / 2) / m * |x| * S^T sign(S x);  variance (pi / 2 |q|^2 |x|^2 - <q, x>^2) / m for Gaussian S.
           For orthogonal rows, whose coordinates are those of a uniform direction and not quite Gaussian, the factor is
           1 / (m E|sqrt(d) u_1|), u uniform on the sphere; sqrt(pi / 2) is its limit and 1 / (4 d) too large.
Source:    QJL, arXiv:2406.03482, Definition 3.1 and Lemma 3.2."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from polarindex.codes import Words
from polarindex.quantizers.base import ONE_GAIN, TableStage, nearest_levels
from polarindex.rotations import SKETCHES

_SIGNS, _ZERO = np.array([-1, 1], np.float32), np.zeros(1, np.float32)


class SignSketch(TableStage):
    """A stage of `m` signs; `unit_scale` times |x| is the vector's scale."""

    def __init__(self, dim: int, m: int, matrix: str, seed: int) -> None:
        levels = _SIGNS.astype(np.float64)
        super().__init__(SKETCHES[matrix](dim, m, seed), 1, levels, _SIGNS.astype(np.int8), np.zeros(1))
        self.dim = dim
        self.matrix = matrix
        self.unit_scale = 1 / (m * (_mean_coordinate(dim) if matrix == "orthogonal" else math.sqrt(2 / math.pi)))

    def pack_signs(self, x: NDArray[np.float32]) -> Words:
        """Rows of words (n, words) of sign(S x); zero counts as positive."""
        y = self.map.forward(x)
        codes, _, _ = nearest_levels(y, np.ones(len(x)), ONE_GAIN, _ZERO, _SIGNS)
        return self.layout.pack(codes)

    def spread(self) -> float:
        """vNMSE of the sketch's reconstruction: pi / 2 d / m - 1 / m for a Gaussian S.

        For orthogonal rows every block of r <= d of them takes off (r / m)^2 in place of r / m^2.
        """
        m = self.map.dims
        if self.matrix == "gaussian":
            return np.pi / 2 * self.dim / m - 1 / m
        blocks, rest = divmod(m, self.dim)
        return np.pi / 2 * self.dim / m - (blocks * self.dim**2 + rest**2) / m**2


def _mean_coordinate(dim: int) -> float:
    """E |sqrt(d) u_1| for u uniform on the sphere of d dimensions; sqrt(2 / pi) for d -> infinity."""
    return math.sqrt(dim / math.pi) * math.exp(math.lgamma(dim / 2) - math.lgamma((dim + 1) / 2))
