"""Spectral codes: principal axes in segments, each rotated at random and coded with the bits it is worth.

Law:       y_s = B_s r for the rows B_s of segment s, code = nearest levels of sqrt(m) y_s / |y_s|, and
           x_hat = sum over segments of  S_s B_s^T levels,  S_s = |y_s|^2 / <y_s, levels>:  EDEN's, in each segment.
           What lies along axes that are left out is in no code, but in |r|^2, which a squared distance uses.
Codes:     "eden": each coordinate has a level of its own. "trellis": segments of 1 to 4 bits are rings, whose levels
           are nearest together (trellis.py); of more bits they are as with "eden", for there are no such rings.
Bytes:     a scale is 16 bits, a float32's upper half. What its rounding adds to <r, x_hat>, up to 2^-9 of it and more
           than the code's error at 4 bits, is known when the row is coded, and a squared distance and a cosine have it
           in their shift, exact for a query at r (Fashion-MNIST at 4 bits: R10@10 .983, without that .955).
Short:     or 12 bits, with .75 of what their rounding adds taken out: rows that may be a query's neighbours are not at
           it, but have about that much of |r|^2 along it (GloVe and SIFT, 24 to 72 bytes: .7 to .8 lose least).
Gains:     each segment's is refined (scalar.py) but at 1 and 8 bits: segments are short, so that this saves a tenth
           to a quarter of their squared errors at 3 to 7 bits (SIFT at 4 bits: R10@10 .926 to .934). And each short
           ring's (trellis.py).
8 bits:    a row's step is as much wider as its largest coordinate needs: nothing is cut off.
Not here:  the axes (spectra.py), the bits (allocation.py), when a plain code does as well (learned)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import xxhash

from polarindex import checks, kernels
from polarindex.allocation import (
    BLOCK,
    RING_BITS,
    SCALE_BITS,
    SHORT_SCALE_BITS,
    Segment,
    allocate,
    head_of,
    inner_error,
    is_ring,
    plain_error,
)
from polarindex.codebooks import (
    IntegerCodebook,
    TrellisCodebook,
    integer_codebook,
    normal_codebook,
    trellis_codebook,
)
from polarindex.codes import Part, Words, float_scales, upper_halves
from polarindex.quantizers.base import ONE_GAIN, Doubles, Encoded, ErrorLaw, Floats, Quantizer, TableStage, ratio
from polarindex.quantizers.eden import EDEN
from polarindex.quantizers.scalar import REFINING
from polarindex.quantizers.trellis import Trellis, TrellisStage
from polarindex.rotations import Basis
from polarindex.spectra import rotated_segments, spectrum
from polarindex.vectors import squared_norms

LEAST_GAIN = 0.1  # of the predicted squared error: what a learned basis must save to be worth its product
LEAST_BITS, MOST_BITS = 0.25, 8.0
_TAKEN_OUT = {SCALE_BITS: 1.0, SHORT_SCALE_BITS: 0.75}  # of what the rounding of scales adds to <r, x_hat>
CODES = "eden", "trellis"  # that segments may have: the plain ones where there is nothing to learn

_Book = tuple[int, Floats, Floats, Floats]


class Spectral(Quantizer):
    """Codes along given axes, segment by segment; `learned` makes one from rows.

    Parameters
    ----------
    dim : int
    bits : float
        A coordinate, 1/4 to 8: codes and scales take no more bytes than plain ones of so many bits.
    seed : int
    basis : (m, dim) float32
        Orthonormal rows, segment after segment.
    segments : sequence of (dims, bits)
        Widths of 1 to 8 bits.
    shares : sequence of float
        The share of rows' energy in each segment, and last what is in none. Predictions depend on them, and how many
        segments are the head.
    code : {"eden", "trellis"}
    short : bool
        Whether scales have 12 bits in place of 16.
    """

    name: ClassVar[str] = "spectral"
    unbiased = True
    short_scales = True

    def __init__(
        self,
        dim: int,
        bits: float,
        seed: int,
        basis: Floats,
        segments: Sequence[tuple[int, int]],
        shares: Sequence[float],
        code: str = "eden",
        short: bool = False,
    ) -> None:
        self.code = checks.choice(code, "code", CODES)
        self.scale_bits = SHORT_SCALE_BITS if short else SCALE_BITS
        super().__init__(dim, checked_bits(bits), seed)
        self.segments = tuple(
            Segment(checks.integer(m, "dims", 1, self.dim), checks.integer(b, "bits", 1, 8)) for m, b in segments
        )
        self.shares = tuple(checks.real(share, "shares", 0, 1) for share in shares)
        coded = sum(segment.dims for segment in self.segments)
        if not self.segments or len(self.shares) != len(self.segments) + 1 or basis.shape != (coded, self.dim):
            raise ValueError(
                f"basis {basis.shape}, segments {self.segments} and shares {self.shares} do not fit each other "
                f"and dim={self.dim}"
            )
        if any(segment.dims % BLOCK for segment in self.segments[:-1]):
            raise ValueError(f"dims of segments before the last must be multiples of {BLOCK}, got {self.segments}")
        self.basis = basis
        self._whole = Basis(basis)
        self.maps = self._whole.split([segment.dims for segment in self.segments])
        self.errors = tuple(inner_error(part.bits, code) for part in self.segments)
        self.stages: tuple[TableStage | TrellisStage, ...] = tuple(
            _stage(own, part.bits, code) for own, part in zip(self.maps, self.segments, strict=True)
        )
        self._books = [_books(part.bits) for part in self.segments]
        self._digest = xxhash.xxh3_64_hexdigest(np.ascontiguousarray(basis).view(np.uint8).data)

    def parameters(self) -> dict[str, Any]:
        """The arguments, with a hash of the basis in its place."""
        return {
            "dim": self.dim,
            "bits": self.bits,
            "seed": self.seed,
            "basis": self._digest,
            "segments": [list(segment) for segment in self.segments],
            "code": self.code,
            **({} if self.scale_bits == SCALE_BITS else {"scale_bits": self.scale_bits}),
        }

    @cached_property
    def head(self) -> int:
        """The first segments that have most of what is coded; all where rows are too short to store a tail's length."""
        return head_of(self.dim, self.bits, self.shares[:-1], self.code)

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """As of any quantizer where there is one segment; of several, panels of the head and of the others."""
        if len(self.stages) == 1:
            return super().parts
        first = sum(stage.layout.words for stage in self.stages[: self.head])
        both = Part(0, first, True), Part(first, self.words - first, True)
        return both if first < self.words else both[:1]

    @property
    def bytes_per_vector(self) -> int:
        """Bytes of a code with its scales."""
        return 4 * self.words + -(-self.scale_bits * len(self.stages) // 8)

    @property
    def nbytes(self) -> int:
        """Of the basis."""
        return self._whole.nbytes

    @property
    def typical_energies(self) -> list[float]:
        """By the books, of each segment: |y|^2 over the row's scale squared, for the gain that is tried first."""
        books = [_integer_book(part.bits, self.code) for part in self.segments]
        return [
            part.dims * ((1 - book.distortion) / book.unit) ** 2
            for part, book in zip(self.segments, books, strict=True)
        ]

    def error_law(self, integer: bool = False) -> ErrorLaw:
        """From the shares of energy; what no segment has is missing from every estimate: the shrinkage. What refined
        gains save is not counted: a bound, up to a quarter above the spread at 4 bits and more."""
        spread = sum(share * error for share, error in zip(self.shares, self.errors, strict=False))
        left = self.shares[-1]
        return ErrorLaw(left, spread + left * (1 - left))

    def encode_rows(self, x: Floats, integer: bool, start: int = 0, mu: Floats | None = None) -> Encoded:
        r, sums = np.empty(x.shape, np.float32), np.empty((2, len(x)))
        centre = np.zeros(self.dim, np.float32) if mu is None else mu
        kernels.centre_rows(np.ascontiguousarray(x), centre, r, sums)
        words = np.empty((len(x), self.words), np.uint32)
        scales, excess = np.empty((len(x), len(self.stages)), np.float32), np.zeros(len(x))
        tails = np.zeros(len(x))
        for s, part in enumerate(self.split(words)):
            part[:], found = self._coded(s, r, integer)
            scales[:, s] = float_scales(upper_halves(ratio(found[0], found[1]), self.scale_bits))
            excess += scales[:, s] * found[1] - found[0]
            if s >= self.head:
                tails += scales[:, s].astype(np.float64) ** 2 * found[2]
        excess *= _TAKEN_OUT[self.scale_bits]
        kept = np.sqrt(tails) if self.head < len(self.stages) else None
        return Encoded(words, scales, sums[0] + 2 * excess, sums[1], excess, kept)

    def _coded(self, s: int, r: Floats, integer: bool) -> tuple[Words, Doubles]:
        """Of rows r (n, dim) what segment s has: words, and (3, n) |y|^2, <y, levels>, |levels|^2."""
        own, stage, found = self.maps[s], self.stages[s], np.empty((3, len(r)))
        if isinstance(stage, TrellisStage):
            y = own.forward(r)
            found[0] = squared_norms(y)
            words, found[1], found[2] = stage.bounded(y, found[0])
            return words, found
        words, (limit, books) = np.empty((len(r), stage.layout.words), np.uint32), self._books[s]
        kernels.encode_rotated(own.padded(r), own.dims, limit, books[integer], words, found)
        return words, found

    def mapped(self, x: Floats) -> list[Floats]:
        """By one product."""
        y, parts, first = self._whole.padded(x), [], 0
        for part in self.segments:
            parts.append(np.ascontiguousarray(y[:, first : first + part.dims]))
            first += part.dims
        return parts

    def encode_residuals(self, r: Floats, integer: bool, start: int) -> tuple[Words, Floats, Doubles]:
        encoded = self.encode_rows(r, integer, start)
        return encoded.words, encoded.scales, encoded.energies

    def variances(self, away: Floats, decoded: Floats, q: Floats) -> Doubles:
        """Each segment's, as if it were all there is; what is in none as if independent of the query."""
        energies, total = self.energies(decoded), np.zeros(len(decoded))
        left = squared_norms(away)
        for part, own, error in zip(self.segments, self.maps, self.errors, strict=True):
            there, along, asked = own.forward(decoded), own.forward(away), own.forward(q[None])
            size, along2 = squared_norms(there), squared_norms(along)
            products = np.einsum("ij,ij->i", there, along, dtype=np.float64)
            total += error / (1 + error) * np.maximum(size * along2 - products**2, 0) / max(part.dims - 1, 1)
            total += size * (float(np.abs(asked).max()) / 127) ** 2 / 12
            left = left - along2
        out = self.dim - len(self.basis)
        return total + (np.maximum(left, 0) * self.shares[-1] * energies / out if out else 0.0)


def _integer_book(bits: int, code: str) -> TrellisCodebook | IntegerCodebook:
    """The integer levels of a segment of so many bits."""
    return trellis_codebook(bits) if is_ring(code, bits) else integer_codebook(normal_codebook(bits))


def _stage(own: Basis, bits: int, code: str) -> TableStage | TrellisStage:
    """Of a segment of so many bits."""
    book = _integer_book(bits, code)
    if isinstance(book, TrellisCodebook):
        return TrellisStage(own, bits, book)
    return TableStage(own, bits, normal_codebook(bits).levels, book.table, book.thresholds)


def multiples(bits: int) -> Floats:
    """Of a gain, that are tried for a code of so many bits where coordinates have levels of their own; none: only 1."""
    return REFINING if 1 < bits < MOST_BITS else ONE_GAIN


def _books(bits: int) -> tuple[float, list[_Book]]:
    """How far from 0 levels reach, if a row's step follows from that, else 0; and the books of float and of int8
    levels, as kernels.encode_rotated takes them."""
    book = normal_codebook(bits)
    grid = integer_codebook(book)
    pairs = (book.thresholds, book.levels), (grid.thresholds, grid.table)
    both = [(bits, multiples(bits), edges.astype(np.float32), levels.astype(np.float32)) for edges, levels in pairs]
    return (127 * grid.unit if bits == MOST_BITS else 0.0), both


def checked_bits(bits: Any) -> float:
    """`bits` of a spectral code: an int where it is whole."""
    number = checks.real(bits, "bits", LEAST_BITS, MOST_BITS)
    return int(number) if number == int(number) else number


def plain_bits(bits: float, code: str = "eden") -> int:
    """The most whole bits of a plain code that takes no more bytes; 1 below that."""
    return max(1, min(int(bits), RING_BITS if code == "trellis" else int(MOST_BITS)))


def learned(
    rows: Floats, bits: float, seed: int, in_lists: bool = False, code: str = "eden", short: bool = False
) -> Quantizer:
    """The best code for rows like these centred ones (n, dim): a plain one where a basis saves less than LEAST_GAIN.

    in_lists, code, short : see allocation.allocate
    Below 1 bit a plain code takes more bytes, so only where nothing else can be: of rows without energy, or where the
    bytes are too few for one block of axes.
    """
    bits = checked_bits(bits)
    dim, whole = rows.shape[1], plain_bits(bits, code)
    plain, found = Trellis(dim, whole, seed) if code == "trellis" else EDEN(dim, whole, seed), spectrum(rows)
    if found is None:
        return plain
    best = allocate(found.energies, bits, in_lists, code, short)
    most = (1 - LEAST_GAIN) * plain_error(found.energies, whole, code)
    if not best.segments or (bits >= 1 and best.error > most):
        return plain
    sizes = tuple(segment.dims for segment in best.segments)
    basis = rotated_segments(found.axes, sizes, seed)
    return Spectral(dim, bits, seed, basis, best.segments, best.shares(found.energies), code, short)
