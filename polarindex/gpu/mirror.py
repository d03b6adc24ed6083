"""The rows of an index on the device: a packed copy of its arena that follows its changes.

Law:       before a search the copy is what the arena is. Rows that changed were noted before they did (changes.py), and
           only they are sent again.
Why:       the host's arena stays the one truth: what changes, saves, restores and reconstructs rows is written once,
           for every index, and an index survives the loss of its device. It costs the codes' bytes of host memory.
Threads:   searches of one index take turns on the device; who changes it waits for them as for all readers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polarindex.gpu.device import Device, device
from polarindex.gpu.layout import TILE, layout_of, table_words
from polarindex.gpu.search import Rows
from polarindex.gpu.source import source
from polarindex.indexes.arena import Arena
from polarindex.indexes.changes import Changes, Numbers
from polarindex.indexes.scan import span_words
from polarindex.quantizers import Quantizer

_STEP = 1 << 17  # rows sent at a time
_SPARE = 8  # an eighth more room than rows

Words = NDArray[np.uint32]


class _Held(NamedTuple):
    """CuPy arrays with room for `room` rows, a multiple of TILE; None for columns that the arena does not have."""

    room: int
    tiles: Any
    columns: dict[str, Any]  # scales, shifts, ids


class Mirror:
    """The device's copy of one index's rows. A copy of it, or what comes from a pickle, begins with none."""

    def __init__(self, quantizer: Quantizer, number: int) -> None:
        self._quantizer, self.number = quantizer, number
        self.layout = layout_of(quantizer.stages[0])
        self._held: _Held | None = None
        self._n = 0
        self._stale = Changes()
        self._lock = Lock()

    def __reduce__(self) -> tuple[type[Mirror], tuple[Quantizer, int]]:
        return Mirror, (self._quantizer, self.number)

    @property
    def device(self) -> Device:
        return device(self.number)

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        held = self._held
        return held.tiles.nbytes + sum(column.nbytes for column in held.columns.values()) if held else 0

    def note(self, numbers: Numbers | range) -> None:
        """Rows at some positions are about to change."""
        self._stale.note(numbers)

    def note_everything(self) -> None:
        self._stale.note_everything()

    @contextmanager
    def current(self, arena: Arena) -> Iterator[Rows]:
        """The rows of the arena as it is, on the device; nobody else uses it meanwhile."""
        with self._lock:
            with self.device.use("copying rows to it") as cp:
                self._follow(cp, arena)
            held = self._held
            if held is None:
                raise RuntimeError("rows are searched where there are none")
            columns = held.columns
            yield Rows(
                self.layout,
                arena.n,
                held.tiles,
                columns["scales"],
                columns.get("shifts"),
                columns.get("ids"),
                table_words(self._quantizer.stages[0], self.layout),
            )

    # --- following

    def _follow(self, cp: Any, arena: Arena) -> None:
        names: list[str] = [name for name in ("scales", "shifts", "ids") if name in arena.columns]
        held = None if self._stale.everything else self._held
        numbers = np.empty(0, np.int64) if held is None else self._stale.numbers()
        start = 0 if held is None else min(self._n, arena.n)
        if held and "ids" in names and "ids" not in held.columns:  # since the first removal
            held.columns["ids"] = self._sent_column(cp, arena, "ids", start, held.room)
        self.reserve(cp, arena.n, {name: arena.columns[name].dtype for name in names}, keep=start)
        self._send_range(cp, arena, names, start, arena.n)
        self._send_some(cp, arena, names, numbers[numbers < start])
        self._n = arena.n
        self._stale.clear()

    def reserve(self, cp: Any, n: int, columns: dict[str, np.dtype[Any]], keep: int = 0) -> None:
        """Room for n rows of these columns; the first `keep` rows stay."""
        held = self._held
        if held and held.room >= n and (keep or set(columns) == set(held.columns)):
            return
        if not keep:
            self._held = held = None  # so that the old room is free for the new
        room = -(-(n + n // _SPARE) // TILE) * TILE
        tiles = cp.empty(room // TILE * self.layout.tile_bytes, np.uint8)
        arrays = {name: cp.empty(room, dtype) for name, dtype in columns.items()}
        if held:
            used = -(-keep // TILE) * self.layout.tile_bytes
            tiles[:used] = held.tiles[:used]
            for name, array in arrays.items():
                array[:keep] = held.columns[name][:keep]
        self._held = _Held(room, tiles, arrays)

    def _sent_column(self, cp: Any, arena: Arena, name: str, stop: int, room: int) -> Any:
        """A column of the rows before `stop`, new on the device."""
        there = cp.empty(room, arena.columns[name].dtype)
        for span in arena.spans(_STEP, 0, stop):
            there[span.start : span.start + span.rows] = cp.asarray(_flat(span.arrays[name]))
        return there

    def _send_range(self, cp: Any, arena: Arena, names: list[str], start: int, stop: int) -> None:
        head = min(stop, -(-start // TILE) * TILE)
        self._send_some(cp, arena, names, np.arange(start, head))  # spans begin at whole panels
        for span in arena.spans(_STEP, head, stop):
            self.pack(cp, self._packable(span_words(self._quantizer, span)), None, span.start)
            for name in names:
                self.column(name)[span.start : span.start + span.rows] = cp.asarray(_flat(span.arrays[name]))

    def _send_some(self, cp: Any, arena: Arena, names: list[str], positions: Numbers) -> None:
        for begin in range(0, len(positions), _STEP):
            some = positions[begin : begin + _STEP]
            rows = cp.asarray(some)
            parts = [arena.take(f"codes{i}", some) for i in range(len(self._quantizer.parts))]
            self.pack(cp, self._packable(np.concatenate(parts, axis=1)), rows, 0)
            for name in names:
                self.column(name)[rows] = cp.asarray(_flat(arena.take(name, some)))

    def _packable(self, words: Words) -> Words:
        """The words themselves, or at 8 bits those of the levels, whatever codes there are."""
        if self.layout.bits < 8:
            return words
        levels = self._quantizer.stages[0].levels(words)[:, : self.layout.dims]
        padded = np.zeros((len(levels), -(-self.layout.dims // 4) * 4), np.int8)
        padded[:, : self.layout.dims] = levels
        return padded.view(np.uint32)

    def column(self, name: str) -> Any:
        """What is held of a column, or of "tiles"."""
        held = self._held
        return None if held is None else held.tiles if name == "tiles" else held.columns[name]

    def pack(self, cp: Any, words: Any, rows: Any, first: int) -> None:
        """Write rows of words (count, w), at 8 bits of levels, to their tiles as first, first + 1, ... or `rows`."""
        layout = self.layout
        sent = cp.ascontiguousarray(cp.asarray(words))
        count, width = sent.shape
        plane = width // layout.bits if layout.bits < 8 else 0
        threads = count * layout.tile_bytes // TILE // 4
        macros = {"BITS": layout.bits, "DIM": layout.padded}
        numbers = (np.int32(width), np.int32(plane), np.int32(layout.dims), np.int32(count))
        where = (np.uint64(0) if rows is None else rows, np.int64(first))
        self.device.kernel(source("pack"), macros, "pack_rows")(
            (-(-threads // 256),), (256,), (sent, *numbers, *where, self.column("tiles"))
        )


def _flat(column: NDArray[Any]) -> NDArray[Any]:
    """Scales come as (n, 1)."""
    return np.ascontiguousarray(column.reshape(-1))
