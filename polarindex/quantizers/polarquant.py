"""PolarQuant (Han, Kacham, Karbasi, Mirrokni, Zandieh 2025, arXiv:2502.02617): angles of a recursive polar transform.

Law:       y = R x; level 1 takes pairs of coordinates to (angle, radius), level l pairs of radii of level l - 1; the
           angles are independent with known laws, so each level has one codebook. cos^2 + sin^2 = 1: the radii
           kept, |x_hat| = |x| and the relative error does not depend on the length.
Cost:      an angle of level l costs 2^-l bits a coordinate; vNMSE = 2 - 2 prod_l E cos(angle_l - its level)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from polarindex import checks, kernels
from polarindex.codebooks import polar_codebook
from polarindex.codes import StreamLayout, Words
from polarindex.quantizers.base import Doubles, ErrorLaw, Floats, Quantizer
from polarindex.rotations import PaddedRotation
from polarindex.vectors import squared_norms

PUBLISHED = (4, 2, 2, 2)  # bits a level; with a float16 radius every 16 coordinates, 62 bits / 16 = 3.875
_MAX_BITS = 12  # an angle's bits: level 1 wants one more than the rate
_RADIUS_BITS = 16
_ROUNDING = (3.0 / 127) ** 2 / 12  # relative error of int8 steps of a row whose largest coordinate is 3 deviations


class _PolarStage:
    """Levels of one vector, decoded from its stream of angle codes (and float16 radii)."""

    def __init__(self, map: PaddedRotation, bits_per_level: tuple[int, ...], block_radii: bool) -> None:
        self.map = map
        self.depth = len(bits_per_level)
        self.books = [polar_codebook(level, bits) for level, bits in enumerate(bits_per_level, start=1)]
        self.radii = map.dims >> self.depth
        self.block_radii = block_radii
        self.counts = [map.dims >> level for level in range(1, self.depth + 1)]
        widths = [bits for bits, count in zip(bits_per_level, self.counts, strict=True) for _ in range(count)]
        self.layout = StreamLayout(tuple(widths) + (_RADIUS_BITS,) * (self.radii if block_radii else 0))
        angles = np.concatenate([book.levels for book in self.books])
        self._cosines, self._sines = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        self._offsets = np.cumsum([0] + [len(book.levels) for book in self.books[:-1]]).astype(np.int64)

    def values(self, words: Words) -> NDArray[np.float32]:
        codes = self.layout.unpack(words)
        radii = np.ones((len(codes), self.radii), np.float32)
        if self.block_radii:
            radii = np.ascontiguousarray(codes[:, -self.radii :]).view(np.float16).astype(np.float32)
            codes = np.ascontiguousarray(codes[:, : -self.radii])
        out = np.empty((len(codes), self.map.dims), np.float32)
        kernels.polar_vectors(codes, radii, self.depth, self._offsets, self._cosines, self._sines, out)
        return out

    def levels(self, words: Words) -> NDArray[np.int8]:
        return self.rounded(words)[0]

    def rounded(self, words: Words) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
        """Values as int8 multiples of peak / 127, and the peaks (n,): each vector has its own unit."""
        values = self.values(words)
        levels, peaks = np.empty(values.shape, np.int8), np.empty(len(values), np.float32)
        kernels.round_rows(values, levels, peaks)
        return levels, peaks

    def angle_codes(self, y: NDArray[np.float32]) -> tuple[NDArray[np.uint16], NDArray[np.float64]]:
        """Nearest levels of all angles of rotated rows y (n, dims), and the radii above them."""
        angles = np.empty((len(y), sum(self.counts)), np.float32)
        radii = np.empty((len(y), self.radii))
        kernels.polar_angles(y, self.depth, angles, radii)
        codes = np.empty(angles.shape, np.uint16)
        start = 0
        for book, count in zip(self.books, self.counts, strict=True):
            part = slice(start, start + count)
            codes[:, part] = np.searchsorted(book.thresholds.astype(np.float32), angles[:, part], side="right")
            start += count
        return codes, radii


class PolarQuant(Quantizer):
    """Recursive polar codes.

    Parameters
    ----------
    dim : int
        Padded with zeros before the rotation to a multiple of 2^levels (a power of two for radius="norm"); the
        padding is coded too and counts.
    bits : int
        Target bits a coordinate, 1 to 8: the best allocation of whole bits to levels, with one norm a vector.
    seed : int
    bits_per_level : sequence of int, optional
        Bits of each level's angles, in place of `bits`.
    radius : {"norm", "block"}
        "norm": recursion to the end, one float32 a vector. "block": a float16 radius every 2^levels coordinates, as
        published with bits_per_level=(4, 2, 2, 2), 3.875 bits a coordinate; ValueError for rows whose radii
        float16 cannot hold.
    """

    name: ClassVar[str] = "polarquant"
    unbiased = False

    def __init__(
        self,
        dim: int,
        bits: int = 4,
        seed: int = 0,
        *,
        bits_per_level: Sequence[int] | None = None,
        radius: str = "norm",
    ) -> None:
        super().__init__(dim, checks.integer(bits, "bits", low=1, high=8), seed)
        self.radius = checks.choice(radius, "radius", ("norm", "block"))
        full = max(1, (self.dim - 1).bit_length())
        if bits_per_level is None:
            levels = best_allocation(full, self.bits) if radius == "norm" else PUBLISHED
        else:
            levels = tuple(
                checks.integer(b, f"bits_per_level[{i}]", low=0, high=_MAX_BITS) for i, b in enumerate(bits_per_level)
            )
        if radius == "norm" and len(levels) != full:
            raise ValueError(
                f"bits_per_level must have {full} entries to reach one norm for dim={self.dim}, got {len(levels)}; "
                "radius='block' keeps a radius every 2^levels coordinates"
            )
        if not levels or levels[0] < 1:
            raise ValueError(f"bits_per_level must give level 1 at least 1 bit, got {levels}")
        self.bits_per_level = levels
        block = 2 ** len(levels)
        self._stage = _PolarStage(
            PaddedRotation(self.dim, -(-self.dim // block) * block, self.seed), levels, radius == "block"
        )
        self.stages = (self._stage,)

    def parameters(self) -> dict[str, Any]:
        return {
            "dim": self.dim,
            "bits": self.bits,
            "seed": self.seed,
            "bits_per_level": list(self.bits_per_level),
            "radius": self.radius,
        }

    @property
    def rate(self) -> float:
        """Bits a coordinate of the padded vector, radii included, the norm not: 3.875 as published."""
        return sum(self._stage.layout.widths) / self._stage.map.dims

    def error_law(self, integer: bool = False) -> ErrorLaw:
        cosine = float(np.prod([1 - book.distortion / 2 for book in self._stage.books]))
        rounding = _ROUNDING if integer else 0.0
        kept = self.dim / self._stage.map.dims  # the share of the error that does not fall on the padding
        return ErrorLaw(1 - cosine, (1 - cosine**2 + rounding) * kept)

    def encode_residuals(self, r: Floats, integer: bool, start: int) -> tuple[Words, Floats, Doubles]:
        stage = self._stage
        codes, radii = stage.angle_codes(stage.map.forward(r))
        if stage.block_radii:
            codes = np.concatenate([codes, self._half_radii(radii, start).view(np.uint16)], axis=1)
        words = stage.layout.pack(codes)
        norms2 = squared_norms(r)
        scales = np.ones(len(r)) if stage.block_radii else np.sqrt(norms2)
        if integer:
            levels, peaks = stage.rounded(words)
            scales = scales * peaks / 127
            energies = squared_norms(stage.map.adjoint(levels.astype(np.float32))) * scales**2
        else:
            energies = norms2
        return words, scales.astype(np.float32)[:, None], energies

    def _half_radii(self, radii: NDArray[np.float64], start: int) -> NDArray[np.float16]:
        """Block radii as float16; ValueError where the format's range would lose a row."""
        peaks = radii.max(axis=1, initial=0.0)
        limits = np.finfo(np.float16)
        bad = (peaks > float(limits.max)) | ((peaks > 0) & (peaks < float(limits.tiny)))
        if bad.any():
            row = int(bad.argmax())
            raise ValueError(
                f"x[{start + row}] has a block radius of {peaks[row]:.3g}, outside float16's "
                f"{float(limits.tiny):.3g} .. {float(limits.max):.3g}; use radius='norm' or scale the data"
            )
        return radii.astype(np.float16)


@lru_cache(maxsize=64)
def best_allocation(depth: int, rate: int) -> tuple[int, ...]:
    """Whole bits a level for 2^depth coordinates and at most `rate` bits a coordinate, of least error.

    Dynamic programming over levels: the error 2 - 2 prod (1 - D_l / 2) is least where the sum of logarithms is
    largest, and level l costs bits_l 2^(depth - l) of the rate 2^depth bits. O(depth budget bits).
    """
    budget = rate * 2**depth
    best = np.full(budget + 1, -np.inf)  # best[b]: largest sum of logarithms at exactly b bits so far
    best[0] = 0.0
    choices = []
    for level in range(1, depth + 1):
        count = 2 ** (depth - level)
        after = np.full(budget + 1, -np.inf)
        choice = np.zeros(budget + 1, np.int8)  # millions of them in many dimensions
        for bits in range(1, rate + 3) if level == 1 else range(rate + 2):  # level 1 wants rate + 1, others rate - 1
            cost = bits * count
            if cost > budget:
                break
            gain = np.log(1 - polar_codebook(level, bits).distortion / 2)
            offered = np.full(budget + 1, -np.inf)
            offered[cost:] = best[: budget + 1 - cost] + gain
            better = offered > after
            after[better], choice[better] = offered[better], bits
        best = after
        choices.append(choice)
    spent = int(best.argmax())
    allocation = []
    for level in range(depth, 0, -1):
        bits = int(choices[level - 1][spent])
        allocation.append(bits)
        spent -= bits * 2 ** (depth - level)
    return tuple(reversed(allocation))
