"""Scores of stored rows, wherever they lie."""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import os
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from polarindex import kernels
from polarindex.kernels import reference
from polarindex.kernels.limits import COSINE, INNER_PRODUCT, L2
from polarindex.kernels.rescore import AHEAD, AHEAD_BYTES, NEAR

DIMS = [*range(1, 41), 100, 128, 784]
METRICS = {"l2": L2, "ip": INNER_PRODUCT, "cosine": COSINE}
KINDS = ["float32", "float16", "int8"]
SHIFT = 3  # blocks of eight rows


class Store:
    """Rows (n, d) of a kind, in blocks that lie apart, the last one part full."""

    def __init__(self, rows, scales=None):
        cut = range(0, len(rows), 2**SHIFT)
        self.parts = [rows[i : i + 2**SHIFT].copy() for i in cut]
        self.scales = [scales[i : i + 2**SHIFT].copy() for i in cut] if scales is not None else []

    def scored(self, function, metric, positions, queries, *out):
        kind = np.empty(0, np.uint16 if self.parts[0].dtype == np.float16 else self.parts[0].dtype)
        blocks, scales = (
            np.array([part.ctypes.data for part in parts], np.int64) for parts in (self.parts, self.scales)
        )
        return function(kind, blocks, scales, SHIFT, METRICS[metric], positions, queries, *out)

    def checked(self, metric, positions, queries):
        """Scores, and what the reference has."""
        out = np.full(positions.shape, np.nan)
        self.scored(kernels.rescore_rows, metric, positions, queries, out)
        return out, self.scored(reference.rescore_rows, metric, positions, queries)


def normal_store(rng, kind, n, d):
    if kind == "int8":
        return Store(rng.integers(-127, 128, (n, d)).astype(np.int8), rng.random(n).astype(np.float32))
    return Store(rng.normal(size=(n, d)).astype(kind))


def whole_number_store(rng, kind, n, d):
    """All sums are exact, in whatever order."""
    scales = (2.0 ** rng.integers(-3, 4, n)).astype(np.float32) if kind == "int8" else None
    return Store(rng.integers(-127, 128, (n, d)).astype(kind), scales)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_the_reference(rng, kind, metric):
    for d in DIMS:
        positions = rng.integers(-1, 21, (3, 50))  # skipped ones, and many that repeat
        queries = rng.normal(size=(3, d)).astype(np.float32)
        out, wanted = normal_store(rng, kind, 21, d).checked(metric, positions, queries)
        size = 1 if metric == "cosine" else 1 + (127 if kind == "int8" else 8) * d  # of what cancels in a sum
        assert_allclose(out, wanted, rtol=1e-12, atol=1e-15 * size)
        queries = rng.integers(-99, 100, (3, d)).astype(np.float32)
        assert_array_equal(*whole_number_store(rng, kind, 21, d).checked(metric, positions, queries))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0), (1, 1), (1, 500), (500, 1)])
def test_any_number_of_queries_and_candidates(rng, kind, shape):
    """More than are asked for ahead, and fewer."""
    queries = rng.integers(-9, 10, (shape[0], 5)).astype(np.float32)
    for positions in (rng.integers(0, 21, shape), np.full(shape, -1)):
        assert_array_equal(*whole_number_store(rng, kind, 21, 5).checked("l2", positions, queries))


def test_long_rows_are_asked_for_in_part(rng):
    d = max(NEAR, AHEAD_BYTES) // 4 + 7
    positions, queries = rng.integers(-1, 9, (2, 3 + AHEAD)), rng.integers(-9, 10, (2, d)).astype(np.float32)
    assert_array_equal(*whole_number_store(rng, "float32", 9, d).checked("ip", positions, queries))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_scores_the_same_wherever_it_lies(rng, kind, metric):
    store = normal_store(rng, kind, 21, 77)
    for part in store.parts[1:]:
        part[:] = store.parts[0][: len(part)]
    for scales in store.scales[1:]:
        scales[:] = store.scales[0][: len(scales)]
    out, _ = store.checked(metric, np.arange(16).reshape(1, 16), rng.normal(size=(1, 77)).astype(np.float32))
    assert_array_equal(out[0, :8], out[0, 8:])


@pytest.mark.parametrize("d", [1, 16])
def test_every_half_is_read_exactly(d):
    """Subnormal ones and both zeros too, in registers and in the rest of a row."""
    bits = np.arange(2**16, dtype=np.uint16)
    halves = bits[np.isfinite(bits.view(np.float16))].view(np.float16).reshape(-1, d)
    positions = np.tile(np.arange(len(halves)), (d, 1))
    out = np.full(positions.shape, np.nan)
    Store(halves).scored(kernels.rescore_rows, "ip", positions, np.eye(d, dtype=np.float32), out)
    assert_array_equal(out.T, halves.astype(np.float64))


@pytest.mark.parametrize("kind", KINDS)
def test_without_length_a_cosine_is_0(rng, kind):
    rows = np.zeros((2, 20), kind)
    rows[1] = 1
    store = Store(rows, np.ones(2, np.float32) if kind == "int8" else None)
    queries = np.zeros((2, 20), np.float32)
    queries[1] = 3
    out, _ = store.checked("cosine", np.array([[0, 1], [0, 1]]), queries)
    assert_array_equal(out, [[0, 0], [0, 1]])


def test_sizes_at_both_ends_of_float32():
    """Squares of float32 are inside float64."""
    for size in (1e-45, 1e-38, 1e38):
        x = np.full((1, 37), size, np.float32)
        out, wanted = Store(x).checked("cosine", np.zeros((1, 1), np.int64), x)
        assert_allclose(out, 1, rtol=1e-12)
        for metric in ("ip", "l2"):
            out, wanted = Store(x).checked(metric, np.zeros((1, 1), np.int64), -x)
            assert_allclose(out, wanted, rtol=1e-12)


@pytest.mark.skipif(os.name != "posix", reason="pages are protected in another way")
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_read_beside_a_row(kind):
    """The pages before and after row and query cannot be read: the process would end."""
    page, no_access = mmap.PAGESIZE, 0
    rooms = [mmap.mmap(-1, 3 * page) for _ in range(2)]
    library = ctypes.CDLL(None, use_errno=True)
    held = [np.frombuffer(room, np.uint8) for room in rooms]
    guards = [ctypes.c_void_p(array.ctypes.data + at) for array in held for at in (0, 2 * page)]
    for guard in guards:
        assert library.mprotect(guard, ctypes.c_size_t(page), no_access) == 0
    try:
        for d in range(1, 70):
            for at_end in (False, True):
                x, q = (
                    array[page : 2 * page].view(one)[-d:] if at_end else array[page : 2 * page].view(one)[:d]
                    for array, one in zip(held, (np.dtype(kind), np.dtype(np.float32)), strict=True)
                )
                x[:], q[:] = 2, 3
                scales = np.ones(1, np.float32)
                bits = x.view(np.uint16) if kind == "float16" else x
                for metric, wanted in ((L2, d), (INNER_PRODUCT, 6 * d), (COSINE, 1)):
                    out = np.full((1, 1), np.nan)
                    blocks = np.array([x.ctypes.data]), np.array([scales.ctypes.data] if kind == "int8" else [], int)
                    where = np.zeros((1, 1), np.int64)
                    kernels.rescore_rows(bits[:0].copy(), *blocks, 4, metric, where, q.reshape(1, d), out)
                    assert_allclose(out, wanted)
    finally:
        for guard in guards:
            library.mprotect(guard, ctypes.c_size_t(page), mmap.PROT_READ | mmap.PROT_WRITE)


def digest():
    """Of scores of all kinds."""
    rng = np.random.default_rng(5)
    bits = hashlib.sha256()
    for kind in KINDS:
        for metric in METRICS:
            for d in (3, 100, 129):
                store, queries = normal_store(rng, kind, 40, d), rng.normal(size=(5, d)).astype(np.float32)
                out = np.full((5, 40), np.nan)
                store.scored(kernels.rescore_rows, metric, rng.integers(0, 40, (5, 40)), queries, out)
                bits.update(out.tobytes())
    return bits.hexdigest()


@pytest.mark.isa
def test_a_machine_without_simd_gives_the_same_bits(told_without_simd):
    assert told_without_simd("test_rescore") == digest()


def told():
    sys.stdout.write(digest())
