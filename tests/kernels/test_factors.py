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
