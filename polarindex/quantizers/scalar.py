"""Rotate, quantize each coordinate, rescale: the code that DRIVE, EDEN and TurboQuant_mse share.

Law:       y = R x, code = nearest levels of sqrt(d) y / |x|, x_hat = S R^T levels, and the three differ only in S:
               unbiased   |x|^2 / <y, levels>         E x_hat = x for a uniform R (DRIVE section 4, EDEN Theorem 2.1;
                                                      RaBitQ's estimator is the same number)
               biased     <y, levels> / |levels|^2    least |x - x_hat|^2
               plain      |x| / sqrt(d)               TurboQuant's: no scale beyond the norm
Source:    DRIVE, arXiv:2105.08339; EDEN, arXiv:2108.08842; TurboQuant, arXiv:2504.19874, Algorithm 1."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from polarindex import checks
from polarindex.codebooks import Codebook, integer_codebook
from polarindex.quantizers.base import Doubles, Encoded, ErrorLaw, Quantizer, TableStage, nearest_levels, ratio
from polarindex.rotations import ROTATIONS
from polarindex.vectors import squared_norms

Scale = Literal["unbiased", "biased", "plain"]


class ScalarQuantizer(Quantizer):
    """One table stage and one of the three scales; subclasses name the published settings."""

    def __init__(self, dim: int, bits: int, seed: int, rotation: str, book: Codebook, scale: Scale) -> None:
        super().__init__(dim, bits, seed)
        self.rotation = checks.choice(rotation, "rotation", tuple(ROTATIONS))
        self.unbiased = scale == "unbiased"
        self._scale = scale
        self._book = book
        self._grid = integer_codebook(book)
        self.stage = TableStage(
            ROTATIONS[rotation](self.dim, self.seed), bits, book.levels, self._grid.table, self._grid.thresholds
        )
        self.stages = (self.stage,)

    def parameters(self) -> dict[str, Any]:
        return {"dim": self.dim, "bits": self.bits, "seed": self.seed, "rotation": self.rotation}

    def error_law(self, integer: bool = False) -> ErrorLaw:
        distortion = self._grid.distortion if integer else self._book.distortion
        if self._scale == "unbiased":
            return ErrorLaw(0.0, distortion / (1 - distortion))
        return ErrorLaw(distortion, distortion * (1 - distortion))

    def encode_rows(self, x: NDArray[np.float32], integer: bool, start: int = 0) -> Encoded:
        codes, scales, energies, _ = self.quantize_rows(x, integer)
        return Encoded(self.stage.layout.pack(codes), scales[:, None], energies)

    def quantize_rows(
        self, x: NDArray[np.float32], integer: bool
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32], Doubles, Doubles]:
        """Codes (n, dim) before packing, scales (n,), energies (n,), and the levels (2^bits,) the codes index."""
        y = self.stage.map.forward(x)
        norms2 = squared_norms(x)
        gains = ratio(np.full(len(x), np.sqrt(self.dim)), np.sqrt(norms2))
        if integer:
            thresholds, levels, unit = self._grid.thresholds, self._grid.table.astype(np.float64), self._grid.unit
        else:
            thresholds, levels, unit = self._book.thresholds, self._book.levels, 1.0
        codes, dots, energies = nearest_levels(y, gains, thresholds, levels)
        if self._scale == "unbiased":
            scales = ratio(norms2, dots)
        elif self._scale == "biased":
            scales = ratio(dots, energies)
        else:
            scales = np.sqrt(norms2 / self.dim) * unit
        stored = scales.astype(np.float32)
        return codes, stored, norms2 if self.unbiased else stored.astype(np.float64) ** 2 * energies, levels
