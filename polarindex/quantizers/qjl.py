"""QJL (Zandieh, Daliri, Han 2024, arXiv:2406.03482): the quantized Johnson-Lindenstrauss transform."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from polarindex import checks
from polarindex.codes import Codes, Words
from polarindex.quantizers.base import Doubles, ErrorLaw, Floats, Quantizer
from polarindex.quantizers.signs import SignSketch
from polarindex.rotations import SKETCHES
from polarindex.vectors import squared_norms


class QJL(Quantizer):
    """`m` signs of random projections and the norm.

    Parameters
    ----------
    dim : int
    bits : int
        m = bits * dim; 1 to 8.
    seed : int
    m : int, optional
        Any number of signs, in place of `bits`.
    matrix : {"gaussian", "orthogonal"}
        The definition's independent normal entries, or orthogonal rows ("almost always improves", its section on
        practice): vNMSE at m = dim pi / 2 or pi / 2 - 1.
    """

    name: ClassVar[str] = "qjl"
    bits: int
    unbiased = True

    def __init__(
        self, dim: int, bits: int = 1, seed: int = 0, *, m: int | None = None, matrix: str = "gaussian"
    ) -> None:
        super().__init__(dim, checks.integer(bits, "bits", low=1, high=8), seed)
        self.m = self.bits * self.dim if m is None else checks.integer(m, "m", low=1)
        self.matrix = checks.choice(matrix, "matrix", tuple(SKETCHES))
        self._sketch = SignSketch(self.dim, self.m, self.matrix, self.seed)
        self.stages = (self._sketch,)

    def parameters(self) -> dict[str, Any]:
        return {"dim": self.dim, "bits": self.bits, "seed": self.seed, "m": self.m, "matrix": self.matrix}

    def error_law(self, integer: bool = False) -> ErrorLaw:
        return ErrorLaw(0.0, self._sketch.spread())

    def encode_residuals(self, r: Floats, integer: bool, start: int) -> tuple[Words, Floats, Doubles]:
        norms2 = squared_norms(r)
        scales = (np.sqrt(norms2) * self._sketch.unit_scale).astype(np.float32)
        return self._sketch.pack_signs(r), scales[:, None], norms2

    def code_scores(self, a: Codes, b: Codes) -> NDArray[np.float32]:
        """|a| |b| cos(angle), the angle from the signs that differ: P = angle / pi (SimHash); (na, nb) float32.

        Consistent as m grows with a Gaussian S, unlike the inner product of the two reconstructions.
        """
        self._check_codes(a, "a")
        self._check_codes(b, "b")
        signs_a, signs_b = (np.unpackbits(codes.rows, axis=1, bitorder="little") for codes in (a, b))
        differ = signs_a.sum(1)[:, None] + signs_b.sum(1)[None] - 2.0 * (signs_a.astype(np.float32) @ signs_b.T)
        norms_a, norms_b = (codes.factors[:, 0] / self._sketch.unit_scale for codes in (a, b))
        return (norms_a[:, None] * norms_b * np.cos(np.pi * differ / self.m)).astype(np.float32)
