"""Planes and panels against the dot-line formula; a vector's code depends on no other vector."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from polarindex import kernels
from polarindex.kernels import reference

WIDTHS = (1, 2, 4, 8)
DIMS = (*range(1, 71), 127, 128, 129)
POISON = 0xDEADBEEF


def random_codes(rng, n, dim):
    return rng.integers(0, 256, (n, dim), dtype=np.uint8)


def poisoned(*shape):
    return np.full(shape, POISON, np.uint32)


@pytest.mark.parametrize("width", WIDTHS)
def test_pack_plane_is_the_dot_line_formula_at_every_dim(width):
    """The kernel writes its own words, all of them, and no other."""
    rng = np.random.default_rng(width)
    for dim in DIMS:
        codes = random_codes(rng, 3, dim)
        count = -(-dim * width // 32)
        for shift in {0, 8 - width, (8 - width) // 2}:
            words = poisoned(3, count + 3)
            kernels.pack_plane(codes, shift, width, 2, words)
            assert_array_equal(words, reference.pack_plane(codes, shift, width, 2, poisoned(3, count + 3)))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 31, 32, 33])
def test_rows_unpack_to_the_same_codes(width, n):
    rng = np.random.default_rng(n)
    for dim in (1, 7, 31, 32, 33, 70):
        codes = random_codes(rng, n, dim)
        count = -(-dim * width // 32)
        words = poisoned(n, count)
        kernels.pack_plane(codes, 0, width, 0, words)
        quads = np.zeros((n, count * (8 // width)), np.uint32)
        kernels.unpack_plane(words, 0, count, width, quads)
        unpacked = quads.view(np.uint8)
        assert_array_equal(unpacked[:, :dim], codes & (2**width - 1))
        assert not unpacked[:, dim:].any()


@pytest.mark.parametrize("width", WIDTHS)
def test_unpack_plane_is_the_dot_line_formula(width):
    """On random words: shifted onto what an earlier plane left, words outside the plane unread."""
    rng = np.random.default_rng(width)
    words = rng.integers(0, 2**32, (48, 9), dtype=np.uint32)
    earlier = np.uint32((1 << (8 - width)) - 1) * np.uint32(0x01010101)  # what may be there: 8 - width bits a code
    for first, count in ((0, 9), (2, 5), (8, 1), (4, 0)):
        quads = rng.integers(0, 2**32, (48, 9 * (8 // width) + 1), dtype=np.uint32) & earlier
        wanted = reference.unpack_plane(words, first, count, width, quads)
        kernels.unpack_plane(words, first, count, width, quads)
        assert_array_equal(quads, wanted)


@pytest.mark.parametrize("bits", range(1, 9))
def test_stacked_planes_give_back_codes_of_every_width(bits):
    """Planes of one bit, most significant first, each with words of its own; planes of other widths stack as well."""
    rng = np.random.default_rng(bits)
    for widths in ([1] * bits, [w for w in WIDTHS if bits & w]):
        for dim in (1, 31, 32, 33, 64, 65, 100):
            codes = rng.integers(0, 2**bits, (16, dim), dtype=np.uint8)
            counts = [-(-dim * width // 32) for width in widths]
            words, quads = poisoned(16, sum(counts)), np.zeros((16, 8 * sum(counts)), np.uint32)
            first, shift = 0, bits
            for width, count in zip(widths, counts, strict=True):
                shift -= width
                kernels.pack_plane(codes, shift, width, first, words)
                first += count
            first = 0
            for width, count in zip(widths, counts, strict=True):
                kernels.unpack_plane(words, first, count, width, quads)
                first += count
            assert_array_equal(quads.view(np.uint8)[:, :dim], codes)


@pytest.mark.parametrize("width", WIDTHS)
def test_each_vector_and_coordinate_has_its_own_bits(width):
    """One code of one vector set at a time, so that a swapped lane or field cannot cancel out."""
    dim = 2 * (32 // width) + 3
    count = -(-dim * width // 32)
    seen = set()
    for v in range(16):
        for j in range(dim):
            codes = np.zeros((16, dim), np.uint8)
            codes[v, j] = 2**width - 1
            words, panels = poisoned(16, count), poisoned(1, count, 16)
            kernels.pack_plane(codes, 0, width, 0, words)
            kernels.to_panels(words, 0, panels)
            g, field = divmod(j, 32 // width)
            s, t = divmod(field, 4)
            line = np.zeros((count, 64), np.uint8)
            line[g, 4 * v + t] = (2**width - 1) << (width * s)
            assert_array_equal(panels.view(np.uint8)[0], line)
            seen.add(line.tobytes())
    assert len(seen) == 16 * dim


def test_to_panels_stores_from_any_start_and_leaves_the_others():
    rng = np.random.default_rng(0)
    for n in (0, 1, 15, 16, 17, 31):
        for start in (*range(18), 31, 32, 33):
            words = rng.integers(0, 2**32, (n, 3), dtype=np.uint32)
            panels = poisoned(5, 3, 16)
            kernels.to_panels(words, start, panels)
            assert_array_equal(panels, reference.to_panels(words, start, poisoned(5, 3, 16)))


@pytest.mark.parametrize("bits", range(1, 9))
def test_codes_to_levels_reads_the_table(bits):
    rng = np.random.default_rng(bits)
    table = rng.permutation(np.arange(-128, 128))[: 2**bits].astype(np.int8)
    for n in (0, 1, 16, 17):
        codes = rng.integers(0, 2**bits, (n, 37), dtype=np.uint8)
        levels = np.full(codes.shape, 77, np.int8)
        kernels.codes_to_levels(codes, table, levels)
        assert_array_equal(levels, reference.codes_to_levels(codes, table))
