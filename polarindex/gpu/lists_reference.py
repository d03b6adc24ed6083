"""What the device computes of lists, in NumPy: pages, which lists, work items, bounds from maxima, the best rows, sums.

Convention: as in reference.py: slow, obviously right, the tests' oracle and never a fallback. Keys are those of
            kernels.reference.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polarindex.codes import PANEL
from polarindex.gpu import reference
from polarindex.gpu.layout import TILE, Layout

Array = NDArray[Any]


# --- pack.cu


def pages(layout: Layout, codes: Array) -> Array:
    """(pages, bytes) uint8 of codes (n, dims), at 8 bits of levels: the quarters of reference.pack's tiles."""
    tiles = reference.pack(layout, codes).reshape(-1, layout.chunks, layout.chunk_bytes)
    parts = np.split(tiles, [2048], axis=2)  # at 3 bits the third ones follow the others
    quarters = [part.reshape(len(tiles), layout.chunks, TILE // PANEL, -1) for part in parts]
    return np.concatenate(quarters, axis=3).transpose(0, 2, 1, 3).reshape(len(tiles) * TILE // PANEL, -1)


# --- lists.cuh


def limit_of(keys: Array, numbers: Array, wanted: int) -> tuple[int, int]:
    """The limit (key, number) of the `wanted` best of keys (n,) uint32, ties to the smaller number, bit by bit."""
    found, reached, above = 0, len(keys), 0
    for bit in range(31, -1, -1):
        if reached == wanted:
            return found, 2**31 - 1
        tried = found | 1 << bit
        count = int((keys >= tried).sum())
        if count >= wanted:
            found, reached = tried, count
        else:
            above = count
    if reached == wanted:
        return found, 2**31 - 1
    most = 0
    for bit in range(30, -1, -1):
        tried = most | 1 << bit
        if ((keys == found) & (numbers < tried)).sum() < wanted - above:
            most = tried
    return found, most


def within(keys: Array, numbers: Array, limit: tuple[int, int]) -> Array:
    return np.asarray((keys > limit[0]) | ((keys == limit[0]) & (numbers <= limit[1])))


def lanes_sum(a: Array, b: Array) -> np.float64:
    """sum a_j b_j of float32 rows (d,), exact products, in the order of kernels/rescore.py."""
    d = len(a)
    sums = np.zeros((2, PANEL))
    products = a.astype(np.float64) * b.astype(np.float64)
    for block in range(d // PANEL):
        sums[block % 2] += products[PANEL * block : PANEL * (block + 1)]
    rest = d % PANEL
    if rest:
        sums[d // PANEL % 2, PANEL - rest :] += products[d - rest :]
    lanes = sums[0] + sums[1]
    for half in (8, 4, 2, 1):
        lanes = lanes[:half] + lanes[half : 2 * half]
    return np.float64(lanes[0])


# --- lists_probe.cu


def choose_lists(
    scores: Array, group_scores: Array, order: Array, size: int, look: int, nprobe: int, gap: float
) -> Array:
    """The lists of one query: scores (nlist,) in the order of groups, group_scores (groups,)."""
    keys, everyone = reference.ordered(scores), np.arange(len(group_scores))
    if look < len(group_scores):
        group_keys = reference.ordered(group_scores)
        seen = within(group_keys, everyone, limit_of(group_keys, everyone, look))
        keys = np.where(seen[np.arange(len(order)) // size], keys, 0).astype(np.uint32)
    floor = reference.unordered(keys.max(keepdims=True))[0] - np.float32(gap)
    chosen = within(keys, order, limit_of(keys, order, nprobe)) & (reference.unordered(keys) >= floor)
    return np.asarray(order[chosen])


class Item(NamedTuple):
    """Pairs begin .. begin + pairs - 1, of the list of a number, against its pages first .. last - 1."""

    number: int
    begin: int
    pairs: int
    first: int
    last: int


def items(tally: Array, sizes: Array, queries: int, item_pages: int) -> Iterator[Item]:
    """The work of lists with `tally` queries and `sizes` pages each, as blocks find it from an item's number."""
    parts = -(-sizes // item_pages)
    starts = np.concatenate([[0], np.cumsum(-(-tally // queries) * parts)])
    pairs = np.concatenate([[0], np.cumsum(tally)])
    for item in range(starts[-1]):
        low, high = 0, len(sizes)
        while high - low > 1:
            step = -(-(high - low) // 32)
            tried = low + np.arange(32) * step
            low += (int(((tried < high) & (starts[np.minimum(tried, len(sizes))] <= item)).sum()) - 1) * step
            high = min(high, low + step)
        number = item - starts[low]
        begin = int(pairs[low] + number // parts[low] * queries)
        first = int(number % parts[low] * item_pages)
        yield Item(low, begin, min(queries, int(pairs[low + 1]) - begin), first, min(first + item_pages, sizes[low]))


# --- lists_best.cu


def best_rows(keys: Array, ids: Array, keep: int, room: int, warps: int, arrival: Array) -> tuple[Array, Array, int]:
    """The keep best keys and ids of pages (p, 16), and how often what was held was cut.

    keys : -inf where no row may be returned
    arrival : the order in which pages are read
    """
    maxima = keys.max(axis=1, initial=-np.inf)
    tau = float(reference.LOWEST)
    if len(maxima) >= keep:
        order = reference.ordered(maxima)
        limit = limit_of(order, np.arange(len(order)), keep)[0]
        tau = max(tau, float(reference.unordered(np.array([max(limit, 0x00800000)], np.uint32))[0]))
    held: list[tuple[float, int]] = []
    cuts = 0
    queue = [page for page in arrival if maxima[page] >= tau]
    while queue:
        if len(held) > room - PANEL * warps:
            held, cuts = _sorted(held)[:keep], cuts + 1
            tau = max(tau, held[-1][0]) if len(held) == keep else tau
        rounds = (room - len(held)) // (PANEL * warps) * warps
        for page in queue[:rounds]:
            held += [(key, int(number)) for key, number in zip(keys[page], ids[page], strict=True) if key >= tau]
        if len(held) > room:
            raise AssertionError(f"{len(held)} candidates where there is room for {room}")
        queue = queue[rounds:]
    held = _sorted(held)[:keep]
    return np.array([key for key, _ in held], np.float32), np.array([number for _, number in held], np.int64), cuts


def _sorted(held: list[tuple[float, int]]) -> list[tuple[float, int]]:
    return sorted(held, key=lambda entry: (-entry[0], entry[1]))
