"""The rows of an index on the device: a packed copy of its arena, or of a share of it, that follows its changes.

Law:       before a search the copy is what the arena is. Rows that changed were noted before they did (changes.py), and
           only they are sent again.
Why:       the host's arena stays the one truth: what changes, saves, restores and reconstructs rows is written once,
           for every index, and an index survives the loss of its device. It costs the codes' bytes of host memory, and
           those of tiles that the device does not hold (residence.py) once more.
Threads:   searches of one index take turns on the device; who changes it waits for them as for all readers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polarindex.errors import GpuError
from polarindex.gpu.device import Device, device
from polarindex.gpu.layout import TILE, layout_of, packable, table_words
from polarindex.gpu.residence import RESIDENT, parts, residence
from polarindex.gpu.search import Rows
from polarindex.gpu.share import Share
from polarindex.gpu.source import source
from polarindex.gpu.tiles import Tiles
from polarindex.indexes.arena import Arena
from polarindex.indexes.changes import Changes, Numbers
from polarindex.indexes.scan import span_words
from polarindex.indexes.segment_factors import Law
from polarindex.quantizers import Quantizer

_STEP = 1 << 17  # rows sent at a time
_MARGIN = 1 << 30  # bytes of the device that are left to searches, where nobody sets a limit
_MOST_ROWS = (1 << 31) - TILE  # a row's number is an int32

Words = NDArray[np.uint32]


class _Held(NamedTuple):
    """Room for rows: their tiles, and CuPy arrays of columns; None for columns that the arena does not have."""

    tiles: Tiles
    columns: dict[str, Any]  # scales, shifts, ids

    @property
    def room(self) -> int:
        """Rows, a multiple of TILE."""
        return self.tiles.home.rows

    @property
    def nbytes(self) -> int:
        """On the device."""
        return self.tiles.nbytes + sum(column.nbytes for column in self.columns.values())


class Mirror:
    """A device's copy of one index's rows, or a share of them. Copies of it, and what comes from a pickle, begin empty.

    memory : bytes that the copy may take of the device; None: what is free when room is made, less a margin
    share : which rows
    crowd : how many copies share what is free
    """

    def __init__(
        self, quantizer: Quantizer, number: int, memory: int | None = None, share: Share | None = None, crowd: int = 1
    ) -> None:
        self._quantizer, self.number, self.memory, self._crowd = quantizer, number, memory, crowd
        self.share = share or Share()
        self.layout = layout_of(quantizer.stages[0])
        self._held: _Held | None = None
        self._n = 0
        self._stale = Changes()
        self._lock = Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return Mirror, (self._quantizer, self.number, self.memory, self.share, self._crowd)

    @property
    def device(self) -> Device:
        return device(self.number)

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        held = self._held
        return held.nbytes if held else 0

    @property
    def streamed(self) -> int:
        """Bytes of pinned host memory, for tiles that are streamed."""
        held = self._held
        return held.tiles.streamed if held else 0

    def note(self, numbers: Numbers | range) -> None:
        """Rows at some positions are about to change."""
        self._stale.note(numbers)

    def note_everything(self) -> None:
        self._stale.note_everything()

    @contextmanager
    def current(self, arena: Arena, law: Law | None = None) -> Iterator[Rows]:
        """The rows of the arena as it is, on the device; nobody else uses it meanwhile.

        law : of its words of factors, which become floats when they are sent
        """
        with self._lock:
            with self.device.use("copying rows to it") as cp:
                self._follow(cp, arena, law)
            held = self._held
            if held is None:
                raise RuntimeError("rows are searched where there are none")
            columns = held.columns
            yield Rows(
                self.layout,
                self._n,
                held.tiles.resident,
                columns["scales"],
                columns.get("shifts"),
                columns.get("ids"),
                table_words(self._quantizer.stages[0], self.layout),
                self.beyond,
            )

    # --- following

    def _follow(self, cp: Any, arena: Arena, law: Law | None) -> None:
        kinds = {name: column.dtype for name, column in arena.columns.items() if name in ("scales", "shifts", "ids")}
        if law is not None:
            kinds = {"scales": np.dtype(np.float32), "shifts": np.dtype(np.float32), **kinds}
        names = list(kinds)
        held = None if self._stale.everything else self._held
        if held and set(names) != set(held.columns) and not self._may_add_ids(cp, names, held):
            held = None
        numbers = np.empty(0, np.int64) if held is None else self.share.rows(self._stale.numbers())
        n = self.share.count(arena.n)
        start = 0 if held is None else min(self._n, n)
        if held and "ids" in names and "ids" not in held.columns:  # since the first removal
            held.columns["ids"] = self._sent_column(cp, arena, "ids", start, held.room)
        start = self.reserve(cp, n, kinds, keep=start)
        self._send_range(cp, arena, law, names, start, n)
        self._send_some(cp, arena, law, names, numbers[numbers < start])
        if self.beyond:
            cp.cuda.get_current_stream().synchronize()  # what is on the host is read by another stream
        self._n = n
        self._stale.clear()

    def reserve(self, cp: Any, n: int, columns: dict[str, np.dtype[Any]], keep: int = 0) -> int:
        """Room for n rows of these columns. The first `keep` rows stay where they can: how many did is returned.

        Where rows are is decided here, so more of them than there is room for are sent anew, unless all of the old and
        of the new room fits in the device's memory at once.
        """
        held = self._held
        if held and held.room >= n and (keep or set(columns) == set(held.columns)):
            held.tiles.reserve(cp, -(-n // TILE))
            return keep
        if n > _MOST_ROWS:
            raise GpuError(f"{n:,} rows are too many for one device, which can number {_MOST_ROWS:,}")
        row_bytes, limit = sum(dtype.itemsize for dtype in columns.values()), self._limit(cp)
        home = residence(n, row_bytes, self.layout.tile_bytes, limit)
        both = home.nbytes(row_bytes, self.layout.tile_bytes) + self.nbytes
        if home.block or self.beyond or both > limit:
            keep = 0
        if not keep:
            self._held = held = None  # so that the old room is free for the new
            self._n = 0
        tiles = Tiles(cp, home, self.layout.tile_bytes)
        tiles.reserve(cp, -(-n // TILE))
        arrays = {name: cp.empty(home.rows, dtype) for name, dtype in columns.items()}
        if held:
            used = -(-keep // TILE) * self.layout.tile_bytes
            tiles.resident[:used] = held.tiles.resident[:used]
            for name, array in arrays.items():
                array[:keep] = held.columns[name][:keep]
        self._held = _Held(tiles, arrays)
        return keep

    @property
    def beyond(self) -> Tiles | None:
        """Where tiles are, if some are not on the device."""
        held = self._held
        return held.tiles if held and held.tiles.home.block else None

    def _limit(self, cp: Any) -> int:
        """Bytes that may be held."""
        if self.memory is not None:
            return self.memory
        free = cp.cuda.runtime.memGetInfo()[0] + cp.get_default_memory_pool().free_bytes() + self.nbytes
        return int(max(free - _MARGIN, free // 2) // self._crowd)

    def _sent_column(self, cp: Any, arena: Arena, name: str, stop: int, room: int) -> Any:
        """A column of the rows before `stop`, new on the device."""
        there = cp.empty(room, arena.columns[name].dtype)
        for row, position, count in self.share.ranges(0, stop):
            for span in arena.spans(_STEP, position, position + count):
                first = row + span.start - position
                there[first : first + span.rows] = cp.asarray(_flat(span.arrays[name]))
        return there

    def _may_add_ids(self, cp: Any, names: list[str], held: _Held) -> bool:
        """Whether what is held lacks ids alone, and they fit beside it."""
        return set(names) == {*held.columns, "ids"} and self.nbytes + 8 * held.room <= self._limit(cp)

    def _send_range(
        self, cp: Any, arena: Arena, law: Law | None, names: list[str], start: int, stop: int
    ) -> None:
        head = min(stop, -(-start // TILE) * TILE)
        self._send_some(cp, arena, law, names, np.arange(start, head))  # spans begin at whole panels
        for row, position, count in self.share.ranges(head, stop):
            for span in arena.spans(_STEP, position, position + count):
                first = row + span.start - position
                self.pack(cp, self._packable(span_words(self._quantizer, span)), None, first)
                for name, values in _floats(span.arrays, law, names).items():
                    self.column(name)[first : first + span.rows] = cp.asarray(values)

    def _send_some(
        self, cp: Any, arena: Arena, law: Law | None, names: list[str], numbers: Numbers
    ) -> None:
        for begin in range(0, len(numbers), _STEP):
            some = numbers[begin : begin + _STEP]
            rows, positions = cp.asarray(some), self.share.positions(some)
            parts = [arena.take(f"codes{i}", positions) for i in range(len(self._quantizer.parts))]
            self.pack(cp, self._packable(np.concatenate(parts, axis=1)), some, 0)
            taken = {name: arena.take(name, positions) for name in ("factors", *names) if name in arena.columns}
            for name, values in _floats(taken, law, names).items():
                self.column(name)[rows] = cp.asarray(values)

    def _packable(self, words: Words) -> Words:
        return packable(self._quantizer.stages[0], self.layout, words)

    def column(self, name: str) -> Any:
        """What is held of a column, or of "tiles" on the device."""
        held = self._held
        return None if held is None else held.tiles.resident if name == "tiles" else held.columns[name]

    def pack(self, cp: Any, words: Any, rows: Numbers | None, first: int) -> None:
        """Write rows of words (count, w), at 8 bits of levels, to their tiles: as `rows`, ascending, or `first` and on.

        Whole tiles are packed in a buffer and copied to where they lie; some rows are written there, over the bus.
        """
        held = self._held
        if held is None:
            raise RuntimeError("rows are packed where there is no room")
        tiles, home, size = held.tiles, held.tiles.home, self.layout.tile_bytes
        if rows is not None:
            for part in parts(home, rows // TILE):
                mine = slice(part.start, part.stop)
                self._pack(cp, words[mine], cp.asarray(rows[mine]), 0, tiles.origin(part.block))
            return
        numbers = np.arange(first // TILE, -(-(first + len(words)) // TILE))
        for part in parts(home, numbers):
            mine = slice(TILE * part.start, TILE * part.stop)
            buffer = None if part.block == RESIDENT else tiles.lanes[0].address
            self._pack(cp, words[mine], None, first + mine.start, tiles.origin(part.block, buffer))
            if buffer is not None:
                at = (int(numbers[part.start]) - home.first(part.block)) * size
                count, kind = (part.stop - part.start) * size, cp.cuda.runtime.memcpyDeviceToHost
                stream = cp.cuda.get_current_stream().ptr
                cp.cuda.runtime.memcpyAsync(tiles.address(part.block) + at, buffer + at, count, kind, stream)

    def _pack(self, cp: Any, words: Any, rows: Any, first: int, origin: np.uint64) -> None:
        layout = self.layout
        sent = cp.ascontiguousarray(cp.asarray(words))
        count, width = sent.shape
        plane = width // layout.bits if layout.bits < 8 else 0
        threads = count * layout.tile_bytes // TILE // 4
        macros = {"BITS": layout.bits, "DIM": layout.padded}
        numbers = (np.int32(width), np.int32(plane), np.int32(layout.dims), np.int32(count))
        where = (np.uint64(0) if rows is None else rows, np.int64(first))
        self.device.kernel(source("pack"), macros, "pack_rows")(
            (-(-threads // 256),), (256,), (sent, *numbers, *where, origin)
        )


def _flat(column: NDArray[Any]) -> NDArray[Any]:
    """Scales come as (n, 1)."""
    return np.ascontiguousarray(column.reshape(-1))


def _floats(arrays: dict[str, NDArray[Any]], law: Law | None, names: list[str]) -> dict[str, NDArray[Any]]:
    """Columns of some rows as the device has them: words of factors are two."""
    found = {name: _flat(arrays[name]) for name in names if name in arrays}
    if law is not None:
        scales, found["shifts"] = law.opened(_flat(arrays["factors"]))
        found["scales"] = _flat(scales)
    return found
