"""Scales and shift of a row of several segments in few halves of words: 12 bits each scale, 8 bits the shift.

Scales:    upper halves of float32 without their last three bits, as the quantizer made them.
Shift:     -E, or (1 - |mu|^2 - E) / 2 of rows of unit length, which says the same: only E is stored, relative to what
           scales tell of it:  E = ratios_t * sum over segments of  energies_s * scale_s^2.
Ratios:    level t >= 0 is 1 + step t + (t / 84)^16, and -t its inverse: even steps as far as rows of the sample go, and
           wide ones up to 740.
Never:     a row that does not fit. One with more than 740 times the energy that its scales tell lies along axes without
           bits; its first scale is then made as large as E wants, and an inner product is off by no more than 1/26 of
           |q| |r|.
Not here:  fields as numbers again (kernels/factors.py); what the rounding of scales costs (quantizers/spectral.py)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from polarindex import checks, kernels
from polarindex.allocation import SHORT_SCALE_BITS, SHORT_SHIFT_BITS
from polarindex.codes import PANEL, float_scales, upper_halves
from polarindex.indexes.factors import FactorLaw
from polarindex.kernels.limits import KNEE
from polarindex.quantizers.base import Encoded, Quantizer
from polarindex.quantizers.spectral import Spectral
from polarindex.vectors import squared_norms

_LEVELS = 1 << (SHORT_SHIFT_BITS - 1)  # either side of 1
_EVEN = 64  # levels that most rows of the sample need
_MOST_ROWS = 0.99  # of the sample
_LEAST_STEP = 2.0**-16
_SMALLEST = 2.0**-120  # an energy below which it is taken for 0
_LARGEST = float(np.finfo(np.float32).max)

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Halves = NDArray[np.uint16]
Room = tuple[Halves, Floats]


class SegmentLaw:
    """What halves mean, for codes of certain segments.

    energies : (s,) of a row, over its scale squared
    step : of ratios near 1
    base, factor : shift = base - factor * E
    """

    def __init__(self, energies: Doubles, step: float, base: float, factor: float) -> None:
        self.energies = np.asarray(energies, np.float32)
        self.numbers = np.array([step, base, factor], np.float32)
        levels = np.arange(_LEVELS)
        far = levels.astype(np.float32) * np.float32(1 / KNEE)
        for _ in range(4):
            far = far * far
        above = 1 + self.numbers[0] * levels.astype(np.float32) + far
        self.levels = np.concatenate([-levels[:0:-1], levels])
        self.ratios = np.concatenate([np.float32(1) / above[:0:-1], above])  # of levels, as kernels have them

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SegmentLaw) and self.state() == other.state()

    __hash__ = None  # type: ignore[assignment]  # arrays may change

    @property
    def halves(self) -> int:
        """Of a row."""
        return halves_of(len(self.energies))

    def state(self) -> dict[str, Any]:
        """What JSON can hold of it; `of_state` makes it again."""
        step, base, factor = self.numbers.tolist()
        return {"energies": self.energies.tolist(), "step": step, "base": base, "factor": factor}

    @classmethod
    def of_state(cls, given: dict[str, Any], stages: int) -> SegmentLaw:
        """The law that `state` told a file of; an error where that is none of so many stages."""
        energies = [checks.real(energy, "energies", 0, _LARGEST) for energy in given["energies"]]
        if len(energies) != stages:
            raise ValueError(f"energies of {stages} segments wanted, got {len(energies)}")
        step = checks.real(given["step"], "step", _LEAST_STEP, 1)
        base = checks.real(given["base"], "base", -1, 1)
        return cls(np.array(energies), step, base, checks.real(given["factor"], "factor", 0.25, 1))

    # --- rows

    def rows(self, scales: Floats, shifts: Doubles, start: int) -> Halves:
        """Halves (n, h) of scales (n, s), short ones, and of the levels nearest to shifts (n,).

        ValueError names the row, the first of which is row `start`, that no halves hold.
        """
        _, base, factor = self.numbers.astype(np.float64)
        energies = (base - shifts) / factor
        with np.errstate(over="ignore", invalid="ignore"):  # of what is then found to be no number
            stored = upper_halves(self._lengthened(scales, energies), SHORT_SCALE_BITS)
            typical = self._typical(float_scales(stored))
            wanted = np.divide(energies, typical, out=np.ones_like(energies), where=typical > 0)
            nearest = np.searchsorted((self.ratios[1:].astype(np.float64) + self.ratios[:-1]) / 2, wanted)
            bad = np.flatnonzero(~(np.isfinite(energies) & (typical * self.ratios[nearest] <= _LARGEST)))
        if len(bad):
            raise ValueError(f"row {start + bad[0]} has a scale or shift that 16 bits do not hold; use factor_bits=32")
        return _packed(stored, self.levels[nearest])

    def _typical(self, scales: Floats) -> Doubles:
        """(n,) what scales tell of E, as kernels sum it up."""
        total = np.zeros(len(scales), np.float32)
        for s, energy in enumerate(self.energies):
            total += energy * (scales[:, s] * scales[:, s])
        return total.astype(np.float64)

    def _lengthened(self, scales: Floats, energies: Doubles) -> Floats:
        """Scales, the first of which is so large that the energy fits."""
        least = energies / float(self.ratios.max())
        short = (self._typical(scales) < least) & (energies >= _SMALLEST)
        if not short.any():
            return scales
        scales = scales.copy()
        needed = np.sqrt(np.maximum(least[short], 0) / float(self.energies[0]))
        scales[short, 0] = np.maximum(scales[short, 0], needed * (1 + 2.0**-4))  # half a step of a scale, and more
        return scales

    # --- as scans take them

    def room(self, rows: int) -> Room:
        """What `opened` may write so many rows into."""
        panels = -(-rows // PANEL)
        return np.empty((panels, len(self.energies), PANEL), np.uint16), np.empty(PANEL * panels, np.float32)

    def opened(self, stored: Halves, room: Any = None) -> Room:
        """Scales, (p, s, 16) upper halves or of one segment (16 p, 1), and shifts (16 p,) of panels (p, h, 16)."""
        panels = len(stored)
        scales, shifts = self.room(PANEL * panels) if room is None else (room[0][:panels], room[1][: PANEL * panels])
        kernels.expand_segment_factors(stored, self.energies, self.numbers, scales, shifts)
        return (scales.reshape(-1, 1) if len(self.energies) == 1 else scales), shifts

    def taken(self, rows: Halves) -> tuple[Floats, Floats]:
        """Scales (n, s) and shifts (n,) float32 of rows of halves (n, h)."""
        n = len(rows)
        padded = np.pad(rows, ((0, -n % PANEL), (0, 0))).reshape(-1, PANEL, self.halves)
        scales, shifts = self.opened(np.ascontiguousarray(padded.transpose(0, 2, 1)))
        if scales.ndim == 3:
            scales = np.ascontiguousarray(scales.transpose(0, 2, 1)).reshape(-1, len(self.energies))
        return float_scales(scales[:n]), shifts[:n]


Law = FactorLaw | SegmentLaw


def halves_of(stages: int) -> int:
    """Halves of a row of so many segments."""
    return -(-(SHORT_SHIFT_BITS + SHORT_SCALE_BITS * stages) // 16)


def _packed(scales: Halves, levels: NDArray[np.int64]) -> Halves:
    """(n, h) of short scales (n, s) and levels (n,)."""
    n, stages = scales.shape
    fields = scales[:, :, None] >> (15 - SHORT_SCALE_BITS + np.arange(SHORT_SCALE_BITS, dtype=np.uint16)) & 1
    bits = np.zeros((n, 16 * halves_of(stages)), np.uint8)
    bits[:, :SHORT_SHIFT_BITS] = levels[:, None] >> np.arange(SHORT_SHIFT_BITS) & 1
    bits[:, SHORT_SHIFT_BITS:][:, : SHORT_SCALE_BITS * stages] = fields.reshape(n, SHORT_SCALE_BITS * stages)
    return np.packbits(bits, axis=1, bitorder="little").view(np.uint16)


def segment_law(quantizer: Spectral, metric: str, mu: Floats, rows: Floats) -> SegmentLaw:
    """The law of rows coded against a centre mu (dim,), by some of them less it, rows (n, dim)."""
    encoded = quantizer.encode_rows(rows, integer=True)
    base, factor = (0.0, 1.0) if metric == "l2" else ((1 - float(squared_norms(mu[None])[0])) / 2, 0.5)
    energies, step = _fitted(quantizer, encoded)
    return SegmentLaw(energies, step, base, factor)


def law_of_state(given: dict[str, Any], quantizer: Quantizer) -> Law:
    """The law of a quantizer's codes that a file was told of."""
    if isinstance(quantizer, Spectral):
        return SegmentLaw.of_state(given, len(quantizer.stages))
    return FactorLaw.of_state(given)


def _fitted(quantizer: Spectral, encoded: Encoded) -> tuple[Doubles, float]:
    """Energies over scales squared that are right for the median row, and the step that most rows then need."""
    energies = np.array(quantizer.typical_energies)
    told = encoded.scales.astype(np.float64) ** 2 @ energies
    there = (told > 0) & (encoded.energies > 0)
    if not there.any():
        return energies, _LEAST_STEP
    ratios = encoded.energies[there] / told[there]
    middle = np.median(ratios)
    off = np.maximum(ratios / middle, middle / ratios) - 1
    step = float(np.quantile(off, _MOST_ROWS)) / _EVEN
    return energies * middle, min(max(step, _LEAST_STEP), 1.0)
