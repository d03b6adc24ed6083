"""Trellis codes: each bit of a code has a say in the levels of several coordinates, and the best bits are searched for.

Law:       y = sqrt(d) R x / |x|, code = the ring of bits whose windows' levels are nearest to y, x_hat = S R^T levels
           with EDEN's unbiased S = |x|^2 / <R x, levels>: E x_hat = x for a uniform R, whatever chooses the levels.
Why:       levels that are chosen each for itself waste .27 to .64 bit a coordinate at 1 to 4 bits; a trellis of 256
           states gets .19 to .37 of that back, and a window of bits is decoded by one lookup. One of 4,096 states gets
           more back; its windows are folded to a byte, and decoded by two lookups.
Bytes:     d bits rounded up to whole words, and nothing for a first state: the bits are a ring.
Source:    trellis-coded quantization, Marcellin and Fischer 1990; states that are windows of the code, QTIP
           (arXiv:2406.11235).
Not here:  the search (kernels/viterbi.py); levels (codebooks.py)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from polarindex import checks, kernels
from polarindex.codebooks import TRELLIS_FILES, TrellisCodebook, trellis_codebook
from polarindex.codes import RingLayout, Words
from polarindex.quantizers.base import ONE_GAIN, Doubles, ErrorLaw, Floats, Quantizer, looked_up, ratio
from polarindex.quantizers.scalar import REFINING
from polarindex.rotations import ROTATIONS, LinearMap
from polarindex.vectors import squared_norms

_REFINED_UP_TO = 64  # coordinates: the best of five gains saves 2-10 % of the squared error of 64, .1-3 % of 512
LONGEST = 1.25  # times the length of the row that is coded; of 6,000 normal rows of 32 none has levels over 1.15


class TrellisStage:
    """Each coordinate's window of bits, or the byte that it is folded to, picks a level from one table of 256."""

    def __init__(self, map: LinearMap, bits: int, book: TrellisCodebook) -> None:
        self.map = map
        self.layout = RingLayout(map.dims, bits, book.mix)
        self.table = book.table
        self._step, self._unit = kernels.Step(bits, self.layout.window), book.unit
        self._by_window = book.by_window.astype(np.float32)  # as the encoder wants the levels

    def values(self, words: Words) -> Floats:
        return self.levels(words)[:, : self.map.dims].astype(np.float32)

    def levels(self, words: Words) -> NDArray[np.int8]:
        return looked_up(self.layout.unpack(words), self.table)

    @property
    def multiples(self) -> Floats:
        """Of a row's gain, that `bounded` tries: long rings save too little by it."""
        return REFINING if self.map.dims <= _REFINED_UP_TO else ONE_GAIN

    @property
    def longest(self) -> float:
        """|levels| of `bounded` rings are no more."""
        return LONGEST * float(np.sqrt(self.map.dims)) / self._unit

    def coded(self, y: Floats, norms2: Doubles) -> tuple[Words, Doubles]:
        """The rings (n, layout.words) of rows y (n, dims) float32, contiguous, of squared lengths norms2, and
        <y, levels> (n,)."""
        return self._nearest(y, self._gains(norms2))

    def bounded(self, y: Floats, norms2: Doubles) -> tuple[Words, Doubles, Doubles]:
        """The same, and |levels|^2 (n,): of rings by each of `multiples`, that whose levels have the largest cosine
        with y. Rows whose levels would be longer than `longest` are coded as shorter."""
        gains = self._gains(norms2)
        words, dots, energies = self._measured(y, gains)
        while len(over := np.flatnonzero(energies > self.longest**2)):
            gains[over] *= 0.9
            words[over], dots[over], energies[over] = self._measured(y[over], gains[over])
        for multiple in self.multiples[self.multiples != 1]:
            others, along, lengths = self._measured(y, gains * multiple)
            closer = np.abs(along) * along * energies > np.abs(dots) * dots * lengths
            closer &= lengths <= self.longest**2
            words[closer], dots[closer], energies[closer] = others[closer], along[closer], lengths[closer]
        return words, dots, energies

    def _measured(self, y: Floats, gains: Doubles) -> tuple[Words, Doubles, Doubles]:
        """Rings, <y, levels> and |levels|^2 of rows times gains."""
        words, dots = self._nearest(y, gains)
        return words, dots, squared_norms(self.values(words))

    def _gains(self, norms2: Doubles) -> Doubles:
        return ratio(np.full(len(norms2), np.sqrt(self.map.dims) / self._unit), np.sqrt(norms2))

    def _nearest(self, y: Floats, gains: Doubles) -> tuple[Words, Doubles]:
        words, dots = np.empty((len(y), self.layout.words), np.uint32), np.empty(len(y))
        kernels.encode_trellis(self._step, y, gains, self._by_window, words, dots)
        return words, dots


class Trellis(Quantizer):
    """b bits a coordinate and one float32 a vector, with less error than EDEN's at the same bits.

    Parameters
    ----------
    dim : int
    bits : int
        1 to 4. vNMSE D / (1 - D) with D = .281, .0763, .0208, .0057; EDEN's D is .363, .117, .0345, .0095.
    seed : int
    window : {8, 12}
        Bits by which a level is picked. With 12, D = .272, .0716, .0187, .0049; coding takes 12 to 25 times as long.
    rotation : {"hadamard", "haar"}
    """

    name: ClassVar[str] = "trellis"
    unbiased = True
    bits: int

    def __init__(self, dim: int, bits: int = 2, seed: int = 0, *, window: int = 8, rotation: str = "hadamard") -> None:
        super().__init__(dim, checks.integer(bits, "bits", low=1, high=4), seed)
        self.window = checks.integer(window, "window")
        if self.window not in TRELLIS_FILES:
            raise ValueError(f"window must be one of {', '.join(map(str, TRELLIS_FILES))}; got {window}")
        self.rotation = checks.choice(rotation, "rotation", tuple(ROTATIONS))
        self._book = trellis_codebook(bits, window)
        self.stage = TrellisStage(ROTATIONS[rotation](self.dim, self.seed), bits, self._book)
        self.stages = (self.stage,)

    def parameters(self) -> dict[str, Any]:
        return {"dim": self.dim, "bits": self.bits, "seed": self.seed, "window": self.window, "rotation": self.rotation}

    def error_law(self, integer: bool = False) -> ErrorLaw:
        """Levels are integers in any case."""
        return ErrorLaw(0.0, self._book.distortion / (1 - self._book.distortion))

    @property
    def typical_energy(self) -> float:
        """By the book: <R r, levels>^2 / |r|^2."""
        return self.dim * ((1 - self._book.distortion) / self._book.unit) ** 2

    def encode_residuals(self, r: Floats, integer: bool, start: int) -> tuple[Words, Floats, Doubles]:
        y, norms2 = np.ascontiguousarray(self.stage.map.forward(r)), squared_norms(r)
        words, dots = self.stage.coded(y, norms2)
        return words, ratio(norms2, dots).astype(np.float32)[:, None], norms2
