"""Where an index's tiles lie, and in which parts they are scanned: decided in NumPy, before anything is sent.

    resident      the first tiles, on the device
    block         so many of the others as one buffer of the device takes, in pinned memory of the host
    part          the resident tiles or a block, and which of them a search wants: a scan's worth

Law:       what the device holds of an index (columns, resident tiles and two buffers) is no more than its limit. Every
           tile that is wanted is in exactly one part, and no other is sent.
Why:       a few queries read codes as fast as they come, so a search costs what it sends over the bus; columns (a
           row's scale, shift and id) are needed with every tile, and are small beside it.
Not here:  the memory itself (tiles.py); a search by parts (streamed.py)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polarindex.errors import GpuError
from polarindex.gpu.layout import TILE

BUFFERS = 2  # one is filled while another is scanned
RESIDENT = -1  # in place of a block's number
_BLOCK_BYTES = 1 << 26  # 1.2 ms of a 55 GB/s bus, beside .1 ms that a part costs in calls
_BUFFERS_SHARE = 2  # of what columns leave, buffers take no more than this part
_SPARE = 8  # an eighth more room than rows

Numbers = NDArray[np.signedinteger[Any]]


class Residence(NamedTuple):
    """tiles: with spare ones; resident: how many lie on the device; block: tiles of a block, 0 where all are there."""

    tiles: int
    resident: int
    block: int

    @property
    def rows(self) -> int:
        """That there is room for."""
        return TILE * self.tiles

    def nbytes(self, row_bytes: int, tile_bytes: int) -> int:
        """What the device holds."""
        return self.rows * row_bytes + (self.resident + BUFFERS * self.block) * tile_bytes

    def blocks(self, tiles: int) -> int:
        """How many there are of so many tiles."""
        return -(-max(tiles - self.resident, 0) // self.block) if self.block else 0

    def first(self, block: int) -> int:
        """The first tile of a block."""
        return 0 if block == RESIDENT else self.resident + block * self.block


class Part(NamedTuple):
    """Of the tiles that are wanted, numbers start .. stop - 1: those in a block, or RESIDENT."""

    block: int
    start: int
    stop: int


def residence(n: int, row_bytes: int, tile_bytes: int, limit: int) -> Residence:
    """Where the tiles of n rows lie, with some room for more, when the device may hold `limit` bytes.

    row_bytes : of a row's columns

    GpuError where that is too little for the columns and two buffers of a tile.
    """
    spare, least = -(-(n + n // _SPARE) // TILE), -(-n // TILE)
    for tiles in (spare, least):
        whole = Residence(tiles, tiles, 0)
        if whole.nbytes(row_bytes, tile_bytes) <= limit:
            return whole
    for tiles in (spare, least):
        left = limit - TILE * tiles * row_bytes
        if left >= BUFFERS * tile_bytes:
            block = max(1, min(_BLOCK_BYTES, left // (_BUFFERS_SHARE * BUFFERS)) // tile_bytes)
            return Residence(tiles, left // tile_bytes - BUFFERS * block, block)
    need = TILE * least * row_bytes + BUFFERS * tile_bytes
    raise GpuError(
        f"{n:,} rows need {need:,} bytes of the GPU's memory for scales, shifts, ids and two buffers, "
        f"and there are {limit:,}"
    )


def parts(home: Residence, wanted: Numbers) -> list[Part]:
    """The parts that a search wants tiles of, resident ones first; wanted (m,), ascending."""
    last = int(wanted[-1]) + 1 if len(wanted) else 0
    blocks = [RESIDENT, *range(home.blocks(last))]
    edges = np.array([home.first(block) for block in blocks] + [max(last, home.resident)])
    cuts = np.searchsorted(wanted, edges).tolist()
    pairs = zip(blocks, cuts, cuts[1:], strict=False)
    return [Part(block, start, stop) for block, start, stop in pairs if start < stop]


def runs(tiles: Numbers) -> list[tuple[int, int]]:
    """Where each run of consecutive numbers begins, and how many it has; tiles (m,), ascending, m >= 1."""
    cuts = [0, *(np.flatnonzero(tiles[1:] - tiles[:-1] != 1) + 1).tolist(), len(tiles)]
    return [(int(tiles[a]), b - a) for a, b in zip(cuts, cuts[1:], strict=False)]
