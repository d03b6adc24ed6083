"""QJL: signs of random projections, unbiased with exact queries, angles between codes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate

from polarindex.quantizers import QJL
from polarindex.rotations import SKETCHES


@pytest.mark.parametrize("matrix", ["gaussian", "orthogonal"])
@pytest.mark.parametrize("m", [1, 31, 50, 100, 333])
def test_qjl_is_its_definition(m, matrix, gaussian_rows):
    """<q, x> ~ |x| <S q, sign(S x)> / (m E|s_1|), the mean sqrt(2 / pi) for normal entries, and by the numbers here
    for orthogonal rows in 50 dimensions; projections within float32 rounding of zero are left out."""
    quantizer = QJL(50, m=m, seed=6, matrix=matrix)
    x, q = gaussian_rows(60, 50) * 4, gaussian_rows(3, 50, seed=1)
    s = SKETCHES[matrix](50, m, 6).forward(np.eye(50, dtype=np.float32)).T.astype(np.float64)
    projections = x.astype(np.float64) @ s.T
    clear = (np.abs(projections) > 1e-4).all(axis=1)
    assert clear.mean() > 0.7
    lengths = np.linalg.norm(x.astype(np.float64), axis=1)
    weight = (50 - 3) / 2  # a coordinate u of a uniform direction has density (1 - u^2)^weight
    moments = [integrate.quad(lambda u, p=p: u**p * (1 - u * u) ** weight, 0, 1)[0] for p in (0, 1)]
    orthogonal = np.sqrt(50) * moments[1] / moments[0]
    mean = np.sqrt(2 / np.pi) if matrix == "gaussian" else orthogonal
    expected = lengths * ((q @ s.T) @ np.sign(projections).T) / (m * mean)
    scores = quantizer.scores(q, quantizer.encode(x))
    np.testing.assert_allclose(scores[:, clear], expected[:, clear], atol=2e-5 * expected.std(), rtol=1e-5)


@pytest.mark.parametrize("m", [20, 50, 170])
@pytest.mark.parametrize("matrix", ["gaussian", "orthogonal"])
def test_qjl_is_unbiased(m, matrix, assert_mean):
    """Over seeds, at cosine 1, .5 and 0."""
    d, count = 50, 500
    x, other = np.linalg.qr(np.random.default_rng(5).standard_normal((d, 2)))[0].T
    q = np.stack([x, 0.5 * x + np.sqrt(0.75) * other, other]).astype(np.float32)
    row = 3 * x.astype(np.float32)[None]
    made = (QJL(d, m=m, seed=seed, matrix=matrix) for seed in range(count))
    estimates = [quantizer.scores(q, quantizer.encode(row))[:, 0] / 3 for quantizer in made]
    assert_mean(estimates, [1.0, 0.5, 0.0])


@pytest.mark.parametrize("m", [64, 96, 128, 200, 256, 384])
@pytest.mark.parametrize("matrix", ["gaussian", "orthogonal"])
def test_expected_error_holds_for_any_number_of_signs(m, matrix, gaussian_rows, vnmse):
    """Orthogonal rows at m = d halve the error and more: pi / 2 - 1 against pi / 2. 3 %: d = 128 and one seed
    or two."""
    x = gaussian_rows(500, 128)
    errors = []
    for seed in (0, 1):
        quantizer = QJL(128, m=m, seed=seed, matrix=matrix)
        errors.append(vnmse(x, quantizer.decode(quantizer.encode(x))).mean())
    assert np.mean(errors) == pytest.approx(quantizer.expected_error(), rel=0.03)


@pytest.mark.parametrize(("d", "m"), [(1, 1), (3, 2), (4, 12)])
def test_expected_error_with_gaussian_rows_is_exact_in_few_dimensions(
    d, m, gaussian_rows, vnmse, assert_mean
):
    """pi / 2 d / m - 1 / m, over seeds."""
    x = gaussian_rows(10, d)
    made = [QJL(d, m=m, seed=seed) for seed in range(1000)]
    errors = [vnmse(x, quantizer.decode(quantizer.encode(x))).mean() for quantizer in made]
    assert made[0].expected_error() == pytest.approx((np.pi / 2 * d - 1) / m)
    assert_mean(errors, made[0].expected_error())


def test_code_scores_estimate_the_angle():
    """SimHash: signs differ with probability angle / pi; |a| |b| cos of that estimate tends to the inner
    product."""
    d, m = 20, 40_000
    rng = np.random.default_rng(2)
    x = rng.standard_normal((6, d)).astype(np.float32)
    quantizer = QJL(d, m=m)
    codes = quantizer.encode(x)
    lengths = np.linalg.norm(x, axis=1)
    # the angle's standard error is at most pi / (2 sqrt(m)), and cos has slope at most 1
    slack = 4.2 * np.pi / 2 / np.sqrt(m) * np.outer(lengths, lengths)
    assert (np.abs(quantizer.code_scores(codes, codes) - x @ x.T) <= slack).all()
    np.testing.assert_allclose(np.diag(quantizer.code_scores(codes, codes)), lengths**2, rtol=1e-5)


def test_code_scores_of_opposite_vectors_are_minus_the_product(gaussian_rows):
    x = gaussian_rows(5, 33)
    quantizer = QJL(33, m=65)  # neither is a whole number of words: the padding must not count as agreement
    a, b = quantizer.encode(x), quantizer.encode(-2 * x)
    norms2 = (x.astype(np.float64) ** 2).sum(axis=1)
    np.testing.assert_allclose(np.diag(quantizer.code_scores(a, b)), -2 * norms2, rtol=1e-5)


def test_bits_are_signs_per_coordinate():
    assert QJL(30, 3).m == 90 and QJL(30, m=7).m == 7
    with pytest.raises(ValueError, match="^m must be at least 1, got 0$"):
        QJL(30, m=0)
    with pytest.raises(ValueError, match="^matrix must be one of 'gaussian', 'orthogonal'; got 'haar'$"):
        QJL(30, matrix="haar")
