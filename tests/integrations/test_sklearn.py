"""The estimators pass scikit-learn's own checks, and find what its exact neighbours are, in its own pipelines."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

pytest.importorskip("sklearn")

from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.cluster import DBSCAN
from sklearn.manifold import Isomap
from sklearn.neighbors import KNeighborsTransformer, NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from polarindex.integrations.sklearn import PolarNearestNeighbors, PolarNeighborsTransformer


@parametrize_with_checks(
    [PolarNearestNeighbors(), PolarNeighborsTransformer(), PolarNeighborsTransformer(mode="connectivity")]
)
def test_sklearns_checks(estimator, check):
    check(estimator)


@pytest.fixture
def x(rng):
    """Four clusters."""
    return (10 * rng.integers(0, 2, (300, 2)) @ np.ones((2, 8)) + rng.standard_normal((300, 8))).astype(np.float32)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_neighbours_and_distances_are_sklearns(x, metric):
    x = x + 1
    ours = PolarNearestNeighbors(n_neighbors=7, metric=metric).fit(x)
    exact = NearestNeighbors(n_neighbors=7, metric="euclidean" if metric == "l2" else "cosine", algorithm="brute").fit(
        x
    )
    for queries in (x[:40] + 0.1, None):
        distances, positions = ours.kneighbors(queries)
        wanted, wanted_positions = exact.kneighbors(queries)
        assert distances.dtype == np.float64 and positions.dtype == np.int64 and positions.shape == wanted.shape
        same = np.mean([len(set(a) & set(b)) for a, b in zip(positions, wanted_positions, strict=True)]) / 7
        assert same > 0.95
        assert_allclose(np.sort(distances, axis=1), distances)
        agree = positions == wanted_positions
        assert_allclose(distances[agree], wanted[agree], atol=1e-4)
        assert_array_equal(ours.kneighbors(queries, return_distance=False), positions)
    assert ours.kneighbors(x[:1], 3)[1].shape == (1, 3)
    assert not (ours.kneighbors()[1] == np.arange(300)[:, None]).any()


def test_graphs_are_those_of_kneighbors(x):
    ours = PolarNearestNeighbors(n_neighbors=4).fit(x)
    distances, positions = ours.kneighbors(x[:9])
    graph = ours.kneighbors_graph(x[:9], mode="distance")
    assert graph.shape == (9, 300) and graph.nnz == 36
    assert_array_equal(graph.indices.reshape(9, 4), positions)
    assert_allclose(graph.data.reshape(9, 4), distances)
    assert (ours.kneighbors_graph(x[:9]).data == 1).all()
    assert ours.kneighbors_graph().diagonal().sum() == 0
    with pytest.raises(ValueError, match="mode must be one of 'connectivity', 'distance'"):
        ours.kneighbors_graph(mode="adjacency")


def test_the_transformer_takes_the_place_of_sklearns(x):
    for mode in ("distance", "connectivity"):
        ours = PolarNeighborsTransformer(mode=mode, n_neighbors=6).fit_transform(x)
        theirs = KNeighborsTransformer(mode=mode, n_neighbors=6).fit_transform(x)
        assert ours.shape == theirs.shape and ours.nnz == theirs.nnz
        assert abs(ours - theirs).sum() < 0.05 * abs(theirs).sum()
    assert (PolarNeighborsTransformer(n_neighbors=6).fit_transform(x).diagonal() == 0).all()
    names = PolarNeighborsTransformer().fit(x).get_feature_names_out()
    assert len(names) == 300 and names[1] == "polarneighborstransformer1"


def test_pipelines_that_take_a_graph(x):
    clusters = DBSCAN(metric="precomputed", eps=3.0, min_samples=5)
    labels = make_pipeline(PolarNeighborsTransformer(n_neighbors=30), clusters).fit_predict(x)
    assert len(set(labels) - {-1}) == 3  # sums of two coins: 0, 10, 20
    flat = make_pipeline(PolarNeighborsTransformer(n_neighbors=20), Isomap(n_neighbors=20, metric="precomputed"))
    near = x[x[:, 0] < 5]
    assert flat.fit_transform(near).shape == (len(near), 2)


def test_rows_within_a_radius(x):
    ours, exact = PolarNearestNeighbors(radius=6.0, bits=8, store="none").fit(x), NearestNeighbors(radius=6.0).fit(x)
    distances, positions = ours.radius_neighbors(x[:20])
    wanted = exact.radius_neighbors(x[:20], return_distance=False)
    shared = sum(len(set(a) & set(b)) for a, b in zip(positions, wanted, strict=True))
    assert shared > 0.95 * sum(map(len, wanted)) and shared > 0.95 * sum(map(len, positions))
    assert all((np.diff(d) >= 0).all() and (d <= 6.0).all() for d in distances)
    assert all(len(found) == 0 for found in ours.radius_neighbors(x[:3] + 100, return_distance=False))
    for limit in (0.0, 0.5):
        near = (
            PolarNearestNeighbors(metric="cosine", bits=8, store="none").fit(x + 1).radius_neighbors(x[:5] + 1, limit)
        )
        assert all((d <= limit + 1e-6).all() for d in near[0])


def test_of_equal_rows_each_has_the_others_as_neighbours():
    x = np.ones((12, 3))
    distances, positions = PolarNearestNeighbors(n_neighbors=4).fit(x).kneighbors()
    assert (distances == 0).all() and positions.shape == (12, 4)
    assert not (positions == np.arange(12)[:, None]).any()


def test_estimators_are_cloned_and_pickled(x):
    fitted = PolarNearestNeighbors(n_neighbors=3, bits=2).fit(x)
    assert clone(fitted).get_params() == fitted.get_params()
    again = pickle.loads(pickle.dumps(fitted))
    assert_array_equal(again.kneighbors(x[:5])[1], fitted.kneighbors(x[:5])[1])


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda x: PolarNearestNeighbors(n_neighbors=0).fit(x), "n_neighbors must be at least 1, got 0"),
        (lambda x: PolarNearestNeighbors(metric="ip").fit(x), "metric must be one of 'l2', 'cosine'; got 'ip'"),
        (lambda x: PolarNearestNeighbors().fit(x).kneighbors(x, 301), "n_neighbors must be at most 300"),
        (lambda x: PolarNearestNeighbors().fit(x).kneighbors(None, 300), "n_neighbors must be at most 299"),
        (lambda x: PolarNearestNeighbors().fit(x).radius_neighbors(x, -1.0), "radius must be at least 0"),
        (lambda x: PolarNearestNeighbors(metric="cosine").fit(np.zeros((3, 2))), r"X\[0\] is zero"),
        (lambda x: PolarNeighborsTransformer(mode="x").fit(x), "mode must be one of"),
        (lambda x: PolarNeighborsTransformer(n_neighbors=300).fit_transform(x), "n_neighbors=300 needs 301 rows"),
    ],
)
def test_what_cannot_be_is_said(x, use, message):
    with pytest.raises(ValueError, match=message):
        use(x)
