"""The graph of all rows' neighbours: against brute force, against search, and as a sparse matrix."""

import sys

import numpy as np
import pytest

import polarindex as pi

DIM = 24
METRICS = "l2", "ip", "cosine"


def rows(n, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(5).standard_normal((30, DIM)) * 2
    return (centres[rng.integers(0, 30, n)] + rng.standard_normal((n, DIM))).astype(np.float32)


def made(kind, metric="l2", store="float32", n=1500, **more):
    if kind == "flat":
        index = pi.FlatIndex(DIM, metric, store=store, **more)
    else:
        index = pi.IVFIndex(DIM, metric, nlist=12, store=store, **more).fit(rows(n))
    index.add(rows(n), ids=np.random.default_rng(1).permutation(3 * n)[:n])
    return index


def own_vectors(index):
    return index.reconstruct(index.ids)


def brute_force(x, k, metric):
    """Row numbers (n, k) without the row itself, and how near these are; larger is nearer."""
    x = x.astype(np.float64)
    if metric == "cosine":
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    scores = x @ x.T
    if metric == "l2":
        scores = 2 * scores - (x**2).sum(1) - (x**2).sum(1)[:, None]
    np.fill_diagonal(scores, -np.inf)
    return np.argsort(-scores, axis=1)[:, :k], scores


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_the_graph_is_that_of_brute_force(kind, metric):
    """All lists are probed, and rerank is large, so that only rows as near as each other may stand in another order."""
    index = made(kind, metric)
    if kind == "ivf":
        index._set_default(pi.indexes.probing.Defaults(12, None, 4))
    graph = index.knn_graph(7)
    wanted, scores = brute_force(own_vectors(index), 7, metric)
    assert graph.indptr.dtype == graph.indices.dtype == np.int64 and graph.distances.dtype == np.float32
    np.testing.assert_array_equal(graph.indptr, np.arange(1501) * 7)
    found = graph.indices.reshape(-1, 7)
    assert (found == wanted).mean() > 0.999
    sign = -1 if metric == "l2" else 1
    exact = sign * np.take_along_axis(scores, found, 1)
    np.testing.assert_allclose(graph.distances.reshape(-1, 7), exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["flat", "ivf"])
@pytest.mark.parametrize("store", ["none", "float32"])
def test_symmetric_neighbours_are_those_of_a_search_for_decoded_vectors(kind, store):
    index = made(kind, store=store, n=800)
    graph = index.knn_graph(5, scoring="symmetric", include_self=True)
    decoded = index._decoded_at(index._rows_to_visit()[0])
    distances, ids = index.search(decoded, 5, rerank=0)
    np.testing.assert_array_equal(index.ids[graph.indices].reshape(-1, 5), ids)
    np.testing.assert_array_equal(graph.distances.reshape(-1, 5), distances)
    if store == "none":
        for one, other in zip(index.knn_graph(5), index.knn_graph(5, scoring="symmetric"), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_a_row_is_its_own_neighbour_only_where_that_is_asked_for(kind):
    index = made(kind)
    numbers = np.arange(1500)
    assert (index.knn_graph(4).indices.reshape(-1, 4) != numbers[:, None]).all()
    with_self = index.knn_graph(4, include_self=True)
    np.testing.assert_array_equal(with_self.indices.reshape(-1, 4)[:, 0], numbers)
    np.testing.assert_array_equal(
        with_self.indices.reshape(-1, 4)[:, 1:], index.knn_graph(4).indices.reshape(-1, 4)[:, :3]
    )


def test_rows_have_as_many_neighbours_as_there_are():
    index = pi.FlatIndex(DIM, store="float32")
    empty = index.knn_graph(3)
    assert empty.indptr.tolist() == [0] and len(empty.indices) == len(empty.distances) == 0
    index.add(rows(4))
    assert index.knn_graph(10).indptr.tolist() == [0, 3, 6, 9, 12]
    assert index.knn_graph(10, include_self=True).indptr.tolist() == [0, 4, 8, 12, 16]


def test_batches_and_threads_change_nothing_and_progress_is_told(monkeypatch):
    index = made("ivf")
    whole, told = index.knn_graph(6), []
    monkeypatch.setattr("polarindex.indexes.graph._MOST", 64)
    parts = index.knn_graph(6, num_threads=3, progress=lambda *done: told.append(done))
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one, other)
    assert told[0] == (64, 1500) and told[-1] == (1500, 1500) and len(told) == 24


def test_an_interrupted_graph_changes_nothing():
    index = made("flat", n=600)

    def stop(done, total):
        raise KeyboardInterrupt

    before = index.search(rows(3, 1), 5)
    with pytest.raises(KeyboardInterrupt):
        index.knn_graph(3, progress=stop)
    for one, other in zip(index.search(rows(3, 1), 5), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_sparse_matrix_of_it():
    pytest.importorskip("scipy")
    index = made("flat", n=300)
    graph = index.knn_graph(3)
    matrix = graph.to_scipy()
    assert matrix.shape == (300, 300) and matrix.nnz == 900
    i = 17
    np.testing.assert_array_equal(matrix[[i]].toarray()[0, graph.indices[3 * i : 3 * i + 3]], graph.distances[51:54])


def test_without_scipy_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.sparse", None)
    index = made("flat", n=20)
    with pytest.raises(pi.MissingExtraError, match="pip install scipy"):
        index.knn_graph(3).to_scipy()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"k": 0}, ValueError, "k must be from 1"),
        ({"scoring": "both"}, ValueError, "scoring must be one of 'asymmetric', 'symmetric'"),
        ({"include_self": 1}, TypeError, "include_self must be True or False"),
        ({"num_threads": 0}, ValueError, "num_threads must be at least 1"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        pi.FlatIndex(DIM).knn_graph(**arguments)


def test_an_inverted_file_must_be_fitted():
    with pytest.raises(pi.NotFittedError):
        pi.IVFIndex(DIM).knn_graph()
