"""A Ray of two cores for the tests of a file, and small indexes in shards."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

DIM, ROWS = 32, 4_000


def pytest_collection_modifyitems(items):
    """Ray and its processes warn of much that is not ours."""
    for item in items:
        item.add_marker(pytest.mark.filterwarnings("ignore"))


@pytest.fixture(scope="module")
def ray():
    """Ray, started; without it what asks for it is skipped and says so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library = pytest.importorskip("ray", reason="pip install 'polarindex[distributed]'")
        library.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20)
    yield library
    library.shutdown()


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(3)
    centres = rng.normal(size=(20, DIM))
    return (centres[rng.integers(0, 20, ROWS)] + 0.5 * rng.normal(size=(ROWS, DIM))).astype(np.float32)
