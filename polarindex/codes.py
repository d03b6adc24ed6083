"""How codes lie in memory: rows of 32-bit words, and panels of 16 rows for the scan.

A row is one vector's code. A code of b < 8 bits is a stack of b one-bit planes, most significant first, so that it
costs what it says and its first planes are a coarser code (levels ascend: the first plane is the sign):

    word g of a plane:  bit 8 t + s is that of coordinate 32 g + 4 s + t,  t = 0..3, s = 0..7

so that one mask gives the bits of four coordinates, a byte each. At 8 bits a word is the codes of four coordinates.
Codes of unlike widths (PolarQuant) are a stream of bits, and trellis codes a ring of bits.

An index keeps the planes that every search reads, up to two, as *lines* of 64 bytes: word g of 16 vectors side by
side, which is what SIMD registers want; the lines of 16 vectors are a *panel*. The planes after them are read for few
vectors only and stay rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polarindex import kernels

PANEL = 16  # vectors in a panel
_LINED_PLANES = 2  # what a first pass reads; at 4 bits and 1,536 dimensions 1-3 % of the vectors need more
Words = NDArray[np.uint32]


class Plane(NamedTuple):
    """`width` bits of every coordinate, from bit `shift` of its code, in words first .. first + words - 1 of a row."""

    width: int
    shift: int
    first: int
    words: int


@dataclass(frozen=True)
class LineLayout:
    """`dims` codes of `bits` bits as dot lines; dims are padded to whole words with code 0.

    Attributes
    ----------
    planes : tuple of Plane
        One bit wide, most significant first; at 8 bits, one plane of whole bytes.
    words : int
        32-bit words a row.
    """

    dims: int
    bits: int

    @cached_property
    def planes(self) -> tuple[Plane, ...]:
        planes = []
        first, shift = 0, self.bits
        width = 8 if self.bits == 8 else 1
        words = -(-self.dims * width // 32)
        while shift:
            shift -= width
            planes.append(Plane(width, shift, first, words))
            first += words
        return tuple(planes)

    @cached_property
    def words(self) -> int:
        return sum(plane.words for plane in self.planes)

    @cached_property
    def padded(self) -> int:
        """Coordinates that `unpack` returns: dims padded to whole words."""
        return self.planes[0].words * (32 // self.planes[0].width)

    def pack(self, codes: NDArray[np.uint8]) -> Words:
        """Rows of words (n, words) from codes (n, dims) uint8."""
        words = np.empty((len(codes), self.words), np.uint32)
        for plane in self.planes:
            kernels.pack_plane(codes, plane.shift, plane.width, plane.first, words)
        return words

    def unpack(self, words: Words) -> NDArray[np.uint8]:
        """Codes (n, padded) uint8 of rows of words (n, words)."""
        quads = np.zeros((len(words), self.padded // 4), np.uint32)
        for plane in self.planes:
            kernels.unpack_plane(words, plane.first, plane.words, plane.width, quads)
        return quads.view(np.uint8)


@dataclass(frozen=True)
class StreamLayout:
    """Codes of unlike `widths` (0 to 16 bits) one after the other, padded once to a whole word."""

    widths: tuple[int, ...]

    @cached_property
    def words(self) -> int:
        return -(-sum(self.widths) // 32)

    @cached_property
    def _widths(self) -> NDArray[np.int64]:
        return np.array(self.widths, np.int64)

    def pack(self, codes: NDArray[np.uint16]) -> Words:
        """Rows of words (n, words) from codes (n, len(widths)) uint16."""
        words = np.empty((len(codes), self.words), np.uint32)
        kernels.pack_fields(codes, self._widths, words)
        return words

    def unpack(self, words: Words) -> NDArray[np.uint16]:
        """Codes (n, len(widths)) uint16 of rows of words (n, words)."""
        codes = np.empty((len(words), len(self.widths)), np.uint16)
        kernels.unpack_fields(np.ascontiguousarray(words), self._widths, codes)
        return codes


@dataclass(frozen=True)
class RingLayout:
    """A ring of bits, of whole words, and for each of `dims` coordinates a window of it, `bits` further on each time.

    Bit t of a row's ring is bit t % 32 of its word t // 32; the window of coordinate j is the 8 bits from `bits` j on,
    the first lowest, and the last windows may reach over the end of the ring to its beginning. With `mix`, 64 bytes,
    windows w have 12 bits, which are folded to a byte: (w & 255) ^ mix[w >> 6].
    """

    dims: int
    bits: int
    mix: tuple[int, ...] = ()

    @property
    def window(self) -> int:
        """Bits of a window."""
        return 12 if self.mix else 8

    @cached_property
    def words(self) -> int:
        return -(-self.dims * self.bits // 32)

    @cached_property
    def padded(self) -> int:
        """Coordinates that `unpack` returns: eight at a time are unpacked; those beyond dims are of any bits."""
        return -(-self.dims // 8) * 8

    @cached_property
    def begun(self) -> int:
        """Coordinates, eight at a time, the first of whose windows begin within the words: `padded` or more."""
        return -(-4 * self.words // self.bits) * 8

    def unpack(self, words: Words) -> NDArray[np.uint8]:
        """The windows' bytes (n, padded) uint8 of rows of words (n, words)."""
        codes = np.empty((len(words), self.padded), np.uint8)
        kernels.unpack_ring(np.ascontiguousarray(words), self.bits, self._mix, codes)
        return codes

    @cached_property
    def _mix(self) -> NDArray[np.uint8]:
        return np.array(self.mix, np.uint8)


def upper_halves(scales: NDArray[np.floating], bits: int = 16) -> NDArray[np.uint16]:
    """The upper halves of finite float32 >= 0, rounded to nearest: 8 significant bits. Or those of which only so many
    `bits` behind the sign are not 0: with 12, 5 significant bits."""
    words = np.ascontiguousarray(scales, np.float32).view(np.uint32)
    dropped = 16 if bits == 16 else 31 - bits
    rounded = (words + np.uint32(1 << (dropped - 1))) >> np.uint32(dropped)
    return (rounded << np.uint32(dropped - 16)).astype(np.uint16)


def upper_halves_above(values: NDArray[np.floating]) -> NDArray[np.uint16]:
    """Of finite values >= 0, far below the largest float32, the least upper halves that are not below them."""
    single = np.asarray(values, np.float32)
    single = np.where(single < values, np.nextafter(single, np.float32(np.inf)), single)
    return ((single.view(np.uint32) + np.uint32(0xFFFF)) >> np.uint32(16)).astype(np.uint16)


def float_scales(stored: NDArray[Any]) -> NDArray[np.float32]:
    """Scales float32 that are stored as such, or as upper halves, uint16."""
    if stored.dtype != np.uint16:
        return stored
    return (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)


class Part(NamedTuple):
    """Words first .. first + words - 1 of every row, which an index keeps in an array of their own."""

    first: int
    words: int
    lined: bool


Layout = LineLayout | StreamLayout | RingLayout


def parts(layouts: Sequence[Layout]) -> tuple[Part, ...]:
    """How an index keeps rows that are the words of these layouts, one after the other.

    The planes that are lines have an array each, so that a scan that reads only the first runs through memory
    without gaps (single queries at d = 384: 3 times as fast as with all planes of a panel together). A ring has no
    planes and is lines as a whole. What is not lines is one array of rows.
    """
    found: list[Part] = []
    first = 0
    for layout in layouts:
        if isinstance(layout, LineLayout) and len(layouts) == 1:
            found += [Part(plane.first, plane.words, True) for plane in layout.planes[:_LINED_PLANES]]
        if isinstance(layout, RingLayout) and len(layouts) == 1:
            found.append(Part(0, layout.words, True))
        first += layout.words
    lined = sum(part.words for part in found)
    return (*found, Part(lined, first - lined, False)) if lined < first else tuple(found)


@dataclass(frozen=True, eq=False)
class Codes:
    """Encoded vectors: what is stored or sent. Slices and concatenates like an array of n rows.

    Attributes
    ----------
    rows : (n, row_bytes) uint8
        Packed codes, one vector a row.
    factors : (n, f) float32
        Per-vector scales.
    dim : int
        Coordinates of the vectors that were encoded.
    quantizer : str
        The description of the quantizer that made the codes and can read them.
    """

    rows: NDArray[np.uint8]
    factors: NDArray[np.float32]
    dim: int
    quantizer: str

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: slice | NDArray[np.int64] | NDArray[np.bool_] | Sequence[int]) -> Codes:
        if isinstance(key, int | np.integer):
            raise TypeError(f"codes are indexed by a slice, a mask or an array of row numbers, got the integer {key}")
        return Codes(self.rows[key], self.factors[key], self.dim, self.quantizer)

    def __iter__(self) -> Iterator[Codes]:
        return (self[i : i + 1] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"Codes(n={len(self)}, dim={self.dim}, bits_per_dim={self.bits_per_dim:.3f}, {self.quantizer})"

    @property
    def words(self) -> Words:
        """The rows as (n, row_bytes / 4) 32-bit words."""
        return np.ascontiguousarray(self.rows).view(np.uint32)

    @property
    def bytes_per_vector(self) -> int:
        """Codes and factors together."""
        return self.rows.shape[1] + 4 * self.factors.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of all codes and factors."""
        return len(self) * self.bytes_per_vector

    @property
    def bits_per_dim(self) -> float:
        """Stored bits a coordinate, factors included."""
        return 8 * self.bytes_per_vector / self.dim

    @staticmethod
    def concatenate(parts: Sequence[Codes]) -> Codes:
        """All rows of `parts`, in order; ValueError where they come from different quantizers."""
        if not parts:
            raise ValueError("parts must hold at least one Codes, got an empty sequence")
        for part in parts:
            if part.quantizer != parts[0].quantizer:
                raise ValueError(f"codes of different quantizers do not mix: {parts[0].quantizer} and {part.quantizer}")
        return Codes(
            np.concatenate([part.rows for part in parts]),
            np.concatenate([part.factors for part in parts]),
            parts[0].dim,
            parts[0].quantizer,
        )
