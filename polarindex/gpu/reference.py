"""What the device computes, in NumPy: layout, decode, rotation, first look, thresholds, lists and their overflow.

Convention: as in kernels/reference.py: slow, obviously right, the tests' oracle and never a fallback. Floats are
            rounded where the kernels round. The integer dots themselves, and keys, are kernels.reference's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from polarindex.gpu.layout import TILE, Layout
from polarindex.gpu.places import FLIPPED, ROUNDS, SLOT, WARP, Form, Tables
from polarindex.gpu.shapes import FEW_K

Array = NDArray[Any]

SLACK = np.float32(2.0**-20)  # keys.cuh
LOWEST = np.float32(np.finfo(np.float32).min)


# --- layout.py, pack.cu


def pack(layout: Layout, codes: Array) -> Array:
    """Tiles (bytes,) uint8 of codes (n, dims) uint8; at 8 bits of levels, int8. What fills them up is code 0."""
    n = -(-len(codes) // TILE) * TILE
    full = np.zeros((n, layout.padded), np.uint8)
    full[: len(codes), : layout.dims] = codes.view(np.uint8)
    if layout.bits == 8:
        return _bytes(full ^ 0x80)
    if layout.bits == 3:
        low, top = _words(full & 3, 2, layout.chunk_dims), _words(full >> 2, 1, layout.chunk_dims)
        pieces = [x.reshape(n // TILE, layout.chunks, -1) for x in (low, top)]
        return np.concatenate(pieces, axis=2).reshape(-1)
    return _words(full, layout.bits, layout.chunk_dims)


def _bytes(full: Array) -> Array:
    """Word 2 h + r of a thread: byte j is that of coordinate 16 h + 4 i + j of the chunk."""
    n, d = full.shape
    x = full.reshape(n // TILE, 4, 2, 8, d // 32, 2, 4, 4)  # T, w, r, g, C, h, i, j
    return np.ascontiguousarray(x.transpose(0, 4, 1, 3, 6, 5, 2, 7)).reshape(-1)


def _words(full: Array, bits: int, chunk: int) -> Array:
    """Words of fields of `bits` bits, 4 / bits a nibble; a chunk of fewer coordinates than 256 / bits has one p."""
    n, d = full.shape
    fields = 4 // bits
    shape = n // TILE, 4, 2, 8, d // chunk, chunk // (32 * fields), fields, 2, 4, 4  # T, w, r, g, C, p, s, h, i, j
    x = full.reshape(shape)
    x = x.transpose(0, 4, 1, 3, 8, 5, 2, 7, 9, 6)  # T, C, w, g, i, p, r, h, j, s
    nibbles = (x << (bits * np.arange(fields, dtype=np.uint8))).sum(axis=-1, dtype=np.uint8).reshape(-1, 2)
    return nibbles[:, 0] | nibbles[:, 1] << 4


# --- codes.cuh


def prmt(a: Any, b: Any, selector: Array) -> Array:
    """The byte shuffle: byte i of the result is byte (selector >> 4 i & 7) of the eight bytes b a, a the lower four."""
    eight = np.asarray(a, np.uint64) | np.asarray(b, np.uint64) << np.uint64(32)
    out = np.zeros(np.broadcast(eight, selector).shape, np.uint32)
    for i in range(4):
        chosen = (np.asarray(selector, np.uint32) >> np.uint32(4 * i)) & np.uint32(7)
        byte = (eight >> (np.uint64(8) * chosen.astype(np.uint64))) & np.uint64(255)
        out |= byte.astype(np.uint32) << np.uint32(8 * i)
    return out


def decode(layout: Layout, tiles: Array, table: Array) -> Array:
    """Levels (n, padded) int8 of tiles, word by word as the kernels decode them; table (4,) uint32."""
    raw = tiles.reshape(-1, layout.chunks, layout.chunk_bytes)
    words = np.ascontiguousarray(raw[:, :, :2048]).view(np.uint32).reshape(len(raw), layout.chunks, 128, 4)
    out = np.zeros((len(raw) * TILE, layout.padded), np.int8)
    thread = np.arange(128)
    first = 16 * (thread >> 5) + ((thread & 31) >> 2)
    steps = layout.chunk_dims // 32
    for step in range(steps):
        for h in range(2):
            for r in range(2):
                values = _decoded(layout, raw, words, table, step, h, r)  # (T, C, 128) uint32
                for j in range(4):
                    level = ((values >> np.uint32(8 * j)) & np.uint32(255)).astype(np.uint8).view(np.int8)
                    rows = TILE * np.arange(len(raw))[:, None, None] + (first + 8 * r)
                    columns = layout.chunk_dims * np.arange(layout.chunks)[:, None] + 32 * step + 16 * h
                    out[rows, columns + 4 * (thread & 3) + j] = level
    return out


def _decoded(layout: Layout, raw: Array, words: Array, table: Array, step: int, h: int, r: int) -> Array:
    """Four levels a thread: of step `step`, half h, row g + 8 r."""
    t0, t1, t2, t3 = (np.uint32(word) for word in table)
    if layout.bits == 8:
        return words[..., 2 * h + r] ^ np.uint32(0x80808080)
    fields = 2 if layout.bits == 3 else 4 // layout.bits
    word = words[..., 2 * (step // fields) + r] >> np.uint32(16 * h)
    if layout.bits == 4:
        full = words[..., 2 * step + r]
        s7 = (full & np.uint32(0x77777777)) >> np.uint32(16 * h)
        s8 = (((full >> np.uint32(1)) & np.uint32(0x44444444)) | np.uint32(0x32103210)) >> np.uint32(16 * h)
        return prmt(prmt(t0, t1, s7), prmt(t2, t3, s7), s8)
    mask = np.uint32(0x11111111 * ((1 << min(layout.bits, 2)) - 1))
    shift = step % fields * min(layout.bits, 2)
    selector = (words[..., 2 * (step // fields) + r] >> np.uint32(shift)) & mask
    if layout.bits == 3:
        top = np.ascontiguousarray(raw[:, :, 2048:]).view(np.uint32).reshape(*word.shape, 2)[..., r]
        selector = selector | ((top >> np.uint32(step)) & np.uint32(0x11111111)) << np.uint32(2)
    return prmt(t0, t1 if layout.bits == 3 else t0, selector >> np.uint32(16 * h))


# --- places.py, encode.cu


def rotate(form: Form, made: Tables, norm: np.float32, x: Array) -> Array:
    """R x of rows (n, dim) float32 as lanes rotate them: slot by slot, by the tables."""
    buffer = np.full((len(x), form.stride), np.nan, np.float32)
    start = registers(made.start, WARP, form.coded // WARP)
    j = form.own[:, None] + WARP * np.arange(form.coded // WARP)
    _write(buffer, start[j < form.dim], x[:, j[j < form.dim]])
    rest = form.size + np.arange(form.dim - form.size)
    last = len(form.passes) - 1
    for round in range(ROUNDS):
        buffer[:, form.between(rest)] = buffer[:, made.tails.reshape(ROUNDS, -1)[round]]
        for window, begin in enumerate(form.windows):
            for number, levels in enumerate(form.passes):
                groups = form.size >> levels
                slots = form.between(form.groups(number, begin))
                if number == window == 0:
                    slots = registers(made.reads.reshape(ROUNDS, -1)[round], groups, 1 << levels)
                v = _butterflies(buffer[:, slots])
                if number == last:
                    table = made.writes.reshape(ROUNDS * len(form.windows), -1)[round * len(form.windows) + window]
                    _write(buffer, registers(table, groups, 1 << levels), v * norm)
                else:
                    buffer[:, form.between(form.groups(number, begin))] = v
    j = np.arange(form.dim)
    return buffer[:, (j & ~31) | form.spread(j & 31)]


def registers(table: Array, groups: int, count: int) -> Array:
    """Places (groups, count) of a table, which has them eight by eight."""
    return table.reshape(-1, groups, 8).swapaxes(0, 1).reshape(groups, -1)[:, :count].astype(np.int64)


def _write(buffer: Array, places: Array, values: Array) -> None:
    buffer[:, places & SLOT] = np.where(places & FLIPPED, -values, values)


def _butterflies(v: Array) -> Array:
    """(a + b, a - b) at distance 1, 2, 4, ... of the last axis."""
    half = 1
    while half < v.shape[-1]:
        pairs = v.reshape(*v.shape[:-1], -1, 2, half)
        a, b = pairs[..., 0, :], pairs[..., 1, :]
        v = np.stack([a + b, a - b], axis=-2).reshape(v.shape)
        half *= 2
    return v


def together(form: Form, terms: Array) -> Array:
    """Sums of rows (n, d) float64: a lane has every 32nd term from its own coordinate on; then lanes by their bits."""
    n, d = terms.shape
    padded = np.zeros((n, -(-d // WARP), WARP))
    padded.reshape(n, -1)[:, :d] = terms
    lanes = np.cumsum(padded, axis=1)[:, -1, form.own]
    for bit in (4, 2, 1, 16, 8):  # the coordinate's bits from the highest
        lanes = lanes + lanes[:, np.arange(WARP) ^ bit]
    return np.asarray(lanes[:, 0])


# --- keys.cuh


def ordered(keys: Array) -> Array:
    """float32 as uint32 of the same order; both zeros are one."""
    bits = (keys.astype(np.float32) + np.float32(0)).view(np.uint32)
    return np.where(bits >> 31, ~bits, bits | np.uint32(0x80000000))


def looks_near(dots: Array, gains: Array, scales: Array, shifts: Array, taus: Array) -> Array:
    """The first look (nq, n): False only for keys below the threshold. Gains between 2^-60 and 2^60."""
    loose_shifts = shifts + np.abs(shifts) * SLACK
    loose_taus = (taus - np.abs(taus) * SLACK) - np.float32(2.0**-100)
    per_gain = np.float32(1) / gains
    limits = -loose_taus * per_gain
    inner = (loose_shifts[None].astype(np.float64) * per_gain[:, None] + limits[:, None]).astype(np.float32)
    both = dots.astype(np.float32).astype(np.float64) * scales[None] + inner
    return np.asarray(both.astype(np.float32) >= 0)


# --- topk.cu and search.py


def thresholds(maxima: Array, k: int) -> Array:
    """Of maxima (nq, m): the k-th largest with its lower 8 bits cleared, in the order of `ordered`; else LOWEST.

    For few k of the largest of every 256th.
    """
    if k <= FEW_K:
        full = np.full((len(maxima), -(-maxima.shape[1] // 256) * 256), -np.inf, np.float32)
        full[:, : maxima.shape[1]] = maxima
        maxima = full.reshape(len(maxima), -1, 256).max(axis=1)
    if maxima.shape[1] < k:
        return np.full(len(maxima), LOWEST)
    found = -np.sort(-ordered(maxima).astype(np.int64), axis=1)[:, k - 1] & ~0xFF
    return np.where(found >= 0x00800000, unordered(found.astype(np.uint32)), LOWEST)


def unordered(keys: Array) -> Array:
    """float32 of what `ordered` made of it."""
    return np.where(keys >> 31, keys & np.uint32(0x7FFFFFFF), ~keys).astype(np.uint32).view(np.float32)


def tightened(tau: Any, keys: Array, k: int) -> np.float32:
    """A threshold after the hits of some rows: the k-th of their keys, as `thresholds` has it, if they are as many."""
    if len(keys) < k:
        return np.float32(tau)
    kth = np.sort(ordered(keys).astype(np.int64))[-k] & ~0xFF
    return np.float32(max(tau, unordered(np.array([kth], np.uint32))[0]) if kth >= 0x00800000 else tau)


def best(
    keys: Array, ids: Array, k: int, room: int, sampled: Array, arrival: Array | None = None, first: int = 0
) -> tuple[Array, Array, int]:
    """The k best ids and keys of one query's keys (n,), and how often its list, of `room` places, overflowed.

    sampled : numbers of rows, a multiple of 16, whose maxima of 16 set the threshold
    arrival : the order in which rows come to the list
    first : so many of them come first, and tighten the threshold for the others
    """
    maxima = keys[sampled].reshape(1, -1, 16).max(axis=2)
    tau, tau_id, overflows = thresholds(maxima, k)[0], np.iinfo(np.int64).max, 0
    order = np.arange(len(keys)) if arrival is None else arrival
    early = order[:first][keys[order[:first]] >= tau]
    tau = tightened(tau, keys[early[:room]], k)
    hits = np.concatenate([early, order[first:][keys[order[first:]] >= tau]])
    while True:
        stored = hits[:room]
        stored = stored[np.lexsort((ids[stored], -keys[stored]))]
        if len(hits) <= room:
            return ids[stored[:k]], keys[stored[:k]], overflows
        tau, tau_id, overflows = keys[stored[k - 1]], ids[stored[k - 1]], overflows + 1
        hits = order[(keys[order] > tau) | ((keys[order] == tau) & (ids[order] <= tau_id))]


# --- streamed.py


def best_by_parts(
    keys: Array, ids: Array, k: int, room: int, parts: list[Array], sampled: Array, arrival: Array
) -> tuple[Array, Array, int]:
    """As `best`, of rows that are scanned part by part; also how often a part was scanned again.

    Only where a list might overflow is it looked at and cut.

    parts : numbers of rows, each in one of them
    sampled : numbers of rows of the first part, a multiple of 16
    arrival : the order in which rows of a part come to the list
    """
    maxima = keys[sampled].reshape(1, -1, 16).max(axis=2)
    tau, tau_id, overflows = thresholds(maxima, k)[0], np.iinfo(np.int64).max, 0
    held, most = np.empty(0, np.int64), 0
    for part in parts:
        order, most = arrival[np.isin(arrival, part)], most + len(part)
        while True:
            hits = order[(keys[order] > tau) | ((keys[order] == tau) & (ids[order] <= tau_id))]
            if most <= room:
                held = np.concatenate([held, hits])
                break
            stored = np.concatenate([held, hits])[:room]
            stored = stored[np.lexsort((ids[stored], -keys[stored]))]
            if len(stored) >= k:
                tau, tau_id, stored = keys[stored[k - 1]], ids[stored[k - 1]], stored[:k]
            if len(held) + len(hits) <= room:
                held, most = stored, k
                break
            held, overflows = stored[~np.isin(stored, part)], overflows + 1
    held = held[np.lexsort((ids[held], -keys[held]))][:k]
    return ids[held], keys[held], overflows
