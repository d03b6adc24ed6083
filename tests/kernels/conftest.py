"""Codes and queries as the scans want them, laid out here in plain NumPy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import polarindex
from polarindex.codes import LineLayout, RingLayout, upper_halves, upper_halves_above
from polarindex.kernels import reference
from polarindex.kernels.limits import EMPTY_ID, LEVELS, RING


@pytest.fixture(scope="session")
def told_without_simd():
    """A module's name -> what its `told` writes in a process of a machine without SIMD."""

    def told(module):
        program = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import {module} as t; t.told()"
        plain = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "POLARINDEX_ISA": "generic"}
        places = {"PYTHONPATH": str(Path(polarindex.__file__).parents[1])}
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, env=os.environ | plain | places, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return told


@pytest.fixture(scope="session")
def lay_planes():
    """(codes (n, dims), bits) -> the lines of two planes and the rows of the others, rubbish in rows beyond n."""

    def lines(rows):
        return np.ascontiguousarray(rows.reshape(-1, 16, rows.shape[1]).transpose(0, 2, 1))

    def lay(codes, bits):
        layout = LineLayout(codes.shape[1], bits)
        n, words = len(codes), layout.planes[0].words
        rows = np.random.default_rng(n).integers(0, 2**32, (-(-n // 16) * 16, layout.words), dtype=np.uint32)
        rows[:n] = layout.pack(codes)
        second = lines(rows[:, words : 2 * words]) if bits in (2, 3, 4) else np.empty((0, 0, 16), np.uint32)
        rest = np.ascontiguousarray(rows[:, 2 * words :]) if bits in (3, 4) else np.empty((0, 0), np.uint32)
        return lines(rows[:, :words]), second, rest

    return lay


@pytest.fixture(scope="session")
def padded_factors():
    """Scales and shifts (n,) with NaN up to whole panels."""

    def pad(*parts):
        beyond = np.full(-len(parts[0]) % 16, np.nan, np.float32)
        return tuple(np.concatenate([part, beyond]) for part in parts)

    return pad


@pytest.fixture(scope="session")
def empty_heaps():
    """(queries, k) -> keys and ids of heaps that hold nothing."""

    def empty(held, k):
        return np.full((held, k), -np.inf, np.float32), np.full((held, k), EMPTY_ID, np.int64)

    return empty


@pytest.fixture(scope="session")
def uneven_table():
    """(bits) -> the 16 levels a scan looks up: uneven levels of `bits` bits, 16 >> bits apart, extremes among them."""

    def table_of(bits):
        table = np.zeros(16, np.int8)
        if bits < 8:
            levels = np.random.default_rng(bits).permutation(np.arange(-126, 127))[: 2**bits]
            levels[0], levels[-1] = -127, 127
            table[:: 16 >> bits] = levels
        return table

    return table_of


class Paged(NamedTuple):
    """Lists of rows as pages, and where their rows are."""

    store: tuple[Any, ...]
    code: tuple[Any, ...]
    chains: tuple[Any, ...]
    sizes: Any
    places: list[Any]  # of each list's rows, in the order given
    pages: int
    blocks: list[Any]  # of which the store has addresses


@pytest.fixture(scope="session")
def lay_pages():
    """(bits, table, lists of (codes, scales, shifts, ids)) -> Paged: pages in any order, some of them free, and in
    lanes without a row what would be the best of all. With `in_order`, pages too: row i of the only list is at place i.
    A list may have more columns, two of float32 (n, 2), the scale and shift of the first planes, before the code.
    Codes of a ring are its words (n, w) uint32, with a book for the table.
    """

    def lay(bits, table, lists, page_bits=1, wide=False, seed=0, in_order=False):
        rng = np.random.default_rng(seed)
        rings = lists[0][0].dtype == np.uint32
        layout = LineLayout(lists[0][0].shape[1], 32 if rings else bits)
        plane = layout.dims if rings else layout.planes[0].words
        head = 2 * (len(lists[0]) > 4)
        words = head + (plane if rings else layout.words)
        width = words + 3 + wide
        wanted = [-(-len(ids) // 16) for _, _, _, ids, *_ in lists]
        pages = sum(wanted) + 3
        numbers = np.arange(pages) if in_order else rng.permutation(pages)
        blocks = [np.empty((2**page_bits, width, 16), np.uint32) for _ in range(-(-pages // 2**page_bits))]
        for block in blocks:
            block[:] = rng.integers(0, 2**32, block.shape, dtype=np.uint32)
            for first in {0, words} if head else {words}:
                block[:, first : first + 2] = np.array([0, 1e30], np.float32).view(np.uint32)[:, None]
        heads, following = np.full(len(lists), -1, np.int32), np.full(pages, -1, np.int32)
        sizes, places, taken = np.array([len(ids) for _, _, _, ids, *_ in lists]), [], 0
        for number, (codes, scales, shifts, ids, *firsts) in enumerate(lists):
            chain = numbers[taken : taken + wanted[number]]
            taken += wanted[number]
            heads[number] = chain[0] if len(chain) else -1
            following[chain[:-1]] = chain[1:]
            lanes = (16 * chain[:, None] + np.arange(16)).ravel()
            spare = -len(ids) % 16
            places.append(np.delete(lanes, slice(16 - spare, 16) if spare else slice(0)))
            factors = np.stack([scales, shifts], axis=1).astype(np.float32).view(np.uint32)
            names = np.stack([ids & 0xFFFFFFFF, ids >> 32], axis=1).astype(np.uint32)[:, : 1 + wide]
            before = [first.astype(np.float32).view(np.uint32) for first in firsts]
            rows = np.concatenate([*before, codes if rings else layout.pack(codes), factors, names], axis=1)
            for place, row in zip(places[-1], rows, strict=True):
                page, lane = divmod(place, 16)
                blocks[page >> page_bits][page % 2**page_bits, :, lane] = row
        store = np.array([block.ctypes.data for block in blocks]), page_bits, width, words + 2
        code = plane, table, words, words + 1, head, np.zeros(3, np.float32)
        return Paged(store, code, (heads, following), sizes, places, pages, blocks)

    return lay


def _panels_of(rows):
    """Rows of words as panels, and rubbish beyond them."""
    padded = np.random.default_rng(1).integers(0, 2**32, (-(-len(rows) // 16) * 16, rows.shape[1]), np.uint32)
    padded[: len(rows)] = rows
    return np.ascontiguousarray(padded.reshape(-1, 16, rows.shape[1]).transpose(0, 2, 1))


def _scalar_codes(rng, n, dims, bits, table):
    """Rows of words of codes each for itself, the words of a plane, coordinates, and the levels; table is filled."""
    layout = LineLayout(dims, bits)
    codes = rng.integers(1 if bits == 8 else 0, 2**bits, (n, dims), dtype=np.uint8)
    if bits < 8:
        levels = np.sort(rng.permutation(np.arange(-127, 128))[: 2**bits]).astype(np.int8)
        table[:128][: max(16, 2**bits) : max(1, 16 >> bits)] = levels
        own = levels[codes].astype(np.float64)
    else:
        own = codes.astype(np.float64) - 128
    return layout.pack(codes), layout.planes[0].words, layout.padded, own


@pytest.fixture(scope="session")
def segment_scene():
    """Codes in segments of random levels, and queries, as kernels.scan_segments wants them."""

    def scene(widths, n, nq, k, head, seed, rows, decay=8.0):
        """Arguments from panels on: rows whose segments are each `decay` times shorter than the last."""
        rng = np.random.default_rng(seed)
        stages, parts, words, longest, line = len(widths), [], [], [], 0
        tables = np.zeros((stages, LEVELS), np.int8)
        scales, tails, shifts = [], np.zeros(n), rng.standard_normal(n).astype(np.float32)
        whole, levels, first = max(1, stages - 2), [], 0
        for s, (dims, bits) in enumerate(widths):
            if bits > RING:
                ring = RingLayout(dims, bits - RING)
                packed, plane_words, padded = rng.integers(0, 2**32, (n, ring.words), np.uint32), ring.words, ring.begun
                tables[s] = rng.integers(-127, 128, LEVELS)
                own = tables[s][ring.unpack(packed)][:, :dims].astype(np.float64)
            else:
                packed, plane_words, padded, own = _scalar_codes(rng, n, dims, bits, tables[s])
            first = 0 if s == whole else first
            parts.append((bits, first, plane_words, line, padded // 4))
            first, line = first + packed.shape[1], line + padded // 4
            words.append(packed)
            longest.append(np.sqrt((own**2).sum(axis=1).max()) * 1.001)
            halves = upper_halves(rng.random(n).astype(np.float32) * np.float32(decay**-s))
            exact = (halves.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
            scales.append(halves)
            tails += (exact**2 * (own**2).sum(axis=1)) if s >= head else 0
            levels.append((rng.standard_normal((nq, dims)) * 40).clip(-127, 127).astype(np.int8))
        tiles = -(-nq // rows)
        held = tiles * rows
        gains = np.zeros((stages, held), np.float32)
        gains[:, :nq] = (rng.random(nq) * 1e-3).astype(np.float32)
        asked, sums, reaches = reference.ask_segments(
            np.concatenate([own.reshape(-1) for own in levels]),
            np.array([dims for dims, _ in widths]),
            gains,
            np.array(parts),
            line,
        )
        quads = np.ascontiguousarray(asked.reshape(tiles, rows, line).transpose(0, 2, 1))
        lanes = np.full((-(-n // 16) * 16, stages), 0x7FC0, np.uint16)  # NaN
        lanes[:n] = np.stack(scales, axis=1)
        beyond = np.full(len(lanes) - n, np.nan, np.float32)
        factors = (
            np.ascontiguousarray(lanes.reshape(-1, 16, stages).transpose(0, 2, 1)),
            np.concatenate([shifts, beyond]),
            np.concatenate([upper_halves_above(np.sqrt(tails)), np.full(len(beyond), 0x7FC0, np.uint16)]),
        )
        both = np.concatenate(words[:whole], axis=1), np.concatenate(words[whole:], axis=1)
        keys, ids = np.full((held, k), -np.inf, np.float32), np.full((held, k), 2**63 - 1)
        keys[nq:] = np.inf
        return {
            "panels": (_panels_of(both[0]), _panels_of(both[1])),
            "count": n,
            "segments": (head, whole, np.array(parts)),
            "tables": tables,
            "longest": np.array(longest, np.float32),
            "queries": (quads, asked, sums, gains, reaches),
            "factors": factors,
            "names": (np.empty(0, np.int64), 7),
            "allowed": np.empty(0, np.uint8),
            "best": (keys, ids),
        }

    return scene
