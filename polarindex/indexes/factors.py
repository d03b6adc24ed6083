"""Scale and shift of a row in one word: which word stands for them, and what its rounding is balanced by.

Scale:     18 bits: a float32 without its sign and its last 13 bits, so any scale there can be, to 2^-11 of itself.
           What its rounding adds to <r, r_hat> is taken out of the energy of a squared distance, and of cosine's shift:
           a query at r is as exact as with 32 bits, one near r nearly so. Inner products have no such query: estimates
           are off by up to 2^-11 of themselves.
Shift:     14 bits, relative to the scale:  shift = scale * ((across + own * scale) * t |t| + core * scale).
           E / scale^2, with E the energy, depends on the code alone and is nearly the same for all rows: `core` is what
           it is for most. So steps are squares, fine near 0, where rows are many.
Never:     a row that does not fit. E / scale^2 <= |levels|^2 <= 127^2 dims, and all else that a shift holds is at most
           the length of the centre, or of a list's centroid, times scale * 127 sqrt(dims): `own` and `across` reach
           that far, whatever rows come later. Scales under 2^-126 are 0.
Not here:  words as floats again (kernels/factors.py); factors of several segments (segment_factors.py)."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from polarindex import checks, kernels
from polarindex.codes import PANEL, Words
from polarindex.kernels.limits import LEVEL_BITS
from polarindex.quantizers import Quantizer
from polarindex.quantizers.base import Encoded, EncodedResiduals
from polarindex.vectors import squared_norms

FACTOR_BITS = 32, 16
_STEPS = 2 ** (LEVEL_BITS - 1) - 1  # of a level, either side of 0
_DROPPED = LEVEL_BITS - 1  # bits of a scale
_ROUNDING = 2.0 ** (_DROPPED - 24)  # of a scale, relative
_LARGEST = float(np.finfo(np.float32).max)
_ROOM = 1.01  # times what a shift may be: for its own roundings and the scale's

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
_Rows = TypeVar("_Rows", Encoded, EncodedResiduals)


class FactorLaw(NamedTuple):
    """What a level of a shift means; float32 numbers, see above."""

    across: float
    own: float
    core: float

    def words(self, scales: Floats, shifts: Doubles, start: int) -> Words:
        """Words (n,) of scales (n,) float32 that are `rounded`, and of the levels nearest to shifts (n,).

        ValueError names the row, the first of which is row `start`, that no word holds.
        """
        wide = scales.astype(np.float64)
        with np.errstate(invalid="ignore"):  # of a scale that is no number
            steps = wide * (self.across + self.own * wide)
            wanted = np.divide(shifts - wide * wide * self.core, steps, out=np.zeros_like(shifts), where=steps > 0)
        levels = np.copysign(np.rint(np.sqrt(np.maximum(np.abs(wanted) - 0.25, 0))), wanted)
        bad = np.flatnonzero(~((np.abs(levels) <= _STEPS) & (scales >= 0) & np.isfinite(scales)))
        if len(bad):
            raise ValueError(f"row {start + bad[0]} has a scale or shift that 16 bits do not hold; use factor_bits=32")
        low = levels.astype(np.int32).view(np.uint32) & np.uint32((1 << LEVEL_BITS) - 1)
        words: Words = scales.view(np.uint32) << np.uint32(1) | low
        return words

    def floats(self, words: Words, room: Floats | None = None) -> Floats:
        """(2, n) float32, scales and shifts of words (n,); in the first 2 n of `room`, where that is given."""
        n = len(words)
        padding = -n % PANEL
        words = np.pad(words, (0, padding)) if padding else np.ascontiguousarray(words)
        out = np.empty((2, len(words)), np.float32) if room is None else room[: 2 * len(words)].reshape(2, -1)
        kernels.expand_factors(words, self.numbers, out)
        return out[:, :n]

    def room(self, rows: int) -> Floats:
        """What `opened` may write so many rows into, and up to a panel's more."""
        return np.empty(2 * (rows + PANEL), np.float32)

    def opened(self, stored: Words, room: Any = None) -> tuple[Floats, Floats]:
        """Scales (n, 1) and shifts (n,) of words (n,), as scans take them."""
        scales, shifts = self.floats(stored, room)
        return scales[:, None], shifts

    def taken(self, rows: Words) -> tuple[Floats, Floats]:
        """The same of any rows."""
        return self.opened(rows)

    def state(self) -> dict[str, Any]:
        """What JSON can hold of it; `of_state` makes it again."""
        return self._asdict()

    @property
    def numbers(self) -> Floats:
        """(3,) float32, as kernels take them."""
        return np.array(self, np.float32)

    @classmethod
    def of_state(cls, given: dict[str, Any]) -> FactorLaw:
        """The law that `state` told a file of; an error where that is none."""
        across, own = (checks.real(given[name], name, 0, _LARGEST) for name in ("across", "own"))
        return cls(across, own, checks.real(given["core"], "core", -_LARGEST, _LARGEST))


def checked_factor_bits(factor_bits: Any) -> int:
    if factor_bits not in FACTOR_BITS or isinstance(factor_bits, bool):
        raise ValueError(f"factor_bits must be 32 or 16, got {factor_bits!r}")
    return int(factor_bits)


def offered(quantizer: Quantizer) -> bool:
    """Whether the factors of a quantizer's codes may share a word."""
    return quantizer.typical_energy is not None


def law_of(quantizer: Quantizer, metric: str, mu: Floats, centroids: Floats | None = None) -> FactorLaw:
    """The law of rows coded against a centre mu (dim,), or against centroids (nlist, dim)."""
    typical = quantizer.typical_energy
    if typical is None:
        raise ValueError(f"factor_bits=16 is not offered for {quantizer!r}")
    most = 127.0**2 * quantizer.stages[0].map.dims
    full, relative = _length(mu[None]), 0.0
    if centroids is not None:
        full, relative = _length(centroids), _length(centroids - mu)
    own = core = 0.0
    if metric == "l2":  # E, and twice the product of the centroid and r_hat
        across, own, core = 2 * relative, max(typical, most - typical), -typical
    elif metric == "ip":
        across = full + relative
    else:  # and what is taken out, of r that is no longer than 1 and its centre
        across = full + relative + _ROUNDING * (1 + full)
    across *= np.sqrt(most)
    return FactorLaw(*(float(np.float32(x)) for x in (_ROOM * across / _STEPS**2, _ROOM * own / _STEPS**2, core)))


def _length(rows: Floats) -> float:
    """Of the longest."""
    return float(np.sqrt(squared_norms(rows).max(initial=0.0)))


def shortened(rows: _Rows, unbiased: bool) -> _Rows:
    """Rows of one stage with scales that are `rounded`, and with what then follows from these."""
    given, stored = rows.scales.astype(np.float64)[:, 0], rounded(rows.scales)
    share = np.divide(stored[:, 0], given, out=np.ones_like(given), where=given > 0)
    excess = (share - 1) * rows.energies
    energies = rows.energies + 2 * excess if unbiased else share**2 * rows.energies
    found = rows._replace(scales=stored, energies=energies, excess=excess)
    return found._replace(crosses=share * rows.crosses) if isinstance(found, EncodedResiduals) else found


def scales_of(words: Words) -> Floats:
    """The scales of words of any shape."""
    return (words >> np.uint32(LEVEL_BITS) << np.uint32(_DROPPED)).view(np.float32)


def rounded(scales: Floats) -> Floats:
    """Scales >= 0 with 11 significant bits, 0 where they are under 2^-126."""
    bits = np.where(np.abs(scales) < np.finfo(np.float32).tiny, np.float32(0), scales).view(np.uint32)
    half = np.uint32(1 << (_DROPPED - 1))
    return ((bits + half) >> np.uint32(_DROPPED) << np.uint32(_DROPPED)).view(np.float32)
