"""What every test shares: repeatable random data, repeatable properties, and no trace outside temporary folders."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# Several BLAS threads in each of several processes wait by spinning: on two busy cores, six times as long as they work.
# This is read when NumPy is loaded, here and in processes that tests start; one of indexes/test_kmeans.py has more.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import numpy as np  # noqa: E402

# A property sees the same examples in every run; `--hypothesis-profile=explore` looks for new ones. A first call
# may compile a kernel, so there is no deadline.
settings.register_profile("repeatable", deadline=None, derandomize=True, database=None)
settings.register_profile("explore", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile("repeatable")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_session(tmp_path_factory: pytest.TempPathFactory):
    """Computed neighbours are cached for the session and not in the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLARINDEX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
