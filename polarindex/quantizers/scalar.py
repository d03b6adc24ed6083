"""Rotate, quantize each coordinate, rescale: the code that DRIVE, EDEN and TurboQuant_mse share.

Law:       y = R x, code = nearest levels of sqrt(d) y / |x|, x_hat = S R^T levels, and the three differ only in S:
               unbiased   |x|^2 / <y, levels>         E x_hat = x for a uniform R (DRIVE section 4, EDEN Theorem 2.1;
                                                      RaBitQ's estimator is the same number)
               biased     <y, levels> / |levels|^2    least |x - x_hat|^2
               plain      |x| / sqrt(d)               TurboQuant's: no scale beyond the norm
Refined:   code = nearest levels of g sqrt(d) y / |x| with that g of REFINING whose code has the largest cosine with y.
           The scale makes up for g. What is saved grows with bits and falls with d, for a short row's coordinates are
           less like a normal law: at 4 bits 17 % of the squared error at d = 64, 12 % at 128, 3 % at 784.
Source:    DRIVE, arXiv:2105.08339; EDEN, arXiv:2108.08842; TurboQuant, arXiv:2504.19874, Algorithm 1. A code chosen for
           its cosine: multi-bit RaBitQ, arXiv:2409.09913, there of a uniform grid."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polarindex import checks, kernels
from polarindex.codebooks import Codebook, integer_codebook
from polarindex.codes import Words
from polarindex.quantizers.base import (
    ONE_GAIN,
    Centres,
    Doubles,
    Encoded,
    EncodedResiduals,
    ErrorLaw,
    Floats,
    Quantizer,
    TableStage,
    nearest_levels,
    prefix_of,
    ratio,
)
from polarindex.rotations import ROTATIONS, HadamardRotation
from polarindex.vectors import squared_norms

Scale = Literal["unbiased", "biased", "plain"]
_NO_LEVELS = np.empty(0, np.float32)
REFINING = np.array([0.85, 0.925, 1.0, 1.075, 1.15], np.float32)  # 9 of .8 to 1.2 save 2 % more, for twice the time
# bits -> what they save of the squared error of normal rows of 16, 64, 256, 1024 and 4096 coordinates
_SAVED = {
    2: (0.055, 0.017, 0.004, 0.001, 0.0),
    3: (0.198, 0.088, 0.026, 0.008, 0.001),
    4: (0.281, 0.172, 0.075, 0.023, 0.006),
    5: (0.324, 0.199, 0.124, 0.054, 0.015),
    6: (0.316, 0.185, 0.126, 0.080, 0.030),
    7: (0.354, 0.209, 0.138, 0.101, 0.071),
    8: (0.336, 0.266, 0.287, 0.243, 0.139),
}


class _Book(NamedTuple):
    """thresholds (2^bits - 1,) float32 in standard deviations, levels (2^bits,) float32 in `unit` of them, and the
    multiples of a row's gain, float32, of which the best is taken."""

    multiples: Floats
    thresholds: Floats
    levels: Floats
    unit: float


class ScalarQuantizer(Quantizer):
    """One table stage and one of the three scales; subclasses name the published settings."""

    bits: int

    def __init__(
        self, dim: int, bits: int, seed: int, rotation: str, book: Codebook, scale: Scale, refined: bool = False
    ) -> None:
        super().__init__(dim, bits, seed)
        self.refined = refined
        multiples = REFINING if refined else ONE_GAIN
        self.rotation = checks.choice(rotation, "rotation", tuple(ROTATIONS))
        self.unbiased = scale == "unbiased"
        self._scale = scale
        self._book = book
        self._grid = integer_codebook(book)
        self._books = (
            _Book(multiples, book.thresholds.astype(np.float32), book.levels.astype(np.float32), 1.0),
            _Book(
                multiples,
                self._grid.thresholds.astype(np.float32),
                self._grid.table.astype(np.float32),
                self._grid.unit,
            ),
        )
        self.stage = TableStage(
            ROTATIONS[rotation](self.dim, self.seed), bits, book.levels, self._grid.table, self._grid.thresholds
        )
        self.stages = (self.stage,)

    def parameters(self) -> dict[str, Any]:
        return {"dim": self.dim, "bits": self.bits, "seed": self.seed, "rotation": self.rotation}

    def error_law(self, integer: bool = False) -> ErrorLaw:
        distortion = self._grid.distortion if integer else self._book.distortion
        if self.refined:
            distortion *= 1 - saved(self.bits, self.dim)
        if self._scale == "unbiased":
            return ErrorLaw(0.0, distortion / (1 - distortion))
        return ErrorLaw(distortion, distortion * (1 - distortion))

    def encode_rows(self, x: Floats, integer: bool, start: int = 0, mu: Floats | None = None) -> Encoded:
        rotation, layout = self.stage.map, self.stage.layout
        if not isinstance(rotation, HadamardRotation):
            return super().encode_rows(x, integer, start, mu)
        book = self._books[integer]
        words = np.empty((len(x), layout.words), np.uint32)
        sums = np.empty((4, len(x)))
        kernels.encode(
            np.ascontiguousarray(x),
            np.zeros(self.dim, np.float32) if mu is None else mu,
            rotation.plan,
            (self.bits, *book[:3]),
            words,
            sums,
        )
        return self.of_sums(words, sums, integer)

    @property
    def typical_energy(self) -> float:
        """By the book: |levels|^2, or for an unbiased scale <R r, levels>^2 / |r|^2."""
        product, square = self._grid.moments()
        return self.dim * (product**2 if self.unbiased else square)

    @property
    def integer_book(self) -> _Book:
        """The gains' multiples, thresholds and levels that an index codes by."""
        return self._books[True]

    def of_sums(self, words: Words, sums: Doubles, integer: bool = True) -> Encoded:
        """What words (n, w) and sums (4, n) float64 say, as kernels.encode fills them."""
        norms2, offsets, dots, energies = sums
        scales, energies = self._scaled(norms2, dots, energies, self._books[integer].unit)
        return Encoded(words, scales[:, None], energies, offsets)

    def encode_in_lists(
        self,
        x: Floats,
        centres: Centres,
        lists: NDArray[np.int32],
        start: int = 0,
        prefix: NDArray[np.int8] | None = None,
    ) -> EncodedResiduals:
        rotation, layout = self.stage.map, self.stage.layout
        if not isinstance(rotation, HadamardRotation):
            return super().encode_in_lists(x, centres, lists, start, prefix)
        book = self._books[True]
        words = np.empty((len(x), layout.words), np.uint32)
        sums = np.empty((5 if prefix is None else 7, len(x)))
        kernels.encode_residuals(
            np.ascontiguousarray(x),
            centres.full[lists],
            centres.mapped[0][lists],
            rotation.plan,
            (self.bits, *book[:3]),
            _NO_LEVELS if prefix is None else prefix.astype(np.float32),
            words,
            sums,
        )
        norms2, offsets, dots, energies, crosses = sums[:5]
        scales, energies = self._scaled(norms2, dots, energies, book.unit)
        coarse = None if prefix is None else prefix_of(norms2, sums[5], sums[6])
        return EncodedResiduals(words, scales[:, None], energies, offsets, scales * crosses, coarse)

    def encode_residuals(self, r: Floats, integer: bool, start: int) -> tuple[Words, Floats, Doubles]:
        codes, scales, energies, _ = self.quantize_rows(r, integer)
        return self.stage.layout.pack(codes), scales[:, None], energies

    def quantize_rows(self, r: Floats, integer: bool) -> tuple[NDArray[np.uint8], Floats, Doubles, Floats]:
        """Codes (n, dim) before packing, scales (n,), energies (n,), and the levels (2^bits,) the codes index."""
        book = self._books[integer]
        y = self.stage.map.forward(r)
        norms2 = squared_norms(r)
        gains = ratio(np.full(len(r), np.sqrt(self.dim)), np.sqrt(norms2))
        codes, dots, energies = nearest_levels(y, gains, *book[:3])
        return codes, *self._scaled(norms2, dots, energies, book.unit), book.levels

    def _scaled(self, norms2: Doubles, dots: Doubles, energies: Doubles, unit: float) -> tuple[Floats, Doubles]:
        """Scales (n,) float32 and energies as in `Encoded`, from |r|^2, <R r, levels> and |levels|^2."""
        if self._scale == "unbiased":
            scales = ratio(norms2, dots)
        elif self._scale == "biased":
            scales = ratio(dots, energies)
        else:
            scales = np.sqrt(norms2 / self.dim) * unit
        stored = scales.astype(np.float32)
        return stored, norms2 if self.unbiased else stored.astype(np.float64) ** 2 * energies


def saved(bits: int, dim: int) -> float:
    """The share of the squared error that the best of the gains of REFINING saves."""
    return float(np.interp(np.log2(dim), [4, 6, 8, 10, 12], _SAVED[bits])) if bits > 1 else 0.0
