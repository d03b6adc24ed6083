"""TurboQuant: EDEN with the scale fixed to the norm, and its QJL residual."""

from __future__ import annotations

import numpy as np
import pytest

from polarindex.codebooks import sphere_codebook
from polarindex.quantizers import QJL, TurboQuant
from polarindex.rotations import GaussianSketch, HadamardRotation


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("d", [3, 100])
def test_mse_is_algorithm_1(bits, d, gaussian_rows):
    """Nearest levels of the sphere's own law, no scale but |x|. Rows with a coordinate on a threshold are
    left out."""
    quantizer = TurboQuant(d, bits, 2)
    x = gaussian_rows(200, d) * 5
    lengths = np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    y = HadamardRotation(d, 2).forward(x).astype(np.float64) / lengths
    book = sphere_codebook(d, bits)
    clear = (np.abs(y[:, :, None] * np.sqrt(d) - book.thresholds) > 2e-6).all(axis=(1, 2))
    assert clear.mean() > 0.9
    levels = book.levels[np.searchsorted(book.thresholds, y * np.sqrt(d))] / np.sqrt(d)
    expected = HadamardRotation(d, 2).inverse((levels * lengths).astype(np.float32))
    codes = quantizer.encode(x)
    np.testing.assert_allclose(codes.factors[:, 0], lengths[:, 0] / np.sqrt(d), rtol=1e-7)
    np.testing.assert_allclose(quantizer.decode(codes)[clear], expected[clear], atol=3e-5 * 5)


@pytest.mark.parametrize("matrix", ["gaussian", "orthogonal"])
def test_prod_is_algorithm_2(matrix, gaussian_rows):
    """(bits - 1)-bit mse code, then sign(S r) and |r| of its residual r."""
    d, bits = 40, 3
    quantizer = TurboQuant(d, bits, 9, variant="prod", matrix=matrix)
    mse, qjl = TurboQuant(d, bits - 1, 9), QJL(d, 1, 9, matrix=matrix)
    x = gaussian_rows(50, d)
    first = mse.decode(mse.encode(x))
    residual = x - first
    codes = quantizer.encode(x)
    np.testing.assert_allclose(quantizer.decode(codes), first + qjl.decode(qjl.encode(residual)), atol=1e-5)
    gammas = codes.factors[:, 1] * d / np.sqrt(np.pi / 2)
    # orthogonal rows have no normal entries: their factor is smaller by 1 / (4 d)
    gammas *= 1 + (matrix == "orthogonal") / (4 * d)
    np.testing.assert_allclose(gammas, np.linalg.norm(residual, axis=1), rtol=2e-4)


def test_one_bit_prod_is_qjl(gaussian_rows):
    x = gaussian_rows(20, 30)
    prod, qjl = TurboQuant(30, 1, 4, variant="prod"), QJL(30, 1, 4)
    assert (prod.encode(x).rows == qjl.encode(x).rows).all()
    assert (prod.decode(prod.encode(x)) == qjl.decode(qjl.encode(x))).all()


@pytest.mark.parametrize("rotation", ["hadamard", "haar"])
@pytest.mark.parametrize("matrix", ["gaussian", "orthogonal"])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_prod_is_unbiased_over_fresh_s_and_rotation(bits, matrix, rotation, assert_mean):
    """Queries at cosine 1, .5 and 0."""
    d, count = 32, 500
    rng = np.random.default_rng(5)
    x, other = np.linalg.qr(rng.standard_normal((d, 2)))[0].T
    q = np.stack([x, 0.5 * x + np.sqrt(0.75) * other, other]).astype(np.float32)
    row = x.astype(np.float32)[None]
    made = (
        TurboQuant(d, bits, seed, variant="prod", matrix=matrix, rotation=rotation) for seed in range(count)
    )
    estimates = [quantizer.scores(q, quantizer.encode(row))[:, 0] for quantizer in made]
    assert_mean(estimates, [1.0, 0.5, 0.0])


def test_s_is_independent_of_the_rotation():
    """Sharing the Gaussian matrix whose Q is the rotation costs 1 to 2 % of bias."""
    quantizer = TurboQuant(24, 2, 0, variant="prod", rotation="haar")
    rotation, sketch = (stage.map for stage in quantizer.stages)
    assert isinstance(sketch, GaussianSketch)
    assert np.abs(np.tril(rotation.matrix.T @ sketch.matrix, -1)).max() > 1


def test_wrong_arguments_are_named():
    for call, message in [
        (lambda: TurboQuant(8, variant="ip"), "variant must be one of 'mse', 'prod'; got 'ip'"),
        (lambda: TurboQuant(8, matrix="haar"), "matrix must be one of 'gaussian', 'orthogonal'; got 'haar'"),
        (lambda: TurboQuant(8, 9), "bits must be from 1 to 8, got 9"),
    ]:
        with pytest.raises(ValueError) as caught:
            call()
        assert str(caught.value) == message
