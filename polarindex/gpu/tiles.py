"""The memory that tiles lie in: the device's, and past its limit blocks of pinned memory of the host.

Law:       a tile has one address in one place, which the device reads and writes either way; only bytes that are
           scanned from the host go through a buffer.
Cost:      of the host, the bytes of the tiles that are not resident, beside the arena's codes of the same rows: pinned,
           so the system cannot swap them.
Blocks:    of their own, so that growing pins a block more and moves nothing."""

from __future__ import annotations

from typing import Any

import numpy as np

from polarindex.errors import GpuError, first_line
from polarindex.gpu.residence import BUFFERS, RESIDENT, Residence
from polarindex.memory import require


class Tiles:
    """Room for tiles of `tile_bytes` bytes. The device is the current one, here and in all methods.

    resident : CuPy array (bytes,) uint8
    lanes : two buffers, none where all tiles are resident
    stream : of the copies to them
    """

    def __init__(self, cp: Any, home: Residence, tile_bytes: int) -> None:
        self.home, self._tile_bytes = home, tile_bytes
        self.resident = cp.empty(home.resident * tile_bytes, np.uint8)
        self._blocks: list[Any] = []
        self.lanes = [Lane(cp, home.block * tile_bytes) for _ in range(BUFFERS if home.block else 0)]
        self.stream: Any = cp.cuda.Stream(non_blocking=True) if home.block else None

    @property
    def block_bytes(self) -> int:
        return self.home.block * self._tile_bytes

    @property
    def streamed(self) -> int:
        """Bytes of pinned memory."""
        return len(self._blocks) * self.block_bytes

    @property
    def nbytes(self) -> int:
        """Bytes of the device's memory."""
        return int(self.resident.nbytes) + sum(int(lane.buffer.nbytes) for lane in self.lanes)

    def reserve(self, cp: Any, tiles: int) -> None:
        """Room for so many tiles, of those that the residence has."""
        wanted = self.home.blocks(tiles) - len(self._blocks)
        if wanted <= 0:
            return
        require(wanted * self.block_bytes, "tiles beyond the GPU's memory, pinned,")
        for _ in range(wanted):
            self._blocks.append(_pinned(cp, self.block_bytes))

    def address(self, block: int) -> int:
        """Of the first tile of a block, or of RESIDENT."""
        return int(self.resident.data.ptr if block == RESIDENT else self._blocks[block].ptr)

    def origin(self, block: int, at: int | None = None) -> np.uint64:
        """Where tile 0 would be if a block's tiles and all before it lay in a row; `at`: the block is copied there."""
        address = self.address(block) if at is None else at
        return np.uint64((address - self.home.first(block) * self._tile_bytes) % (1 << 64))


class Lane:
    """A buffer for a block, and the events of its being filled, and scanned."""

    def __init__(self, cp: Any, nbytes: int) -> None:
        self.buffer = cp.empty(nbytes, np.uint8)
        self.filled, self.scanned = (cp.cuda.Event(disable_timing=True) for _ in range(2))

    @property
    def address(self) -> int:
        return int(self.buffer.data.ptr)


def _pinned(cp: Any, nbytes: int) -> Any:
    """Memory that is given back with its last reference; CuPy's pool would keep it."""
    try:
        return cp.cuda.PinnedMemory(nbytes)
    except cp.cuda.runtime.CUDARuntimeError as error:
        raise GpuError(
            f"{nbytes:,} more bytes of pinned memory cannot be had on the host, for tiles beyond the GPU's memory: "
            f"{first_line(error)}"
        ) from error
