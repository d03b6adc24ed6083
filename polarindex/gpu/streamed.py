"""A search of more tiles than the device holds: part by part, each on its way while the one before it is scanned.

    first part    a sample of it sets the thresholds
    every part    hits that reach the thresholds are appended
    before lists  may overflow, their lengths are looked at; then they are cut to their k best, whose last is the
                  threshold from there on
    overflow      the hits of this part go, the threshold rises, and this part alone, still there, is scanned again

Law:       results are those of one pass, bit for bit: a list holds every row so far that reaches its threshold, which
           k rows reach (reference.best_by_parts, its tests).
Copies:    by the copy engine, run by run of consecutive tiles; many short runs, which a filter leaves, by a kernel
           that reads the host's memory.
Not here:  the steps themselves (search.py); which parts (residence.py); the memory (tiles.py)."""

from __future__ import annotations

from typing import Any

import numpy as np

from polarindex.gpu.device import Device
from polarindex.gpu.layout import TILE
from polarindex.gpu.residence import BUFFERS, RESIDENT, Part, parts, runs
from polarindex.gpu.search import Chosen, Prepare, Rows, Search, Turns
from polarindex.gpu.shapes import SORTED_K
from polarindex.gpu.tiles import Lane, Tiles

FEW_RUNS = 16  # a part, up to which each is a copy of its own: 3 us of the host's time
_BLOCKS, _THREADS = 64, 256  # of `send_tiles`: 256 kB on their way


class StreamedSearch(Search):
    """A Search whose steps go over parts; `run` waits for them."""

    def __init__(
        self,
        device: Device,
        cp: Any,
        rows: Rows,
        prepare: Prepare,
        nq: int,
        k: int,
        which: Chosen,
        instruction: str | None = None,
    ) -> None:
        if rows.beyond is None:
            raise ValueError("all tiles of these rows are on the device; Search scans them at once")
        self._tiles: Tiles = rows.beyond
        self._wanted = np.arange(which.tile_count, dtype=np.int32) if which.numbers is None else which.numbers
        self._numbers = cp.asarray(self._wanted) if which.tiles is None else which.tiles
        self._bits = which.bits
        self.parts = parts(self._tiles.home, self._wanted)
        super().__init__(device, cp, rows, prepare, nq, k, self._of(self.parts[0]), instruction)

    def run(self) -> None:
        for _ in self.turns():
            pass

    def turns(self) -> Turns[None]:
        """All parts, and the best of them, with a pause wherever it waits."""
        coming = [part for part in self.parts if part.block != RESIDENT]
        lanes = {part: self._tiles.lanes[number % BUFFERS] for number, part in enumerate(coming)}
        following = dict(zip(coming, coming[BUFFERS:], strict=False))
        self._cp.cuda.get_current_stream().synchronize()  # the other stream reads what this one has sent
        self._most = 0
        try:
            for part in coming[:BUFFERS]:
                self.send(part, lanes[part])
            for part in self.parts:
                lane = lanes.get(part)
                self._turn_to(part, lane)
                if part is self.parts[0]:
                    self.sample()
                    self.threshold()
                yield from self._take_hits(part)
                if lane:
                    lane.scanned.record(self._cp.cuda.get_current_stream())
                if lane and part in following:
                    self._tiles.stream.wait_event(lane.scanned)
                    self.send(following[part], lane)
            if self.k <= SORTED_K:
                self.best()
            yield
        finally:
            self._tiles.stream.synchronize()

    def send(self, part: Part, lane: Lane) -> None:
        """Copy the wanted tiles of a part to where they are in its block; nothing waits."""
        cp, home, tile_bytes = self._cp, self._tiles.home, self._rows.layout.tile_bytes
        address, first = self._tiles.address(part.block), home.first(part.block)
        wanted = self._wanted[part.start : part.stop]
        few = np.count_nonzero(wanted[1:] - wanted[:-1] != 1) < FEW_RUNS
        with self._tiles.stream as stream:
            if few:
                for start, count in runs(wanted):
                    at = (start - first) * tile_bytes
                    cp.cuda.runtime.memcpyAsync(
                        lane.address + at,
                        address + at,
                        count * tile_bytes,
                        cp.cuda.runtime.memcpyHostToDevice,
                        stream.ptr,
                    )
            else:
                mine = self._numbers[part.start : part.stop]
                numbers = mine, np.int32(len(mine)), np.int32(first)
                self._other("send", "send_tiles")((_BLOCKS,), (_THREADS,), (np.uint64(address), lane.buffer, *numbers))
            lane.filled.record(stream)

    # ---

    def _of(self, part: Part) -> Chosen:
        return Chosen(self._bits, self._numbers[part.start : part.stop], part.stop - part.start)

    def _turn_to(self, part: Part, lane: Lane | None) -> None:
        """Let the steps scan this part, once it has come."""
        self._which = self._of(part)
        self.arguments["codes"] = self._tiles.origin(part.block, lane.address if lane else None)
        if lane:
            self._cp.cuda.get_current_stream().wait_event(lane.filled)

    def _take_hits(self, part: Part) -> Turns[None]:
        """Append the hits of a part, all of them."""
        home = self._tiles.home
        first = TILE * home.first(part.block)
        stop = TILE * (home.resident if part.block == RESIDENT else home.first(part.block + 1))
        if part is self.parts[0]:
            self.filter()
        else:
            self.filter_again()  # the thresholds are good, and have ids
        self._most += TILE * (part.stop - part.start)  # that a list may hold
        if self._most <= self._room:
            return
        yield
        while int(self.counts.get()[: self.nq].max()) > self._room:
            self.raise_thresholds(first, stop)
            self.filter_again()
        self.raise_thresholds(0, 0)
        self._most = self.k

    def raise_thresholds(self, first: int = 0, stop: int | None = None) -> None:
        super().raise_thresholds(first, stop)
        self.arguments["raised"] = 1
