"""Tuning: the promise, what is remembered, and everything a caller may do wrong."""

import numpy as np
import pytest

import polarindex as pi
from polarindex.indexes.exact import RowNumbers, exact_rows
from polarindex.indexes.probing import Defaults
from polarindex.indexes.tuning import Tuning

DIM = 24


def clustered(n, seed=0, clusters=300, dim=DIM):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).standard_normal((clusters, dim)) * 1.5
    return (centres[rng.integers(0, clusters, n)] + rng.standard_normal((n, dim))).astype(np.float32)


def distances_to(x, q, metric):
    x, q = x.astype(np.float64), q.astype(np.float64)
    if metric == "l2":
        return 2 * q @ x.T - (x**2).sum(1) - (q**2).sum(1)[:, None]
    if metric == "cosine":
        x, q = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, q))
    return q @ x.T


def truth(x, q, k, metric="l2"):
    return np.argsort(-distances_to(x, q, metric), axis=1, kind="stable")[:, :k]


def recall(ids, true):
    return np.mean([np.isin(a, b).mean() for a, b in zip(true, ids, strict=True)])


def built(n=6000, store="float32", metric="l2", **more):
    index = pi.IVFIndex(DIM, metric, nlist=more.pop("nlist", 100), store=store, **more)
    index.fit(clustered(n))
    index.add(clustered(n))
    return index


@pytest.fixture(scope="module")
def index():
    """Shared: tests that tune it put the defaults back."""
    return built()


@pytest.fixture(autouse=True)
def _untuned(request):
    yield
    if "index" in request.fixturenames:
        request.getfixturevalue("index")._set_default(None)


@pytest.mark.parametrize("target", [0.8, 0.97])
def test_tuned_searches_reach_the_target_on_other_queries(index, target):
    tuned = index.tune(clustered(600, 1), target)
    q = clustered(1000, 2)
    assert recall(index.search(q, 10)[1], truth(clustered(6000), q, 10)) > target - 0.01
    assert tuned.recall > target - 0.02 and tuned.seconds_per_query > 0
    assert tuned.nprobe < 50


def test_what_was_found_is_the_default_until_told_otherwise(index):
    q, before = clustered(300, 1), index.info()
    assert (before["tuned"], before["nprobe"], before["gap"], before["rerank"]) == (False, 3, None, 4)
    index.search(q[:5])  # whose arguments are remembered
    tuned = index.tune(q, 0.9)
    told = index.info()
    assert (told["tuned"], told["nprobe"], told["gap"], told["rerank"]) == (True, *tuned[:3])
    given = index.search(q[:5], nprobe=tuned.nprobe, gap=tuned.gap, rerank=tuned.rerank)
    for _ in range(2):
        for one, other in zip(index.search(q[:5]), given, strict=True):
            np.testing.assert_array_equal(one, other)
    index._set_default(Defaults(1, 0.5, 2))
    index.search(q[0])
    index._set_default(Defaults(100, None, 3))
    one, other = index.search(q[0]), index.search(q[0], nprobe=100, rerank=3)
    np.testing.assert_array_equal(one[1], other[1])


def test_fit_forgets(index):
    fresh = pi.IVFIndex(DIM, nlist=10)
    fresh.fit(clustered(500))
    fresh._set_default(Defaults(2, None, 0))
    fresh.fit(clustered(500))
    assert fresh.info()["tuned"] is False and fresh.info()["nprobe"] == 1


def test_neighbors_that_are_given_are_the_truth(index):
    """Of a wrong row each, nothing is found; of the true ones, as much as without."""
    q = clustered(300, 1)
    true = truth(clustered(6000), q, 10)
    given = index.tune(q, 0.9, neighbors=true)
    index._set_default(None)
    assert abs(given.recall - index.tune(q, 0.9).recall) < 0.05
    index._set_default(None)
    far = np.roll(true, 1, axis=0)
    with pytest.raises(ValueError, match="target_recall=0.9 is out of reach: with all 100 lists and rerank=32"):
        index.tune(q, 0.9, neighbors=far)
    assert index.info()["tuned"] is False


def test_without_originals_the_truth_is_the_scan_of_all_codes():
    index = built(3000, store="none", nlist=50)
    q = clustered(300, 1)
    tuned = index.tune(q, 0.95)
    assert tuned.rerank == 0
    true = index.search(q, 10, nprobe=50)[1]
    assert recall(index.search(q, 10)[1], true) > 0.94
    assert tuned.nprobe < 30


def test_out_of_reach_says_what_to_do():
    index = built(3000, store="none", nlist=50, bits=4)
    q = clustered(200, 1)
    with pytest.raises(ValueError, match="with all 50 lists and rerank=0 .* store originals"):
        index.tune(q, 0.999, neighbors=truth(clustered(3000), q, 10))


def test_what_is_foreseen_is_what_a_search_finds(index):
    """But for the centroids' rounding to 8 bits."""
    q = clustered(200, 1)
    tuning = Tuning(index, q, 0.9, 10, None, None, 64)
    everyone = np.arange(len(q))
    gap = tuning._foresight.gaps(np.array([0.9]))[0]
    for setting in (Defaults(3, None, 1), Defaults(20, None, 1), Defaults(20, gap, 2), Defaults(100, None, 4)):
        searched = tuning._recalls(setting, everyone).mean()
        assert abs(tuning._foresight.recalls(*setting).mean() - searched) < 0.01


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("store", ["float32", "float16", "int8"])
def test_exact_rows_are_the_nearest_stored(metric, store):
    index = pi.FlatIndex(DIM, metric, store=store)
    x = clustered(5000) + np.float32(3)
    index.add(x, ids=np.random.default_rng(0).permutation(5000))
    x[4000] = x[17]  # not in the index: what is stored counts
    q = clustered(40, 1) + np.float32(3)
    places = np.arange(5000)
    rows = exact_rows(index._arena, places, index.ids, q, 20, metric, x.mean(axis=0))
    stored = index._vectors_at(places)
    scores = distances_to(stored, q, metric)
    wanted = -np.sort(-scores, axis=1)[:, :20]
    np.testing.assert_allclose(np.take_along_axis(scores, rows, 1), wanted, rtol=1e-9)


def test_exact_rows_break_ties_by_id_and_take_all_there_are(rng):
    index = pi.FlatIndex(DIM, store="float32")
    x = np.repeat(clustered(10), 3, axis=0)
    index.add(x, ids=rng.permutation(30))
    rows = exact_rows(index._arena, np.arange(30), index.ids, x[:1], 30, "l2", np.zeros(DIM, np.float32))
    assert sorted(rows[0]) == list(range(30))
    first = index.ids[rows[0, :3]]
    assert list(first) == sorted(index.ids[:3])


def test_row_numbers():
    for ids in (np.arange(5), np.array([7, 3, 2**40])):
        numbers = RowNumbers(ids)
        assert list(numbers.of(ids)) == list(range(len(ids)))
        assert numbers.of(np.array([[6, -1]])).tolist() == [[-1, -1]]
    assert RowNumbers(np.empty(0, np.int64)).of(np.array([0])).tolist() == [-1]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"queries": clustered(99)}, ValueError, "queries must be at least 100 .*, got 99"),
        ({"queries": clustered(100)[:, :3]}, ValueError, "queries has 3 columns but dim=24"),
        ({"target_recall": 1.5}, ValueError, "target_recall must be from 0 to 1"),
        ({"target_recall": "high"}, TypeError, "target_recall must be a real number"),
        ({"k": 0}, ValueError, "k must be from 1 to 6000"),
        ({"k": 6001}, ValueError, "k must be from 1 to 6000"),
        ({"batch": 0}, ValueError, "batch must be at least 1"),
        ({"num_threads": 0}, ValueError, "num_threads must be at least 1"),
        ({"neighbors": np.zeros((100, 9), int)}, ValueError, r"neighbors must have shape \(100, >= 10\)"),
        ({"neighbors": np.zeros((99, 10), int)}, ValueError, r"neighbors must have shape \(100, >= 10\)"),
        ({"neighbors": np.zeros((100, 10))}, TypeError, "neighbors must hold integers"),
        ({"neighbors": np.full((100, 10), 6000)}, ValueError, r"neighbors\[0\] holds 6000"),
    ],
)
def test_bad_arguments_are_named(index, arguments, error, message):
    with pytest.raises(error, match=message):
        index.tune(**{"queries": clustered(100), **arguments})


def test_an_index_without_rows_or_lists_cannot_be_tuned():
    index = pi.IVFIndex(DIM, nlist=10)
    with pytest.raises(pi.NotFittedError):
        index.tune(clustered(100))
    index.fit(clustered(100))
    with pytest.raises(ValueError, match="add vectors first"):
        index.tune(clustered(100))


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize(("store", "bits"), [("float32", 2), ("float32", 4), ("none", 4)])
def test_the_promise_is_kept(store, bits, metric):
    """Four times a thousand queries and as many others: the mean is within the tolerance, each within twice that."""
    x = clustered(20_000, clusters=2000)
    index = pi.IVFIndex(DIM, metric, bits, store=store)
    index.fit(x)
    index.add(x)
    samples = [clustered(1000, seed, clusters=2000) for seed in range(1, 9)]
    true = [
        nearest(x, q, metric) if store != "none" else index.search(q, 10, nprobe=index.nlist)[1] for q in samples
    ]
    for target in (0.8, 0.9, 0.95, 0.98):
        found = []
        for trial in range(4):
            index.tune(samples[trial], target, neighbors=true[trial])
            found.append(recall(index.search(samples[trial + 4], 10)[1], true[trial + 4]))
        assert np.mean(found) > target - 0.005 and np.min(found) > target - 0.01


def nearest(x, q, metric):
    return np.concatenate([np.argpartition(-distances_to(x, part, metric), 10)[:, :10] for part in np.split(q, 10)])
