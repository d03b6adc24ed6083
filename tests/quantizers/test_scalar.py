"""DRIVE, EDEN and their three scales: unbiased, least squares, and TurboQuant's plain norm."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from polarindex.codebooks import integer_codebook, normal_codebook
from polarindex.quantizers import DRIVE, EDEN, TurboQuant
from polarindex.rotations import ROTATIONS, HadamardRotation


def rotated_by_hand(quantizer, x):
    """z = sqrt(d) R x / |x| in float64, with the quantizer's own matrix, and the lengths |x|."""
    d = quantizer.dim
    rotation = ROTATIONS[quantizer.rotation](d, quantizer.seed)
    matrix = rotation.forward(np.eye(d, dtype=np.float32)).T.astype(np.float64)
    lengths = np.linalg.norm(x.astype(np.float64), axis=1)
    y = x.astype(np.float64) @ matrix.T
    return matrix, y * np.sqrt(d) / lengths[:, None], lengths


# --- by hand, in float64


@pytest.mark.parametrize("rotation", ["hadamard", "haar"])
@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 8])
def test_eden_is_its_formula(bits, unbiased, rotation, gaussian_rows):
    """S = |x|^2 / <Rx, levels> or <Rx, levels> / |levels|^2. A coordinate within float32 rounding of a
    threshold may fall on either side: those rows are left out."""
    quantizer = EDEN(48, bits, 5, unbiased=unbiased, rotation=rotation)
    x = gaussian_rows(200, 48) * 3
    matrix, z, lengths = rotated_by_hand(quantizer, x)
    book = normal_codebook(bits)
    clear = (np.abs(z[:, :, None] - book.thresholds) > 2e-6).all(axis=(1, 2))
    assert clear.mean() > 0.9
    levels = book.levels[np.searchsorted(book.thresholds, z, side="right")]
    y = z * lengths[:, None] / np.sqrt(48)
    dots = (y * levels).sum(axis=1)
    scales = lengths**2 / dots if unbiased else dots / (levels**2).sum(axis=1)
    expected = scales[:, None] * (levels @ matrix)
    codes = quantizer.encode(x)
    np.testing.assert_allclose(codes.factors[clear, 0], scales[clear], rtol=2e-6)
    assert (np.abs(quantizer.decode(codes) - expected)[clear] <= 5e-6 * lengths[clear, None]).all()


def test_drive_sends_signs_and_the_l1_norm(gaussian_rows):
    x = gaussian_rows(50, 64)
    for unbiased in (True, False):
        quantizer = DRIVE(64, seed=3, unbiased=unbiased)
        matrix, z, lengths = rotated_by_hand(quantizer, x)
        taxicab = np.abs(z * lengths[:, None] / 8).sum(axis=1)
        scales = lengths**2 / taxicab if unbiased else taxicab / 64
        codes = quantizer.encode(x)
        np.testing.assert_allclose(codes.factors[:, 0], scales, rtol=2e-6)
        expected = scales[:, None] * (np.sign(z) @ matrix)
        np.testing.assert_allclose(quantizer.decode(codes), expected, atol=1e-5)


def test_a_coordinate_of_exactly_zero_counts_as_positive():
    """(1, 1) goes to (0, +-sqrt(2)) or (+-sqrt(2), 0): how the zero came about must not show."""
    x = np.ones((1, 2), np.float32)
    for seed in range(8):
        y = HadamardRotation(2, seed).forward(x)[0]
        assert np.count_nonzero(y) == 1
        for quantizer in (DRIVE(2, seed=seed), EDEN(2, 1, seed)):
            bits = np.unpackbits(quantizer.encode(x).rows[0].reshape(4, 1), axis=1, bitorder="little")[:2, 0]
            assert (bits == (y >= 0)).all()


# sha256 (16 digits) of the packed codes of dyadic rows, little-endian: what is stored, on every machine.
PINNED_CODES = {
    (128, 1, True): "1b92b6b7ddf5fead",
    (128, 3, True): "cae6cd052374361b",
    (128, 4, True): "87bbe6220d2b5f9d",
    (128, 8, True): "8deca5efa148e889",
    (128, 8, False): "697579d66b5de4d9",
    (100, 4, True): "9935dc74d02b70d7",
}


@pytest.mark.parametrize(("dim", "bits", "integer"), PINNED_CODES)
def test_codes_are_the_same_bytes_on_every_machine(dim, bits, integer):
    i, j = np.arange(20)[:, None], np.arange(dim)[None]
    x = (((i * 7 + j * 13) % 31 - 15) / 8).astype(np.float32)
    words = EDEN(dim, bits, 42).encode_rows(x, integer=integer).words
    digest = hashlib.sha256(words.astype("<u4").tobytes()).hexdigest()[:16]
    assert digest == PINNED_CODES[dim, bits, integer]


def test_one_bit_eden_is_drive(gaussian_rows):
    """The same bits stored, the same vector decoded: the length sqrt(2 / pi) of EDEN's levels cancels."""
    x = gaussian_rows(300, 100)
    for unbiased in (True, False):
        eden, drive = EDEN(100, 1, 7, unbiased=unbiased), DRIVE(100, 1, 7, unbiased=unbiased)
        a, b = eden.encode(x), drive.encode(x)
        assert (a.rows == b.rows).all()
        np.testing.assert_allclose(a.factors * np.float32(np.sqrt(2 / np.pi)), b.factors, rtol=3e-7)
        np.testing.assert_allclose(eden.decode(a), drive.decode(b), rtol=1e-5, atol=1e-6)


def test_unbiased_codes_keep_the_inner_product_with_their_own_vector(gaussian_rows):
    """<x_hat, x> = |x|^2 for every code and rotation, not only on average: the error is orthogonal to x."""
    x = gaussian_rows(100, 60)
    norms2 = (x.astype(np.float64) ** 2).sum(axis=1)
    for quantizer in (EDEN(60, 1), EDEN(60, 3), EDEN(60, 8), DRIVE(60)):
        x_hat = quantizer.decode(quantizer.encode(x)).astype(np.float64)
        np.testing.assert_allclose((x_hat * x).sum(axis=1), norms2, rtol=2e-6)


def test_biased_codes_are_projections(gaussian_rows):
    """Least squares: the error is orthogonal to the code, <x_hat, x> = |x_hat|^2, and no other scale does
    better."""
    x = gaussian_rows(100, 60).astype(np.float64)
    for quantizer in (EDEN(60, 1, unbiased=False), EDEN(60, 3, unbiased=False), DRIVE(60, unbiased=False)):
        x_hat = quantizer.decode(quantizer.encode(x)).astype(np.float64)
        np.testing.assert_allclose((x_hat * x).sum(axis=1), (x_hat**2).sum(axis=1), rtol=5e-6)
        best = ((x - x_hat) ** 2).sum(axis=1)
        for other in (0.99, 1.01):
            assert (((x - other * x_hat) ** 2).sum(axis=1) > best).all()


def test_the_three_scales_share_one_code(gaussian_rows):
    x = gaussian_rows(50, 4000)  # where the sphere's thresholds are the normal ones to 1e-3
    rows = [q.encode(x).rows for q in (EDEN(4000, 2), EDEN(4000, 2, unbiased=False), TurboQuant(4000, 2))]
    assert (rows[0] == rows[1]).all()
    assert np.unpackbits(rows[0] ^ rows[2]).mean() < 1e-3


# --- unbiasedness over rotations


def estimates(quantizers, x, q):
    """<q, x_hat> under each quantizer, (seeds, len(q))."""
    return np.stack([quantizer.scores(q, quantizer.encode(x[None]))[:, 0] for quantizer in quantizers])


@pytest.fixture(scope="module")
def pair():
    """A lopsided unit vector of 96 coordinates, and three unit queries at cosine 1, .5 and 0 to it."""
    rng = np.random.default_rng(8)
    x = rng.lognormal(size=96)
    x /= np.linalg.norm(x)
    other = rng.standard_normal(96)
    other -= (other @ x) * x
    other /= np.linalg.norm(other)
    q = np.stack([x, 0.5 * x + np.sqrt(0.75) * other, other])
    return x.astype(np.float32), q.astype(np.float32)


COSINES = [1.0, 0.5, 0.0]


@pytest.mark.parametrize("rotation", ["hadamard", "haar"])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_eden_is_unbiased(bits, rotation, pair, assert_mean):
    count = 400 if rotation == "hadamard" else 60
    made = [EDEN(96, bits, seed, rotation=rotation) for seed in range(count)]
    assert_mean(estimates(made, *pair), COSINES, bias=1e-6)


@pytest.mark.parametrize("bits", [3, 6])
def test_refined_eden_is_unbiased(bits, pair, assert_mean):
    assert_mean(estimates([EDEN(96, bits, seed, refined=True) for seed in range(400)], *pair), COSINES, bias=1e-6)


def test_drive_is_unbiased(pair, assert_mean):
    assert_mean(estimates([DRIVE(96, seed=seed) for seed in range(400)], *pair), COSINES, bias=1e-6)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_biased_codes_shrink_by_the_distortion(bits, pair, assert_mean):
    """E <q, x_hat> = (1 - D) <q, x>: .637, .883, .966, .991. D is less by a factor 1 - O(1 / d) at d = 96."""
    made = [EDEN(96, bits, seed, unbiased=False) for seed in range(300)]
    shrunk = 1 - normal_codebook(bits).distortion
    assert_mean(estimates(made, *pair), [shrunk, shrunk / 2, 0.0], bias=0.03 * (1 - shrunk))


def test_the_mean_of_unbiased_reconstructions_approaches_the_vector(pair):
    """The whole vector: |mean - x|^2 is vNMSE / n (a chi-square of 96 degrees), against D^2 for biased
    codes."""
    x, _ = pair
    count = 300

    def gap(unbiased):
        made = (EDEN(96, 2, seed, unbiased=unbiased) for seed in range(count))
        decoded = [quantizer.decode(quantizer.encode(x[None]))[0] for quantizer in made]
        mean = np.mean(decoded, axis=0, dtype=np.float64)
        return ((mean - x) ** 2).sum()

    distortion = normal_codebook(2).distortion
    assert gap(True) * count / (distortion / (1 - distortion)) == pytest.approx(1, abs=4.2 * np.sqrt(2 / 96))
    assert gap(False) == pytest.approx(distortion**2, rel=0.15)


# --- refined codes


@pytest.mark.parametrize("rotation", ["hadamard", "haar"])
@pytest.mark.parametrize(("dim", "bits", "gain"), [(64, 3, 0.07), (64, 4, 0.15), (128, 4, 0.1), (128, 6, 0.13)])
def test_the_best_of_five_gains_errs_less(dim, bits, gain, rotation, gaussian_rows, vnmse):
    """No row is further from its code in angle, and their mean error is less by about what is documented."""
    x = gaussian_rows(400, dim)
    plain, refined = (EDEN(dim, bits, unbiased=False, refined=r, rotation=rotation) for r in (False, True))
    before, after = (vnmse(x, quantizer.decode(quantizer.encode(x))) for quantizer in (plain, refined))
    assert (after <= before * (1 + 1e-5)).all()
    assert after.mean() < (1 - gain) * before.mean()
    assert plain.bytes_per_vector == refined.bytes_per_vector and plain != refined


# --- integer levels


@pytest.mark.parametrize("bits", range(1, 9))
def test_integer_levels_have_the_distortion_their_codebook_states(
    bits, gaussian_rows, vnmse, decode_integers
):
    """Biased codes: vNMSE = distortion, at d = 1024 within 2 % and 4 standard errors."""
    quantizer = EDEN(1024, bits, unbiased=False)
    x = gaussian_rows(60, 1024)
    errors = vnmse(x, decode_integers(quantizer, quantizer.encode_rows(x, integer=True)))
    stated = integer_codebook(normal_codebook(bits)).distortion
    slack = 4 * errors.std() / np.sqrt(len(errors))
    assert errors.mean() == pytest.approx(stated, rel=0, abs=0.02 * stated + slack)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_unbiased_scales_hold_for_integer_levels_too(bits, gaussian_rows, decode_integers):
    quantizer = EDEN(60, bits)
    x = gaussian_rows(50, 60)
    x_hat = decode_integers(quantizer, quantizer.encode_rows(x, integer=True))
    np.testing.assert_allclose((x_hat * x).sum(axis=1), (x.astype(np.float64) ** 2).sum(axis=1), rtol=2e-6)


def test_eight_bit_integer_codes_use_the_uniform_grid_and_float_codes_lloyd_max(gaussian_rows):
    quantizer = EDEN(64, 8)
    x = gaussian_rows(50, 64)
    floats, integers = (quantizer.encode_rows(x, integer=integer).words for integer in (False, True))
    assert (floats != integers).any()
    assert integers.view(np.uint8).min() >= 1, "code 0 of the 255-step grid is unused"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EDEN(0), "dim must be at least 1, got 0"),
        (lambda: EDEN(8, 9), "bits must be from 1 to 8, got 9"),
        (lambda: EDEN(8, 0), "bits must be from 1 to 8, got 0"),
        (lambda: EDEN(8, seed=-1), "seed must be at least 0, got -1"),
        (lambda: DRIVE(8, 2), "bits must be from 1 to 1, got 2"),
        (lambda: EDEN(8, rotation="givens"), "rotation must be one of 'hadamard', 'haar'; got 'givens'"),
    ],
)
def test_wrong_values_are_named(make, message):
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == message


def test_wrong_types_are_named():
    calls = {"dim": lambda: EDEN(8.0), "bits": lambda: EDEN(8, True), "unbiased": lambda: EDEN(8, unbiased=1)}
    for name, make in calls.items():
        with pytest.raises(TypeError, match=f"^{name} must be"):
            make()
