"""What every kernel computes, in NumPy: slow, short, obviously right. The tests' oracle, never a fallback.

Convention: a function has its kernel's name and takes the kernel's arguments but those that are only filled,
which it returns as new arrays. What a kernel reads and changes (`words`, `quads`, `panels`, the scores of
`add_scores`, the k best) is an argument too and left as it was; the changed copy is returned. Where a kernel
is free, there is a normal form here: the k best of `select` and of the scans come sorted, tables
and staged queries a query, without tiles, and a hash table is a dict. Candidates (candidates.py) are a set: here the
keep best of it, sorted, and the lists that a query probes are sorted by number. The chains of pages.py are tested
against lists of rows (tests/kernels/test_pages.py) and have no function here.
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


def rotate_rows(x: Array, order: Array, flips: Array, starts: Array, size: int, norm: np.float32) -> Array:
    """As rotate: of the signs it reads only those that are also flips."""
    return rotate(x, order, flips, starts, size, norm)


def flips_of(signs: Array, starts: Array, size: int) -> Array:
    """signs_rwj, but 1 where window w > 0 does not share coordinate j with the window before."""
    flips = signs.copy()
    j = np.arange(signs.shape[2])
    for w in range(1, len(starts)):
        flips[:, w, (j < starts[w]) | (j >= starts[w - 1] + size)] = 1
    return flips


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


def quantize(
    y: Array, gains: Array, multiples: Array, thresholds: Array, levels: Array
) -> tuple[Array, Array, Array]:
    """codes_ij = #{t : thresholds_t <= gains_i y_ij}, dots_i = sum_j y_ij l_ij, energies_i = sum_j l_ij^2,

    l = levels[codes]; the sums as in sums.py. Gains are first taken times the last of the multiples for which
    dots^2 / energies is largest.
    """
    best, largest, most = gains, np.zeros(len(y)), np.finfo(np.float32).max
    for multiple in multiples:
        with np.errstate(over="ignore"):
            tried = np.minimum(gains * multiple, most)
        _, dots, energies = quantize(y, tried, multiples[:0], thresholds, levels)
        with np.errstate(divide="ignore", invalid="ignore"):
            cosine = dots * dots / energies
        better = cosine >= largest
        best, largest = np.where(better, tried, best), np.where(better, cosine, largest)
    z = best[:, None] * y
    codes = (thresholds <= z[:, :, None]).sum(axis=2).astype(np.uint8)
    chosen = levels[codes].astype(np.float64)
    return codes, _in_parts(y * chosen), _in_parts(chosen * chosen)


# --- sums.py


def _in_parts(terms: Array) -> Array:
    """Sums of rows (n, d) float64: of every 32nd term, one after the other; then c and c + 16, c and c + 8, ..."""
    n, d = terms.shape
    padded = np.zeros((n, -(-d // 32) * 32))
    padded[:, :d] = terms
    parts = np.cumsum(padded.reshape(n, padded.shape[1] // 32, 32), axis=1)[:, -1]
    while parts.shape[1] > 1:
        lower, upper = np.split(parts, 2, axis=1)
        parts = lower + upper
    return parts[:, 0]


# --- encoding.py


def encode(
    x: Array, mu: Array, plan: tuple[Array, Array, Array, int, np.float32], book: tuple[int, Array, Array, Array]
) -> tuple[Array, Array]:
    """Words and sums of r = x - mu: y = R r, codes of (sqrt(d) / |r|) y, then planes or, for 8 bits, bytes."""
    r = x - mu
    words, (norms2, dots, energies), _ = _encode_rows(r, plan, book)
    return words, np.stack([norms2, _in_parts(r.astype(np.float64) * mu), dots, energies])


def encode_residuals(
    x: Array,
    centres: Array,
    rotated: Array,
    plan: tuple[Array, Array, Array, int, np.float32],
    book: tuple[int, Array, Array, Array],
    coarse: Array,
) -> tuple[Array, Array]:
    """As encode, of r_i = x_i - c_i, c = centres; after the sums with c_i one more, <rotated_i, levels_i>.

    Where coarse has a level for each code, two more: <R r_i, coarse levels_i> and <rotated_i, coarse levels_i>.
    """
    r = x - centres
    words, (norms2, dots, energies), codes = _encode_rows(r, plan, book)
    others = rotated.astype(np.float64)
    sums = [norms2, _in_parts(r.astype(np.float64) * centres), dots, energies, _in_parts(book[3][codes] * others)]
    if len(coarse):
        sums += [_in_parts(coarse[codes] * vectors) for vectors in (rotate(r, *plan).astype(np.float64), others)]
    return words, np.stack(sums)


def _encode_rows(
    r: Array, plan: tuple[Array, Array, Array, int, np.float32], book: tuple[int, Array, Array, Array]
) -> tuple[Array, tuple[Array, Array, Array], Array]:
    """Words, then |r|^2, <R r, levels> and |levels|^2, and the codes (n, d)."""
    norms2 = _in_parts(r.astype(np.float64) ** 2)
    codes, dots, energies = quantize(rotate(r, *plan), _gains(norms2, r.shape[1]), *book[1:])
    return _packed(codes, book[0]), (norms2, dots, energies), codes


def centre_rows(x: Array, mu: Array) -> tuple[Array, Array]:
    """r = x - mu; |r_i|^2 and <mu, r_i>, (2, n)."""
    r = x - mu
    exact = r.astype(np.float64)
    return r, np.stack([_in_parts(exact**2), _in_parts(exact * mu)])


def encode_rotated(y: Array, d: int, limit: float, book: tuple[int, Array, Array, Array]) -> tuple[Array, Array]:
    """Words and sums |y|^2, <y, levels>, |levels|^2 of the first d coordinates, by gains of at most limit / max |y|."""
    rows = y[:, :d]
    norms2 = _in_order(rows.astype(np.float64) ** 2)
    gains = _gains(norms2, d)
    if limit:
        with np.errstate(divide="ignore"):
            gains = np.minimum(gains, np.float32(limit) / np.abs(rows).max(axis=1))
    codes, dots, energies = quantize(rows, gains, *book[1:])
    return _packed(codes, book[0]), np.stack([norms2, dots, energies])


def _gains(norms2: Array, d: int) -> Array:
    """sqrt(d) / |r|, 0 for a zero row."""
    gains = np.divide(np.sqrt(d), np.sqrt(norms2), out=np.zeros(len(norms2)), where=norms2 > 0)
    return np.minimum(gains, np.finfo(np.float32).max).astype(np.float32)


def _packed(codes: Array, bits: int) -> Array:
    """Rows of words: planes of one bit, or bytes."""
    width = 8 if bits == 8 else 1
    count = -(-codes.shape[1] * width // 32)
    words: Array = np.zeros((len(codes), count * bits // width), np.uint32)
    for p in range(bits // width):
        words = pack_plane(codes, bits - width * (p + 1), width, p * count, words)
    return words


# --- dense.py


def project(x: Array, matrix: Array) -> Array:
    """sum_t x_it matrix_gtl at column 16 g + l, in float32 and in the order of t."""
    sums = np.zeros((len(x), len(matrix) * 16), np.float32)
    for t in range(x.shape[1]):
        sums = sums + x[:, t, None] * matrix[:, t].reshape(1, -1)
    return sums


# --- moments.py


def _in_order(terms: Array) -> Array:
    """Sums of rows (n, d) float64, one term after the other."""
    return np.cumsum(terms, axis=1)[:, -1]



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


# --- clusters.py


def nearest_rows(
    products: Array,
    halves: Array,
    slacks: Array,
    x: Array,
    centroids: Array,
    first: int,
    best: Array,
    numbers: Array,
    distances: Array,
) -> tuple[Array, Array, Array]:
    """best, numbers and distances after all centroids first .. first + k - 1, k of finite halves, were offered to rows.

    Every distance is computed; which of them products and slacks spare is the kernel's affair.
    """
    offered = centroids[first : first + int(np.isfinite(halves).sum())].astype(np.float64)
    squares = ((x.astype(np.float64)[:, None] - offered) ** 2).sum(axis=2)
    found = squares.argmin(axis=1)
    least = squares[np.arange(len(x)), found]
    better = (least < distances) | ((least == distances) & (first + found < numbers))
    return (
        np.maximum(best, (products - halves).max(axis=1)),
        np.where(better, first + found, numbers).astype(np.int32),
        np.where(better, least, distances),
    )


def group_rows(numbers: Array, starts: Array) -> tuple[Array, Array]:
    """starts and order: order[starts[j] : starts[j + 1]] are the rows whose number is j, ascending."""
    order = [np.flatnonzero(numbers == j) for j in range(len(starts) - 1)]
    return np.cumsum([0, *map(len, order)]), np.concatenate(order)


def mean_rows(x: Array, starts: Array, order: Array, first: int, last: int, out: Array) -> Array:
    """out with the means of clusters first .. last - 1, summed in float64 row by row; an empty one's row is kept."""
    means = out.copy()
    for j in range(first, last):
        rows = x[order[starts[j] : starts[j + 1]]].astype(np.float64)
        if len(rows):
            means[j] = np.cumsum(rows, axis=0)[-1] / len(rows)
    return means


# --- second.py


def second_rows(
    products: tuple[Array, Array, Array, Array],
    frames: Array,
    slacks: Array,
    x: Array,
    centroids: Array,
    own: Array,
    first: int,
    weight: float,
    found: tuple[Array, Array, Array, Array],
) -> tuple[Array, Array, Array, Array]:
    """`found` after all lists first, first + 1, ... of finite squares were offered to rows.

    Every loss is computed; which of them products and slacks spare is the kernel's affair.
    """
    along, across, of, squares = products
    best, numbers, losses, distances = found
    p = along - frames[1][:, None]
    slopes = np.float32(2 * (1 + weight)) * frames[0][:, None]
    doubled = across[of] + across[of]
    keys = (slopes - np.float32(weight) * p) * p - ((squares + frames[2][:, None]) - doubled)
    count = int(np.isfinite(squares).sum())
    rows, offered = x.astype(np.float64)[:, None], centroids[first : first + count].astype(np.float64)
    away, residuals = rows - offered, rows - centroids[own].astype(np.float64)[:, None]
    apart, dots, energies = (away**2).sum(axis=2), (away * residuals).sum(axis=2), (residuals**2).sum(axis=2)
    every = apart + np.divide(weight * dots * dots, energies, out=np.zeros(apart.shape), where=energies > 0)
    every[np.arange(first, first + count) == own[:, None]] = np.inf
    least = every.argmin(axis=1)
    row = np.arange(len(x))
    loss = every[row, least]
    better = (loss < losses) | ((loss == losses) & (first + least < numbers) & np.isfinite(loss))
    return (
        np.maximum(best, keys.max(axis=1)),
        np.where(better, first + least, numbers).astype(np.int32),
        np.where(better, loss, losses),
        np.where(better, apart[row, least], distances),
    )


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


# --- ring.py


def unpack_ring(words: Array, bits: int, mix: Array, columns: int) -> Array:
    """The bytes (n, columns) uint8 of windows: 2^t bit(bits j + t) for t < 8, bits being numbered around the ring.

    With a mix (64,) windows have 12 bits: XOR that byte of it which the highest 6 number.
    """
    stream = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little")
    places = (bits * np.arange(columns)[:, None] + np.arange(12)) % stream.shape[1]
    windows = (stream[:, places].astype(np.int64) << np.arange(12)).sum(axis=2)
    return (windows & 255 ^ (mix[windows >> 6] if len(mix) else 0)).astype(np.uint8)


def scan_ring(
    isa: Any,
    panels: Array,
    count: int,
    book: Array,
    queries: tuple[Array, Array, Array],
    factors: tuple[Array, Array],
    names: tuple[Array, int],
    allowed: Array,
    best: tuple[Array, Array],
) -> tuple[Array, Array]:
    """Look up the windows' levels, multiply, score, select; whatever the instruction set."""
    quads, _, gains = queries
    rows = np.ascontiguousarray(panels.transpose(0, 2, 1)).reshape(-1, panels.shape[1])[:count]
    keys = _keys(_levels_of_rings(isa, rows, book, 4 * quads.shape[1]), _asked(quads), gains, factors)
    return select(keys, _ids(names, count), allowed, *best)


def _levels_of_rings(isa: Any, rows: Array, book: Array, columns: int) -> Array:
    """Levels (n, columns) int8: a book has 256 levels, 64 bytes that fold windows of 12 bits, and the bits."""
    mix = book[256:320].view(np.uint8) if isa.window == 12 else np.empty(0, np.uint8)
    levels: Array = book[:256][unpack_ring(rows, int(book[320]), mix, columns)]
    return levels


# --- viterbi.py


def encode_trellis(bits: int, y: Array, gains: Array, levels: Array) -> tuple[Array, Array]:
    """Viterbi's algorithm, row after row, and <y, levels> in the order of coordinates; the kernel has a tag of bits.

    The windows of a ring are its L bits from bits j on, of which there are as many as levels, (2^L,), so window s is
    followed by (s >> bits) + m 2^(L - bits).
    """
    length = _length(levels)
    n, d = y.shape
    count = -(-d * bits // 32)
    overlap = max(0, length - bits - (32 * count - d * bits))  # bits of the last window that are the first's too
    every, words, dots = np.arange(1 << length), np.zeros((n, count), np.uint32), np.zeros(n)
    for i in range(n):
        z = (gains[i] * y[i].astype(np.float64)).astype(np.float32)
        shared = _agreed(bits, overlap, z, levels)
        costs, steps = np.where(every >> (length - overlap) == shared, np.float32(0), np.float32(1e30)), []
        for j in reversed(range(d)):
            if j < d - 1:
                costs, chosen = _shifted(bits, costs)
                steps.append(chosen)
            costs = costs + (z[j] - levels) ** 2
        first = every[every % (1 << overlap) == shared]
        windows = [first[np.argmin(costs[first])]]
        for chosen in reversed(steps):
            windows.append(chosen[windows[-1]])
        for j, window in enumerate(windows):
            for t in range(length):
                at = (bits * j + t) % (32 * count)
                words[i, at // 32] |= np.uint32(int(window) >> t & 1) << np.uint32(at % 32)
        dots[i] = np.cumsum(y[i].astype(np.float64) * levels[windows].astype(np.float64))[-1]
    return words, dots


def _length(levels: Array) -> int:
    """The bits of a window."""
    return len(levels).bit_length() - 1


def _shifted(bits: int, costs: Array) -> tuple[Array, Array]:
    """Of each window, the least cost of those that may follow it, and which that is; of equals the one that is in the
    lower half, in the last of `bits` rounds of halves, then in the one before."""
    follows = np.arange(len(costs))
    for _ in range(bits):
        half = len(follows) // 2
        less = costs[follows[half:]] < costs[follows[:half]]
        follows = np.where(less, follows[half:], follows[:half])
    chosen = follows[np.arange(len(costs)) >> bits]
    return costs[chosen], chosen


def _agreed(bits: int, overlap: int, z: Array, levels: Array) -> int:
    """The bits that the last window and the first share: the best for 48 coordinates before and after the seam."""
    if not overlap:
        return 0
    every, length = np.arange(len(levels)), _length(levels)
    mirror = np.array([int(f"{window:0{length}b}"[::-1], 2) for window in every])
    after, before = (np.zeros(len(levels), np.float32) for _ in range(2))
    for number, value in enumerate(z[:48][::-1]):
        after = (_shifted(bits, after)[0] if number else after) + (value - levels) ** 2
    for number, value in enumerate(z[-48:]):  # of the ring read backwards, whose windows are mirrored
        before = (_shifted(bits, before)[0] if number else before) + (value - levels[mirror]) ** 2
    sides = [
        after[every % (1 << overlap) == shared].min() + before[mirror][every >> (length - overlap) == shared].min()
        for shared in range(1 << overlap)
    ]
    return int(np.argmin(sides))


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


def merge_lists(lists: Array, names: Array) -> tuple[Array, Array]:
    """Of lists (m, nq, k), the k first by (score descending, id ascending) a query."""
    scores, ids = sort_rows(np.concatenate(list(lists), axis=1), np.concatenate(list(names), axis=1))
    return scores[:, : lists.shape[2]], ids[:, : lists.shape[2]]


def settle(keys: Array, ids: Array, constants: Array, negate: bool) -> tuple[Array, Array]:
    """Ids and distances: constant + key or constant - key in float64, rounded, then sorted; empty places have id -1."""
    exact = constants[:, None] + (-1 if negate else 1) * keys.astype(np.float64)
    distances = exact.astype(np.float32)
    order = np.lexsort((ids, distances if negate else -distances))
    ids, distances = np.take_along_axis(ids, order, axis=1), np.take_along_axis(distances, order, axis=1)
    return np.where(ids == np.iinfo(np.int64).max, -1, ids), distances


def best_of(keys: Array, ids: Array, scores: Array, keep: int, k: int) -> tuple[Array, Array]:
    """Scores and ids (nq, k): of the `keep` first by (key descending, id), the k first by (score descending, id)."""
    kept = np.lexsort((ids, -keys), axis=1)[:, :keep]
    scores, ids = sort_rows(np.take_along_axis(scores, kept, axis=1), np.take_along_axis(ids, kept, axis=1))
    missing = ((0, 0), (0, max(0, k - ids.shape[1])))
    scores = np.pad(scores[:, :k], missing, constant_values=-np.inf)
    return scores, np.pad(ids[:, :k], missing, constant_values=np.iinfo(np.int64).max)


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


def dot_segment(
    isa: Any, panels: Array, first: int, count: int, table: Array, queries: tuple[Array, Array]
) -> Array:
    """`dot` of a segment's levels: its words taken out of the panels, unpacked, and looked up."""
    return dot(_segment_levels(isa.planes, panels, first, count, table), _asked(queries[0]))


def _segment_levels(bits: int, panels: Array, first: int, count: int, table: Array) -> Array:
    """Levels (16 p, dims) int8 of a segment of panels; of a ring `bits` are 8 more than those of a coordinate."""
    rows = np.ascontiguousarray(panels.transpose(0, 2, 1)).reshape(-1, panels.shape[1])
    if bits > 8:
        ring = np.ascontiguousarray(rows[:, first : first + count])
        found: Array = table[unpack_ring(ring, bits - 8, np.empty(0), 8 * -(-4 * count // (bits - 8)))]
        return found
    if bits == 8:
        codes = np.ascontiguousarray(rows[:, first : first + count]).view(np.uint8)
        return (codes.astype(np.int16) - 128).astype(np.int8)
    quads = np.zeros((len(rows), 8 * count), np.uint32)
    for plane in range(bits):
        quads = unpack_plane(rows, first + plane * count, count, 1, quads)
    levels: Array = table.reshape(-1)[quads.view(np.uint8) << max(4 - bits, 0)]
    return levels


# --- reaches.py


def ask_segments(levels: Array, sizes: Array, gains: Array, parts: Array, m: int) -> tuple[Array, Array, Array]:
    """The levels in their lines (held, m), four a word, zeros elsewhere; their sums; and the root of the sum of
    (gain |levels|)^2 of what comes after each segment, longer by 2^-19 for each segment, float32."""
    stages, held = gains.shape
    nq = len(levels) // int(sizes.sum())
    quads, sums, energies = np.zeros((held, 4 * m), np.int8), np.zeros((stages, held), np.int32), np.zeros(gains.shape)
    for s, own in enumerate(np.split(levels, np.cumsum(nq * sizes)[:-1])):
        rows = own.reshape(nq, sizes[s])
        quads[:nq, 4 * parts[s, 3] : 4 * parts[s, 3] + sizes[s]] = rows
        sums[s, :nq] = rows.sum(axis=1, dtype=np.int32)
        energies[s, :nq] = np.square(rows, dtype=np.float64).sum(axis=1)
    energies *= gains.astype(np.float64) * gains
    after = np.concatenate([np.cumsum(energies[::-1], axis=0)[::-1][1:], np.zeros((1, held))])
    reaches: Array = (np.sqrt(after) * (1 + stages * 2.0**-19)).astype(np.float32)
    return quads.view(np.int32), sums, reaches


# --- cascade.py


def scan_segments(
    isa: Any,
    alone: Any,
    panels: tuple[Array, Array],
    count: int,
    segments: tuple[int, int, Array],
    tables: Array,
    longest: Array,
    queries: tuple[Array, Array, Array, Array, Array],
    factors: tuple[Array, Array, Array],
    names: tuple[Array, int],
    allowed: Array,
    best: tuple[Array, Array],
    room: Any,
) -> tuple[Array, Array]:
    """The key of every vector, segment after segment, selected: nothing is left out."""
    _, whole, parts = segments
    _, asked, _, gains, _ = queries
    scales, shifts, _ = factors
    keys = np.tile(shifts[:count], (len(asked), 1))
    for s, (bits, first, words, line, lines) in enumerate(parts):
        levels = _segment_levels(bits, panels[int(s >= whole)], first, words, tables[s])[:count]
        quads = np.ascontiguousarray(asked[:, line : line + lines]).view(np.int8)
        factor = (scales[:, s].reshape(-1)[:count].astype(np.uint32) << np.uint32(16)).view(np.float32)
        keys = add_scores(dot(levels, quads), gains[s], factor, keys)
    return select(keys, _ids(names, count), allowed, *best)


# --- segment_planes.py


def stage_segments(
    asked: Array, sums: Array, gains: Array, parts: Array, planes: Array, estimates: Array
) -> tuple[Array, Array, Array]:
    """Tables (held, lines, 1, 2, 64) of all segments by planes, one after the other; steps and lifts (f, held): what
    a bound adds is the tables' offset, the base of every level, and the segment's part of the root of the sum of all
    segments' squared errors, (margin |q|)^2, each weighed by a row's usual scale there."""
    queries, exact, tables = asked.view(np.int8), gains.astype(np.float64), []
    steps, lifts = np.zeros((2, len(planes), len(asked)), np.float32)
    own = [queries[:, 4 * line : 4 * (line + lines)].astype(np.float64) for *_, line, lines in parts[: len(planes)]]
    errors = np.array([row[4] * np.sqrt((q * q).sum(axis=1)) for row, q in zip(estimates, own, strict=True)])
    errors *= exact[: len(planes)]
    spread = np.sqrt(_in_order(((errors * estimates[:, 5:]) ** 2).T))
    for s, count in enumerate(planes):
        if count < parts[s, 0]:
            entries, step, offset = nibble_tables(own[s].astype(np.int8), estimates[s, 1 : 1 + count], False)
            tables.append(entries)
            share = np.divide(errors[s] * estimates[s, 5], spread, out=np.zeros_like(spread), where=spread > 0)
            steps[s] = step * exact[s]
            lifts[s] = (offset + estimates[s, 0] * sums[s]) * exact[s] + errors[s] * share
    return np.concatenate(tables, axis=1)[:, :, None], steps, lifts


# --- alone.py


def scan_alone(
    alone: Any,
    panels: tuple[Array, Array],
    count: int,
    segments: tuple[int, int, Array],
    tables: Array,
    longest: Array,
    first: tuple[Array, Array, Array, Array],
    queries: tuple[Array, Array, Array, Array],
    factors: tuple[Array, Array, Array],
    names: tuple[Array, int],
    allowed: Array,
    best: tuple[Array, Array],
    room: Any,
) -> tuple[Array, Array]:
    """The key of every vector, segment after segment, or the least of it and of its bound where there are planes."""
    head, whole, parts = segments
    planes, nibbles, steps, lifts = first
    asked, _, gains, reaches = queries
    scales, tails = ((part.astype(np.uint32) << np.uint32(16)).view(np.float32) for part in (factors[0], factors[2]))
    keys = np.tile(factors[1][:count], (len(asked), 1))
    bounds, line, far = keys.copy(), 0, np.zeros(count, np.float32)
    for s, (bits, word, words, at, lines) in enumerate(parts):
        codes, factor = panels[int(s >= whole)], scales[:, s].reshape(-1)[:count]
        quads = np.ascontiguousarray(asked[:, at : at + lines]).view(np.int8)
        dots = dot(_segment_levels(bits, codes, word, words, tables[s])[:count], quads)
        keys = add_scores(dots, gains[s], factor, keys)
        if s >= len(planes):
            far += np.square(factor * longest[s]) + np.float32(1e-36)
        elif planes[s] < bits:
            own = np.ascontiguousarray(codes.transpose(0, 2, 1)).reshape(-1, codes.shape[1])
            read = np.ascontiguousarray(own[:count, word : word + planes[s] * words])
            picked = _nibble_sums(nibbles[:, line : line + read.shape[1]], read).astype(np.float32)
            bounds = bounds + (picked * steps[s][:, None] + lifts[s][:, None]) * factor
            line += read.shape[1]
        else:
            bounds = add_scores(dots, gains[s], factor, bounds)
    length = tails[:count] if len(planes) == head < len(parts) else np.sqrt(far)
    bounds = bounds + reaches[len(planes) - 1][:, None] * length
    ranks = np.minimum(keys, bounds) if (planes < parts[: len(planes), 0]).any() else keys
    return select(ranks, _ids(names, count), allowed, *best)


# --- lines.py


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
    return _levels_of_rows(isa, _rows(planes, count), words, table)


def _levels_of_rows(isa: Any, rows: Array, words: int, table: Array) -> Array:
    """Levels (n, dims) int8 of rows of words, plane after plane."""
    width = 8 if isa.planes == 8 else 1
    quads: Array = np.zeros((len(rows), words * 8 // width), np.uint32)
    for plane in range(isa.planes // width):
        quads = unpack_plane(rows, plane * words, words, width, quads)
    codes = quads.view(np.uint8).astype(np.int64)
    return (codes - 128).astype(np.int8) if width == 8 else table[codes * 2 ** (4 - isa.planes)]


def _rows(planes: tuple[Array, Array, Array], count: int) -> Array:
    """The words of `count` vectors, one a row, plane after plane."""
    lined = [plane.transpose(0, 2, 1).reshape(-1, plane.shape[1]) for plane in planes[:2] if plane.size]
    parts = [part[:count] for part in (*lined, planes[2]) if part.size]
    return np.ascontiguousarray(np.concatenate(parts, axis=1))


# --- factors.py


def expand_factors(words: Array, law: Array) -> Array:
    """Scales and shifts (2, n) float32 of words (n,) uint32."""
    across, own, core = law
    scales = (words >> np.uint32(14) << np.uint32(13)).view(np.float32)
    t = ((words & 0x3FFF).astype(np.int32) ^ 0x2000) - 0x2000
    squares = (t * np.abs(t)).astype(np.float32)
    out: Array = np.stack([scales, scales * ((across + own * scales) * squares + core * scales)])
    return out


def _segment_ratios(step: np.float32, t: Array) -> Array:
    """(n,) float32 of levels t (n,)."""
    size = np.abs(t.astype(np.float32))
    far = size * np.float32(1 / 84)
    for _ in range(4):
        far = far * far
    above = np.float32(1) + step * size + far
    ratios: Array = np.where(t >= 0, above, np.float32(1) / above)
    return ratios


def expand_segment_factors(halves: Array, energies: Array, law: Array) -> tuple[Array, Array]:
    """Scales (p, s, 16) uint16 and shifts (16 p,) float32 of panels (p, h, 16) uint16."""
    rows = np.ascontiguousarray(halves.transpose(0, 2, 1))
    bits = np.unpackbits(rows.view(np.uint8), axis=2, bitorder="little")
    scales = np.zeros((len(rows), 16, len(energies)), np.uint16)
    for s in range(len(energies)):
        for place in range(12):
            scales[:, :, s] |= bits[:, :, 8 + 12 * s + place].astype(np.uint16) << np.uint16(3 + place)
    energy = np.zeros(scales.shape[:2], np.float32)
    for s, own in enumerate(energies):
        scale = (scales[:, :, s].astype(np.uint32) << np.uint32(16)).view(np.float32)
        energy = energy + own * (scale * scale)
    step, base, factor = law
    shifts = base - factor * (energy * _segment_ratios(step, (rows[:, :, 0] & 0xFF).astype(np.int8)))
    return scales.transpose(0, 2, 1), shifts.reshape(-1)


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


# --- rescore.py


def rescore_rows(
    kind: Array, blocks: Array, scales: Array, shift: int, metric: int, positions: Array, queries: Array
) -> Array:
    """|x - q|^2, <q, x> or <q, x> / (|q| |x|) of stored rows x in float32, summed in float64; metric 0, 1 or 2."""
    d = queries.shape[1]
    out = np.full(positions.shape, np.inf if metric == 0 else -np.inf)
    for q, i in np.argwhere(positions >= 0):
        block, row = divmod(int(positions[q, i]), 2**shift)
        x = _memory(blocks[block] + row * d * kind.itemsize, d, kind.dtype)
        if kind.dtype == np.int8:
            x = x * _memory(scales[block] + row * 4, 1, np.dtype(np.float32))
        elif kind.dtype == np.uint16:
            x = x.view(np.float16).astype(np.float32)
        if metric == 0:
            out[q, i] = ((x - queries[q]).astype(np.float64) ** 2).sum()
            continue
        x, asked = x.astype(np.float64), queries[q].astype(np.float64)
        dot, lengths = (x * asked).sum(), np.sqrt((x * x).sum() * (asked * asked).sum())
        out[q, i] = dot if metric == 1 else dot / lengths if lengths > 0 else 0
    return out


def _memory(address: int, count: int, dtype: np.dtype[Any]) -> Array:
    """What is at an address."""
    room: Any = (np.ctypeslib.as_ctypes_type(np.uint8) * (count * dtype.itemsize)).from_address(int(address))
    return np.frombuffer(room, dtype)


# --- probe.py
#
# store = (blocks, page_bits, width, id_word): page p is width lines of 16 words, at page p % 2^page_bits of block
# p >> page_bits, an address. found = (scores, places, held, floors), of which floors mean nothing here.


def list_pages(chains: tuple[Array, Array], lists: Array) -> tuple[Array, Array]:
    """The pages of each list, one list after the other, and where each list's end."""
    heads, following = chains
    pages, ends = [], []
    for number in lists:
        page = int(heads[number])
        while page >= 0:
            pages.append(page)
            page = int(following[page])
        ends.append(len(pages))
    return np.array(pages, np.int32), np.array(ends, np.int64)


def scan_lists(
    isa: Any,
    alone: Any,
    store: tuple[Array, int, int, int],
    code: tuple[int, Array, int, int, int],
    chains: tuple[Array, Array],
    jobs: tuple[Array, Array, Array, Array, Array],
    queries: tuple[Array, Array, Array],
    allowed: Array,
    found: tuple[Array, Array, Array, Array],
    keep_count: int,
) -> tuple[Array, Array]:
    """Scores (nq, keep) and places (nq, keep) of the best of what was held and of the rows of the lists' pages."""
    lists, starts, members, offsets, sizes = jobs
    offered = [[pair] for pair in _held_candidates(found)]
    for i, number in enumerate(lists):
        pages, _ = list_pages(chains, lists[i : i + 1])
        places = (16 * pages.astype(np.int64)[:, None] + np.arange(16)).ravel()
        spare = -int(sizes[number]) % 16
        places = np.delete(places, slice(16 - spare, 16) if spare else slice(0))  # of the first page
        if allowed.size:
            places = places[allowed[places] != 0]
        mine = members[starts[i] : starts[i + 1]]
        keys = _keys_at(isa, store, code, queries, mine, places)
        for q, row in zip(mine, keys + offsets[starts[i] : starts[i + 1], None], strict=True):
            offered[q].append((row[~np.isnan(row)], places[~np.isnan(row)]))
    every = [tuple(np.concatenate(parts) for parts in zip(*pairs, strict=True)) for pairs in offered]
    return _best_candidates(every, store, keep_count)


def _keys_at(isa: Any, store: Any, code: Any, queries: tuple[Array, Array, Array], mine: Array, places: Array) -> Array:
    """Keys (queries, places) without offsets of some queries and of the rows at places."""
    words, table, scale_word, shift_word, code_word, law = code
    quads, _, gains = queries
    rows = _rows_at(store, places)
    own = np.ascontiguousarray(rows[:, code_word:])
    if isa.window:
        levels = _levels_of_rings(isa, np.ascontiguousarray(own[:, :words]), table, 4 * quads.shape[1])
    else:
        levels = _levels_of_rows(isa, own, words, table)
    asked = np.ascontiguousarray(quads[mine]).view(np.int8)[:, : levels.shape[1]]
    scales, shifts = (np.ascontiguousarray(rows[:, word]).view(np.float32) for word in (scale_word, shift_word))
    if scale_word == shift_word:
        scales, shifts = expand_factors(rows[:, scale_word], law)
    return add_scores(dot(levels, asked), gains[mine], scales, np.tile(shifts, (len(mine), 1)))


def _held_candidates(found: tuple[Array, Array, Array, Array]) -> list[tuple[Array, Array]]:
    """Scores and places that each query holds."""
    scores, places, held, _ = found
    room = (len(scores) - 16) // len(held)
    return [(scores[q * room :][:count], places[q * room :][:count]) for q, count in enumerate(held)]


def _best_candidates(every: Any, store: tuple[Array, int, int, int], keep: int) -> tuple[Array, Array]:
    """Scores and places (nq, keep) of the first of each query's by (score descending, id ascending).

    What is missing is NaN and -1.
    """
    best = np.full((len(every), keep), np.nan, np.float32), np.full((len(every), keep), -1, np.int64)
    for q, (scores, places) in enumerate(every):
        order = np.lexsort((_ids_at(store, places), -scores))[:keep]
        best[0][q, : len(order)], best[1][q, : len(order)] = scores[order], places[order]
    return best


def _rows_at(store: tuple[Array, int, int, int], places: Array) -> Array:
    """Rows (n, width) uint32 at places."""
    blocks, page_bits, width, _ = store
    rows = np.zeros((len(places), width), np.uint32)
    for row, place in zip(rows, places, strict=True):
        block, page = divmod(int(place) // 16, 2**page_bits)
        lines = _memory(blocks[block] + page * width * 64, 16 * width, np.dtype(np.uint32)).reshape(width, 16)
        row[:] = lines[:, int(place) % 16]
    return rows


def _ids_at(store: tuple[Array, int, int, int], places: Array) -> Array:
    """Ids of one word or two, the lower one first."""
    words = _rows_at(store, places)[:, store[3] : store[3] + 2].astype(np.int64)
    return words @ 2 ** (32 * np.arange(words.shape[1]))


# --- candidates.py


def candidate_room(keep: int) -> int:
    """Twice as many as are kept and 64 more, a multiple of 16."""
    return -(-(2 * keep + 64) // 16) * 16


# --- search.py


def round_queries(y: Array, m: int) -> tuple[Array, Array, Array]:
    """Quads (nq, m) int32 of rint(y_qj * (127 / peak_q)), zeros beyond d; their sums; peak_q = max_j |y_qj|."""
    nq, d = y.shape
    peaks = np.abs(y).max(axis=1)
    gains = np.divide(127, peaks, out=np.zeros(nq), where=peaks > 0, dtype=np.float64)
    levels = np.zeros((nq, 4 * m), np.int8)
    levels[:, :d] = np.rint(y * gains[:, None])
    return levels.view(np.int32), levels.sum(axis=1, dtype=np.int32), peaks


def nearest_lists(
    isa: Any,
    alone: Any,
    coarse: tuple[Any, Any, Any, Array, Any, int, Array],
    queries: tuple[Array, Array, Array],
    nprobe: int,
    gap: float,
) -> tuple[Array, Array]:
    """Lists (nq, nprobe) of the largest scores, ties by number, but none more than `gap` below the first; counts.

    Sorted by number, -1 for none. Only places of the groups of the largest scores count, looks[ceil(log2(nprobe))] of
    them, ties by number: group g has the places from 16 group_pages g on. Ids are numbers. Where all groups count,
    their scores are not asked for.
    """
    store, code, chains, sizes, groups, group_pages, looks = coarse
    nq = len(queries[0])
    look, made = int(looks[int(np.ceil(np.log2(nprobe)))]), -(-int(sizes[0]) // (16 * group_pages))
    nearest = np.tile(np.arange(made), (nq, 1)) if look >= made else _best_of_one_list(isa, groups, queries, look)[1]
    every_score, every_place = _best_of_one_list(isa, (store, code, chains, sizes), queries, int(sizes[0]))
    lists, counts = np.full((nq, nprobe), -1, np.int32), np.empty(nq, np.int64)
    for q in range(nq):
        seen = np.isin(every_place[q] // (16 * group_pages), nearest[q]) & (every_place[q] >= 0)
        scores, places = every_score[q, seen][:nprobe], every_place[q, seen][:nprobe]
        near = scores >= scores[0] - np.float32(gap)
        counts[q] = near.sum()
        lists[q, : counts[q]] = np.sort(_ids_at(store, places[near]))
    return lists, counts


def _best_of_one_list(
    isa: Any, side: tuple[Any, Any, Any, Array], queries: tuple[Array, Array, Array], keep: int
) -> tuple[Array, Array]:
    """Scores and places (nq, keep) of the best rows of a side's first list."""
    store, code, chains, sizes = side
    nq = len(queries[0])
    jobs = np.zeros(1, np.int32), np.array([0, nq]), np.arange(nq), np.zeros(nq, np.float32), sizes
    none = np.empty(16, np.float32), np.empty(16, np.int32), np.zeros(nq, np.int64), np.zeros(nq, np.float32)
    return scan_lists(isa, isa, store, code, chains, jobs, queries, np.empty(0, np.uint8), none, keep)


def group_by_list(
    metric: int, centres: Array, constants: Array, queries: Array, picked: tuple[Array, Array]
) -> tuple[Array, Array, Array, Array]:
    """Lists by number (of one query in its order), where each begins among the pairs, and the pairs' queries and
    offsets: -|q - c|^2 (metric 0) or <q, c> + constant_l, rounded once."""
    probes, counts = picked
    pairs = [(int(probes[q, i]), q) for q in range(len(queries)) for i in range(counts[q])]
    if len(queries) > 1:
        pairs.sort()
    lists = list(dict.fromkeys(number for number, _ in pairs))
    starts = [0, *np.cumsum([sum(number == other for number, _ in pairs) for other in lists], dtype=np.int64)]
    c = centres[[number for number, _ in pairs]].astype(np.float32)
    asked = queries[[q for _, q in pairs]]
    if metric == 0:
        offsets = -((c - asked).astype(np.float64) ** 2).sum(axis=1)
    else:
        dots = (c.astype(np.float64) * asked.astype(np.float64)).sum(axis=1)
        offsets = dots + constants[[number for number, _ in pairs]]
    members = np.array([q for _, q in pairs], np.int32)
    return np.array(lists, np.int32), np.array(starts), members, offsets.astype(np.float32)


def join_jobs(parts: list[tuple[Array, Array, Array, Array]], counts: list[int]) -> tuple[Array, Array, Array, Array]:
    """Jobs as of group_by_list of the queries of all parts, one part after another; counts: their queries."""
    pairs = [
        (int(number), int(first + members[pair]), offsets[pair])
        for first, (lists, starts, members, offsets) in zip(np.cumsum([0, *counts[:-1]]), parts, strict=True)
        for number, begin, end in zip(lists, starts[:-1], starts[1:], strict=True)
        for pair in range(begin, end)
    ]
    pairs.sort(key=lambda pair: pair[:2])
    numbers, members, offsets = (np.array(column) for column in zip(*pairs, strict=True))
    lists, starts = np.unique(numbers, return_index=True)
    return lists.astype(np.int32), np.append(starts, len(pairs)), members.astype(np.int32), offsets.astype(np.float32)


def best_by_codes(
    store: tuple[Array, int, int, int], found: Any, constants: Array, sign: np.float32, k: int
) -> tuple[Array, Array]:
    """Distances (nq, k), sign * (score + constant_q), and ids (nq, k) of the k best by (score, id), sorted anew."""
    scores, places = _best_candidates(_held_candidates(found), store, k)
    exact = (scores.astype(np.float64) + constants[:, None]).astype(np.float32)
    return _nearest(exact, places, store, sign, k)


def best_by_originals(
    kind: Array,
    originals: tuple[Array, Array, int],
    metric: int,
    store: tuple[Array, int, int, int],
    found: Any,
    keep_count: int,
    queries: Array,
    sign: np.float32,
    k: int,
) -> tuple[Array, Array]:
    """Distances and ids (nq, k) of the first by (rescore_rows, id) of the keep_count best by (score, id)."""
    _, places = _best_candidates(_held_candidates(found), store, keep_count)
    exact = sign * rescore_rows(kind, *originals, metric, places, queries)
    return _nearest(exact.astype(np.float32), places, store, sign, k)


def _nearest(scores: Array, places: Array, store: Any, sign: np.float32, k: int) -> tuple[Array, Array]:
    """sign * scores and ids of the first k by (score descending, id ascending); -1 at sign * -inf where place is."""
    distances = np.full((len(scores), k), sign * np.float32(-np.inf), np.float32)
    ids = np.full((len(scores), k), -1, np.int64)
    for q in range(len(scores)):
        there = places[q] >= 0
        names = _ids_at(store, places[q, there])
        order = np.lexsort((names, -scores[q, there]))[:k]
        distances[q, : len(order)], ids[q, : len(order)] = sign * scores[q, there][order], names[order]
    return distances, ids


# --- prefix.py


def whole_keys(
    isa: Any,
    store: tuple[Array, int, int, int],
    code: tuple[int, Array, int, int, int],
    owners: Array,
    centroids: tuple[int, Array, Array],
    queries: tuple[Array, Array, Array, Array],
    found: Any,
    keep_count: int,
) -> tuple[Array, Array]:
    """Keys (nq, keep) of the whole codes of the keep_count best by (score, id), and places; NaN and -1 for none."""
    metric, centres, constants = centroids
    _, places = _best_candidates(_held_candidates(found), store, keep_count)
    keys = np.full(places.shape, np.nan, np.float32)
    for q, row in enumerate(places):
        there = row[row >= 0]
        lists = owners[there // 16]
        picked = lists[None], np.array([len(lists)])
        offsets = group_by_list(metric, centres, constants, queries[0][q : q + 1], picked)[3]
        keys[q, : len(there)] = _keys_at(isa, store, code, queries[1:], np.array([q]), there)[0] + offsets
    return keys, np.where(np.isnan(keys), -1, places)


# --- within.py


def within(store: Any, scores: Array, places: Array, constants: Array, sign: np.float32, radius: float) -> Any:
    """Of scores and places (nq, m) of all rows, -1 for none: lims, distances and ids of those within the radius."""
    exact = (scores.astype(np.float64) + constants[:, None]).astype(np.float32)
    distances, ids = _nearest(exact, places, store, sign, places.shape[1])
    hits = (ids >= 0) & (sign * distances >= np.float64(sign) * radius)
    return np.cumsum([0, *hits.sum(axis=1)]), distances[hits], ids[hits]


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
