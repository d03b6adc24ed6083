"""Where a code lies in device memory: tiles of 64 rows, so arranged that a thread's 16 bytes are an operand.

    tile T      rows 64 T .. 64 T + 63, in chunks of KC = 256 / b coordinates (128 at 3 bits)
    chunk       128 threads x 16 bytes; thread t = 32 w + 4 g + i has rows 64 T + 16 w + g + 8 r, r = 0, 1
    word        32 bits, number 2 p + r of a thread: nibble 4 h + j has 4 / b codes, code s at bit b s, of coordinate
                KC C + 32 (4 / b p + s) + 16 h + 4 i + j
    3 bits      the lower two of 128 coordinates as above, then 128 threads x 8 bytes: word r has the third bits,
                nibble 4 h + j the one of coordinate 128 C + 32 s + 16 h + 4 i + j at bit s
    8 bits      word 2 h + r: the levels of coordinates 32 C + 16 h + 4 i + j, byte j, with their upper bit flipped

Why:       that is the first operand of the matrix instructions of every generation, and of dp4a: codes go from memory
           to registers in coalesced 16-byte loads, through one byte shuffle, into the dot; no shared memory.
Widths:    codes of 1, 2, 3 and 4 bits are held as they are; all others as the int8 levels that the scan sees.
Not here:  who writes tiles (source/pack.cu) and reads them (source/codes.cuh); both in NumPy (reference.py)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from polarindex.codes import LineLayout, Words
from polarindex.quantizers.base import Stage, TableStage

TILE = 64  # rows
PACKED = (1, 2, 3, 4)  # bits of codes that are held as they are


@dataclass(frozen=True)
class Layout:
    """`dims` codes of `bits` bits (1, 2, 3, 4 or 8) a row."""

    bits: int
    dims: int

    @cached_property
    def chunk_dims(self) -> int:
        return 128 if self.bits == 3 else 256 // self.bits

    @cached_property
    def padded(self) -> int:
        """Coordinates of a row with those that fill it up: what queries have 0 for."""
        step = max(128, self.chunk_dims)
        return -(-self.dims // step) * step

    @property
    def chunks(self) -> int:
        return self.padded // self.chunk_dims

    @property
    def chunk_bytes(self) -> int:
        return TILE * self.chunk_dims * self.bits // 8

    @property
    def tile_bytes(self) -> int:
        return self.chunks * self.chunk_bytes


def layout_of(stage: Stage) -> Layout:
    """How the device holds a stage's codes."""
    packed = isinstance(stage, TableStage) and isinstance(stage.layout, LineLayout) and stage.layout.bits in PACKED
    return Layout(stage.layout.bits if packed else 8, stage.map.dims)  # type: ignore[union-attr]


def table_words(stage: Stage, layout: Layout) -> NDArray[np.uint32]:
    """The levels of codes 0 .. 15 as the kernels take them, (4,) uint32; none at 8 bits."""
    table = np.zeros(16, np.int8)
    if layout.bits < 8 and isinstance(stage, TableStage):
        table[: 1 << layout.bits] = stage.table
    return table.view(np.uint32)


def packable(stage: Stage, layout: Layout, words: Words) -> Words:
    """Words that the device packs: those of the codes, or at 8 bits of the levels, whatever codes there are."""
    if layout.bits < 8:
        return words
    levels = stage.levels(words)[:, : layout.dims]
    padded = np.zeros((len(levels), -(-layout.dims // 4) * 4), np.int8)
    padded[:, : layout.dims] = levels
    return padded.view(np.uint32)
