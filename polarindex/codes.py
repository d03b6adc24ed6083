"""How codes lie in memory: rows of 32-bit words, and panels of 16 rows for the scan.

A row is one vector's code. Sixteen rows side by side, word by word, are a *panel*: word g of vector v is
panels[p, g, v], so that a 64-byte line holds the same coordinates of 16 vectors, which is what SIMD registers want:

    word g of a width-4 plane:  byte:      0      |      1      |      2      |      3
                                bits:  3..0  7..4 | 3..0   7..4 | 3..0   7..4 | 3..0   7..4
                                dim 8g+:  0     4 |    1      5 |    2      6 |    3      7

A code whose bits are no power of two is a stack of planes, most significant first (3 = 1 + 2, 7 = 1 + 2 + 4), so
that it costs what it says and its first planes are a coarser code. Codes of unlike widths (PolarQuant) are a stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from polarindex import kernels

PANEL = 16  # vectors in a panel
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
        """Coordinates that `unpack` returns: dims padded to whole words of the thinnest plane."""
        return max(plane.words * (32 // plane.width) for plane in self.planes)

    def pack(self, codes: NDArray[np.uint8]) -> Words:
        """Rows of words (n, words) from codes (n, dims) uint8."""
        words = np.empty((len(codes), self.words), np.uint32)
        for plane in self.planes:
            kernels.pack_plane(codes, plane.shift, plane.width, plane.first, words)
        return words

    def unpack(self, panels: Words) -> NDArray[np.uint8]:
        """Codes (16 p, padded) uint8 of panels (p, words, 16)."""
        quads = np.zeros((PANEL * len(panels), self.padded // 4), np.uint32)
        for plane in self.planes:
            kernels.unpack_plane(panels, plane.first, plane.words, plane.width, quads)
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

    def unpack(self, panels: Words) -> NDArray[np.uint16]:
        """Codes (16 p, len(widths)) uint16 of panels (p, words, 16)."""
        rows = np.ascontiguousarray(panels.transpose(0, 2, 1)).reshape(-1, self.words)
        codes = np.empty((len(rows), len(self.widths)), np.uint16)
        kernels.unpack_fields(rows, self._widths, codes)
        return codes


def panels_of(words: Words) -> Words:
    """Panels (ceil(n / 16), w, 16) of rows of words (n, w); missing vectors are 0."""
    panels = np.zeros((-(-len(words) // PANEL), words.shape[1], PANEL), np.uint32)
    kernels.to_panels(words, 0, panels)
    return panels


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
