"""PolarQuant: the recursion and its inverse, what the bits buy, lengths kept, float16 radii within their
range."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from polarindex import kernels
from polarindex.codebooks import polar_codebook
from polarindex.quantizers import DRIVE, PolarQuant
from polarindex.quantizers.polarquant import best_allocation
from polarindex.rotations import PaddedRotation


def polar_by_hand(y, depth):
    """Definition 1 in float64: angles of each level, (n, d / 2^level), and the last radii."""
    angles, radii = [], np.asarray(y, np.float64)
    for level in range(1, depth + 1):
        first, second = radii[:, 0::2], radii[:, 1::2]
        angle = np.arctan2(second, first)
        angles.append(np.where(angle < 0, angle + 2 * np.pi, angle) if level == 1 else angle)
        radii = np.hypot(first, second)
    return angles, radii


def decoded_by_hand(y, bits_per_level):
    """Every angle at its nearest level, and the recursion undone; exact radii on top."""
    angles, radii = polar_by_hand(y, len(bits_per_level))
    for level in range(len(bits_per_level), 0, -1):
        book = polar_codebook(level, bits_per_level[level - 1])
        angle = book.levels[np.searchsorted(book.thresholds, angles[level - 1], side="right")]
        radii = np.stack([radii * np.cos(angle), radii * np.sin(angle)], axis=2).reshape(len(y), -1)
    return radii


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_angles_and_radii_are_the_recursive_definition(depth, gaussian_rows):
    y = gaussian_rows(40, 32)
    angles = np.full((40, 32 - (32 >> depth)), np.nan, np.float32)
    radii = np.full((40, 32 >> depth), np.nan)
    kernels.polar_angles(y, depth, angles, radii)
    expected, expected_radii = polar_by_hand(y, depth)
    np.testing.assert_allclose(angles, np.concatenate(expected, axis=1), atol=5e-7)
    np.testing.assert_allclose(radii, expected_radii, rtol=1e-14)
    assert angles.min() >= 0 and angles[:, 16:].max(initial=0) <= np.pi / 2 + 1e-7


@pytest.mark.parametrize("dim", [1, 2, 3, 30, 64, 100])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_decoding_is_the_recursion_undone(dim, bits, gaussian_rows):
    """Rows with an angle within float32 rounding of a threshold are few, and left out by the quantile."""
    quantizer = PolarQuant(dim, bits, 3)
    dims = 2 ** len(quantizer.bits_per_level)
    x = gaussian_rows(100, dim)
    rotation = PaddedRotation(dim, dims, 3)
    y_hat = decoded_by_hand(rotation.forward(x), quantizer.bits_per_level)
    expected = rotation.adjoint(y_hat.astype(np.float32))
    gap = np.abs(quantizer.decode(quantizer.encode(x)) - expected).max(axis=1)
    assert np.quantile(gap, 0.9) < 1e-5
    assert gap.max() < np.linalg.norm(x, axis=1).max()


def test_block_radii_keep_each_blocks_length(gaussian_rows):
    """float16 rounds a radius by 2^-11 at most."""
    quantizer = PolarQuant(64, bits_per_level=(4, 2, 2, 2), radius="block")
    x = gaussian_rows(50, 64)
    x_hat = quantizer.decode(quantizer.encode(x))
    rotation = PaddedRotation(64, 64, 0)
    before, after = (np.linalg.norm(rotation.forward(v).reshape(50, 4, 16), axis=2) for v in (x, x_hat))
    np.testing.assert_allclose(after, before, rtol=2.0**-11 + 1e-6)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("rate", [1, 2, 3])
def test_best_allocation_is_the_best_of_all_allocations_within_the_rate(depth, rate):
    """Brute force over all whole bits a level; equal errors may come from different allocations."""

    def error(bits):
        return 2 - 2 * np.prod([1 - polar_codebook(i, b).distortion / 2 for i, b in enumerate(bits, start=1)])

    def cost(bits):
        return sum(b * 2 ** (depth - level) for level, b in enumerate(bits, start=1))

    budget = rate * 2**depth
    choices = [range(1, rate + 3)] + [range(rate + 4)] * (depth - 1)
    best = min(error(bits) for bits in product(*choices) if cost(bits) <= budget)
    found = best_allocation(depth, rate)
    assert len(found) == depth and found[0] >= 1 and cost(found) <= budget
    assert error(found) == pytest.approx(best, rel=0.02)


@pytest.mark.parametrize(("rate", "distortion"), [(2, 0.1234), (3, 0.0345), (4, 0.00914)])
def test_best_allocation_at_128_coordinates_has_the_known_error(rate, distortion, gaussian_rows, vnmse):
    quantizer = PolarQuant(128, rate)
    x = gaussian_rows(1500, 128)
    errors = vnmse(x, quantizer.decode(quantizer.encode(x)))
    slack = 4 * errors.std() / np.sqrt(len(errors))
    assert errors.mean() == pytest.approx(distortion, rel=0, abs=0.005 * distortion + slack)
    assert quantizer.expected_error() == pytest.approx(distortion, rel=0.01)
    assert quantizer.rate <= rate


def test_two_bits_on_level_one_alone_are_drives_signs(gaussian_rows):
    """Quadrants are pairs of signs; with every other angle at its mean all coordinates have one length."""
    x = gaussian_rows(100, 64)
    polar = PolarQuant(64, bits_per_level=(2, 0, 0, 0, 0, 0), seed=5)
    drive = DRIVE(64, seed=5, unbiased=False)
    a, b = polar.decode(polar.encode(x)), drive.decode(drive.encode(x))
    np.testing.assert_allclose(np.linalg.norm(a, axis=1), np.linalg.norm(x, axis=1), rtol=1e-5)
    a *= (np.linalg.norm(b, axis=1) / np.linalg.norm(a, axis=1))[:, None]
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_padding_is_coded_and_counted():
    assert PolarQuant(100, 4).bytes_per_vector == PolarQuant(128, 4).bytes_per_vector
    assert PolarQuant(100, 4).expected_error() < PolarQuant(128, 4).expected_error()
    block = PolarQuant(100, radius="block")
    assert block.rate == 3.875  # of the 112 padded coordinates
    assert 8 * block.bytes_per_vector / 100 > 112 / 100 * 3.875


def test_padded_rows_lose_their_padding_and_no_more(gaussian_rows, vnmse):
    """Coded at dim 129 in 256 coordinates, half of the error falls on the padding and is dropped."""
    quantizer = PolarQuant(129, 3)
    x = gaussian_rows(400, 129)
    errors = vnmse(x, quantizer.decode(quantizer.encode(x)))
    assert errors.mean() == pytest.approx(quantizer.expected_error(), rel=0.03)
    assert errors.mean() < 0.6 * PolarQuant(256, 3).expected_error()


@pytest.mark.parametrize("scale", [1e6, 1e-9])
def test_rows_whose_radii_float16_cannot_hold_are_named(scale, gaussian_rows):
    quantizer = PolarQuant(32, radius="block")
    x = gaussian_rows(5, 32).copy()
    x[3] *= np.float32(scale)
    message = r"x\[3\].*radius of .* outside float16's 6.1e-05 .. 6.55e\+04; use radius='norm'"
    with pytest.raises(ValueError, match=message) as caught:
        quantizer.encode(x)
    assert "\n" not in str(caught.value)
    assert np.isfinite(PolarQuant(32).decode(PolarQuant(32).encode(x))).all()


def test_the_row_named_is_the_callers_row_beyond_the_first_chunk():
    """encode reads 4,096 rows at a time; the number must be that of the whole set."""
    x = np.ones((4100, 16), np.float32)
    x[4098] = 1e6
    with pytest.raises(ValueError, match=r"^x\[4098\]"):
        PolarQuant(16, radius="block").encode(x)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"bits_per_level": (4, 2)},
            "bits_per_level must have 4 entries to reach one norm for dim=16, got 2; radius='block'",
        ),
        (
            {"bits_per_level": (0, 2, 2, 2)},
            "bits_per_level must give level 1 at least 1 bit, got (0, 2, 2, 2)",
        ),
        (
            {"bits_per_level": (), "radius": "block"},
            "bits_per_level must give level 1 at least 1 bit, got ()",
        ),
        ({"bits_per_level": (4, 13, 2, 2)}, "bits_per_level[1] must be from 0 to 12, got 13"),
        ({"radius": "none"}, "radius must be one of 'norm', 'block'; got 'none'"),
        ({"bits": 9}, "bits must be from 1 to 8, got 9"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError) as caught:
        PolarQuant(16, **arguments)
    assert str(caught.value).startswith(message)
