"""What every kernel computes, in NumPy: slow, short, obviously right. The tests' oracle, never a fallback.

Convention: a function has its kernel's name and takes the kernel's arguments but those that are only filled,
which it returns as new arrays. What a kernel reads and changes (`words`, `quads`, `panels`, the scores of
`add_scores`, the k best) is an argument too and left as it was; the changed copy is returned. Where a kernel
is free, there is a normal form here: the k best of `select` and of the scans come sorted, tables
and staged queries a query, without tiles, and a hash table is a dict.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


# --- hadamard.py


def rotate(x: Array, order: Array, signs: Array, starts: Array, size: int, norm: np.float32) -> Array:
    """Each round: y_j = signs_0j * y_order(j), then H / sqrt(size) on each window; (n, d) float32, as x.

    What a window shares with the one before is multiplied by its own signs first.
    """
    y = x.copy()
    for r in range(len(order)):
        y = signs[r, 0] * y[:, order[r]]
        for w, first in enumerate(starts):
            if w > 0:
                shared = slice(first, starts[w - 1] + size)
                y[:, shared] *= signs[r, w, shared]
            _transform_window(y, first, size, norm)
    return y


def rotate_back(y: Array, order: Array, signs: Array, starts: Array, size: int, norm: np.float32) -> Array:
    """The rounds of `rotate` undone in reverse (H is its own inverse)."""
    x = y.copy()
    for r in reversed(range(len(order))):
        for w in reversed(range(len(starts))):
            _transform_window(x, starts[w], size, norm)
            if w > 0:
                shared = slice(starts[w], starts[w - 1] + size)
                x[:, shared] *= signs[r, w, shared]
        x[:, order[r]] = signs[r, 0] * x
    return x


def _transform_window(y: Array, first: int, size: int, norm: np.float32) -> None:
    """(a, b) -> (a + b, a - b) at distance 1, 2, 4, ..., then times norm, on coordinates first .. first + size - 1."""
    window = y[:, first : first + size]
    half = 1
    while half < size:
        pairs = window.reshape(len(y), size // (2 * half), 2, half)
        a, b = pairs[:, :, 0], pairs[:, :, 1]
        window = np.stack([a + b, a - b], axis=2).reshape(len(y), size)
        half *= 2
    y[:, first : first + size] = window * norm


# --- scalar.py


def quantize(y: Array, gains: Array, thresholds: Array, levels: Array) -> tuple[Array, Array, Array]:
    """codes_ij = #{t : thresholds_t <= gains_i y_ij}, dots_i = sum_j y_ij l_ij, energies_i = sum_j l_ij^2,

    l = levels[codes]; the sums in float64, one term after the other.
    """
    z = gains[:, None] * y
    codes = (thresholds <= z[:, :, None]).sum(axis=2).astype(np.uint8)
    chosen = levels[codes].astype(np.float64)
    return codes, _in_order(y * chosen), _in_order(chosen * chosen)


def _in_order(terms: Array) -> Array:
    """Sums of rows (n, d) float64, one term after the other."""
    return np.cumsum(terms, axis=1)[:, -1]


# --- encoding.py


def encode(
    x: Array, mu: Array, plan: tuple[Array, Array, Array, int, np.float32], book: tuple[int, Array, Array]
) -> tuple[Array, Array]:
    """Words and sums of r = x - mu: y = R r, codes of (sqrt(d) / |r|) y, then planes or, for 8 bits, bytes."""
    bits, thresholds, levels = book
    n, d = x.shape
    r = x - mu
    exact = r.astype(np.float64)
    norms2 = _in_order(exact * exact)
    gains = np.divide(np.sqrt(d), np.sqrt(norms2), out=np.zeros(n), where=norms2 > 0)
    gains = np.minimum(gains, np.finfo(np.float32).max).astype(np.float32)
    codes, dots, energies = quantize(rotate(r, *plan), gains, thresholds, levels)
    width = 8 if bits == 8 else 1
    count = -(-d * width // 32)
    words: Array = np.zeros((n, count * bits // width), np.uint32)
    for p in range(bits // width):
        words = pack_plane(codes, bits - width * (p + 1), width, p * count, words)
    return words, np.stack([norms2, _in_order(exact * mu), dots, energies])


# --- moments.py


def peak(x: Array) -> Any:
    """max |x_ij|, or 0 without rows."""
    return np.abs(x).max(initial=0)


def add_moments(x: Array, sums: Array, squares: Array) -> tuple[Array, Array]:
    """sums_j + sum_i x_ij and squares_j + sum_i x_ij^2 in float64, row after row."""
    for row in x.astype(np.float64):
        sums, squares = sums + row, squares + row * row
    return sums, squares


def normalise(x: Array) -> tuple[Array, Array]:
    """x_i / |x_i| and |x_i|^2."""
    exact = x.astype(np.float64)
    norms2 = _in_order(exact * exact)
    return (exact / np.sqrt(norms2)[:, None]).astype(np.float32), norms2


# --- pack.py
#
# Word g of a row is 32 / width coordinates: byte t, field s (bits from width s on) is the code of coordinate
# g (32 / width) + 4 s + t.


def pack_plane(codes: Array, shift: int, width: int, first: int, words: Array) -> Array:
    """`width` bits from bit `shift` on of codes (n, d) uint8, in words first, ... of (n, w) uint32."""
    per_line = 32 // width
    count = -(-codes.shape[1] // per_line)
    packed = words.copy()
    packed[:, first : first + count] = 0
    line_bytes = packed.view(np.uint8)  # (n, 4 w): of line g, this vector has bytes 4 g .. 4 g + 3
    for j in range(codes.shape[1]):
        g, rest = divmod(j, per_line)
        s, t = divmod(rest, 4)
        field = codes[:, j].astype(np.int64) // 2**shift % 2**width
        line_bytes[:, 4 * (first + g) + t] += (field * 2 ** (width * s)).astype(np.uint8)
    return packed


def unpack_plane(words: Array, first: int, count: int, width: int, quads: Array) -> Array:
    """code -> code * 2^width + the plane's field; the bytes of quads (n, c / 4) uint32 are the codes."""
    row_bytes = words.view(np.uint8).astype(np.int64)
    codes = quads.view(np.uint8).astype(np.int64)
    for g in range(count):
        for s in range(8 // width):
            for t in range(4):
                field = row_bytes[:, 4 * (first + g) + t] // 2 ** (width * s) % 2**width
                j = g * (32 // width) + 4 * s + t
                codes[:, j] = codes[:, j] * 2**width + field
    return codes.astype(np.uint8).view(np.uint32)


def codes_to_levels(codes: Array, table: Array) -> Array:
    """levels_ij = table[codes_ij]."""
    return table[codes]


def to_panels(words: Array, start: int, panels: Array) -> Array:
    """Vector start + i of panels (p, w, 16): word g of vector 16 p + v is panels[p, g, v]."""
    stored = panels.copy()
    for i, row in enumerate(words):
        stored[(start + i) // 16, :, (start + i) % 16] = row
    return stored


# --- bitstream.py


def pack_fields(codes: Array, widths: Array) -> Array:
    """Row i: the low widths_j bits of codes_ij, lowest first, field after field; little-endian words."""
    bits = [(codes[:, j] >> bit) & 1 for j, width in enumerate(widths) for bit in range(width)]
    stream = np.zeros((len(codes), -(-len(bits) // 32) * 32), np.uint8)
    for at, bit in enumerate(bits):
        stream[:, at] = bit
    return np.packbits(stream, axis=1, bitorder="little").view(np.uint32)


def unpack_fields(words: Array, widths: Array) -> Array:
    """codes_ij = sum_b 2^b bit(sum_{k<j} widths_k + b) of row i."""
    stream = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little").astype(np.int64)
    codes = np.zeros((len(words), len(widths)), np.uint16)
    at = 0
    for j, width in enumerate(widths):
        codes[:, j] = stream[:, at : at + width] @ 2 ** np.arange(width)
        at += width
    return codes


# --- polar.py


def polar_angles(y: Array, depth: int) -> tuple[Array, Array]:
    """Level 1: angle of (y_2j, y_2j+1) in [0, 2 pi]; level l: of two radii of level l - 1, in [0, pi / 2].

    Angles (n, d - d / 2^depth) float32, level after level, and the last radii (n, d / 2^depth) float64.
    """
    radii = y.astype(np.float64)
    angles = []
    for level in range(depth):
        first, second = radii[:, 0::2], radii[:, 1::2]
        angle = np.arctan2(second, first)
        angles.append(np.where(angle < 0, angle + 2 * np.pi, angle) if level == 0 else angle)
        radii = np.sqrt(first * first + second * second)
    return np.concatenate(angles, axis=1).astype(np.float32), radii


def polar_vectors(
    codes: Array, radii: Array, depth: int, offsets: Array, cosines: Array, sines: Array
) -> Array:
    """From the last level back: (x_2j, x_2j+1) = radius_j (cos, sin)(angle_j), by table. (n, d) float32."""
    end = codes.shape[1]
    values = radii
    for level in reversed(range(depth)):
        count = values.shape[1]
        entries = offsets[level] + codes[:, end - count : end].astype(np.int64)
        pairs = np.stack([values * cosines[entries], values * sines[entries]], axis=2)
        values = pairs.reshape(len(codes), 2 * count)
        end -= count
    return values


def round_rows(values: Array) -> tuple[Array, Array]:
    """levels_ij = rint(values_ij * (127 / peak_i)), peak_i = max_j |values_ij|; a zero row gives zeros."""
    peaks = np.abs(values).max(axis=1)
    gains = np.array([np.float32(127) / peak if peak > 0 else 0 for peak in peaks], np.float32)
    return np.rint(values * gains[:, None]).astype(np.int8), peaks


# --- scan.py


def dot(levels: Array, queries: Array) -> Array:
    """out_qi = sum_j levels_ij queries_qj, exactly; (nq, n) int32."""
    exact = queries.astype(np.int64) @ levels.astype(np.int64).T
    return exact.astype(np.int32)


def add_scores(dots: Array, gains: Array, scales: Array, out: Array) -> Array:
    """out_qi + (dots_qi * gains_q) * scales_i, every operation in float32, in this order; other dots do not count."""
    singles = dots[: len(out), : out.shape[1]].astype(np.float32)
    return out + (singles * gains[:, None]) * scales


# --- topk.py


def select(
    scores: Array, ids: Array, allowed: Array, best_scores: Array, best_ids: Array
) -> tuple[Array, Array]:
    """The k first of (best so far + allowed candidates) by (score descending, id ascending), sorted."""
    k = best_ids.shape[1]
    mine = np.flatnonzero(allowed) if len(allowed) else np.arange(len(ids))
    offered = np.tile(ids[mine], (len(scores), 1))
    sorted_scores, sorted_ids = sort_rows(
        np.concatenate([best_scores, scores[:, mine]], axis=1), np.concatenate([best_ids, offered], axis=1)
    )
    return sorted_scores[:, :k], sorted_ids[:, :k]


def _ids(names: tuple[Array, int], count: int) -> Array:
    """Ids of vectors 0 .. count - 1: given, or counted from a base."""
    return names[0][:count] if len(names[0]) else names[1] + np.arange(count)


def sort_rows(best_scores: Array, best_ids: Array) -> tuple[Array, Array]:
    """Every row by (score descending, id ascending)."""
    order = np.lexsort((best_ids, -best_scores))
    return np.take_along_axis(best_scores, order, axis=1), np.take_along_axis(best_ids, order, axis=1)


def settle(keys: Array, ids: Array, constants: Array, negate: bool) -> tuple[Array, Array]:
    """Ids and distances: constant + key or constant - key in float64, rounded, then sorted; empty places have id -1."""
    exact = constants[:, None] + (-1 if negate else 1) * keys.astype(np.float64)
    distances = exact.astype(np.float32)
    order = np.lexsort((ids, distances if negate else -distances))
    ids, distances = np.take_along_axis(ids, order, axis=1), np.take_along_axis(distances, order, axis=1)
    return np.where(ids == np.iinfo(np.int64).max, -1, ids), distances


# --- lines.py


def tile_queries(levels: Array, rows: int) -> tuple[Array, Array]:
    """Quads (tiles, ceil(d / 4), rows) int32 of levels (nq, d), padded with zeros; the sums of their bytes."""
    nq, d = levels.shape
    tiles, m = -(-nq // rows), -(-d // 4)
    padded = np.zeros((tiles * rows, 4 * m), np.int8)
    padded[:nq, :d] = levels
    quads = padded.view(np.int32).reshape(tiles, rows, m).transpose(0, 2, 1)
    return quads, padded.sum(axis=1, dtype=np.int32)


def _asked(quads: Array) -> Array:
    """Levels (rows tiles, 4 m) of the quads of tile_queries."""
    tiles, m, rows = quads.shape
    return np.ascontiguousarray(quads.transpose(0, 2, 1)).view(np.int8).reshape(tiles * rows, 4 * m)


def dot_lines(isa: Any, levels: Array, queries: tuple[Array, Array]) -> Array:
    """`dot` of levels (n, c / 4) uint32, four a word, and of quads; whatever the instruction set."""
    return dot(levels.view(np.int8), _asked(queries[0]))


def scan_lines(
    isa: Any,
    planes: tuple[Array, Array, Array],
    count: int,
    words: int,
    table: Array,
    queries: tuple[Array, Array, Array],
    factors: tuple[Array, Array],
    names: tuple[Array, int],
    allowed: Array,
    best: tuple[Array, Array],
) -> tuple[Array, Array]:
    """Unpack the planes, look up the levels, multiply, score, select; whatever the instruction set."""
    quads, _, gains = queries
    keys = _keys(_levels(isa, planes, count, words, table), _asked(quads), gains, factors)
    return select(keys, _ids(names, count), allowed, *best)


def _keys(levels: Array, asked: Array, gains: Array, factors: tuple[Array, Array]) -> Array:
    scales, shifts = (part[: len(levels)] for part in factors)
    return add_scores(dot(levels, asked), gains, scales, np.tile(shifts, (len(gains), 1)))


def _levels(isa: Any, planes: tuple[Array, Array, Array], count: int, words: int, table: Array) -> Array:
    """Levels (count, dims) int8 of codes whose first planes are lines and whose others are rows."""
    rows = _rows(planes, count)
    width = 8 if isa.planes == 8 else 1
    quads: Array = np.zeros((count, words * 8 // width), np.uint32)
    for plane in range(isa.planes // width):
        quads = unpack_plane(rows, plane * words, words, width, quads)
    codes = quads.view(np.uint8).astype(np.int64)
    return (codes - 128).astype(np.int8) if width == 8 else table[codes * 2 ** (4 - isa.planes)]


def _rows(planes: tuple[Array, Array, Array], count: int) -> Array:
    """The words of `count` vectors, one a row, plane after plane."""
    lined = [plane.transpose(0, 2, 1).reshape(-1, plane.shape[1]) for plane in planes[:2] if plane.size]
    parts = [part[:count] for part in (*lined, planes[2]) if part.size]
    return np.ascontiguousarray(np.concatenate(parts, axis=1))


# --- staged.py


def nibble_tables(levels: Array, weights: Array, up: bool) -> tuple[Array, Array, Array]:
    """Tables (nq, planes * w, 2, 64) uint8, steps and offsets: sums of four coordinates' weighted bits, in steps.

    Coordinate 32 g + 16 h + 4 s + t has bit s of entry 16 t + i of half h of line g.
    """
    quads = levels.astype(np.float64).reshape(len(levels), 1, -1, 2, 4, 4)  # query, plane, g, h, s, t
    values = quads * weights[:, None, None, None, None]
    sums = np.zeros((*values.shape[:4], 4, 16))  # query, plane, g, h, t, i
    for s in range(4):
        sums += values[:, :, :, :, s, :, None] * (np.arange(16) >> s & 1)
    steps = (np.abs(quads).sum(axis=4) * np.abs(weights)[:, None, None, None]).max(axis=(1, 2, 3, 4)) / 127
    inverse = np.divide(1, steps, out=np.zeros(len(steps)), where=steps > 0)
    lowest = _in_order(np.minimum(values, 0).transpose(0, 1, 2, 3, 5, 4).reshape(-1, 4)).reshape(sums.shape[:5])
    scaled = (sums - lowest[..., None]) * inverse[:, None, None, None, None, None]
    tables = np.minimum(np.ceil(scaled) if up else np.floor(scaled + 0.5), 127).astype(np.uint8)
    return tables.reshape(len(levels), -1, 2, 64), steps, _in_order(lowest.reshape(len(levels), -1))


def stage_queries(
    levels: Array, gains: Array, estimate: tuple[float, Array, float], bias: int
) -> tuple[Array, Array, Array, Array, Array]:
    """A query's tables, its step and lift in units of the key, its bytes in a row's order, and -bias times their sum.

    The lift is what a bound adds to the looked-up steps: the tables' offset, the base of every level, the margin, and
    what float32 may lose.
    """
    base, weights, margin = estimate
    nq, d = levels.shape
    padded = np.zeros((nq, -(-d // 512) * 512), np.int8)
    padded[:, :d] = levels
    tables, steps, offsets = nibble_tables(padded[:, : -(-d // 32) * 32], weights, margin == 0)
    exact = levels.astype(np.float64)
    widest = np.cumsum([abs(base), *np.abs(weights)])[-1]
    lifts = offsets + base * exact.sum(axis=1) + margin * np.sqrt((exact * exact).sum(axis=1))
    lifts = lifts + 2.0**-20 * np.abs(exact).sum(axis=1) * widest
    single = [(part * gains.astype(np.float64)).astype(np.float32) for part in (steps, lifts)]
    # of sixteen words, first the quads of their coordinates 0 .. 3, then of 4 .. 7, ...
    asked = padded.view(np.uint32).reshape(nq, -1, 16, 8).transpose(0, 1, 3, 2).reshape(nq, -1)
    return tables, *single, asked, -bias * levels.sum(axis=1, dtype=np.int32)


def scan_staged(
    isa: Any,
    alone: Any,
    planes: tuple[Array, Array, Array],
    count: int,
    words: int,
    first_planes: int,
    table: Array,
    first: tuple[Array, Array, Array],
    queries: tuple[Array, Array, Array],
    factors: tuple[Array, Array],
    names: tuple[Array, int],
    allowed: Array,
    best: tuple[Array, Array],
) -> tuple[Array, Array]:
    """`select` by min(key, bound) of every vector, or by key alone where all planes are in the bound."""
    (tables, steps, lifts), (quads, _, gains) = first, queries
    asked: Array = quads.view(np.int32).reshape(len(gains), -1, 8, 16).transpose(0, 1, 3, 2)
    asked = np.ascontiguousarray(asked).view(np.int8).reshape(len(gains), -1)[:, : 32 * words]
    ranks = _keys(_levels(isa, planes, count, words, table), asked, gains, factors)
    if first_planes < isa.planes:
        sums = _nibble_sums(tables, _rows(planes, count)[:, : first_planes * words]).astype(np.float32)
        bounds = (sums * steps[:, None] + lifts[:, None]) * factors[0][:count] + factors[1][:count]
        ranks = np.minimum(ranks, bounds)
    return select(ranks, _ids(names, count), allowed, *best)


def _nibble_sums(tables: Array, rows: Array) -> Array:
    """Sums (rows tiles, n) of the entries that the nibbles of rows (n, lines) of words pick."""
    row_bytes = rows.view(np.uint8).reshape(*rows.shape, 4)
    nibbles = np.stack([row_bytes & 15, row_bytes >> 4], axis=2)  # vector, line, h, t
    line, half, t = np.ogrid[: rows.shape[1], :2, :4]
    entries = tables.transpose(0, 2, 1, 3, 4).reshape(-1, rows.shape[1], 2, 64)
    return np.array([each[line, half, 16 * t + nibbles].sum(axis=(1, 2, 3), dtype=np.int64) for each in entries])


# --- idtable.py: entries, a dict from id to position, is what keys and values hold


def table_insert(entries: dict[int, int], idents: Array, positions: Array) -> dict[int, int]:
    """Set the position of each ident, in turn."""
    return entries | dict(zip(idents.tolist(), positions.tolist(), strict=True))


def table_find(entries: dict[int, int], idents: Array) -> Array:
    """The position of each ident, or -1."""
    return np.array([entries.get(ident, -1) for ident in idents.tolist()], np.int64)


def table_remove(entries: dict[int, int], idents: Array) -> dict[int, int]:
    """Without these idents."""
    gone = set(idents.tolist())
    return {ident: position for ident, position in entries.items() if ident not in gone}
