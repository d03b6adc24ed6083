"""The fused kernel is rotate, quantize and pack_plane one after the other, to the bit; a row depends on no other."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from polarindex import kernels
from polarindex.kernels import reference
from polarindex.kernels.scalar import quantize
from polarindex.rotations import HadamardRotation

DIMS = (1, 2, 3, 5, 31, 32, 33, 100, 128, 257, 784, 1536)
SIZES = (1, 15, 16, 17, 100)
POISON = 0xDEADBEEF
NONE = np.empty(0, np.float32)


def codebook(bits, rng):
    """Irregular thresholds and levels, so that no off-by-one maps the grid onto itself; of even bits gains to choose
    from."""
    thresholds, levels = np.sort(rng.normal(size=2**bits - 1)), np.sort(rng.normal(size=2**bits))
    multiples = np.array([] if bits % 2 else [0.5, 1.0, 1.5], np.float32)
    return bits, multiples, thresholds.astype(np.float32), levels.astype(np.float32)


def encoded(x, mu, plan, book):
    bits, dim = book[0], x.shape[1]
    n_words = -(-dim // 4) if bits == 8 else bits * -(-dim // 32)
    words, sums = np.full((len(x), n_words), POISON, np.uint32), np.full((4, len(x)), np.nan)
    kernels.encode(x, mu, plan, book, words, sums)
    return words, sums


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("dim", DIMS)
def test_encode_is_the_reference_to_the_bit(dim, bits):
    rng = np.random.default_rng(dim + bits)
    plan, book = HadamardRotation(dim, bits).plan, codebook(bits, rng)
    mu = rng.normal(size=dim).astype(np.float32)
    x = rng.normal(size=(max(SIZES), dim)).astype(np.float32)
    x[2], x[3] = mu, 1e-30  # a zero row once centred, and a row of the centre's length
    words, sums = reference.encode(x, mu, plan, book)
    for n in SIZES if dim <= 257 else (17,):
        got_words, got_sums = encoded(x[:n], mu, plan, book)
        assert_array_equal(got_words, words[:n])
        assert_array_equal(got_sums, sums[:, :n])


def encoded_residuals(x, centres, rotated, plan, book, coarse=NONE):
    bits, dim = book[0], x.shape[1]
    n_words = -(-dim // 4) if bits == 8 else bits * -(-dim // 32)
    words, sums = np.full((len(x), n_words), POISON, np.uint32), np.full((7 if len(coarse) else 5, len(x)), np.nan)
    kernels.encode_residuals(x, centres, rotated, plan, book, coarse, words, sums)
    return words, sums


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("dim", [1, 3, 31, 32, 33, 100, 257])
def test_residuals_are_coded_as_the_reference_says_and_as_encode_does(dim, bits):
    """A centre a row; then the same for all."""
    rng = np.random.default_rng(dim + bits)
    plan, book = HadamardRotation(dim, bits).plan, codebook(bits, rng)
    x, centres, rotated = rng.normal(size=(3, 35, dim)).astype(np.float32)
    x[2], x[3] = centres[2], centres[3] + np.float32(1e-30)
    words, sums = reference.encode_residuals(x, centres, rotated, plan, book, NONE)
    for n in (0, 1, 15, 16, 17, 35):
        got_words, got_sums = encoded_residuals(x[:n], centres[:n], rotated[:n], plan, book)
        assert_array_equal(got_words, words[:n])
        assert_array_equal(got_sums, sums[:, :n])
    words, sums = encoded(x, centres[0], plan, book)
    got_words, got_sums = encoded_residuals(x, np.tile(centres[0], (35, 1)), rotated, plan, book)
    assert_array_equal(got_words, words)
    assert_array_equal(got_sums[:4], sums)


@pytest.mark.parametrize("bits", [2, 4, 5, 8])
def test_other_levels_of_the_same_codes_give_two_sums_more(bits):
    rng = np.random.default_rng(bits)
    plan, book = HadamardRotation(33, bits).plan, codebook(bits, rng)
    x, centres, rotated = rng.normal(size=(3, 21, 33)).astype(np.float32)
    coarse = rng.normal(size=2**bits).astype(np.float32)
    wanted = reference.encode_residuals(x, centres, rotated, plan, book, coarse)
    got = encoded_residuals(x, centres, rotated, plan, book, coarse)
    plain = encoded_residuals(x, centres, rotated, plan, book)
    for one, other in zip(got, wanted, strict=True):
        assert_array_equal(one, other)
    assert_array_equal(got[0], plain[0])
    assert_array_equal(got[1][:5], plain[1])


def test_a_residual_is_coded_alike_wherever_it_stands():
    """One row, one centre and one rotated vector among 35 differ at a time, and only their own words and sums do."""
    rng = np.random.default_rng(4)
    plan, book = HadamardRotation(37).plan, codebook(5, rng)
    given, other = rng.normal(size=(3, 35, 37)).astype(np.float32), rng.normal(size=(3, 1, 37)).astype(np.float32)
    base = encoded_residuals(*given, plan, book)
    for i in range(35):
        for which in range(3):
            changed = given.copy()
            changed[which, i] = other[which, 0]
            alone = encoded_residuals(*changed[:, i : i + 1].copy(), plan, book)
            wanted_words, wanted_sums = base[0].copy(), base[1].copy()
            wanted_words[i], wanted_sums[:, i] = alone[0][0], alone[1][:, 0]
            words, sums = encoded_residuals(*changed, plan, book)
            assert_array_equal(words, wanted_words)
            assert_array_equal(sums, wanted_sums)


@pytest.mark.parametrize("dim", [7, 64])
def test_a_row_is_coded_alike_wherever_it_stands(dim):
    """One row among 35 differs at a time, and only its own words and sums do."""
    rng = np.random.default_rng(0)
    plan, book, mu = HadamardRotation(dim).plan, codebook(4, rng), rng.normal(size=dim).astype(np.float32)
    x, other = rng.normal(size=(35, dim)).astype(np.float32), rng.normal(size=(1, dim)).astype(np.float32)
    base, alone = encoded(x, mu, plan, book), encoded(other, mu, plan, book)
    for i in range(len(x)):
        changed = x.copy()
        changed[i] = other[0]
        words, sums = encoded(changed, mu, plan, book)
        wanted_words, wanted_sums = base[0].copy(), base[1].copy()
        wanted_words[i], wanted_sums[:, i] = alone[0][0], alone[1][:, 0]
        assert_array_equal(words, wanted_words)
        assert_array_equal(sums, wanted_sums)


def test_zero_and_tiny_rows_get_finite_gains():
    """A gain beyond float32 is cut there; a zero row has gain 0, and so the code of 0 everywhere."""
    rng = np.random.default_rng(1)
    plan, book, mu = HadamardRotation(40).plan, codebook(3, rng), np.zeros(40, np.float32)
    x = np.zeros((3, 40), np.float32)
    x[1], x[2, 5] = 1e-45, 1e-40
    words, sums = encoded(x, mu, plan, book)
    wanted_words, wanted_sums = reference.encode(x, mu, plan, book)
    assert_array_equal(words, wanted_words)
    assert_array_equal(sums, wanted_sums)


def test_no_rows_and_no_rounds():
    rng = np.random.default_rng(2)
    order, signs, starts, size, norm = HadamardRotation(20).plan
    book, mu = codebook(2, rng), np.zeros(20, np.float32)
    words, sums = encoded(np.empty((0, 20), np.float32), mu, (order, signs, starts, size, norm), book)
    assert words.shape == (0, 2) and sums.shape == (4, 0)
    still = order[:0], signs[:0], starts, size, norm
    x = rng.normal(size=(18, 20)).astype(np.float32)
    for got, wanted in zip(encoded(x, mu, still, book), reference.encode(x, mu, still, book), strict=True):
        assert_array_equal(got, wanted)


def test_the_arguments_are_not_changed():
    rng = np.random.default_rng(3)
    plan, book, mu = HadamardRotation(30).plan, codebook(4, rng), rng.normal(size=30).astype(np.float32)
    x = rng.normal(size=(20, 30)).astype(np.float32)
    arrays = (x, mu, *plan[:3], *book[1:])
    before = [np.copy(part) for part in arrays]
    encoded(x, mu, plan, book)
    for part, copy in zip(arrays, before, strict=True):
        assert_array_equal(part, copy)


def test_an_array_that_is_not_contiguous_is_refused():
    """Registers are loaded from consecutive addresses, whatever the strides say."""
    y = np.zeros((8, 40), np.float32)[:, ::2]
    with pytest.raises(Exception, match="C-contiguous"):
        quantize(y, *[np.zeros(8, np.float32)] * 4, np.zeros(y.shape, np.uint8), np.zeros(8), np.zeros(8))


@pytest.mark.parametrize("dim", [1, 3, 31, 33, 100, 257])
def test_rows_are_centred_as_the_reference_says(dim):
    rng = np.random.default_rng(dim)
    x, mu = rng.normal(size=(35, dim)).astype(np.float32), rng.normal(size=dim).astype(np.float32)
    r, sums = reference.centre_rows(x, mu)
    for n in (0, 1, 15, 16, 17, 35):
        got_r, got_sums = np.full((n, dim), np.nan, np.float32), np.full((2, n), np.nan)
        kernels.centre_rows(x[:n], mu, got_r, got_sums)
        assert_array_equal(got_r, r[:n])
        assert_array_equal(got_sums, sums[:, :n])


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("dim", [1, 3, 31, 32, 33, 100])
def test_rotated_rows_are_coded_as_the_reference_says(dim, bits):
    """Also where what lies beyond dim is not zero, and with gains that are limited."""
    rng = np.random.default_rng(dim + bits)
    book = codebook(bits, rng)
    y = rng.normal(size=(35, -(-dim // 16) * 16)).astype(np.float32)
    y[2], y[3] = 0, 1e-30
    n_words = -(-dim // 4) if bits == 8 else bits * -(-dim // 32)
    for limit in (0.0, 1.5):
        words, sums = reference.encode_rotated(y, dim, limit, book)
        for n in (0, 1, 16, 35):
            got_words, got_sums = np.full((n, n_words), POISON, np.uint32), np.full((3, n), np.nan)
            kernels.encode_rotated(y[:n], dim, limit, book, got_words, got_sums)
            assert_array_equal(got_words, words[:n])
            assert_array_equal(got_sums, sums[:, :n])
