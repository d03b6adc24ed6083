"""IVFIndex: the score law in lists, which lists are probed, ids and places, and everything a caller may do wrong.

A search in registers compiles for half a minute for every number of planes and kind of original, so most tests use
4 bits, some 1, and the others are marked slow.
"""

import copy
import gc
import itertools
import pickle
import signal
import tracemalloc
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import polarindex as pi
from polarindex import checks, kernels
from polarindex.indexes import answers, lists
from polarindex.indexes.scan import integer_queries

METRICS = ("l2", "ip", "cosine")
DIM, NLIST = 24, 12


def clustered(n, dim=DIM, seed=0, offset=0.0):
    """Rows around a few centres, of unlike lengths."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((8, dim)) * 2
    x = centres[rng.integers(0, 8, n)] + rng.standard_normal((n, dim))
    return (x * rng.uniform(0.5, 1.5, (n, 1)) + offset).astype(np.float32)


def made(n=600, metric="l2", bits=4, quantizer="eden", nlist=NLIST, ids=None, **options):
    """An index of `clustered(n)`, fitted on other rows like them."""
    index = pi.IVFIndex(DIM, metric, bits, quantizer, nlist, **options)
    index.fit(clustered(800, seed=77))
    index.add(clustered(n), ids)
    return index


def everything(index, q, k=None, **options):
    """A search of all lists, by default for all rows."""
    return index.search(q, k or max(1, len(index)), nprobe=index.nlist, **options)


def same(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def exact(x, q, metric):
    """True distances (nq, n) in float64."""
    x, q = x.astype(np.float64), q.astype(np.float64)
    if metric == "l2":
        return ((q[:, None] - x[None]) ** 2).sum(-1)
    if metric == "cosine":
        x, q = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, q))
    return q @ x.T


def unit(x):
    return (x / np.sqrt(np.einsum("ij,ij->i", x, x, dtype=np.float64))[:, None]).astype(np.float32)


def recall(ids, x, q, metric="l2", k=10):
    truth = exact(x, q, metric)
    order = np.argsort(truth if metric == "l2" else -truth, axis=1)[:, :k]
    return np.mean([len(set(a) & set(b)) / k for a, b in zip(ids, order, strict=True)])


def rows_of(index):
    """Words, scales, shifts and lists of all rows, in the order of ids."""
    held = index._held.rows
    words = held.rows(held.used())
    factors = held.factors_of(words)
    codes = np.ascontiguousarray(words[:, : index.quantizer.words])
    return codes, factors[:, :-1], factors[:, -1], held.lists_of(held.used())


def law(index, q, bits=8):
    """Distances (nq, n) float32 of the score law, by NumPy, with its operations in their order."""
    queries = (unit(q) if index.metric == "cosine" else q).astype(np.float32)
    centroids = index._held.centroids
    centred = queries - centroids.mu
    codes, scales, shifts, lists = rows_of(index)
    keys = np.tile(shifts, (len(q), 1))
    prepared = integer_queries(index.quantizer, centred, 2.0 if index.metric == "l2" else 1.0, bits)
    for s, (stage, part) in enumerate(zip(index.quantizer.stages, index.quantizer.split(codes), strict=True)):
        levels = stage.levels(np.ascontiguousarray(part))[:, : stage.map.dims].astype(np.int64)
        for piece in prepared[s]:
            dots = piece.levels.astype(np.int64) @ levels.T
            keys = keys + (dots.astype(np.float32) * piece.gains[:, None]) * scales[:, s]
    relative = centroids.full - centroids.mu
    if index.metric == "l2":
        differences = (relative[None] - centred[:, None]).astype(np.float64)
        offsets = (-(differences**2).sum(-1)).astype(np.float32)
        return -(keys + offsets[:, lists])
    dots = centred.astype(np.float64) @ relative.T.astype(np.float64)
    along = (relative.astype(np.float64) @ centroids.mu.astype(np.float64)).astype(np.float32)
    keys = keys + (dots + along).astype(np.float32)[:, lists]
    return (keys + (queries.astype(np.float64) @ centroids.mu.astype(np.float64))[:, None]).astype(np.float32)


def ranked(index, distances, k):
    """The k best of distances (nq, n) of all rows: distances and ids, ties by the smaller id."""
    ids = np.broadcast_to(index.ids, distances.shape)
    order = np.lexsort((ids, distances if index.metric == "l2" else -distances))[:, :k]
    return np.take_along_axis(distances, order, 1), np.take_along_axis(ids, order, 1)


# --- the score law

CELLS = [("eden", 1), ("eden", 4), ("eden", 5), ("drive", 1), ("turboquant", 4)]
CELLS += [("turboquant-prod", 3), ("polarquant", 3), ("polarquant-published", 4), ("qjl", 2), ("trellis", 2)]
SLOW = [("eden", 2), ("eden", 3), ("eden", 8), ("eden-biased", 2), ("turboquant-prod", 1), ("qjl", 8), ("eden", 7)]
SLOW += [("trellis-12", 2)]
CELLS += [pytest.param(*cell, marks=pytest.mark.slow) for cell in SLOW]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("quantizer", "bits"), CELLS)
def test_all_lists_searched_are_the_score_law_bit_for_bit(quantizer, bits, metric):
    index = made(500, metric, bits, quantizer, ids=np.random.default_rng(0).permutation(500))
    q = clustered(9, seed=1)
    wanted = ranked(index, law(index, q), 500)
    sketched = quantizer in ("qjl", "turboquant-prod")
    for nq in (9,) if sketched else (1, 9):  # BLAS sketches a batch in another order than one query
        for k in (20, 500):
            found = everything(index, q[:nq], k, exact_scan=True)
            same(found, [part[:nq, :k] for part in wanted])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("quantizer", "bits"), [("eden", 4), ("eden", 1), ("turboquant-prod", 3), ("polarquant", 3)])
def test_queries_of_16_bits_obey_the_score_law_and_add_no_noise_to_speak_of(quantizer, bits, metric):
    index = made(400, metric, bits, quantizer)
    q = clustered(5, seed=1)
    distances, ids = everything(index, q, query_bits=16)
    same((distances, ids), ranked(index, law(index, q, 16), 400))
    noise = np.abs(distances - np.take_along_axis(by_decoding(index, q), ids, 1)).max()
    assert noise < 1e-4 * np.abs(distances).max()
    with pytest.raises(ValueError, match="query_bits must be 8 or 16, got 4"):
        index.search(q, query_bits=4)


def by_decoding(index, q):
    """Distances (nq, n) by ids that the decoded residuals say, in float64, in the form of the metric's law."""
    q = (unit(q) if index.metric == "cosine" else q).astype(np.float64)
    codes, scales, _, lists = rows_of(index)
    decoded = index._coding.decoded(codes, scales).astype(np.float64)
    centroids = index.centroids.astype(np.float64)[lists]
    x = clustered(len(index))[index.ids]
    residuals = (unit(x) if index.metric == "cosine" else x) - centroids
    if index.metric == "l2":
        energies = (residuals**2).sum(1) if index.quantizer.unbiased else (decoded**2).sum(1)
        away = q[:, None] - centroids[None]
        distances = (away**2).sum(-1) + energies - 2 * np.einsum("qnj,nj->qn", away, decoded)
    else:
        exactly = (q @ centroids.T) + (centroids * residuals).sum(1)
        distances = exactly + np.einsum("qnj,nj->qn", q[:, None] - centroids[None], decoded)
    return distances[:, np.argsort(index.ids)]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("quantizer", "bits"), CELLS)
def test_distances_are_those_of_the_decoded_vectors(quantizer, bits, metric):
    """Only <q - c, r> is estimated; all else is exact, and int8 queries add little."""
    index = made(400, metric, bits, quantizer)
    q = clustered(5, seed=1)
    distances, ids = everything(index, q)
    wanted = by_decoding(index, q)
    np.testing.assert_allclose(distances, np.take_along_axis(wanted, ids, 1), atol=0.02 * np.abs(wanted).max())


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("store", ["none", "float32"])
def test_registers_and_plain_loops_agree_bit_for_bit(store, metric, center):
    index = made(900, metric, center=center, store=store)
    q = clustered(40, seed=1)
    allowed = np.random.default_rng(2).random(900) < 0.3
    for options in ({}, {"filter": allowed}, {"rerank": 0}, {"rerank": 9 if store == "float32" else 0}):
        found = everything(index, q, 15, **options)
        with kernels.using("generic"):
            assert index.info()["scan"] == "in steps"
            same(found, everything(index, q, 15, **options))


UNDER = [(4, isa) for isa in kernels.available()]  # other widths of the scan: kernels/test_probe.py
UNDER += [(bits, isa) for bits in (1, 2, 3, 8) for isa in kernels.available() if isa in ("avx2", "generic")]


@pytest.mark.isa
@pytest.mark.parametrize(("bits", "isa"), UNDER)
@pytest.mark.parametrize("metric", METRICS)
def test_every_instruction_set_answers_the_same(bits, metric, isa):
    index = made(900, metric, bits)
    q = clustered(40, seed=1)
    with kernels.using(isa):
        found = everything(index, q, 15)
        same(found, [part[:, :15] for part in ranked(index, law(index, q), 15)])
        some = index.search(q, 15, nprobe=4)
    same(some, index.search(q, 15, nprobe=4))


@pytest.mark.parametrize("quantizer", ["eden", "polarquant"])
@pytest.mark.parametrize("metric", METRICS)
def test_a_batch_is_its_queries_one_by_one_on_any_number_of_threads(metric, quantizer):
    index = made(1500, metric, quantizer=quantizer, store="float32")
    q = clustered(300, seed=1)
    for options in ({"nprobe": 3}, {"nprobe": 5, "rerank": 0, "gap": 30.0}):
        wanted = index.search(q, 12, num_threads=1, **options)
        for threads in (None, 2, 3, 7):
            same(wanted, index.search(q, 12, num_threads=threads, **options))
        singles = [index.search(row, 12, **options) for row in q[:40]]
        same([part[:40] for part in wanted], [np.stack(parts) for parts in zip(*singles, strict=True)])


@pytest.mark.parametrize("metric", METRICS)
def test_answers_do_not_depend_on_the_order_or_the_parts_of_adding(metric, monkeypatch):
    x, q = clustered(1200), clustered(40, seed=1)
    index = made(1200, metric)
    shuffled = index.empty_like()
    order = np.random.default_rng(5).permutation(1200)
    monkeypatch.setattr(checks, "CHUNK_ROWS", 48)
    for part in np.array_split(order, 7):
        shuffled.add(x[part], ids=part)
    same(everything(index, q, 15), everything(shuffled, q, 15))
    same(index.search(q, 15, nprobe=3), shuffled.search(q, 15, nprobe=3))


def test_ties_go_to_the_smaller_id():
    index = made(0)
    ids = np.random.default_rng(0).permutation(1000)[:90]
    index.add(np.tile(clustered(1), (90, 1)), ids=ids)
    for k in (1, 5, 20):
        assert everything(index, clustered(1)[0], k)[1].tolist() == sorted(ids)[:k]
        assert everything(index, clustered(3)[:1], k, num_threads=3)[1][0].tolist() == sorted(ids)[:k]
        with kernels.using("generic"):
            assert everything(index, clustered(1)[0], k)[1].tolist() == sorted(ids)[:k]


@pytest.mark.parametrize("metric", METRICS)
def test_results_are_sorted_by_distance_then_id(metric):
    """Far from the origin many keys round to one distance."""
    index = pi.IVFIndex(DIM, metric, 1, nlist=8).fit(clustered(500, offset=100))
    index.add(clustered(1500, offset=100), ids=np.random.default_rng(0).permutation(1500))
    distances, ids = everything(index, clustered(30, offset=100), 300)
    steps = np.diff(distances, axis=1) * (1 if metric == "l2" else -1)
    assert (steps >= 0).all() and (np.diff(ids, axis=1)[steps == 0] > 0).all()


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_data_far_from_the_origin_lose_nothing(metric):
    x, q = clustered(2000), clustered(200, seed=1)
    far = np.float32(100 * x.std())
    near_index = pi.IVFIndex(DIM, metric, nlist=NLIST).fit(x)
    far_index = pi.IVFIndex(DIM, metric, nlist=NLIST).fit(x + far)
    near_index.add(x)
    far_index.add(x + far)
    near = recall(everything(near_index, q, 10)[1], x, q, metric)
    assert recall(everything(far_index, q + far, 10)[1], x + far, q + far, metric) > near - 0.01


@pytest.mark.parametrize("bits", [1, 4])
def test_residuals_are_coded_better_than_rows_in_a_flat_index(bits):
    """At equal bits and the same rotation, |x - c| and |q - c| stand where |x - mu| and |q - mu| do in a flat one.

    Here |x - mu|^2 is 5 times |x - c|^2: squared errors are 9 / 25 of the flat ones for rows of any list, and less
    than half of that for the nearest, most of which lie in the list of the query.
    """
    rng = np.random.default_rng(3)
    centres = rng.standard_normal((32, 64)) * 2
    x, q = ((centres[rng.integers(0, 32, n)] + rng.standard_normal((n, 64))).astype(np.float32) for n in (3000, 60))
    flat = pi.FlatIndex(64, bits=bits)
    lists = pi.IVFIndex(64, bits=bits, nlist=32).fit(x)
    truth, errors, near, found = exact(x, q, "l2"), [], [], []
    for index in (flat, lists):
        index.add(x)
        options = {"nprobe": 32} if index is lists else {}
        distances, ids = index.search(q, 3000, exact_scan=True, **options)
        squares = (distances - np.take_along_axis(truth, ids, 1)) ** 2
        errors.append(squares.mean())
        near.append(squares[:, :40].mean())
        found.append(recall(ids[:, :10], x, q))
    assert errors[1] < 0.45 * errors[0] and near[1] < 0.15 * near[0] and found[1] > found[0] + 0.05


# --- which lists are probed


def lists_found(index, q, **options):
    """The lists of all rows that a search of one query finds."""
    ids = index.search(q, len(index), **options)[1]
    return set(index._held.rows.lists_of(index._id_map.positions(ids[ids >= 0])).tolist())


def centroid_scores(index, q):
    """What `gap` is measured in: larger is nearer."""
    c, q = index.centroids.astype(np.float64), q.astype(np.float64)
    if index.metric == "l2":
        return -((q - c) ** 2).sum(1)
    if index.metric == "ip":
        return c @ q
    return c @ q / np.linalg.norm(c, axis=1) / np.linalg.norm(q)


@pytest.mark.parametrize("isa", [kernels.available()[0], "generic"])
@pytest.mark.parametrize("metric", METRICS)
def test_nprobe_and_gap_choose_the_lists_by_their_centroids(metric, isa):
    index = made(600, metric)
    with kernels.using(isa):
        for q in clustered(20, seed=1):
            scores = centroid_scores(index, q)
            order = np.argsort(-scores)
            steps = -np.diff(scores[order])
            for i in np.flatnonzero(steps > 0.02 * np.ptp(scores)):  # centroids are told apart by 8-bit codes
                assert lists_found(index, q, nprobe=int(i) + 1) == set(order[: i + 1].tolist())
                gap = float(scores[order[0]] - (scores[order[i]] + scores[order[i + 1]]) / 2)
                assert lists_found(index, q, nprobe=NLIST, gap=gap) == set(order[: i + 1].tolist())
    assert lists_found(index, q, nprobe=10**6) == lists_found(index, q, nprobe=NLIST, gap=np.inf) == set(range(NLIST))


@pytest.mark.parametrize("metric", METRICS)
def test_registers_and_plain_loops_probe_the_same_lists(metric):
    index = made(900, metric)
    q = clustered(200, seed=1)
    for options in ({"nprobe": 1}, {"nprobe": 5}, {"nprobe": 7, "gap": 3.0 if metric != "cosine" else 0.2}):
        found = index.search(q, 15, **options)
        with kernels.using("generic"):
            same(found, index.search(q, 15, **options))


def test_by_default_one_list_in_32_is_probed():
    x = clustered(2000)
    index = pi.IVFIndex(DIM, nlist=64).fit(x)
    index.add(x)
    assert index.info()["nprobe"] == 2
    same(index.search(x[:50]), index.search(x[:50], nprobe=2))
    assert made().info()["nprobe"] == 1


def test_more_lists_find_more():
    x, q = clustered(3000), clustered(60, seed=1)
    index = pi.IVFIndex(DIM, nlist=48, store="float32").fit(x)
    index.add(x)
    found = [recall(index.search(q, 10, nprobe=nprobe, rerank=20)[1], x, q) for nprobe in (1, 4, 16, 48)]
    assert found == sorted(found) and found[0] < 0.9 and found[-1] > 0.99


# --- fit


def test_before_fit_everything_says_what_to_do():
    index = pi.IVFIndex(DIM)
    x = clustered(3)
    calls = [
        lambda: index.add(x),
        lambda: index.search(x),
        lambda: index.range_search(x, 1.0),
        lambda: index.remove([0]),
        lambda: index.update([0], x[:1]),
        lambda: index.upsert([0], x[:1]),
        lambda: index.reconstruct([0]),
        lambda: index.ids,
        lambda: index.centroids,
        lambda: index.info(),
        lambda: index.empty_like(),
        lambda: index.merge(index),
        lambda: index.rebalance(),
    ]
    for call in calls:
        with pytest.raises(pi.NotFittedError, match=r"index\.fit\(x\)"):
            call()
    assert not index.fitted and len(index) == 0 and index.nbytes == 0 and "n=0" in repr(index)


def test_fit_takes_vectors_enough_and_only_while_the_index_is_empty():
    index = pi.IVFIndex(DIM, nlist=20)
    with pytest.raises(ValueError, match="19 rows cannot make nlist=20 lists"):
        index.fit(clustered(19))
    with pytest.raises(ValueError, match="at least one vector"):
        pi.IVFIndex(DIM).fit(clustered(0))
    with pytest.raises(ValueError, match="n must be at least 1|n must be"):
        index.fit(clustered(30), n=0)
    assert not index.fitted
    assert index.fit(clustered(20)) is index and index.fitted and index.nlist == 20
    index.fit(clustered(30, seed=1))
    index.add(clustered(3))
    with pytest.raises(ValueError, match="holds 3 rows"):
        index.fit(clustered(30))
    index.remove([0, 1, 2])
    index.fit(clustered(30))
    assert len(index) == 0 and index.add(clustered(1)).tolist() == [3]


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("row", [0, 5000, 8999])
def test_fit_names_a_bad_row_also_outside_the_sample(row, value):
    x = np.random.default_rng(0).standard_normal((9000, 3)).astype(np.float32)
    x[row, 1] = value
    index = pi.IVFIndex(3, nlist=4)
    with pytest.raises(ValueError, match=rf"x\[{row}\]"):
        index.fit(x)
    assert not index.fitted


def test_auto_chooses_lists_by_the_expected_rows():
    x = clustered(2000)
    assert pi.IVFIndex(DIM).fit(x).nlist == 125  # 16 rows a list
    assert pi.IVFIndex(DIM).fit(x, n=10_000).nlist == 400  # 4 sqrt(n)
    assert pi.IVFIndex(DIM).fit(x, n=10**9).nlist == 2000  # no more than there are vectors
    assert pi.IVFIndex(DIM).fit(x[:5]).nlist == 1
    index = pi.IVFIndex(DIM, nlist=7).fit(x, n=10_000)
    assert index.nlist == 7 and index.parameters()["nlist"] == 7 and index.centroids.shape == (7, DIM)


def test_equal_arguments_make_equal_indexes_bit_for_bit():
    x, q = clustered(1500), clustered(9, seed=1)
    one, other = (pi.IVFIndex(DIM, nlist=20, seed=5).fit(x) for _ in range(2))
    np.testing.assert_array_equal(one.centroids, other.centroids)
    for index in (one, other):
        index.add(x)
    np.testing.assert_array_equal(one.ids, other.ids)
    same(rows_of(one), rows_of(other))
    same(one.search(q, nprobe=3), other.search(q, nprobe=3))
    assert not np.array_equal(one.centroids, pi.IVFIndex(DIM, nlist=20, seed=6).fit(x).centroids)


@pytest.mark.parametrize("metric", METRICS)
def test_centroids_of_another_index_make_the_same_lists(metric):
    x, q = clustered(900), clustered(9, seed=1)
    one = pi.IVFIndex(DIM, metric, nlist=NLIST, seed=3).fit(x)
    other = pi.IVFIndex(DIM, metric, nlist="auto", seed=3).fit(x, centroids=one.centroids)
    for index in (one, other):
        index.add(x[:400])
    same(rows_of(one), rows_of(other))
    same(one.search(q, nprobe=3), other.search(q, nprobe=3))
    assert one.info() == other.info()
    other.merge(one.empty_like())
    others_code = pi.IVFIndex(DIM, metric, 1, "drive").fit(x, centroids=one.centroids)
    others_code.add(x[:400])
    np.testing.assert_array_equal(rows_of(others_code)[3], rows_of(one)[3])


def test_points_of_ones_own_are_the_centroids_and_stay_the_callers():
    points = clustered(5, seed=4).astype(np.float64)
    index = pi.IVFIndex(DIM, nlist=5).fit(clustered(3), centroids=points)
    points[:] = 0
    np.testing.assert_array_equal(index.centroids, clustered(5, seed=4))
    index.add(clustered(50))
    assert everything(index, clustered(2, seed=1))[1].shape == (2, 50)


@pytest.mark.parametrize(
    ("centroids", "message"),
    [
        (np.zeros((4, DIM)), "centroids must be nlist=5 points, got 4"),
        (np.zeros((0, DIM)), "centroids must be nlist=5 points, got 0"),
        (np.zeros((5, DIM + 1)), f"centroids has {DIM + 1} columns but dim={DIM} is wanted"),
        (np.full((5, DIM), np.nan), r"centroids\[0\] is not finite"),
        (np.full((5, DIM), 1e30), r"centroids\[0\] is too long"),
    ],
)
def test_bad_centroids_are_named_and_change_nothing(centroids, message):
    index = pi.IVFIndex(DIM, nlist=5)
    with pytest.raises(ValueError, match=message):
        index.fit(clustered(50), centroids=centroids)
    assert not index.fitted


def test_progress_is_told_and_centroids_are_a_copy():
    told = []
    index = pi.IVFIndex(DIM, nlist=8).fit(clustered(500), progress=lambda *step: told.append(step))
    assert told[-1][0] == told[-1][1] and [done for done, _ in told] == sorted(done for done, _ in told)
    index.centroids[:] = 0
    assert index.centroids.any()


@pytest.mark.parametrize("metric", METRICS)
def test_rows_are_in_the_list_of_the_nearest_centroid(metric):
    index = made(500, metric)
    x = clustered(500)
    rows = unit(x) if metric == "cosine" else x
    nearest = np.argmin(exact(index.centroids, rows, "l2"), axis=1)
    np.testing.assert_array_equal(index._held.rows.lists_of(index._id_map.positions(np.arange(500))), nearest)
    sizes = np.bincount(nearest, minlength=NLIST)
    info = index.info()
    assert (info["largest_list"], info["empty_lists"]) == (sizes.max(), (sizes == 0).sum())
    assert info["largest_over_mean"] == pytest.approx(sizes.max() / sizes.mean())


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (dict(dim=0), ValueError, "dim"),
        (dict(dim=4.5), TypeError, "dim"),
        (dict(dim=4, metric="l1"), ValueError, "metric"),
        (dict(dim=4, bits=9), ValueError, "bits"),
        (dict(dim=4, quantizer="pq"), ValueError, "quantizer"),
        (dict(dim=4, nlist=0), ValueError, "nlist"),
        (dict(dim=4, nlist=2**24 + 1), ValueError, "nlist"),
        (dict(dim=4, nlist="many"), TypeError, "nlist"),
        (dict(dim=4, nlist=2.0), TypeError, "nlist"),
        (dict(dim=4, store="float64"), ValueError, "store"),
        (dict(dim=4, seed=-1), ValueError, "seed"),
        (dict(dim=4, center="yes"), TypeError, "center"),
    ],
)
def test_bad_construction_is_one_line_naming_the_argument(arguments, error, words):
    with pytest.raises(error, match=words) as caught:
        pi.IVFIndex(**arguments)
    assert "\n" not in str(caught.value)


# --- k, shapes, padding, filters


@pytest.mark.parametrize("isa", [kernels.available()[0], "generic"])
@pytest.mark.parametrize(("metric", "worst"), [("l2", np.inf), ("ip", -np.inf), ("cosine", -np.inf)])
def test_missing_results_are_id_minus_one_at_infinite_distance(metric, worst, isa):
    index = made(0, metric)
    with kernels.using(isa):
        distances, ids = index.search(clustered(2), 3)
        assert ids.tolist() == [[-1] * 3] * 2 and (distances == worst).all()
        distances, ids, errors = index.search(clustered(2), 3, return_error=True)
        assert ids.tolist() == [[-1] * 3] * 2 and (errors == np.inf).all()
        index.add(clustered(2))
        distances, ids = everything(index, clustered(1)[0], 5)
    assert ids.shape == (5,) and sorted(ids[:2]) == [0, 1]
    assert ids[2:].tolist() == [-1] * 3 and (distances[2:] == worst).all()


def test_shapes_and_dtypes():
    index = made(20)
    assert index.ids.dtype == np.int64 and sorted(index.ids) == list(range(20))
    distances, ids = index.search(clustered(4), 3)
    assert (distances.shape, distances.dtype, ids.shape, ids.dtype) == ((4, 3), np.float32, (4, 3), np.int64)
    for options in ({}, {"filter": [1, 2]}, {"query_bits": 16}, {"filter": []}):
        distances, ids = index.search(np.empty((0, DIM), np.float32), 3, **options)
        assert distances.shape == ids.shape == (0, 3)
    distances, ids, errors = index.search(clustered(1)[0], 3, return_error=True)
    assert distances.shape == ids.shape == errors.shape == (3,) and errors.dtype == np.float32
    assert index.reconstruct([3, 1]).shape == (2, DIM)
    assert index.add(np.empty((0, DIM), np.float32)).shape == (0,)
    lims, distances, ids = index.range_search(np.empty((0, DIM), np.float32), 1.0)
    assert lims.tolist() == [0] and len(distances) == len(ids) == 0


@pytest.mark.parametrize("isa", [kernels.available()[0], "generic"])
def test_filters_of_every_kind_allow_the_same_rows(isa):
    index = made(700, ids=np.random.default_rng(0).permutation(5000)[:700])
    index.remove(index.ids[::9])
    q = clustered(6, seed=1)
    allowed = np.random.default_rng(1).permutation(index.ids)[:150]
    mask = np.isin(index.ids, allowed)
    wanted = [part[:, :20] for part in ranked(index, np.where(mask, law(index, q), np.inf), 20)]
    with kernels.using(isa):
        for kind in (mask, allowed, set(allowed.tolist()), pi.IdFilter(allowed), np.append(allowed, 10**12)):
            same(everything(index, q, 20, filter=kind), wanted)
        one_each = [mask, None, allowed, pi.IdFilter([]), [int(allowed[0])], mask]
        distances, ids = everything(index, q, 20, filter=one_each)
        whole = everything(index, q, 20)
        for row in (0, 2, 5):
            same((distances[row], ids[row]), [part[row] for part in wanted])
        same((distances[1], ids[1]), [part[1] for part in whole])
        assert (ids[3] == -1).all() and ids[4].tolist() == [allowed[0]] + [-1] * 19
        same(everything(index, q, 20, filter=np.ones(len(index), bool)), whole)


def test_an_id_filter_follows_the_index():
    index = made(300)
    chosen = pi.IdFilter(np.arange(100, 400))
    q = clustered(1)[0]
    assert set(everything(index, q, filter=chosen)[1]) == {-1, *range(100, 300)}
    index.remove(np.arange(90, 200))
    index.add(clustered(100, seed=5))
    assert set(everything(index, q, filter=chosen)[1]) == {-1, *range(200, 400)}
    index.rebalance()
    assert set(everything(index, q, filter=chosen)[1]) == {-1, *range(200, 400)}


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (dict(k=0), ValueError, "k"),
        (dict(k=-1), ValueError, "k"),
        (dict(k=2.5), TypeError, "k"),
        (dict(k=10.0), TypeError, "k must be an integer"),
        (dict(k=[10]), TypeError, "k must be an integer"),
        (dict(k=True), TypeError, "k must be an integer"),
        (dict(nprobe=0), ValueError, "nprobe"),
        (dict(nprobe="all"), TypeError, "nprobe"),
        (dict(nprobe=1.0), TypeError, "nprobe"),
        (dict(nprobe=True), TypeError, "nprobe"),
        (dict(gap=-1.0), ValueError, "gap"),
        (dict(gap=np.nan), ValueError, "gap"),
        (dict(gap=True), TypeError, "gap"),
        (dict(gap="wide"), TypeError, "gap"),
        (dict(rerank=4), ValueError, "store"),
        (dict(rerank=-1), ValueError, "rerank"),
        (dict(rerank=0.0), TypeError, "rerank"),
        (dict(rerank=False), TypeError, "rerank"),
        (dict(num_threads=0), ValueError, "num_threads"),
        (dict(num_threads=1.5), TypeError, "num_threads"),
        (dict(num_threads=True), TypeError, "num_threads"),
        (dict(exact_scan="no"), TypeError, "exact_scan"),
        (dict(return_error=0), TypeError, "return_error"),
        (dict(query_bits=12), ValueError, "query_bits"),
        (dict(filter=[True]), ValueError, "filter"),
        (dict(filter="abc"), TypeError, "filter"),
        (dict(filter=[[1], [2]]), ValueError, "filter"),
    ],
)
def test_bad_search_arguments_are_one_line_naming_the_argument(arguments, error, words):
    """Also where equal numbers were right before: searches remember arguments that they have checked."""
    index = made(30)
    q = clustered(3)
    index.search(q)
    for seen in ({"k": 1}, {"nprobe": 1}, {"gap": 1.0}, {"rerank": 0}, {"k": 10, "num_threads": 1}):
        index.search(q, **seen)
    for asked in (q, q[0]) if "filter" not in arguments else (q,):
        with pytest.raises(error, match=words) as caught:
            index.search(asked, **arguments)
        assert "\n" not in str(caught.value)


def test_arguments_of_other_integer_types_are_welcome():
    index = made(100, store="float32")
    q = clustered(2)
    wanted = index.search(q, 5, nprobe=3, gap=40, rerank=2, num_threads=2)
    for integer in (np.int64, np.uint8):
        same(wanted, index.search(q, integer(5), nprobe=integer(3), gap=np.float32(40), rerank=integer(2)))


# --- ids


def test_ids_continue_after_the_largest_ever_used():
    index = made(3)
    index.add(clustered(1), ids=[10])
    assert index.add(clustered(2)).tolist() == [11, 12]
    index.remove([12, 11])
    assert index.add(clustered(1)).tolist() == [13]
    assert sorted(index.ids) == [0, 1, 2, 10, 13] and index.info()["next_id"] == 14


@pytest.mark.parametrize("bad", [[5, 5], [1, 5], [-1, 5], [5, 2**63], [5]])
def test_bad_ids_are_errors_and_change_nothing(bad):
    index = made(3)
    with pytest.raises(ValueError, match="ids"):
        index.add(clustered(2), ids=np.array(bad, np.uint64) if max(bad) > 2**62 else bad)
    with pytest.raises(TypeError, match="ids"):
        index.add(clustered(2), ids=[1.5, 2.5])
    assert len(index) == 3 and index.add(clustered(1)).tolist() == [3]


@pytest.mark.parametrize("isa", [kernels.available()[0], "generic"])
@pytest.mark.parametrize("store", ["none", "float32"])
def test_ids_beyond_32_bits_make_rows_a_word_wider_once(store, isa):
    x = clustered(400)
    small = np.arange(300)
    index = made(0, store=store)
    index.add(x[:300], small)
    width = index.bytes_per_vector
    large = np.concatenate([[2**32 - 1, 2**32, 2**63 - 2], 2**40 + np.arange(97)])
    index.add(x[300:], large)
    assert index.bytes_per_vector == width + 4
    assert sorted(index.ids) == sorted([*small, *large])
    with kernels.using(isa):
        distances, found = everything(index, x, 1)
        at = np.concatenate([small, large])
        np.testing.assert_array_equal(found[:, 0], at)
        plain = made(0, store=store)
        plain.add(x)
        np.testing.assert_array_equal(distances, everything(plain, x, 1)[0])
    np.testing.assert_array_equal(index.reconstruct(large), plain.reconstruct(np.arange(300, 400)))
    index.remove(large[1::2])
    assert sorted(index.ids) == sorted([*small, *large[::2]])
    with pytest.raises(ValueError, match="follow"):
        index.add(x[:1])


def test_ids_are_aligned_with_masks_in_the_order_of_places():
    index = made(500, ids=np.random.default_rng(0).permutation(500))
    index.remove(np.arange(0, 500, 3))
    ids = index.ids
    for one in ids[::37]:
        found = everything(index, clustered(1)[0], 2, filter=ids == one)[1]
        assert found.tolist() == [one, -1]


def test_all_ids_take_no_more_memory_than_they_need():
    index = pi.IVFIndex(512, nlist=4, bits=8).fit(np.random.default_rng(0).standard_normal((64, 512)))
    index.add(np.zeros((40_000, 512), np.float32))
    index.ids  # noqa: B018
    tracemalloc.start()
    try:
        index.ids  # noqa: B018
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8e6  # rows are 21 MB, ids .3 MB


# --- changing rows

@pytest.mark.skipif(kernels.selected() == kernels.GENERIC, reason="plain loops are told no addresses")
def test_searches_of_many_threads_do_not_take_memory_from_each_other(monkeypatch):
    """The first searches after a change may each describe the index to the kernel, and the last one's stays."""
    index = made(300)
    q = clustered(3)
    wanted = index.search(q, 5, nprobe=3)
    scan, answer = index._held.scan, kernels.answer
    described, alive = [], []

    def interrupted(*arguments):
        if not described:
            described.append(weakref.ref(scan.coarse.lists(scan.coarse.quantizer)))
            scan._told = scan.coarse._lists = index._held.rows._store = None
            same(index.search(q, 5, nprobe=3), wanted)
            gc.collect()
            alive.append(described[0]() is not None)
        return answer(*arguments)

    index._seen.clear()
    monkeypatch.setattr(kernels, "answer", interrupted)
    monkeypatch.setattr(kernels, "entry", lambda kernel, *arguments: kernel)
    same(index.search(q, 5, nprobe=3), wanted)
    assert alive == [True]


def test_many_threads_search_at_once():
    q = clustered(600, seed=1)
    index = made(2000, store="float32")
    wanted = index.search(q, 9, nprobe=4)
    for _ in range(20):
        one, other = index.empty_like(), index.empty_like()
        one.merge(index)
        other.merge(index)
        same(one.search(q, 9, nprobe=4, num_threads=4), wanted)
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(partial(other.search, k=9, nprobe=4), np.array_split(q, 12)))
        same([np.concatenate(parts) for parts in zip(*found, strict=True)], wanted)


operations = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 40), st.none()),
        st.tuples(st.just("add"), st.integers(1, 5), st.integers(0, 400)),
        st.tuples(st.just("add"), st.integers(1, 5), st.integers(2**32 - 9, 2**32)),
        st.tuples(st.just("remove"), st.integers(1, 60), st.integers(0, 10**6)),
        st.tuples(st.just("update"), st.integers(1, 10), st.integers(0, 10**6)),
        st.tuples(st.just("upsert"), st.integers(1, 10), st.integers(0, 300)),
    ),
    max_size=14,
)
EMPTY = {}


def empty(metric, store, quantizer="eden"):
    if (metric, store, quantizer) not in EMPTY:
        EMPTY[metric, store, quantizer] = made(0, metric, quantizer=quantizer, nlist=5, store=store)
    return EMPTY[metric, store, quantizer].empty_like()


@settings(max_examples=80, deadline=None)
@given(operations, st.sampled_from(["none", "float32"]), st.sampled_from(METRICS), st.sampled_from([2**18, 64]))
def test_any_history_equals_an_index_built_at_once(history, store, metric, rows):
    """Also in blocks of few rows, of which there are then several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lists, "block_rows", lambda row_bytes: rows)
        check_history(history, empty(metric, store), empty(metric, store))


@settings(max_examples=30, deadline=None)
@given(operations, st.sampled_from(["int8", "float16"]), st.sampled_from(["polarquant", "turboquant-prod"]))
def test_any_history_equals_an_index_built_at_once_for_other_codes(history, store, quantizer):
    check_history(history, empty("l2", store, quantizer), empty("l2", store, quantizer))


def check_history(history, index, at_once):
    """Add, remove, update and upsert in any order leave what adding the surviving rows would."""
    model: dict[int, np.ndarray] = {}
    for step, (what, count, at) in enumerate(history):
        rows = clustered(count, seed=step)
        if what == "add" and at is None:
            model.update(zip(index.add(rows).tolist(), rows, strict=True))
        elif what in ("add", "upsert"):
            ids = [at + 3 * i for i in range(count)]
            if what == "upsert" or not set(ids) & set(model):
                index.add(rows, ids) if what == "add" else index.upsert(ids, rows)
                model.update(zip(ids, rows, strict=True))
        elif model:
            chosen = np.random.default_rng(at).permutation(sorted(model))[:count]
            if what == "remove":
                assert index.remove(chosen) == len(chosen)
                for one in chosen:
                    del model[int(one)]
            else:
                index.update(chosen, rows[: len(chosen)])
                model.update(zip(chosen.tolist(), rows, strict=False))
    assert len(index) == len(model) and sorted(index.ids) == sorted(model)
    if not model:
        return
    ids = np.array(sorted(model))
    at_once.add(np.stack([model[one] for one in ids]), ids)
    q = clustered(4, seed=1000)
    same(everything(index, q, 12), everything(at_once, q, 12))
    same(index.search(q, 12, nprobe=2), at_once.search(q, 12, nprobe=2))
    np.testing.assert_array_equal(index.reconstruct(ids), at_once.reconstruct(ids))
    rows = index._held.rows
    assert sorted(np.concatenate([rows.places_of(i) for i in range(rows.nlist)])) == rows.used().tolist()


def test_remove_and_update_name_an_unknown_id_and_change_nothing():
    x = clustered(6)
    index = made(6)
    before = everything(index, x)
    for call in (lambda: index.remove([2, 77]), lambda: index.update([2, 77], x[:2]), lambda: index.reconstruct([77])):
        with pytest.raises(KeyError, match="77"):
            call()
    same(before, everything(index, x))
    assert index.remove([2, 77], missing="ignore") == 1 and len(index) == 5
    assert index.remove([], missing="ignore") == 0
    with pytest.raises(ValueError, match="missing"):
        index.remove([1], missing="skip")


@pytest.mark.parametrize("store", ["none", "float32"])
@pytest.mark.parametrize("seed", range(4))
def test_removing_any_half_and_adding_it_again_gives_the_same_answers(seed, store):
    x, q = clustered(1000), clustered(30, seed=1)
    ids = np.random.default_rng(9).permutation(3000)[:1000]
    index = made(1000, ids=ids, store=store)
    wanted = everything(index, q, 25), index.search(q, 25, nprobe=2)
    half = np.random.default_rng(seed).permutation(1000)[:500]
    index.remove(ids[half])
    rest = np.delete(np.arange(1000), half)
    without = index.empty_like()
    without.add(x[rest], ids[rest])
    same(everything(index, q, 25), everything(without, q, 25))
    index.add(x[half], ids[half])
    same(wanted[0], everything(index, q, 25))
    same(wanted[1], index.search(q, 25, nprobe=2))


def test_removal_gives_memory_back():
    index = made(0, store="float32")
    index.add(clustered(40_000))
    full = index.nbytes
    index.remove(np.random.default_rng(0).permutation(40_000)[:39_000])
    assert len(index) == 1000 and index.nbytes < full / 8
    index.remove(index.ids)
    assert len(index) == 0 and index.nbytes < 50_000
    assert index.add(clustered(5)).tolist() == list(range(40_000, 40_005))


def test_space_that_removals_leave_is_used_again():
    x = clustered(20_000)
    index = made(0)
    index.add(x)
    index.upsert([0], x[:1])
    full = index.nbytes
    for turn in range(12):
        ids = index.ids
        gone = ids[turn::10]
        index.remove(gone)
        index.add(x[: len(gone)])
    assert len(index) == 20_000 and index.nbytes < 1.2 * full


# --- inputs


def bad_vectors():
    good = clustered(4)
    for name, change, error in [
        ("dim", lambda x: x[:, :5], ValueError),
        ("one vector", lambda x: x[0], ValueError),
        ("three axes", lambda x: x[None], ValueError),
        ("NaN in the last row", lambda x: np.where(np.arange(4)[:, None] == 3, np.nan, x), ValueError),
        ("inf", lambda x: np.where(np.arange(4)[:, None] == 2, np.inf, x), ValueError),
        ("too long", lambda x: np.where(np.arange(4)[:, None] == 2, np.float32(1e19), x), ValueError),
        ("object", lambda x: x.astype(object), TypeError),
        ("complex", lambda x: x.astype(complex), TypeError),
        ("text", lambda x: x.astype(str), TypeError),
        ("bool", lambda x: x > 0, TypeError),
        ("none", lambda x: None, TypeError),
    ]:
        yield pytest.param(change(good), error, id=name)


@pytest.mark.parametrize(("bad", "error"), list(bad_vectors()))
def test_bad_vectors_are_named_and_change_nothing(bad, error):
    x = clustered(30)
    index = made(30)
    index.update([0], x[:1])
    before, size = everything(index, x, 5), index.nbytes
    for call in (
        lambda: index.add(bad),
        lambda: index.update([0, 1, 2, 3], bad),
        lambda: index.upsert([0, 1, 2, 99], bad),
        lambda: index.rebalance([bad] if bad is None else bad),
        lambda: index.empty_like().fit(bad),
    ):
        with pytest.raises(error, match="x") as caught:
            call()
        assert "\n" not in str(caught.value)
        assert len(index) == 30 and index.nbytes == size
        same(before, everything(index, x, 5))
    if np.ndim(bad) != 1:
        with pytest.raises(error, match="q"):
            index.search(bad)


@pytest.mark.parametrize("last", [4095, 4096, 9999])
def test_a_bad_row_at_the_end_of_a_long_add_changes_nothing(last):
    index = made(500)
    before, size = everything(index, clustered(9), 9), index.nbytes
    x = clustered(10_000, seed=3)
    x[last] = np.nan
    with pytest.raises(ValueError, match=rf"x\[{last}\]"):
        index.add(x)
    assert index.nbytes == size and index.info()["next_id"] == 500
    same(before, everything(index, clustered(9), 9))


def test_rows_beyond_float16_are_named_and_change_nothing():
    index = made(100, store="float16")
    before = everything(index, clustered(9), 9, query_bits=16)
    x = clustered(5000, seed=3)
    x[4999, 3] = 70_000
    for call in (lambda: index.add(x), lambda: index.upsert(np.arange(5000), x)):
        with pytest.raises(ValueError, match=r"x\[4999\].*float16"):
            call()
    assert len(index) == 100
    same(before, everything(index, clustered(9), 9, query_bits=16))


@pytest.mark.parametrize("store", ["none", "float32"])
@pytest.mark.parametrize("when", [0, 1, 3])
def test_an_interrupted_add_changes_nothing(monkeypatch, when, store):
    index = made(2000, store=store)
    before, size = everything(index, clustered(5), 9), index.nbytes
    encode, calls = index.quantizer.encode_in_lists, itertools.count()

    def interrupted(*arguments, **options):
        if next(calls) == when:
            raise KeyboardInterrupt
        return encode(*arguments, **options)

    for call in (lambda x: index.add(x), lambda x: index.upsert(np.arange(100, 100 + len(x)), x)):
        calls = itertools.count()
        monkeypatch.setattr(index.quantizer, "encode_in_lists", interrupted)
        with pytest.raises(KeyboardInterrupt):
            call(clustered(20_000, seed=3))
        monkeypatch.undo()
        assert len(index) == 2000 and index.info()["next_id"] == 2000 and index.nbytes <= size + 2**20
        same(before, everything(index, clustered(5), 9))
    assert index.add(clustered(7, seed=2)).tolist() == list(range(2000, 2007))
    wanted = index.empty_like()
    wanted.add(clustered(2000))
    wanted.add(clustered(7, seed=2))
    same(everything(index, clustered(5), 9), everything(wanted, clustered(5), 9))


def test_an_interrupt_while_rows_are_taken_waits_until_they_are(monkeypatch):
    index = made(100)
    commit = index._held.rows.commit

    def struck(staged):
        signal.raise_signal(signal.SIGINT)
        commit(staged)

    monkeypatch.setattr(index._held.rows, "commit", struck)
    with pytest.raises(KeyboardInterrupt):
        index.add(clustered(50, seed=2))
    monkeypatch.undo()
    wanted = index.empty_like()
    wanted.add(clustered(100))
    wanted.add(clustered(50, seed=2))
    same(everything(index, clustered(5)), everything(wanted, clustered(5)))


@pytest.mark.parametrize("step", ["extend", "_reserve"])
def test_a_search_after_an_add_interrupted_while_it_makes_room_reads_what_is_there(monkeypatch, step):
    """A block may have been copied to a larger one, and the old one let go."""
    index = made(100)
    before = everything(index, clustered(5))
    arena = index._held.rows.arena
    real = getattr(arena, step)

    def struck(*arguments):
        real(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(arena, step, struck)
    with pytest.raises(KeyboardInterrupt):
        index.add(clustered(900, seed=2))
    monkeypatch.undo()
    described = index._held.rows.store[0]
    np.testing.assert_array_equal(described, arena.addresses("rows"))
    same(before, everything(index, clustered(5)))


CONTAINERS = {
    "float64": lambda x: x.astype(np.float64),
    "float16": lambda x: x.astype(np.float16),
    "fortran": np.asfortranarray,
    "strided": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "backwards": lambda x: x[::-1].copy()[::-1],
    "list": lambda x: x.tolist(),
    "uint8": lambda x: x.astype(np.uint8),
    "int64": lambda x: x.astype(np.int64),
    "array-like": lambda x: type("Vectors", (), {"__array__": lambda self, dtype=None, copy=None: x})(),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_container_gives_the_index_of_its_float32_values(name):
    x = np.random.default_rng(0).integers(0, 100, (700, DIM)).astype(np.float32)
    given = CONTAINERS[name](x)
    kept = np.array(given)
    index, wanted = (pi.IVFIndex(DIM, nlist=NLIST, store="float32").fit(rows) for rows in (given, x))
    index.add(given)
    wanted.add(x)
    np.testing.assert_array_equal(index.centroids, wanted.centroids)
    same(everything(index, given, 5), everything(wanted, x, 5))
    index.update(np.arange(700), given)
    same(everything(index, given, 5), everything(wanted, x, 5))
    np.testing.assert_array_equal(np.array(given), kept)


def test_torch_tensors_work():
    torch = pytest.importorskip("torch")
    index = made(0)
    index.add(torch.from_numpy(clustered(50)))
    assert everything(index, torch.from_numpy(clustered(50)[:3]), 1)[1].ravel().tolist() == [0, 1, 2]


@pytest.mark.parametrize("metric", METRICS)
def test_arguments_are_never_modified_and_may_be_read_only(metric):
    x, ids = clustered(40), np.arange(40)
    for array in (x, ids):
        array.flags.writeable = False
    index = pi.IVFIndex(DIM, metric, nlist=3, store="float32").fit(x)
    index.add(x, ids)
    found = everything(index, x, 5, filter=ids, rerank=8)
    index.update(ids, x)
    aligned = x[index.ids]
    aligned.flags.writeable = False
    index.rebalance(aligned)
    same(everything(index, x.copy(), 5, rerank=8), found)
    for row in x[:3]:
        index.search(row)
    np.testing.assert_array_equal(x, clustered(40))


def test_changing_the_callers_arrays_afterwards_changes_nothing():
    x, ids = clustered(400), np.arange(400)
    index = pi.IVFIndex(DIM, nlist=8, store="float32").fit(x)
    given = index.add(x, ids)
    before = everything(index, clustered(3), 5)
    x[:], ids[:], given[:] = 0, 7, 7
    same(before, everything(index, clustered(3), 5))


def test_zero_vectors_are_welcome_in_l2_and_ip_and_named_in_cosine():
    x = clustered(5)
    x[3] = 0
    for metric, isa in itertools.product(("l2", "ip"), (kernels.available()[0], "generic")):
        index = pi.IVFIndex(DIM, metric, nlist=2, center=False).fit(x)
        index.add(x)
        with kernels.using(isa):
            assert np.isfinite(everything(index, x)[0]).all()
            assert everything(index, x[3], 1)[1].tolist() == [3] or metric == "ip"
    index = made(0, "cosine")
    with pytest.raises(ValueError, match=r"x\[3\]"):
        index.add(x)
    assert len(index) == 0
    for query in (x[3], x):
        with pytest.raises(ValueError, match="q"):
            index.search(query)
    index.search(x[:3])
    with pytest.raises(ValueError, match=r"q\[3\]"):  # as the search before it, whose arguments are remembered
        index.search(x)


@pytest.mark.parametrize("metric", METRICS)
def test_bad_queries_are_named_whatever_was_searched_before(metric):
    index = made(50, metric)
    q = clustered(5)
    index.search(q)
    for value in (np.nan, np.inf, -np.inf):
        bad = q.copy()
        bad[3, 1] = value
        with pytest.raises(ValueError, match=r"q\[3\]"):
            index.search(bad)
        with pytest.raises(ValueError, match="q"):
            index.search(bad[3])
    with pytest.raises(ValueError, match="dim"):
        index.search(q[:, :5].copy())
    with pytest.raises(ValueError, match="shape"):
        index.search(q[None])


def test_one_list_one_dimension_and_identical_rows_work():
    index = pi.IVFIndex(DIM, nlist=4).fit(np.tile(clustered(1), (100, 1)))
    index.add(np.tile(clustered(1), (200, 1)))
    distances, ids = everything(index, clustered(1)[0], 3)
    assert ids.tolist() == [0, 1, 2] and distances == pytest.approx(0, abs=1e-3)
    assert index.info()["drift"] is None
    for quantizer, bits in itertools.product(("eden", "turboquant", "polarquant", "qjl"), (1, 4)):
        line = pi.IVFIndex(1, quantizer=quantizer, bits=bits, nlist=2).fit([[1.0], [9.0]])
        line.add([[1.0], [2.0], [9.0]])
        distances, ids = everything(line, [[8.5]])
        assert np.isfinite(distances).all() and sorted(ids[0]) == [0, 1, 2] and ids[0, 0] == 2


@pytest.mark.parametrize("metric", METRICS)
def test_vectors_of_any_small_length_work(metric):
    for scale in (1e-15, 1e-36):
        tiny = (clustered(500) * scale).astype(np.float32)
        index = pi.IVFIndex(DIM, metric, nlist=5).fit(tiny)
        index.add(tiny)
        assert np.isfinite(everything(index, tiny[:5], 3)[0]).all()


# --- errors, re-ranking, ranges


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("bits", [1, 4])
def test_reported_errors_cover_the_truth_as_often_as_a_normal_error_would(bits, metric):
    """68 % within one and 95 % within two, over rotations and data; beside chance (4 deviations of the mean of ten
    indexes), 1.5 % are allowed for the law being that of large dimensions."""
    dim, ones, twos, spreads = 256, [], [], []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        centres = rng.standard_normal((8, dim))
        rows = [centres[rng.integers(0, 8, n)] + rng.standard_normal((n, dim)) for n in (500, 20)]
        x, q = (part.astype(np.float32) for part in rows)
        index = pi.IVFIndex(dim, metric, bits, nlist=8, seed=seed).fit(x)
        index.add(x)
        distances, ids, errors = everything(index, q, return_error=True)
        gaps, known = distances - np.take_along_axis(exact(x, q, metric), ids, 1), errors == 0
        assert (np.abs(gaps[known]) < 1e-6).all() and known.mean() < 0.01  # rows that are their list's centroid
        z = gaps[~known] / errors[~known]
        ones.append(np.mean(np.abs(z) < 1))
        twos.append(np.mean(np.abs(z) < 2))
        spreads.append(np.mean(z**2))
    for found, wanted in ((ones, 0.6827), (twos, 0.9545), (np.sqrt(spreads), 1.0)):
        assert abs(np.mean(found) - wanted) < 0.015 * wanted + 4 * np.std(found) / np.sqrt(len(found))
        assert np.std(found) < 0.05


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("quantizer", "bits"), [("eden", 1), ("eden", 5), ("eden-biased", 4), ("turboquant", 1), ("turboquant-prod", 3)]
)
def test_reported_errors_are_one_standard_error(quantizer, bits, metric):
    rng = np.random.default_rng(3)
    x, q = rng.standard_normal((1500, 64)).astype(np.float32), rng.standard_normal((40, 64)).astype(np.float32)
    index = pi.IVFIndex(64, metric, bits, quantizer, nlist=8).fit(x)
    index.add(x)
    distances, ids, errors = everything(index, q, return_error=True)
    z = (distances - np.take_along_axis(exact(x, q, metric), ids, 1)) / errors
    spread = 0.15 if index.quantizer.unbiased else 0.35
    assert 1 - spread < np.sqrt(np.mean(z**2)) < 1 + spread


STORES = ["float32", *(pytest.param(store, marks=pytest.mark.slow) for store in ("float16", "int8"))]


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("metric", METRICS)
def test_reranking_gives_exact_distances_and_better_recall(metric, store):
    x, q = clustered(3000), clustered(40, seed=1)
    index = made(3000, metric, bits=1 if store == "float32" else 4, store=store)
    distances, ids, errors = everything(index, q, 10, return_error=True)
    tolerance = {"float32": 1e-6, "float16": 2e-3, "int8": 2e-2}[store]
    truth = np.take_along_axis(exact(x, q, metric), ids, 1)
    np.testing.assert_allclose(distances, truth, rtol=tolerance, atol=tolerance * np.abs(truth).max())
    assert (errors == 0).all() if store == "float32" else np.isnan(errors).all()
    plain = recall(everything(index, q, 10, rerank=0)[1], x, q, metric)
    assert recall(ids, x, q, metric) > plain + 0.02
    assert recall(everything(index, q, 10, rerank=40)[1], x, q, metric) > 0.97
    same(everything(index, q, 10, rerank=4), (distances, ids))
    with kernels.using("generic"):
        same(everything(index, q, 10), (distances, ids))


def test_reconstruct_gives_originals_where_stored_and_decodes_elsewhere():
    x = clustered(300)
    for store, tolerance in (("float32", 0), ("float16", 1e-3), ("int8", 1e-2)):
        index = made(300, store=store)
        np.testing.assert_allclose(index.reconstruct([4, 2, 4]), x[[4, 2, 4]], atol=tolerance * np.abs(x).max())
    decoded = made(300, bits=8).reconstruct(np.arange(300))
    np.testing.assert_allclose(decoded, x, atol=0.02 * np.abs(x).max())
    decoded = made(300, "cosine", bits=8).reconstruct(np.arange(300))
    np.testing.assert_allclose(np.linalg.norm(decoded, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(decoded, unit(x), atol=0.02)


@pytest.mark.parametrize("quantizer", ["eden", "polarquant"])
@pytest.mark.parametrize("metric", METRICS)
def test_range_search_is_all_distances_cut_at_the_radius(metric, quantizer):
    index = made(900, metric, quantizer=quantizer, ids=np.arange(900) * 3)
    q = clustered(7, seed=1)
    for options in ({}, {"filter": np.arange(0, 2700, 6)}, {"filter": [None, [3, 6], None, [], None, None, None]}):
        distances, ids = everything(index, q, 900, **options)
        radius = float(np.median(distances[ids >= 0]))
        lims, found_distances, found_ids = index.range_search(q, radius, **options)
        hits = (distances <= radius if metric == "l2" else distances >= radius) & (ids >= 0)
        assert lims.tolist() == [0, *np.cumsum(hits.sum(axis=1)).tolist()]
        np.testing.assert_array_equal(found_ids, ids[hits])
        np.testing.assert_array_equal(found_distances, distances[hits])
    lims, distances, ids = index.range_search(q[0], radius)
    assert lims.shape == (2,)


def test_range_search_of_few_lists_or_nothing():
    index = made(0)
    lims, distances, ids = index.range_search(clustered(2), 1e9)
    assert lims.tolist() == [0, 0, 0] and len(distances) == len(ids) == 0
    index.add(clustered(300))
    assert index.range_search(clustered(2) + 1e3, 0.0)[0].tolist() == [0, 0, 0]
    q = clustered(1)[0]
    found = index.range_search(q, 1e9, nprobe=2)[2]
    assert set(found) == set(index.search(q, 300, nprobe=2)[1]) - {-1} and 0 < len(found) < 300
    assert len(index.range_search(q, 1e9)[2]) == 300
    for arguments, error in ((dict(radius="far"), TypeError), (dict(radius=1.0, nprobe=0), ValueError)):
        with pytest.raises(error, match="radius|nprobe"):
            index.range_search(q, **arguments)


# --- all that it holds


def test_indexes_copy_and_pickle():
    index = made(1500)
    wanted = everything(index, clustered(4), 9)
    for other in (copy.deepcopy(index), pickle.loads(pickle.dumps(index))):
        same(wanted, everything(other, clustered(4), 9))
        other.remove([0])
        other.add(clustered(1))
        other.search(clustered(4))
        same(wanted, everything(index, clustered(4), 9))


def test_info_counts_every_byte():
    index = made(2000, store="float32")
    info = index.info()
    assert info["bytes_per_vector"] == 16 + 4 + 4 + 4 + 4 * DIM  # code (4 words), scale, shift, id, original
    assert info["bits_per_dim"] == 8 * info["bytes_per_vector"] / DIM
    assert info["nbytes"] >= 2000 * info["bytes_per_vector"] and info["n"] == 2000
    assert len(repr(index)) < 120


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_add_needs_a_fixed_memory_beside_the_index(dtype):
    x = np.tile(clustered(1000, 128), (100, 1)).astype(dtype)
    index = pi.IVFIndex(128, nlist=16).fit(x[:1000])
    index.add(x[:2000])
    index = index.empty_like()
    tracemalloc.start()
    try:
        index.add(x)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak - index.nbytes < 24e6


def test_searches_remember_a_limited_number_of_arguments():
    index = made(300)
    for k in range(1, answers._SEEN + 50):
        assert index.search(clustered(1)[0], k)[1].shape == (k,)
    assert len(index._seen) <= answers._SEEN


def test_what_was_remembered_is_forgotten_when_rows_change():
    index = made(50)
    q = clustered(200, seed=3)
    for n in (0, 1, 30):
        index.add(clustered(n, seed=4 + n))
        same(everything(index, q, 60), ranked_padded(index, q, 60))
        same([part[0] for part in everything(index, q, 60)], everything(index, q[0], 60))
    index.remove(index.ids[5:])
    same(everything(index, q, 60), ranked_padded(index, q, 60))


def ranked_padded(index, q, k):
    distances, ids = ranked(index, law(index, q), k)
    missing = k - ids.shape[1]
    if missing <= 0:
        return distances, ids
    pad = ((0, 0), (0, missing))
    return np.pad(distances, pad, constant_values=np.inf), np.pad(ids, pad, constant_values=-1)
