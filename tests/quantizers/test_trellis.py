"""Trellis codes err as little as they are said to, and are unbiased."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from benchmarks import trellis_levels
from polarindex.codebooks import normal_codebook, trellis_codebook
from polarindex.quantizers import EDEN, Trellis

BITS = (1, 2, 3, 4)
CODES = [pytest.param(bits, window, id=f"{bits} of {window}") for window in (8, 12) for bits in BITS]
# Of levels that were learned from few rows, in float32, one for each window; at 1 bit and 12 nobody tried
TRIED = {8: {1: 0.2887, 2: 0.0819, 3: 0.0226, 4: 0.00644}, 12: {1: 0.2887, 2: 0.0723, 3: 0.0193, 4: 0.0052}}


def least_error(x, x_hat):
    """Each row's |x - s x_hat|^2 / |x|^2 for the best s: the distortion."""
    x, x_hat = x.astype(np.float64), x_hat.astype(np.float64)
    products, energies = (x * x_hat).sum(axis=1), (x_hat**2).sum(axis=1)
    return 1 - products**2 / (energies * (x**2).sum(axis=1))


@pytest.mark.parametrize(("bits", "window"), CODES)
@pytest.mark.parametrize("rotation", ["hadamard", "haar"])
def test_a_code_is_its_formula(bits, window, rotation, gaussian_rows):
    """x_hat = S R^T levels, S = |x|^2 / <Rx, levels>; levels are nearer to sqrt(d) Rx / |x| than EDEN's."""
    quantizer, x = Trellis(48, bits, 5, window=window, rotation=rotation), gaussian_rows(200, 48) * 3
    matrix = quantizer.stage.map.forward(np.eye(48, dtype=np.float32)).T.astype(np.float64)
    codes = quantizer.encode(x)
    levels = quantizer.stage.levels(codes.words)[:, :48].astype(np.float64)
    y = x.astype(np.float64) @ matrix.T
    scales = (y**2).sum(axis=1) / (y * levels).sum(axis=1)
    np.testing.assert_allclose(codes.factors[:, 0], scales, rtol=2e-6)
    np.testing.assert_allclose(quantizer.decode(codes), scales[:, None] * (levels @ matrix), atol=1e-4)
    z = y * np.sqrt(48) / np.linalg.norm(y, axis=1)[:, None]
    errors = ((z - trellis_codebook(bits, window).unit * levels) ** 2).mean(axis=1)
    assert errors.mean() < 0.9 * normal_codebook(bits).distortion


@pytest.mark.parametrize(("bits", "window"), CODES)
@pytest.mark.parametrize("dim", [128, 1024])
def test_the_distortion_is_what_is_written_down(dim, bits, window, gaussian_rows, assert_mean):
    """Within 4.2 standard errors, and 2 % at 128 dimensions. Bits fill whole words here: so the seam is in it, of which
    bits that are always the same would make 4 % there, and no bits that are left over, which make it less."""
    quantizer, x = Trellis(dim, bits, window=window), gaussian_rows(120_000 // dim, dim)
    errors, said = least_error(x, quantizer.decode(quantizer.encode(x))), trellis_codebook(bits, window).distortion
    assert_mean(errors, said, bias=2.5 * said / dim)
    assert 4.0**-bits < said < 1.02 * TRIED[window][bits]
    assert said < 0.8 * normal_codebook(bits).distortion


@pytest.mark.parametrize("bits", BITS)
def test_a_longer_window_errs_less(bits, gaussian_rows):
    """Most rows, by 5 to 15 %."""
    x = gaussian_rows(60, 512)
    short, long = (Trellis(512, bits, window=window) for window in (8, 12))
    gains = least_error(x, short.decode(short.encode(x))) / least_error(x, long.decode(long.encode(x)))
    assert np.mean(gains > 1) > 0.75
    said = short.error_law().spread / long.error_law().spread
    assert gains.mean() == pytest.approx(said, rel=0.02) and said > 1.04


@pytest.mark.parametrize(("bits", "window"), [*((bits, 8) for bits in BITS), (2, 12)])
def test_it_is_unbiased(bits, window, assert_mean):
    """Over seeds: the mean of x_hat is x, and that of <q, x_hat> is <q, x>."""
    rng = np.random.default_rng(0)
    x, q = rng.standard_normal((2, 40)).astype(np.float32)
    made = [Trellis(40, bits, seed, window=window) for seed in range(400)]
    found = np.stack([quantizer.decode(quantizer.encode(x[None]))[0] for quantizer in made])
    assert_mean(found, x)
    assert_mean(found.astype(np.float64) @ q, float(q @ x))


@pytest.mark.parametrize("bits", BITS)
def test_it_finds_more_than_eden_at_the_same_bits(bits, gaussian_rows):
    x, q = gaussian_rows(2000, 64), gaussian_rows(200, 64, 1)
    best, hits = np.argsort(-(q @ x.T), axis=1)[:, :10], []
    for quantizer in (EDEN(64, bits), Trellis(64, bits)):
        found = np.argsort(-quantizer.scores(q, quantizer.encode(x)), axis=1)[:, :10]
        hits.append(np.mean([len(set(one) & set(other)) / 10 for one, other in zip(best, found, strict=True)]))
    assert hits[1] > hits[0] + 0.02


def test_errors_of_near_vectors_are_less_alike_than_edens(gaussian_rows):
    """At a cosine of .95 and 1 bit more than half of EDEN's error is shared: it cancels where two rows are compared, so
    that trellis codes gain less where all neighbours are that near."""
    x, alike = gaussian_rows(300, 784), []
    near = (0.95 * x + np.sqrt(1 - 0.95**2) * gaussian_rows(300, 784, 1)).astype(np.float32)
    for quantizer in (EDEN(784, 1), Trellis(784, 1)):
        first, second = (quantizer.decode(quantizer.encode(rows)) - rows for rows in (x, near))
        alike.append((first * second).sum() / np.sqrt((first**2).sum() * (second**2).sum()))
    assert alike[0] > 0.5 and alike[1] < 0.15


def test_the_error_is_orthogonal_to_the_vector(gaussian_rows):
    x = gaussian_rows(100, 60)
    for bits in BITS:
        quantizer = Trellis(60, bits)
        x_hat = quantizer.decode(quantizer.encode(x)).astype(np.float64)
        np.testing.assert_allclose((x_hat * x).sum(axis=1), (x.astype(np.float64) ** 2).sum(axis=1), rtol=2e-6)


# sha256 (16 digits) of the codes of dyadic rows, little-endian: other levels could not read indexes that are saved
PINNED_CODES = {
    (128, 1, 8): "28975714c3513767",
    (128, 2, 8): "b22f250b642e8a07",
    (100, 3, 8): "ff86c041d490b7be",
    (100, 4, 8): "64a43cf6b40b82fc",
    (128, 1, 12): "a1a2a4800cb827d9",
    (128, 2, 12): "a4418780590e3ebf",
    (100, 3, 12): "028cf54c5d618ba6",
    (100, 4, 12): "51e3dbd036dfa6c6",
}


@pytest.mark.parametrize(("dim", "bits", "window"), PINNED_CODES)
def test_codes_are_the_same_bytes_on_every_machine(dim, bits, window):
    i, j = np.arange(20)[:, None], np.arange(dim)[None]
    x = (((i * 7 + j * 13) % 31 - 15) / 8).astype(np.float32)
    words = Trellis(dim, bits, 42, window=window).encode_rows(x, integer=True).words
    digest = hashlib.sha256(words.astype("<u4").tobytes()).hexdigest()[:16]
    assert digest == PINNED_CODES[dim, bits, window]


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "window"), [(1, 8), (3, 12)])
def test_levels_are_what_the_program_learns(bits, window):
    shipped, course = trellis_levels.shipped(bits, window), trellis_levels.COURSES[window]
    rows = trellis_levels.normal_rows(course.rows, bits, 0)
    levels, trellis = trellis_levels.beginning(bits, window, shipped["seed"])
    table, unit = trellis_levels.rounded(trellis_levels.learned(rows, levels, trellis, shipped["rounds"]))
    assert table.tolist() == shipped["levels"] and unit == shipped["unit"]
    assert list(trellis.mix) == shipped.get("mix", [])


def test_other_windows_are_refused():
    for window, error in ((10, ValueError), ("8", TypeError), (8.0, TypeError)):
        with pytest.raises(error, match="window must be"):
            Trellis(8, window=window)
    assert Trellis(8, window=12) != Trellis(8) and Trellis(8).parameters()["window"] == 8
