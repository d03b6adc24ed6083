"""A device in NumPy: CuPy's calls and the kernels' contracts on memory of the host, so that what drives them is tested.

Addresses are real ones, of arrays, so an offset that is wrong reads other bytes or none. Hits arrive in random order.
Copies of a stream are made as late as they may be, or at once, at random: who does not wait for an event finds wrong
bytes. A copy to what may still be scanned is an error. The kernels are dp4a's: lists without queues.
"""

from __future__ import annotations

import ctypes
import threading
from contextlib import contextmanager
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest

from polarindex.gpu import coding, flat, ivf, lists, mirror, reference
from polarindex.gpu.layout import TILE, Layout
from polarindex.gpu.search import _SCAN
from polarindex.gpu.shapes import Card
from polarindex.kernels import reference as kernels

LAST = np.iinfo(np.int64).max


def memory(address, count, dtype):
    """An array of what lies at an address."""
    size = count * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_uint8 * size).from_address(int(address) % (1 << 64)), dtype)


class Array(np.ndarray):
    """A NumPy array with what CuPy's have."""

    @property
    def data(self):
        return SimpleNamespace(ptr=self.ctypes.data)

    def get(self):
        return np.array(self)


class Stream:
    """Copies wait in it until they must be there; the null stream has none, for all else is done at once.

    seen : what of the null stream's clock this one has waited for
    """

    ptr = 0

    def __init__(self, device):
        self._device, self.waiting, self.seen = device, [], 0

    def __enter__(self):
        self._device.streams.append(self)
        return self

    def __exit__(self, *_):
        self._device.streams.pop()

    def synchronize(self):
        for copy in self.waiting:
            copy()
        self.waiting = []
        if self is self._device.null:
            self._device.known = self._device.clock

    def wait_event(self, event):
        for copy in event.stream.waiting:
            copy()
        event.stream.waiting = []
        self.seen = max(self.seen, event.clock)


class Event:
    def __init__(self, device):
        self._device, self.stream, self.clock = device, None, 0

    def record(self, stream):
        self.stream = stream
        self.clock = self._device.clock if self.stream is self._device.null else 0


class Emulated:
    """What Device is, with one card's worth of calls.

    sent : bytes copied from pinned memory
    free : bytes of the card
    pinned : bytes of pinned memory that can be had
    """

    def __init__(self, number, rng):
        self.number, self.name, self.card = number, "emulated", Card((7, 5), 3, 65_536)
        self.rng, self.sent, self.free, self.pinned = rng, 0, 1 << 40, 1 << 40
        self.launched = []
        self.clock, self.known, self.reads = 0, 0, []  # scans; those the host has waited for; (start, stop, scan)
        self.null = Stream(self)
        self._entered = threading.local()  # .streams of a thread
        runtime = SimpleNamespace(
            memcpyAsync=self._copy,
            memcpyHostToDevice=1,
            memcpyDeviceToHost=2,
            memGetInfo=lambda: (self.free, self.free),
            CUDARuntimeError=MemoryError,
        )
        cuda = SimpleNamespace(
            runtime=runtime,
            Stream=lambda non_blocking: Stream(self),
            Event=lambda disable_timing: Event(self),
            get_current_stream=lambda: self.streams[-1],
            PinnedMemory=self._pin,
        )
        self.cp = SimpleNamespace(
            cuda=cuda,
            empty=lambda shape, dtype: np.full(shape, 77, dtype).view(Array),
            asarray=lambda x: np.array(x).view(Array),
            ascontiguousarray=np.ascontiguousarray,
            get_default_memory_pool=lambda: SimpleNamespace(free_bytes=lambda: 0),
        )

    @property
    def streams(self):
        if not hasattr(self._entered, "streams"):
            self._entered.streams = [self.null]
        return self._entered.streams

    @contextmanager
    def use(self, doing):
        yield self.cp

    def kernel(self, text, macros, name, shared=0):
        layout = Layout(macros["BITS"], macros["DIM"])

        def launch(grid, block, arguments, shared_mem=0):
            self.launched.append(name)
            getattr(self, name)(layout, macros.get("NT", grid[0]), *arguments)

        return launch

    def _pin(self, nbytes):
        if nbytes > self.pinned:
            raise MemoryError("cudaErrorMemoryAllocation: out of memory")
        self.pinned -= nbytes
        held = np.full(nbytes, 99, np.uint8)
        return SimpleNamespace(ptr=held.ctypes.data, held=held)

    def _copy(self, to, start, size, kind, stream):
        self._later(lambda: ctypes.memmove(to, start, size), to, size)
        self.sent += size if kind == 1 else 0

    def _later(self, copy, to, size):
        stream = self.streams[-1]
        unseen = [read for read in self.reads if read[2] > max(stream.seen, self.known)]
        if stream is not self.null:
            assert not any(start < to + size and to < stop for start, stop, _ in unseen), "written while it is scanned"
        self.reads = unseen
        if stream is self.null or self.rng.integers(2):
            stream.synchronize()
            copy()
        else:
            stream.waiting.append(copy)

    # --- kernels

    # their layout, blocks (queries a block, for scans), and arguments

    def pack_rows(self, layout, blocks, words, width, plane, dims, count, rows, first, origin):
        if not isinstance(rows, np.ndarray):
            rows = first + np.arange(count)
        codes = np.zeros((count, layout.padded), np.uint8)
        c = np.arange(dims)
        if layout.bits == 8:
            codes[:, :dims] = words.view(np.uint8)[:, :dims]
        else:
            for p in range(layout.bits):
                bit = (words[:, p * plane + (c >> 5)] >> (8 * (c & 3) + ((c >> 2) & 7)).astype(np.uint32)) & 1
                codes[:, :dims] = codes[:, :dims] << 1 | bit
        for row, code in zip(np.asarray(rows), codes, strict=True):
            tile = memory(origin + np.uint64(row // TILE * layout.tile_bytes), layout.tile_bytes, np.uint8)
            full = np.zeros((TILE, layout.padded), np.uint8)
            full[row % TILE] = code
            mask = row_masks(layout)[row % TILE]
            tile[:] = tile & ~mask | reference.pack(layout, full) & mask

    def send_tiles(self, layout, blocks, address, buffer, tiles, count, first):
        size = layout.tile_bytes

        def copy():
            for tile in tiles.tolist():
                at = (tile - int(first)) * size
                ctypes.memmove(buffer.ctypes.data + at, int(address) + at, size)

        self._later(copy, buffer.ctypes.data, buffer.nbytes)
        self.sent += int(count) * size

    def scan_maxima(self, layout, queries, told):
        S = told.view(_SCAN)[0]
        maxima = memory(S["maxima"], S["nqt"] * queries * S["width"], np.float32).reshape(-1, S["width"])
        for t, _, keys in self._tiles_of(S, layout, queries):
            maxima[:, 4 * t : 4 * t + 4] = keys.reshape(len(keys), 4, 16).max(axis=2)

    def scan_filter(self, layout, queries, told):
        S = told.view(_SCAN)[0]
        nq = int(S["nqt"]) * queries
        taus, tau_ids = memory(S["taus"], nq, np.float32), memory(S["tau_ids"], nq, np.int64)
        counts = memory(S["counts"], nq, np.int32)
        hits = memory(S["hits"], nq * S["room"], np.uint64).reshape(nq, -1)
        found = [(rows, keys) for _, rows, keys in self._tiles_of(S, layout, queries)]
        rows, keys = np.concatenate([r for r, _ in found]), np.concatenate([k for _, k in found], axis=1)
        ids = self._ids(S["ids"], rows)
        for q in range(nq):
            hit = keys[q] >= taus[q]
            if S["raised"]:
                hit &= (keys[q] != taus[q]) | (ids <= tau_ids[q])
            mine = self.rng.permutation(np.flatnonzero(hit))
            stored = mine[: max(0, S["room"] - counts[q])]
            values = reference.ordered(keys[q][stored]).astype(np.uint64) << np.uint64(32)
            hits[q, counts[q] : counts[q] + len(stored)] = values | rows[stored].astype(np.uint64)
            counts[q] += len(mine)

    def thresholds(self, layout, blocks, maxima, m, width, k, nq, taus, tau_ids, counts):
        taus[:nq], taus[nq:] = reference.thresholds(maxima[:nq, :m], int(k)), np.inf
        tau_ids[:], counts[:] = LAST, 0

    thresholds_of_many = thresholds

    def thresholds_of_few(self, layout, blocks, maxima, m, width, k, nq, held, taus, tau_ids, counts):
        self.thresholds(layout, blocks, maxima, m, width, k, nq, taus, tau_ids, counts)

    def raise_thresholds(self, layout, blocks, hits, ids, room, k, first, stop, taus, tau_ids, counts):
        for q in range(blocks):
            stored = np.array(hits[q, : min(counts[q], room)])
            keys, rows, names = self._sorted(stored, ids)
            if len(stored) >= k:
                taus[q], tau_ids[q] = keys[k - 1], names[k - 1]
                keys, rows = keys[:k], rows[:k]
            stays = (rows < first) | (rows >= stop)
            kept = reference.ordered(keys[stays]).astype(np.uint64) << np.uint64(32) | rows[stays].astype(np.uint64)
            hits[q, : len(kept)] = self.rng.permutation(kept)
            counts[q] = len(kept)

    def best_of_few(self, layout, blocks, hits, ids, counts, room, k, nq, keys, found):
        self.best_hits(layout, int(nq), hits, ids, counts, room, k, keys, found)

    def best_hits(self, layout, blocks, hits, ids, counts, room, k, keys, found):
        for q in range(blocks):
            mine, _, names = self._sorted(np.array(hits[q, : min(counts[q], room)]), ids)
            count = min(len(mine), int(k))
            keys[q], found[q] = -np.inf, LAST
            keys[q, :count], found[q, :count] = mine[:count], names[:count]

    # ---

    def _sorted(self, hits, ids):
        """Keys, rows and ids, best first."""
        keys = reference.unordered((hits >> np.uint64(32)).astype(np.uint32))
        rows = (hits & np.uint64(0xFFFFFFFF)).astype(np.int64)
        names = ids[rows] if isinstance(ids, np.ndarray) else rows
        order = np.lexsort((names, -keys))
        return keys[order], rows[order], np.asarray(names)[order]

    def _ids(self, address, rows):
        return memory(address, rows.max() + 1, np.int64)[rows] if address else rows

    def _tiles_of(self, S, layout, queries):
        """(t, rows (64,), keys (nq, 64)) of each tile that is scanned; -inf where a row may not be returned."""
        gains = memory(S["gains"], S["nqt"] * queries, np.float32)
        levels_of_queries = memory(S["queries"], len(gains) * layout.padded, np.int8).reshape(len(gains), -1)
        self.clock += 1
        listed = memory(S["tiles"], (S["ntiles"] - 1) * S["stride"] + 1, np.int32) if S["tiles"] else None
        for t in range(S["ntiles"]):
            tile = int(t * S["stride"]) if listed is None else int(listed[t * S["stride"]])
            at = int(S["codes"]) + tile * layout.tile_bytes
            raw = memory(at, layout.tile_bytes, np.uint8)
            self.reads.append((at, at + layout.tile_bytes, self.clock))
            levels = reference.decode(layout, np.array(raw), S["table"])
            dots = (levels_of_queries.astype(np.int64) @ levels.T.astype(np.int64)).astype(np.int32)
            rows = TILE * tile + np.arange(TILE)
            at = 4 * TILE * tile
            scales = memory(int(S["scales"]) + at, TILE, np.float32)
            shifts = memory(int(S["shifts"]) + at, TILE, np.float32) if S["shifts"] else np.zeros(TILE, np.float32)
            there = rows < S["n"]
            if S["allowed"]:
                bits = memory(int(S["allowed"]) + 8 * tile, 8, np.uint8)
                there &= np.unpackbits(bits, bitorder="little").astype(bool)
            keys = kernels.add_scores(dots, gains, scales, np.tile(shifts, (len(gains), 1)))
            yield t, rows, np.where(there, keys, np.float32(-np.inf))


@cache
def row_masks(layout):
    """(64, tile bytes): which bits of a tile are a row's."""
    masks = []
    for row in range(TILE):
        full = np.zeros((TILE, layout.padded), np.uint8)
        empty = reference.pack(layout, full)
        full[row] = 255 if layout.bits == 8 else (1 << layout.bits) - 1
        masks.append(reference.pack(layout, full) ^ empty)
    return np.array(masks)


@pytest.fixture
def devices(monkeypatch):
    """Two emulated devices in the place of all GPUs; rows are coded on the host."""
    found = [Emulated(number, np.random.default_rng(number)) for number in range(2)]
    for module, name in ((coding, "device"), (flat, "gpu"), (ivf, "gpu"), (lists, "device"), (mirror, "device")):
        monkeypatch.setattr(module, name, lambda number: found[number])
    monkeypatch.setattr(coding, "coder", lambda device, quantizer: None)
    return found
