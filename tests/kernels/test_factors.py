"""Words of factors become the floats that the formula says, bit for bit."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from polarindex import kernels
from polarindex.kernels import reference

numbers = st.floats(-(2.0**40), 2.0**40, width=32)


@given(st.lists(st.integers(0, 2**32 - 1), min_size=16, max_size=48), st.tuples(numbers, numbers, numbers))
def test_words_are_expanded_by_the_formula(words, law):
    stored = np.array(words[: len(words) // 16 * 16], np.uint32)
    law = np.array(law, np.float32)
    out = np.full((2, len(stored)), 7, np.float32)
    kernels.expand_factors(stored, law, out)
    with np.errstate(all="ignore"):
        wanted = reference.expand_factors(stored, law)
    np.testing.assert_array_equal(out, wanted)


def test_a_word_is_a_scale_of_eleven_bits_and_a_signed_level():
    words = np.zeros(16, np.uint32)
    scale = np.array([1.5], np.float32).view(np.uint32)[0] << 1
    words[:5] = scale | 3, scale | (0x4000 - 3), scale | 64, 0, 5
    out = np.empty((2, 16), np.float32)
    kernels.expand_factors(words, np.array([2, 4, -1], np.float32), out)
    assert out[0, :5].tolist() == [1.5, 1.5, 1.5, 0, 0]
    assert out[1, :5].tolist() == [1.5 * (8 * 9 - 1.5), 1.5 * (-8 * 9 - 1.5), 1.5 * (8 * 4096 - 1.5), 0, 0]


@given(st.integers(1, 7), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_halves_of_segments_are_expanded_by_the_formula(count, panels, seed):
    rng = np.random.default_rng(seed)
    halves = rng.integers(0, 2**16, (panels, -(-(8 + 12 * count) // 16), 16), dtype=np.uint16)
    energies, law = rng.random(count, np.float32) + 1, rng.random(3, np.float32)
    scales, shifts = np.empty((panels, count, 16), np.uint16), np.empty(16 * panels, np.float32)
    kernels.expand_segment_factors(halves, energies, law, scales, shifts)
    with np.errstate(all="ignore"):
        wanted = reference.expand_segment_factors(halves, energies, law)
    np.testing.assert_array_equal(scales, wanted[0])
    np.testing.assert_array_equal(shifts, wanted[1])


def test_a_row_of_halves_is_a_level_and_fields_of_twelve_bits():
    halves = np.zeros((1, 3, 16), np.uint16)
    row = 0xF8 | 0x7F0 << 8 | 0x800 << 20 | 0xABC << 32  # -8, scales of 1 and 2 and another
    halves[0, :, 5] = [row >> 16 * i & 0xFFFF for i in range(3)]
    scales, shifts = np.empty((1, 3, 16), np.uint16), np.empty(16, np.float32)
    energies, law = np.array([1, 10, 0], np.float32), np.array([0.125, 5, 2], np.float32)
    kernels.expand_segment_factors(halves, energies, law, scales, shifts)
    assert scales[0, :, 5].tolist() == [0x3F80, 0x4000, 0xABC << 3]
    assert shifts[5] == 5 - 2 * ((1 + 10 * 4) / 2) and shifts[0] == 5
