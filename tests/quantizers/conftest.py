"""Data and confidence bounds that the quantizers' tests share."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture(scope="session")
def gaussian_rows():
    """(n, d) -> float32 rows of independent N(0, 1), the same for equal arguments.

    Isotropic rows make any fixed rotation uniform: one seed tests what theory says of a uniform rotation.
    """

    def rows(n: int, d: int, seed: int = 0) -> np.ndarray:
        return np.random.default_rng([n, d, seed]).standard_normal((n, d)).astype(np.float32)

    return rows


@pytest.fixture(scope="session")
def assert_mean():
    """Assert that independent samples (n, ...) have mean `want`, within 4.2 standard errors and `bias`."""

    def check(samples, want, bias: float = 0.0) -> None:
        samples = np.asarray(samples, np.float64)
        error = samples.std(axis=0, ddof=1) / np.sqrt(len(samples))
        gap = np.abs(samples.mean(axis=0) - want)
        assert (gap <= 4.2 * error + bias).all(), f"mean {samples.mean(axis=0)} not {want}, standard error {error}"

    return check


@pytest.fixture(scope="session")
def vnmse():
    """Each row's |x - x_hat|^2 / |x|^2, (n,) float64."""

    def errors(x, x_hat) -> np.ndarray:
        x, x_hat = np.asarray(x, np.float64), np.asarray(x_hat, np.float64)
        return ((x - x_hat) ** 2).sum(axis=1) / (x**2).sum(axis=1)

    return errors


@pytest.fixture(scope="session")
def decode_integers():
    """x_hat (n, d) float64 of `encode_rows(x, integer=True)`: what an index scans and reconstructs."""

    def decode(quantizer, encoded) -> np.ndarray:
        parts = quantizer.split(encoded.words)
        scaled = [
            stage.levels(part)[:, : stage.map.dims] * encoded.scales[:, s, None]
            for s, (stage, part) in enumerate(zip(quantizer.stages, parts, strict=True))
        ]
        return quantizer.join(scaled).astype(np.float64)

    return decode
