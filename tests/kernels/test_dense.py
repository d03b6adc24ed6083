"""A product with a dense matrix is the formula's, to the bit, whatever rows stand beside."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from polarindex import kernels
from polarindex.kernels import reference


@pytest.mark.parametrize("dim", [1, 3, 100, 257])
@pytest.mark.parametrize("groups", [1, 3])
def test_project_is_the_reference_to_the_bit(groups, dim):
    rng = np.random.default_rng(dim)
    x = rng.normal(size=(150, dim)).astype(np.float32)
    matrix = rng.normal(size=(groups, dim, 16)).astype(np.float32)
    wanted = reference.project(x, matrix)
    for n in (0, 1, 7, 8, 9, 63, 64, 65, 71, 72, 150):
        out = np.full((n, 16 * groups), np.nan, np.float32)
        kernels.project(x[:n], matrix, out)
        assert_array_equal(out, wanted[:n])
