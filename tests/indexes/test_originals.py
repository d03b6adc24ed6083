"""The vectors beside the codes, and what is scored by them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from polarindex.indexes.arena import Arena
from polarindex.indexes.originals import STORES, exact_scores, original_columns, pack_originals, take_originals

DIM = 37


def filled(store, x):
    """An arena of blocks of 64 rows, the last part full."""
    arena = Arena(original_columns(store, DIM), 64)
    arena.append(pack_originals(x, store, 0))
    return arena


def by_definition(x, q, metric):
    """(nq, n) in float64."""
    x, q = x.astype(np.float64), q.astype(np.float64)
    if metric == "l2":
        return ((x[None] - q[:, None]) ** 2).sum(axis=2)
    dots = q @ x.T
    return dots if metric == "ip" else dots / np.linalg.norm(q, axis=1)[:, None] / np.linalg.norm(x, axis=1)


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("store", STORES[1:])
def test_exact_scores_are_those_of_the_stored_vectors(rng, store, metric):
    x, q = (rng.normal(size=(n, DIM)).astype(np.float32) for n in (300, 4))
    arena = filled(store, x)
    positions = rng.integers(-1, 300, (4, 90))
    wanted = np.take_along_axis(by_definition(take_originals(arena, np.arange(300)), q, metric), positions, 1)
    wanted[positions < 0] = np.inf if metric == "l2" else -np.inf
    q.flags.writeable = False
    for places in (positions, np.asfortranarray(positions)):
        assert_allclose(exact_scores(arena, places, q, metric), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("store", STORES[1:])
def test_an_empty_arena_scores_nothing(store):
    arena, q = filled(store, np.empty((0, DIM), np.float32)), np.ones((2, DIM), np.float32)
    assert exact_scores(arena, np.empty((2, 0), np.int64), q, "l2").shape == (2, 0)
    assert (exact_scores(arena, np.full((2, 3), -1), q, "ip") == -np.inf).all()
