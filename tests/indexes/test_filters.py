"""Filters: masks, ids, IdFilter, one a query; on every metric and with removed rows."""

import numpy as np
import pytest

import polarindex as pi
from polarindex.indexes.probing import Defaults

DIM = 12


@pytest.fixture(scope="module")
def index():
    rng = np.random.default_rng(0)
    index = pi.FlatIndex(DIM, "ip", bits=2)
    index.add(rng.standard_normal((1500, DIM)), ids=rng.permutation(5000)[:1500])
    index.remove(index.ids[10:200:7])
    return index


@pytest.fixture(scope="module")
def q():
    return np.random.default_rng(1).standard_normal((6, DIM)).astype(np.float32)


def expected(index, q, allowed, k):
    """The unfiltered ranking with other ids taken out."""
    distances, ids = index.search(q, len(index))
    out = np.full((len(q), k), -1, np.int64)
    scores = np.full((len(q), k), -np.inf, np.float32)
    for i in range(len(q)):
        kept = np.isin(ids[i], allowed)
        found = ids[i][kept][:k]
        out[i, : len(found)] = found
        scores[i, : len(found)] = distances[i][kept][:k]
    return scores, out


@pytest.mark.parametrize("size", [0, 1, 5, 17, 400, 1400])
@pytest.mark.parametrize("form", ["mask", "ids", "IdFilter", "list", "set"])
def test_a_filter_keeps_the_ranking_of_what_it_allows(index, q, form, size):
    allowed = np.random.default_rng(size).permutation(index.ids)[:size]
    value = {
        "mask": np.isin(index.ids, allowed),
        "ids": allowed,
        "IdFilter": pi.IdFilter(allowed),
        "list": [int(one) for one in allowed],
        "set": {int(one) for one in allowed},
    }[form]
    for threads in (1, 2):
        got = index.search(q, 20, filter=value, num_threads=threads)
        for one, other in zip(got, expected(index, q, allowed, 20), strict=True):
            np.testing.assert_array_equal(one, other)


def test_one_filter_a_query(index, q):
    some, few = index.ids[::3], index.ids[5:9]
    filters = [some, pi.IdFilter(few), None, np.isin(index.ids, some), some, []]
    distances, ids = index.search(q, 8, filter=filters)
    for i, allowed in enumerate([some, few, index.ids, some, some, []]):
        for one, other in zip((distances[i], ids[i]), expected(index, q[i : i + 1], allowed, 8), strict=True):
            np.testing.assert_array_equal(one, other[0])


def test_allowed_ids_that_do_not_exist_are_ignored(index, q):
    _, ids = index.search(q, 3, filter=[int(index.ids[0]), 999_999])
    assert (ids == [int(index.ids[0]), -1, -1]).all()


def test_an_id_filter_follows_the_index():
    index = pi.FlatIndex(DIM)
    x = np.random.default_rng(0).standard_normal((30, DIM))
    index.add(x)
    allowed = pi.IdFilter([3, 4, 40])
    assert sorted(index.search(x[0], 3, filter=allowed)[1]) == [-1, 3, 4]
    index.remove([3])
    assert sorted(index.search(x[0], 3, filter=allowed)[1]) == [-1, -1, 4]
    index.add(x[:1], ids=[40])
    assert sorted(index.search(x[0], 3, filter=allowed)[1]) == [-1, 4, 40]
    other = pi.FlatIndex(DIM)
    other.add(x[:5])
    assert sorted(other.search(x[0], 3, filter=allowed)[1]) == [-1, 3, 4]


def test_filters_apply_to_ranges_and_reranking():
    x = np.random.default_rng(0).standard_normal((200, DIM)).astype(np.float32)
    index = pi.FlatIndex(DIM, store="float32")
    index.add(x)
    allowed = np.arange(0, 200, 9)
    _, _, hits = index.range_search(x[:1], 1e9, filter=allowed)
    assert sorted(hits) == allowed.tolist()
    truth = ((x[allowed] - x[1]) ** 2).sum(1)
    assert index.search(x[1], 5, filter=allowed)[1].tolist() == allowed[np.argsort(truth)[:5]].tolist()


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (np.ones(3, bool), ValueError, r"filter is a mask of shape \(3,\)"),
        (np.array([0.5]), TypeError, "filter"),
        (np.array([[1]]), ValueError, "filter"),
        ([[1], [2]], ValueError, "filter is a list of 2 filters, but there are 6 queries"),
        ([[1]] * 5 + ["a"], TypeError, r"filter\[5\]"),
        ("abc", TypeError, "filter"),
        (7, ValueError, "filter"),
    ],
)
def test_bad_filters_are_named(index, q, value, error, words):
    with pytest.raises(error, match=words):
        index.search(q, 3, filter=value)
    with pytest.raises(TypeError, match="ids"):
        pi.IdFilter([1.5])


# --- inverted files: lists that are probed where a filter leaves few rows


def in_lists(n=4000, nlist=64):
    x = clustered_rows(n)
    index = pi.IVFIndex(16, nlist=nlist, store="float32").fit(x)
    index.add(x)
    return index, x


def clustered_rows(n, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(3).standard_normal((40, 16)) * 2
    return (centres[rng.integers(0, 40, n)] + rng.standard_normal((n, 16))).astype(np.float32)


def found_share(index, x, q, allowed, **more):
    _, ids = index.search(q, 10, filter=allowed, **more)
    nearest = ((q[:, None] - x[allowed][None]) ** 2).sum(-1).argsort(1)[:, :10]
    return np.mean([np.isin(allowed[row], got).mean() for row, got in zip(nearest, ids, strict=True)])


def test_filters_do_not_cost_an_inverted_file_recall():
    index, x = in_lists()
    q = clustered_rows(100, 1)
    without = found_share(index, x, q, np.arange(4000))
    for share in (0.5, 0.1, 0.02):
        allowed = np.random.default_rng(0).permutation(4000)[: int(4000 * share)]
        assert found_share(index, x, q, allowed) > without - 0.02
    assert found_share(index, x, q, allowed, nprobe=2) < without - 0.1  # what is asked for is done


def test_few_allowed_rows_are_found_wherever_they_lie():
    """So are k of many rows that lie far from the query."""
    index, x = in_lists()
    q = clustered_rows(20, 1)
    allowed = np.random.default_rng(0).permutation(4000)[:200]
    assert found_share(index, x, q, allowed) == 1
    far = ((x - q[0]) ** 2).sum(1).argsort()[-600:]
    index._set_default(Defaults(1, 0.1, 4))
    assert (index.search(q[0], 10, filter=far)[1] >= 0).all()
    assert (index.search(q[0], 10, filter=far, nprobe=1)[1] < 0).any()


def test_a_gap_that_is_given_counts_with_a_filter_and_a_tuned_one_does_not():
    index, x = in_lists()
    q = clustered_rows(50, 1)
    allowed = np.random.default_rng(0).permutation(4000)[:1000]
    wide = found_share(index, x, q, allowed)
    assert found_share(index, x, q, allowed, gap=0.0) < wide - 0.1
    index._set_default(Defaults(2, 0.0, 4))
    assert found_share(index, x, q, allowed) > wide - 0.02


def test_filters_of_queries_are_widened_each_for_itself():
    index, _ = in_lists()
    q = clustered_rows(3, 1)
    filters = [None, np.arange(0, 4000, 2), np.arange(0, 4000, 40)]
    _, together = index.search(q, 10, filter=filters)
    for row, one, mine in zip(q, filters, together, strict=True):
        np.testing.assert_array_equal(index.search(row, 10, filter=one)[1], mine)
