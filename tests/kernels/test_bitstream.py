"""Fields of unlike widths: the stream bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from polarindex import kernels
from polarindex.kernels import reference


def packed(codes, widths):
    words = np.full((len(codes), -(-int(widths.sum()) // 32)), 0xDEADBEEF, np.uint32)
    kernels.pack_fields(codes, widths, words)
    return words


def unpacked(words, widths):
    codes = np.full((len(words), len(widths)), 0xAAAA, np.uint16)
    kernels.unpack_fields(words, widths, codes)
    return codes


def fitting_codes(rng, n, widths):
    return rng.integers(0, 2**widths, (n, len(widths))).astype(np.uint16)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 16), min_size=1, max_size=70), st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_any_widths_pack_as_the_reference_and_come_back(widths, n, seed):
    widths = np.array(widths, np.int64)
    codes = fitting_codes(np.random.default_rng(seed), n, widths)
    words = packed(codes, widths)
    assert_array_equal(words, reference.pack_fields(codes, widths))
    assert_array_equal(unpacked(words, widths), codes)
    assert_array_equal(reference.unpack_fields(words, widths), codes)


@pytest.mark.parametrize("width", range(17))
def test_equal_widths_at_every_length(width):
    rng = np.random.default_rng(width)
    for count in range(1, 71):
        widths = np.full(count, width, np.int64)
        for n in (0, 1, 17):
            codes = fitting_codes(rng, n, widths)
            words = packed(codes, widths)
            assert_array_equal(words, reference.pack_fields(codes, widths))
            assert_array_equal(unpacked(words, widths), codes)


def test_each_field_has_its_own_bits():
    """One field full at a time; the others read 0."""
    widths = np.array([3, 0, 16, 1, 12, 16, 16, 2, 7, 0], np.int64)
    full = (2**widths - 1).astype(np.uint16)
    for j in range(len(widths)):
        codes = np.zeros((2, len(widths)), np.uint16)
        codes[1, j] = full[j]
        words = packed(codes, widths)
        assert not words[0].any()
        assert int(words[1].view(np.uint8).astype(np.int64).sum() > 0) == (widths[j] > 0)
        assert_array_equal(unpacked(words, widths), codes)


def test_the_padding_is_zero():
    widths = np.array([16, 5], np.int64)
    words = packed(np.full((1, 2), 0xFFFF, np.uint16) & (2**widths - 1).astype(np.uint16), widths)
    assert words.tolist() == [[2**21 - 1]]


def test_only_the_low_bits_of_a_code_are_packed():
    widths = np.array([3, 7, 1, 16, 12, 16, 2], np.int64)
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 2**16, (5, len(widths))).astype(np.uint16)
    assert_array_equal(unpacked(packed(codes, widths), widths), codes & (2**widths - 1).astype(np.uint16))


@pytest.mark.parametrize("widths", [(16, 16), (8, 8, 8, 8), (16, 16, 3), (16, 0, 16, 0), (7,) * 32])
def test_no_word_beyond_the_row_is_touched(widths):
    """As plain Python, which checks bounds: a stream that ends with a whole word must not reach for another."""
    widths = np.array(widths, np.int64)
    codes = fitting_codes(np.random.default_rng(0), 1, widths)
    words = np.zeros((1, -(-int(widths.sum()) // 32)), np.uint32)
    kernels.pack_fields.py_func(codes, widths, words)
    back = np.zeros_like(codes)
    kernels.unpack_fields.py_func(words, widths, back)
    assert_array_equal(back, codes)
