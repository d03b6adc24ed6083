"""Rotate, quantize each coordinate, rescale: the code that DRIVE, EDEN and TurboQuant_mse share.

Law:       y = R x, code = nearest levels of sqrt(d) y / |x|, x_hat = S R^T levels, and the three differ only in S:
               unbiased   |x|^2 / <y, levels>         E x_hat = x for a uniform R (DRIVE section 4, EDEN Theorem 2.1;
                                                      RaBitQ's estimator is the same number)
               biased     <y, levels> / |levels|^2    least |x - x_hat|^2
               plain      |x| / sqrt(d)               TurboQuant's: no scale beyond the norm
Source:    DRIVE, arXiv:2105.08339; EDEN, arXiv:2108.08842; TurboQuant, arXiv:2504.19874, Algorithm 1."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polarindex import checks, kernels
from polarindex.codebooks import Codebook, integer_codebook
from polarindex.codes import Words
from polarindex.quantizers.base import (
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


class _Book(NamedTuple):
    """thresholds (2^bits - 1,) float32 in standard deviations, levels (2^bits,) float32 in `unit` of them."""

    thresholds: Floats
    levels: Floats
    unit: float


class ScalarQuantizer(Quantizer):
    """One table stage and one of the three scales; subclasses name the published settings."""

    bits: int

    def __init__(self, dim: int, bits: int, seed: int, rotation: str, book: Codebook, scale: Scale) -> None:
        super().__init__(dim, bits, seed)
        self.rotation = checks.choice(rotation, "rotation", tuple(ROTATIONS))
        self.unbiased = scale == "unbiased"
        self._scale = scale
        self._book = book
        self._grid = integer_codebook(book)
        self._books = (
            _Book(book.thresholds.astype(np.float32), book.levels.astype(np.float32), 1.0),
            _Book(self._grid.thresholds.astype(np.float32), self._grid.table.astype(np.float32), self._grid.unit),
        )
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
            (self.bits, book.thresholds, book.levels),
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
        """The thresholds and levels that an index codes by."""
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
            (self.bits, book.thresholds, book.levels),
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
        codes, dots, energies = nearest_levels(y, gains, book.thresholds, book.levels)
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
