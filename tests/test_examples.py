"""The examples do what they say, on small cases."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def mean_errors():
    return runpy.run_path(str(EXAMPLES / "mean_estimation.py"))["mean_errors"]


@pytest.mark.parametrize(("name", "bits", "single"), [("drive", 1, 0.567), ("eden", 2, 0.132)])
def test_the_error_of_a_mean_of_unbiased_codes_falls_as_one_over_clients(mean_errors, name, bits, single):
    """Each of the errors' 128 coordinates is near normal: a relative standard error of sqrt(2 / 128)."""
    for clients, error in zip((20, 200), mean_errors(name, bits, (20, 200), 128), strict=True):
        assert error * clients == pytest.approx(single, rel=4 * (2 / 128) ** 0.5)


@pytest.mark.parametrize(
    ("name", "bits", "distortion"), [("drive-biased", 1, 0.361), ("eden-biased", 2, 0.116)]
)
def test_the_error_of_a_mean_of_biased_codes_stops_at_the_common_parts_shrinkage(
    mean_errors, name, bits, distortion
):
    """distortion^2 times the mean's share of the energy, one half; the rest, D (1 - D) / clients, goes."""
    few, many = mean_errors(name, bits, (10, 400), 128)
    floor = distortion**2 / 2
    assert many == pytest.approx(floor, rel=0.25)
    assert few > many


def test_the_example_prints_a_table(capsys, monkeypatch):
    module = runpy.run_path(str(EXAMPLES / "mean_estimation.py"))
    monkeypatch.setitem(module["main"].__globals__, "CLIENTS", (1, 10))
    module["main"]()
    printed = capsys.readouterr().out
    assert "Error of the mean" in printed and "drive-biased" in printed and "n = 10" in printed
