"""Exact neighbours are exact: against float64 and integers, with ties, duplicates and hard magnitudes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from polarindex.sweep import groundtruth
from polarindex.sweep.groundtruth import cached_neighbors, exact_distances, exact_neighbors

METRICS = ("l2", "ip", "cosine")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("POLARINDEX_CACHE", str(tmp_path))
    return tmp_path / "neighbors"


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def oracle(train, test, k, metric):
    """The definition, one query at a time, in float64."""
    train, test = (np.asarray(x, np.float32).astype(np.float64) for x in (train, test))
    ids, distances = [], []
    for q in test:
        if metric == "l2":
            values = ((train - q) ** 2).sum(axis=1)
        else:
            values = (train * q).sum(axis=1)
        if metric == "cosine":
            norms = np.sqrt((train**2).sum(axis=1)) * np.sqrt((q**2).sum())
            values = values / np.where(norms > 0, norms, 1)
        order = np.lexsort((np.arange(len(train)), values if metric == "l2" else -values))[:k]
        ids.append(order)
        distances.append(values[order])
    return np.array(ids), np.array(distances)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("n, nq, d, k", [(1, 1, 1, 1), (5, 3, 2, 5), (4097, 1025, 3, 7), (9000, 4, 65, 100)])
def test_neighbours_are_those_of_float64(rng, metric, n, nq, d, k):
    train, test = rng.normal(size=(n, d)), rng.normal(size=(nq, d))
    ids, distances = exact_neighbors(train, test, k, metric)
    wanted, values = oracle(train, test, k, metric)
    assert_array_equal(ids, wanted)
    assert_allclose(distances, values, rtol=1e-6, atol=1e-6)
    assert ids.dtype == np.int64 and distances.dtype == np.float32


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_ties_go_to_the_smaller_id(data):
    """Small integers tie all the time, and their float64 distances are exact."""
    n, nq, d = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    draw = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    train, test = draw.integers(-2, 3, (n, d)), draw.integers(-2, 3, (nq, d))
    k = data.draw(st.integers(1, n))
    for metric in METRICS:
        assert_array_equal(exact_neighbors(train, test, k, metric)[0], oracle(train, test, k, metric)[0])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("d", [3, 100, 129])
def test_equal_rows_tie_wherever_they_stand(rng, metric, d):
    distinct = rng.normal(size=(3, d)).astype(np.float32)
    train = distinct[rng.integers(0, 3, 10_000)]
    ids, distances = exact_neighbors(train, distinct, 50, metric)
    for query in range(3):
        same = np.flatnonzero((train == train[ids[query, 0]]).all(axis=1))[:50]
        assert_array_equal(ids[query], same)
        assert len(set(distances[query])) == 1


def test_large_norms_lose_no_neighbour(rng):
    """|x|^2 is beyond 2^24, and neighbours differ by less than its float32 rounding."""
    train = 4000 + rng.integers(0, 4, (6000, 64))
    test = 4000 + rng.integers(0, 4, (20, 64))
    true = ((train[None] - test[:, None]) ** 2).sum(axis=2)
    wanted = np.lexsort((np.broadcast_to(np.arange(6000), true.shape), true))[:, :10]
    ids, distances = exact_neighbors(train, test, 10, "l2")
    assert_array_equal(ids, wanted)
    assert_array_equal(distances, np.take_along_axis(true, wanted, axis=1))

    x, q = train.astype(np.float32), test.astype(np.float32)
    naive = (x * x).sum(axis=1) - 2 * q @ x.T
    assert (np.argsort(naive, axis=1, kind="stable")[:, :10] != wanted).any(), "the case should be hard"


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("offset", [0.0, 1e3, 1e6])
def test_rows_far_from_the_origin(rng, metric, offset):
    train, test = (rng.normal(size=(n, 24)).astype(np.float32) + np.float32(offset) for n in (3000, 8))
    assert_array_equal(exact_neighbors(train, test, 10, metric)[0], oracle(train, test, 10, metric)[0])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    "row_scale, query_scale", [(1e-30, 1e-30), (1e-12, 1e18), (1e18, 1e-12), (1e30, 1e30)]
)
def test_very_small_and_very_large_values(rng, metric, row_scale, query_scale):
    train, test = rng.normal(size=(2000, 16)) * row_scale, rng.normal(size=(5, 16)) * query_scale
    assert_array_equal(exact_neighbors(train, test, 10, metric)[0], oracle(train, test, 10, metric)[0])


def test_one_huge_row_does_not_hide_the_others(rng):
    train, test = rng.normal(size=(3000, 16)).astype(np.float32), rng.normal(size=(5, 16))
    train[1234] *= 1e20
    for metric in METRICS:
        assert_array_equal(exact_neighbors(train, test, 10, metric)[0], oracle(train, test, 10, metric)[0])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("d", [1, 17, 784])
def test_slack_bounds_the_float32_error(rng, metric, d):
    """The proof's premise: half-cancelling sums of like signs are where float32 errs most."""
    x = (rng.uniform(0.9, 1.1, (500, d)) * 10.0 ** rng.integers(-3, 4, (500, 1))).astype(np.float32)
    q = rng.uniform(0.9, 1.1, (50, d)).astype(np.float32)
    frame = groundtruth._Frame.around(groundtruth.vectors(x, "x"), q, metric)
    rows, row_norms, half = frame.rows(x)
    asked, query_norms = frame.queries(q)
    scale, centre = float(frame.scale), frame.centre.astype(np.float64)
    if metric == "l2":
        exact_rows, exact_asked = x.astype(np.float64) * scale - centre, q.astype(np.float64) * scale - centre
    else:
        exact_asked = q / np.linalg.norm(q.astype(np.float64), axis=1, keepdims=True)
        exact_rows = x.astype(np.float64) * scale
        if metric == "cosine":
            exact_rows /= np.linalg.norm(exact_rows, axis=1, keepdims=True)
    true = exact_asked @ exact_rows.T - ((exact_rows**2).sum(axis=1) / 2 if metric == "l2" else 0)
    error = np.abs((asked @ rows.T - half) - true)
    slack = frame.slack(query_norms, row_norms, half)
    assert (error <= slack).all()
    assert np.abs(rows).max() <= 1 and query_norms.max() <= 1.0001


def test_a_zero_row_has_cosine_zero(rng):
    train = np.vstack([np.zeros((1, 4)), -np.ones((1, 4)), np.ones((1, 4))])
    ids, distances = exact_neighbors(train, np.ones((1, 4)), 3, "cosine")
    assert_array_equal(ids, [[2, 0, 1]])
    assert_allclose(distances, [[1, 0, -1]])


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float64])
def test_any_real_dtype_gives_the_neighbours_of_its_float32_values(rng, dtype):
    train, test = ((rng.random((n, 12)) * 200).astype(dtype) for n in (500, 5))
    before = train.copy()
    wanted = exact_neighbors(train.astype(np.float32), test.astype(np.float32), 9, "l2")
    for got, want in zip(exact_neighbors(train, test, 9, "l2"), wanted, strict=True):
        assert_array_equal(got, want)
    assert_array_equal(train, before)


def test_progress_ends_at_the_total(rng):
    calls = []
    exact_neighbors(
        rng.normal(size=(5000, 3)), rng.normal(size=(1500, 3)), 2, "l2", progress=lambda *c: calls.append(c)
    )
    assert calls == sorted(calls) and len(calls) == 4
    assert calls[-1] == (5000 * 1500, 5000 * 1500)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"k": 0}, "k"),
        ({"k": 11}, "k"),
        ({"metric": "l1"}, "'l2', 'ip', 'cosine'"),
        ({"test": np.ones((2, 4))}, "3"),
    ],
)
def test_wrong_arguments_are_named(changes, message):
    arguments = {"train": np.ones((10, 3)), "test": np.ones((2, 3)), "k": 2, "metric": "l2"} | changes
    with pytest.raises(ValueError, match=message):
        exact_neighbors(**arguments)


def test_nan_is_refused():
    train = np.ones((10, 3))
    train[4, 1] = np.nan
    with pytest.raises(ValueError, match="4"):
        exact_neighbors(train, np.ones((1, 3)), 1, "l2")


@pytest.mark.parametrize("metric", METRICS)
def test_exact_distances_are_those_of_the_named_rows(rng, metric):
    train, test = rng.normal(size=(50, 6)).astype(np.float32), rng.normal(size=(4, 6)).astype(np.float32)
    ids, distances = exact_neighbors(train, test, 50, metric)
    assert_allclose(exact_distances(train, test, ids, metric), distances, rtol=1e-6)
    ids[1, 3] = -1
    missing = exact_distances(train, test, ids, metric)[1, 3]
    assert missing == (np.inf if metric == "l2" else -np.inf)


def test_exact_distances_refuse_ids_that_are_no_rows():
    for wrong in (-2, 3):
        with pytest.raises(ValueError, match="ids"):
            exact_distances(np.ones((3, 2)), np.ones((1, 2)), [[wrong]], "l2")


def refuse(*_, **__):
    raise AssertionError("computed although it was cached")


def test_cached_neighbours_are_computed_once(rng, cache, monkeypatch):
    train, test = rng.normal(size=(100, 5)), rng.normal(size=(4, 5))
    first = cached_neighbors(train, test, 3, "l2")
    monkeypatch.setattr(groundtruth, "exact_neighbors", refuse)
    again = cached_neighbors(train.copy(), np.asfortranarray(test), 3, "l2")
    for a, b in zip(first, again, strict=True):
        assert_array_equal(a, b)
    assert [path.suffix for path in cache.iterdir()] == [".npz"], "no temporary file is left"


def test_another_content_k_or_metric_is_another_entry(rng, cache):
    train, test = rng.normal(size=(100, 5)).astype(np.float32), rng.normal(size=(4, 5)).astype(np.float32)
    changed = train.copy()
    changed[99, 4] += 1e-6
    cases = [(train, test, 3, "l2"), (train, test, 4, "l2"), (train, test, 3, "ip"), (changed, test, 3, "l2")]
    cases += [(train[:99], test, 3, "l2"), (train, test[::-1], 3, "l2")]
    cases += [(train[:98], np.vstack([train[98:], test]), 3, "l2")]  # the same bytes, divided elsewhere
    cases += [(train.view(np.uint8), test.view(np.uint8), 3, "l2")]
    for case in cases:
        cached_neighbors(*case)
    assert len(list(cache.iterdir())) == len(cases)


def damage_nothing_left(path):
    path.write_bytes(b"")


def damage_cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def damage_one_bit(path):
    content = bytearray(path.read_bytes())
    content[content.index(b"NUMPY") + 200] ^= 1
    path.write_bytes(content)


def damage_other_shape(path):
    with open(path, "wb") as file:
        np.savez(file, ids=np.zeros((1, 3), np.int64), distances=np.zeros((1, 3), np.float32))


def damage_pickle(path):
    with open(path, "wb") as file:
        np.savez(file, ids=np.array([[{}]], object), distances=np.zeros((4, 3), np.float32))


def damage_ids_out_of_range(path):
    with open(path, "wb") as file:
        np.savez(file, ids=np.full((4, 3), 100), distances=np.zeros((4, 3), np.float32))


def damage_plain_array(path):
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))


@pytest.mark.parametrize("damage", [f for name, f in sorted(globals().items()) if name.startswith("damage_")])
def test_a_damaged_cache_file_is_computed_again(rng, cache, damage):
    train, test = rng.normal(size=(100, 5)), rng.normal(size=(4, 5))
    first = cached_neighbors(train, test, 3, "l2")
    (path,) = cache.iterdir()
    good = path.read_bytes()
    damage(path)
    again = cached_neighbors(train, test, 3, "l2")
    for a, b in zip(first, again, strict=True):
        assert_array_equal(a, b)
    assert len(path.read_bytes()) == len(good), "and is put right"


def test_a_cache_that_cannot_be_written_costs_only_time(rng, cache, caplog):
    cache.write_text("a file where the folder should be")
    train, test = rng.normal(size=(100, 5)), rng.normal(size=(4, 5))
    ids, _ = cached_neighbors(train, test, 3, "l2")
    assert_array_equal(ids, oracle(train, test, 3, "l2")[0])
    assert "not kept" in caplog.text
