"""Codes and queries as the scans want them, laid out here in plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from polarindex.codes import LineLayout
from polarindex.kernels.limits import EMPTY_ID


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
