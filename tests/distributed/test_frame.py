"""The frame is what fitting an index to the source makes, and says where a bad row of its sample is from."""

from __future__ import annotations

import numpy as np
import pytest

import polarindex as pi
from polarindex.distributed import frame
from polarindex.indexes import kmeans
from polarindex.sweep.stacked import Stacked


def quiet(*progress) -> None:
    pass


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_lists_are_those_that_fit_learns_from_all_rows(metric, x, monkeypatch):
    monkeypatch.setattr(kmeans, "FEWEST", 300)
    monkeypatch.setattr(kmeans, "PER_CENTROID", 10)
    index = frame.empty("ivf", 16, 12, 1000, 3, metric=metric)
    frame.learn(index, Stacked([("x", x)]), 10_000, quiet)
    wanted = pi.IVFIndex(16, metric, nlist=12).fit(x)
    assert np.array_equal(index.centroids, wanted.centroids)
    assert np.array_equal(index._held.centroids.mu, wanted._held.centroids.mu)
    assert index._state() == wanted._state()


def test_with_less_memory_lists_are_learned_from_fewer_rows(x):
    index = frame.empty("ivf", 16, 12, 1000, 3)
    frame.learn(index, Stacked([("x", x)]), 100, quiet)
    numbers = kmeans.sample_rows(1000, 12, 0, 100)
    assert len(numbers) == 100
    assert np.array_equal(index.centroids, pi.IVFIndex(16, nlist=12).fit(x[numbers]).centroids)


def test_the_centre_of_a_flat_index_is_that_of_a_sample(x):
    index = frame.empty("flat", 16, "auto", 1000, 3)
    frame.learn(index, Stacked([("x", x)]), 10_000, quiet)
    assert index.info()["center_frozen"]
    assert np.array_equal(index._coding.centre.mu, pi.FlatIndex(16).fit(x)._coding.centre.mu)


def test_a_bad_row_of_the_sample_is_named_as_the_sources(x):
    x[900] = 0
    index = frame.empty("ivf", 16, 12, 1000, 3, metric="cosine")
    with pytest.raises(ValueError, match=r"^second\[500\] is a zero vector"):
        frame.learn(index, Stacked([("first", x[:400]), ("second", x[400:])]), 10_000, quiet)


def test_lists_are_chosen_by_the_rows_of_a_shard():
    assert frame.empty("ivf", 16, "auto", 1_000_000, 4).nlist == 2000
    assert frame.empty("ivf", 16, "auto", 1_000_000, 1).nlist == 4000
