"""Codebooks are what the theory says: centroids, midpoints and distortions, each checked by another road
(scipy)."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import integrate, special, stats

from polarindex.codebooks import (
    Codebook,
    first_planes,
    integer_codebook,
    normal_codebook,
    polar_codebook,
    sphere_codebook,
)

BITS = range(1, 9)

# Lloyd-Max for N(0, 1). Max's tables of 1960 print .009497 and .002499 at 4 and 5 bits, before convergence.
DISTORTIONS = {
    1: 0.363380,
    2: 0.117482,
    3: 0.034548,
    4: 0.0095010,
    5: 0.0025047,
    6: 0.00064424,
    7: 0.00016348,
    8: 0.00004118,
}
POSITIVE_LEVELS = {
    1: [np.sqrt(2 / np.pi)],
    2: [0.45278, 1.51042],
    3: [0.24509, 0.75601, 1.34391, 2.15195],
    4: [0.12840, 0.38805, 0.65676, 0.94234, 1.25623, 1.61805, 2.06902, 2.73259],
}
POSITIVE_THRESHOLDS = {2: [0.98160], 3: [0.50055, 1.04996, 1.74793]}


# --- independent laws: mass and mean of cells, in closed form


def normal_cells(thresholds):
    """Mass and mean of N(0, 1) between thresholds; the upper half by symmetry, so that tails keep their
    digits."""
    edges = np.concatenate([[-np.inf], thresholds, [np.inf]])
    low, high = edges[:-1], edges[1:]
    mass = np.where(
        low > 0, stats.norm.sf(low) - stats.norm.sf(high), stats.norm.cdf(high) - stats.norm.cdf(low)
    )
    return mass, (stats.norm.pdf(low) - stats.norm.pdf(high)) / mass


def sphere_cells(dim, thresholds):
    """The same for sqrt(dim) times a coordinate x of a uniform point: (x + 1) / 2 is Beta((dim - 1) / 2,
    same)."""
    edges = np.concatenate([[-1.0], thresholds / np.sqrt(dim), [1.0]])
    half = (dim - 1) / 2
    below = special.betainc(half, half, (1 + edges) / 2)
    mass = np.diff(below)
    # the integral of x (1 - x^2)^((dim - 3) / 2) is -(1 - x^2)^((dim - 1) / 2) / (dim - 1)
    constant = np.exp(special.gammaln(dim / 2) - special.gammaln((dim - 1) / 2)) / np.sqrt(np.pi)
    first = constant / (dim - 1) * -np.diff((1 - edges**2) ** half)
    return mass, np.sqrt(dim) * first / mass


def assert_lloyd_max(book: Codebook, mass, means, variance):
    """Centroids, midpoints, and the distortion that these two imply: E v^2 - E level^2."""
    np.testing.assert_allclose(book.levels, means, atol=2e-9)
    np.testing.assert_allclose(book.thresholds, (book.levels[1:] + book.levels[:-1]) / 2, rtol=0, atol=1e-15)
    assert (np.diff(book.levels) > 0).all()
    assert book.distortion == pytest.approx(variance - (mass * means**2).sum(), abs=2e-10)


# --- N(0, 1)


@pytest.mark.parametrize("bits", BITS)
def test_normal_distortion_is_the_lloyd_max_table_to_four_digits(bits):
    assert normal_codebook(bits).distortion == pytest.approx(DISTORTIONS[bits], rel=1.3e-4)


@pytest.mark.parametrize("bits", BITS)
def test_normal_levels_are_centroids_of_cells_bounded_by_midpoints(bits):
    book = normal_codebook(bits)
    assert_lloyd_max(book, *normal_cells(book.thresholds), variance=1.0)


@pytest.mark.parametrize("bits", BITS)
def test_normal_levels_are_symmetric_to_the_last_bit(bits):
    book = normal_codebook(bits)
    assert len(book.levels) == 2**bits
    assert (book.levels == -book.levels[::-1]).all()
    assert book.thresholds[2 ** (bits - 1) - 1] == 0.0


def test_normal_levels_and_thresholds_are_the_published_ones():
    for bits, levels in POSITIVE_LEVELS.items():
        np.testing.assert_allclose(normal_codebook(bits).levels[2 ** (bits - 1) :], levels, atol=5.1e-6)
    for bits, thresholds in POSITIVE_THRESHOLDS.items():
        np.testing.assert_allclose(
            normal_codebook(bits).thresholds[2 ** (bits - 1) :], thresholds, atol=5.1e-6
        )


@pytest.mark.parametrize("bits", [1, 3, 6])
def test_no_small_change_of_levels_lowers_the_distortion(bits):
    levels = normal_codebook(bits).levels

    def error(levels):
        edges = np.concatenate([[-12.0], (levels[1:] + levels[:-1]) / 2, [12.0]])
        parts = (
            integrate.quad(lambda v, c=c: (v - c) ** 2 * stats.norm.pdf(v), low, high)[0]
            for c, low, high in zip(levels, edges[:-1], edges[1:], strict=True)
        )
        return sum(parts)

    best = error(levels)
    assert best == pytest.approx(normal_codebook(bits).distortion, rel=1e-7)
    for i in {0, len(levels) // 2, len(levels) - 1}:
        for step in (-0.02, 0.02):
            changed = levels.copy()
            changed[i] += step
            assert error(changed) > best


# --- coordinates of a uniform point on the sphere


@pytest.mark.parametrize("dim", [2, 3, 4, 5, 100, 1536, 65536])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_sphere_levels_are_centroids_of_the_beta_law(dim, bits):
    book = sphere_codebook(dim, bits)
    assert_lloyd_max(book, *sphere_cells(dim, book.thresholds), variance=1.0)
    assert (book.levels == -book.levels[::-1]).all()
    assert np.abs(book.levels).max() <= np.sqrt(dim)


@pytest.mark.parametrize("dim", [3, 100, 1536])
def test_sphere_centroids_agree_with_quadrature_of_scipys_beta_density(dim):
    book = sphere_codebook(dim, 3)
    law = stats.beta((dim - 1) / 2, (dim - 1) / 2, loc=-np.sqrt(dim), scale=2 * np.sqrt(dim))
    edges = np.concatenate([[max(-np.sqrt(dim), -12.0)], book.thresholds, [min(np.sqrt(dim), 12.0)]])
    for level, low, high in zip(book.levels, edges[:-1], edges[1:], strict=True):
        mass = integrate.quad(law.pdf, low, high)[0]
        assert level == pytest.approx(integrate.quad(lambda v: v * law.pdf(v), low, high)[0] / mass, abs=1e-8)


@pytest.mark.parametrize(
    ("dim", "distortions"),
    [
        (128, [0.36089, 0.11600, 0.03397, 0.009315]),
        (200, [0.36179, 0.11653, 0.03418, 0.009381]),
        (1536, [0.36317, 0.11736, 0.03450, 0.009485]),
    ],
)
def test_sphere_distortion_at_usual_dimensions(dim, distortions):
    for bits, distortion in enumerate(distortions, start=1):
        # a unit of the last printed digit
        assert sphere_codebook(dim, bits).distortion == pytest.approx(distortion, abs=6e-6, rel=0)


@pytest.mark.parametrize("bits", BITS)
def test_in_three_dimensions_a_coordinate_is_uniform_and_its_levels_equally_spaced(bits):
    """Archimedes: so the distortion is exactly 4^-bits."""
    book = sphere_codebook(3, bits)
    step = 2 * np.sqrt(3) / 2**bits
    np.testing.assert_allclose(book.levels, -np.sqrt(3) + step * (np.arange(2**bits) + 0.5), atol=1e-9)
    assert book.distortion == pytest.approx(4.0**-bits, rel=1e-7)


def test_in_two_dimensions_one_bit_is_the_mean_of_a_half_circle():
    assert sphere_codebook(2, 1).levels[1] == pytest.approx(np.sqrt(2) * 2 / np.pi, abs=1e-12)


@pytest.mark.parametrize("bits", BITS)
def test_in_one_dimension_the_two_values_are_levels(bits):
    book = sphere_codebook(1, bits)
    assert book.levels[[0, -1]].tolist() == [-1.0, 1.0]
    assert book.distortion == 0.0
    assert np.searchsorted(book.thresholds, [-1.0, 1.0], side="right").tolist() == [0, 2**bits - 1]


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_sphere_codebook_tends_to_the_normal_one(bits):
    gaps = [
        np.abs(sphere_codebook(dim, bits).levels - normal_codebook(bits).levels).max()
        for dim in (100, 1000, 10000)
    ]
    assert gaps[0] > 5 * gaps[1] > 25 * gaps[2] > 0


# --- PolarQuant's angles

POLAR_DISTORTIONS = {  # level -> bits 0 .. 5
    1: [None, 0.7268, 0.1994, 0.0510, 0.0128, 0.0032],
    2: [0.1144, 0.0352, 0.0099, 0.0026, 0.0007, 0.0002],
    3: [0.0605, 0.0204, 0.0062, 0.0017, 0.0005, 0.0001],
    4: [0.0309, 0.0108, 0.0034, 0.0010, 0.0003, 0.0001],
}


@pytest.mark.parametrize("level", POLAR_DISTORTIONS)
def test_polar_distortions_are_the_table_per_level_and_bits(level):
    for bits, distortion in enumerate(POLAR_DISTORTIONS[level]):
        if distortion is not None:
            assert polar_codebook(level, bits).distortion == pytest.approx(distortion, abs=5.1e-5, rel=0)


@pytest.mark.parametrize("level", [2, 3, 5, 9])
@pytest.mark.parametrize("bits", [0, 1, 2, 4])
def test_polar_levels_are_centroids_of_the_angle_law(level, bits):
    book = polar_codebook(level, bits)
    power = 2 ** (level - 1) - 1
    edges = np.concatenate([[0.0], book.thresholds, [np.pi / 2]])

    def integral(function, low, high):
        return integrate.fixed_quad(function, low, high, n=300)[0]

    total = error = 0.0
    for center, low, high in zip(book.levels, edges[:-1], edges[1:], strict=True):
        mass = integral(lambda a: np.sin(2 * a) ** power, low, high)
        mean = integral(lambda a: a * np.sin(2 * a) ** power, low, high) / mass
        assert center == pytest.approx(mean, abs=1e-7)
        error += integral(lambda a, c=center: (2 - 2 * np.cos(a - c)) * np.sin(2 * a) ** power, low, high)
        total += mass
    assert book.distortion == pytest.approx(error / total, rel=1e-6)
    np.testing.assert_allclose(book.levels + book.levels[::-1], np.pi / 2, atol=1e-10)
    np.testing.assert_allclose(book.thresholds, (book.levels[1:] + book.levels[:-1]) / 2, atol=1e-15)


def test_polar_level_one_divides_the_circle_evenly():
    for bits in range(1, 9):
        book = polar_codebook(1, bits)
        np.testing.assert_allclose(np.diff(book.levels), 2 * np.pi / 2**bits, atol=1e-14)
        assert book.levels[0] == pytest.approx(np.pi / 2**bits)
        angles = np.linspace(0, 2 * np.pi, 200_001)[:-1]
        nearest = book.levels[np.searchsorted(book.thresholds, angles, side="right")]
        assert book.distortion == pytest.approx((2 - 2 * np.cos(angles - nearest)).mean(), rel=2e-4)


# --- int8 levels


def normal_error(levels, thresholds):
    """E (v - level)^2 for N(0, 1), by E v^2 - 2 level E v + level^2 over cells."""
    mass, means = normal_cells(thresholds)
    with np.errstate(invalid="ignore"):
        return float(1 + np.nansum(mass * (levels**2 - 2 * levels * means)))


@pytest.mark.parametrize("bits", BITS)
def test_integer_levels_are_int8_in_order_and_state_their_distortion(bits):
    grid = integer_codebook(normal_codebook(bits))
    assert grid.table.dtype == np.int8 and len(grid.table) == 2**bits
    assert grid.table.max() == 127 and grid.table.min() == -127
    assert (np.diff(grid.table.astype(int)) >= 0).all()
    thresholds = grid.thresholds[np.isfinite(grid.thresholds)]
    used = grid.table[len(grid.table) - 1 - len(thresholds) :].astype(float)
    assert grid.distortion == pytest.approx(normal_error(used * grid.unit, thresholds), abs=2e-10)


def test_int8_rounding_costs_at_most_4e_5_of_the_variance_up_to_four_bits():
    for bits in (1, 2, 3, 4):
        extra = integer_codebook(normal_codebook(bits)).distortion - normal_codebook(bits).distortion
        assert -1e-12 <= extra < 4.5e-5


def test_int8_rounding_at_five_to_seven_bits_costs_a_twelfth_of_the_squared_unit():
    for bits in (5, 6, 7):
        book = normal_codebook(bits)
        grid = integer_codebook(book)
        assert grid.distortion - book.distortion == pytest.approx(grid.unit**2 / 12, rel=0.25)


def test_eight_bits_are_the_best_uniform_grid_of_255_steps():
    grid = integer_codebook(normal_codebook(8))
    assert grid.distortion == pytest.approx(9e-5, rel=0.05)
    assert np.isneginf(grid.thresholds[0]), "code 0 is unused"
    steps = np.arange(-127, 127) + 0.5
    for unit in (grid.unit * 0.98, grid.unit * 1.02):
        assert normal_error(np.arange(-127, 128) * unit, steps * unit) > grid.distortion


# --- the first planes of a code


def planes_of(bits, planes):
    grid = integer_codebook(normal_codebook(bits))
    return grid, first_planes(grid.table, grid.thresholds, planes, 3.0)


def estimates_of(first, prefixes):
    """By the law: base + the weights of the bits that are set, most significant first."""
    planes = len(first.weights)
    return first.base + (prefixes[..., None] >> (planes - 1 - np.arange(planes)) & 1) @ first.weights


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_two_planes_estimate_the_level_additively(bits):
    """Four prefixes have three numbers: each is c times its own mean level, by symmetry of the table."""
    grid, first = planes_of(bits, 2)
    mass, means = normal_cells(grid.thresholds)
    levels, mass = grid.table.astype(float).reshape(4, -1), mass.reshape(4, -1)
    own = (mass * levels).sum(axis=1) / mass.sum(axis=1)
    ratios = estimates_of(first, np.arange(4)) / own
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-9)
    if bits == 2:
        assert ratios[0] == pytest.approx(1)


@pytest.mark.parametrize("planes", [1, 2])
def test_all_planes_are_the_level_itself(planes):
    grid, first = planes_of(planes, planes)
    np.testing.assert_allclose(estimates_of(first, np.arange(2**planes)), grid.table, atol=1e-12)
    assert first.deviation == 0


@pytest.mark.parametrize(("bits", "planes"), [*itertools.product((2, 3, 4, 5), (1, 2)), (4, 3), (6, 3)])
def test_first_planes_are_unbiased_and_state_their_deviation(bits, planes):
    """E[y estimate] = E[y L], and the root of E(L - estimate)^2, over N(0, 1): each within 4 standard errors."""
    grid, first = planes_of(bits, planes)
    y = np.random.default_rng(bits).standard_normal(1_000_000)
    codes = np.searchsorted(grid.thresholds, y, side="right")
    gaps = grid.table[codes] - estimates_of(first, codes >> (bits - planes))
    for samples, wanted in ((y * gaps, 0.0), (gaps**2, first.deviation**2)):
        assert abs(samples.mean() - wanted) <= 4 * samples.std() / 1000


def test_codebooks_are_computed_once():
    assert normal_codebook(4) is normal_codebook(4)
    assert sphere_codebook(100, 4) is sphere_codebook(100, 4)
    assert polar_codebook(3, 2) is polar_codebook(3, 2)
