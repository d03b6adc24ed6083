"""FlatIndex: the score law, ids, the centre, and everything a caller may do wrong."""

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import polarindex as pi
from polarindex import checks, kernels
from polarindex.indexes.flat import CENTRE_ROWS
from polarindex.indexes.scan import integer_queries
from polarindex.kernels import dispatch

METRICS = ("l2", "ip", "cosine")
DIM = 24


def clustered(n, dim=DIM, seed=0, offset=0.0):
    """Rows around a few centres, of unlike lengths."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((8, dim)) * 2
    x = centres[rng.integers(0, 8, n)] + rng.standard_normal((n, dim))
    return (x * rng.uniform(0.5, 1.5, (n, 1)) + offset).astype(np.float32)


def exact(x, q, metric):
    """True distances (nq, n) in float64, FAISS conventions."""
    x, q = x.astype(np.float64), q.astype(np.float64)
    if metric == "l2":
        return ((q[:, None] - x[None]) ** 2).sum(-1)
    if metric == "cosine":
        x, q = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, q))
    return q @ x.T


def unit(x):
    return (x / np.sqrt(np.einsum("ij,ij->i", x, x, dtype=np.float64))[:, None]).astype(np.float32)


def recall(ids, x, q, metric, k=10):
    truth = exact(x, q, metric)
    order = np.argsort(truth if metric == "l2" else -truth, axis=1)[:, :k]
    return np.mean([len(set(a) & set(b)) / k for a, b in zip(ids, order, strict=True)])


def oracle_keys(index, q, bits=8):
    """The scan's keys (nq, n) float32, computed by NumPy with the operations of the law in their order."""
    rows = unit(q) if index.metric == "cosine" else q
    centred = rows.astype(np.float32) - index._coding.centre.mu
    queries = integer_queries(index.quantizer, centred, index._coding.factor, bits)
    n = len(index)
    arena = index._arena
    keys = np.zeros((len(q), n), np.float32)
    if "shifts" in arena.columns:
        keys += arena.take("shifts", np.arange(n))
    parts = index.quantizer.split(index._coding.words(arena, np.arange(n)))
    scales = arena.take("scales", np.arange(n))
    for s, stage in enumerate(index.quantizer.stages):
        levels = stage.levels(parts[s])[:, : stage.map.dims].astype(np.int64)
        for piece in queries[s]:
            dots = piece.levels.astype(np.int64) @ levels.T
            keys = keys + (dots.astype(np.float32) * piece.gains[:, None]) * scales[:, s]
    return keys


CELLS = [("eden", 1), ("eden", 3), ("eden", 4), ("eden", 8), ("eden-biased", 2), ("drive", 1), ("turboquant", 4)]
CELLS += [("turboquant-prod", 1), ("turboquant-prod", 3), ("polarquant", 3), ("polarquant-published", 4), ("qjl", 2)]
CELLS += [("trellis", 1), ("trellis", 3), ("trellis-12", 2)]
FINE_CELLS = [("eden", 4), ("eden", 8), ("turboquant-prod", 3), ("polarquant", 3), ("trellis", 3)]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("quantizer", "bits"), CELLS)
def test_search_is_the_score_law_bit_for_bit(quantizer, bits, metric):
    index = pi.FlatIndex(DIM, metric, bits, quantizer)
    index.add(clustered(1300))
    q = clustered(9, seed=1)
    assert_score_law(index, q, oracle_keys(index, q), index.search(q, 20))


def assert_score_law(index, q, keys, answers):
    """The 20 best of 1300 rows are those of the keys, by distance and then by id."""
    (distances, ids), metric = answers, index.metric
    best = np.lexsort((np.broadcast_to(np.arange(1300), keys.shape), -keys))[:, :20]
    constants = index._coding.constants(unit(q) if metric == "cosine" else q)
    wanted = index._coding.distances(np.take_along_axis(keys, best, 1), constants)
    order = np.lexsort((best, wanted if metric == "l2" else -wanted))  # keys that round to one distance: by id
    np.testing.assert_array_equal(ids, np.take_along_axis(best, order, 1))
    np.testing.assert_array_equal(distances, np.take_along_axis(wanted, order, 1))


@pytest.mark.parametrize("isa", [kernels.available()[0], "generic"])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("quantizer", "bits"), FINE_CELLS)
def test_queries_of_16_bits_obey_the_score_law(monkeypatch, quantizer, bits, metric, isa):
    monkeypatch.setattr(dispatch, "_chosen", isa)
    index = pi.FlatIndex(DIM, metric, bits, quantizer)
    index.add(clustered(1300))
    q = clustered(9, seed=1)
    assert_score_law(index, q, oracle_keys(index, q, 16), index.search(q, 20, query_bits=16))


@pytest.mark.parametrize("metric", METRICS)
def test_queries_of_16_bits_add_no_noise_to_speak_of(metric):
    """Against the decoded vectors, as below; a zero query is no trouble."""
    index = pi.FlatIndex(DIM, metric, 4, center=False)
    index.add(clustered(400))
    q = clustered(5, seed=1)
    if metric != "cosine":
        q[2] = 0
    decoded = index._coding.decoded_at(index._arena, np.arange(400)).astype(np.float64)
    products = (unit(q) if metric == "cosine" else q).astype(np.float64) @ decoded.T
    gaps = []
    for bits in (8, 16):
        distances, ids = index.search(q, 400, query_bits=bits)
        if metric == "l2":
            energies = (clustered(400).astype(np.float64) ** 2).sum(1)
            distances = ((q.astype(np.float64) ** 2).sum(1)[:, None] + energies[ids] - distances) / 2
        gaps.append(np.abs(distances - np.take_along_axis(products, ids, 1)).max() / np.abs(products).max())
    assert gaps[0] > 1e-4 and gaps[1] < 2e-5
    with pytest.raises(ValueError, match="query_bits must be 8 or 16, got 4"):
        index.search(q, query_bits=4)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("quantizer", "bits"), CELLS)
def test_distances_are_those_of_the_decoded_vectors(quantizer, bits, metric):
    """Unbiased quantizers put the true energy in the squared distance, so it is compared through inner products."""
    x, q = clustered(400), clustered(5, seed=1)
    index = pi.FlatIndex(DIM, metric, bits, quantizer)
    index.add(x)
    distances, ids = index.search(q, 400)
    decoded = index._coding.decoded_at(index._arena, np.arange(400)).astype(np.float64)
    rows, queries = (v / np.linalg.norm(v, axis=1, keepdims=True) if metric == "cosine" else v for v in (x, q))
    products = queries.astype(np.float64) @ decoded.T
    if metric == "l2":
        energies = (rows.astype(np.float64) ** 2).sum(1) if index.quantizer.unbiased else (decoded**2).sum(1)
        wanted = (queries.astype(np.float64) ** 2).sum(1)[:, None] + energies - 2 * products
    else:
        wanted = products
    scale = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(decoded, axis=1).max()
    # int8 queries: 127 steps of the largest coordinate, about 6e-5 of the energy
    assert (np.abs(distances - np.take_along_axis(wanted, ids, 1)) < 0.05 * scale).all()


@pytest.mark.parametrize("metric", METRICS)
def test_recall_rises_with_bits_and_is_near_one_at_eight(metric):
    x, q = clustered(3000), clustered(50, seed=1)
    found = []
    for bits in (1, 2, 4, 8):
        index = pi.FlatIndex(DIM, metric, bits)
        index.add(x)
        found.append(recall(index.search(q, 10)[1], x, q, metric))
    assert found == sorted(found)
    assert found[-1] > 0.95


@pytest.mark.parametrize("metric", METRICS)
def test_results_do_not_depend_on_threads_chunks_or_order(metric):
    x, q = clustered(2500), clustered(40, seed=1)
    index = pi.FlatIndex(DIM, metric)
    index.fit(x)
    index.add(x)
    wanted = index.search(q, 15, num_threads=1)
    for threads in (2, 3, 7):
        for one, other in zip(wanted, index.search(q, 15, num_threads=threads), strict=True):
            np.testing.assert_array_equal(one, other)
    shuffled = pi.FlatIndex(DIM, metric)
    shuffled.fit(x)
    order = np.random.default_rng(5).permutation(2500)
    for part in np.array_split(order, 7):
        shuffled.add(x[part], ids=part)
    for one, other in zip(wanted, shuffled.search(q, 15), strict=True):
        np.testing.assert_array_equal(one, other)
    one_by_one = [index.search(v, 15) for v in q]
    for part in (0, 1):
        np.testing.assert_array_equal(wanted[part], np.stack([result[part] for result in one_by_one]))


def test_ties_go_to_the_smaller_id():
    x = np.tile(clustered(1), (50, 1))
    ids = np.random.default_rng(0).permutation(1000)[:50]
    index = pi.FlatIndex(DIM)
    index.add(x, ids=ids)
    assert index.search(x[0], 20)[1].tolist() == sorted(ids)[:20]
    assert index.search(x[:1], 20, num_threads=3)[1][0].tolist() == sorted(ids)[:20]


# --- k, shapes, padding


@pytest.mark.parametrize(("metric", "worst"), [("l2", np.inf), ("ip", -np.inf), ("cosine", -np.inf)])
def test_missing_results_are_id_minus_one_at_infinite_distance(metric, worst):
    index = pi.FlatIndex(DIM, metric)
    distances, ids = index.search(clustered(2), 3)
    assert ids.tolist() == [[-1] * 3] * 2 and (distances == worst).all()
    index.add(clustered(2))
    distances, ids = index.search(clustered(1)[0], 5)
    assert ids.shape == (5,) and sorted(ids[:2]) == [0, 1]
    assert ids[2:].tolist() == [-1] * 3 and (distances[2:] == worst).all()


def test_shapes_and_dtypes():
    index = pi.FlatIndex(DIM)
    ids = index.add(clustered(20))
    assert ids.dtype == np.int64 and ids.tolist() == list(range(20))
    distances, ids = index.search(clustered(4), 3)
    assert (distances.shape, distances.dtype, ids.shape, ids.dtype) == ((4, 3), np.float32, (4, 3), np.int64)
    distances, ids = index.search(np.empty((0, DIM), np.float32), 3)
    assert distances.shape == ids.shape == (0, 3)
    assert index.reconstruct([3, 1]).shape == (2, DIM)
    assert index.add(np.empty((0, DIM), np.float32)).shape == (0,)


@pytest.mark.parametrize("metric", METRICS)
def test_results_are_sorted_by_distance_then_id(metric):
    """Far from the origin many keys round to one distance."""
    x = clustered(1500, offset=100)
    index = pi.FlatIndex(DIM, metric, bits=1)
    index.add(x, ids=np.random.default_rng(0).permutation(1500))
    distances, ids = index.search(x[:50], 300)
    steps = np.diff(distances, axis=1) * (1 if metric == "l2" else -1)
    assert (steps >= 0).all() and (np.diff(ids, axis=1)[steps == 0] > 0).all()


# --- ids


def test_ids_continue_after_the_largest_ever_used():
    index = pi.FlatIndex(DIM)
    assert index.add(clustered(3)).tolist() == [0, 1, 2]
    index.add(clustered(1), ids=[10])
    assert index.add(clustered(2)).tolist() == [11, 12]
    index.remove([12, 11])
    assert index.add(clustered(1)).tolist() == [13]
    assert index.ids.tolist() == [0, 1, 2, 10, 13]


def test_ids_that_count_from_zero_take_no_memory():
    index = pi.FlatIndex(DIM)
    index.add(clustered(3))
    before = index.bytes_per_vector
    index.add(clustered(2), ids=[3, 4])
    assert index.bytes_per_vector == before
    index.add(clustered(1), ids=[7])
    assert index.bytes_per_vector == before + 8


@pytest.mark.parametrize("bad", [[5, 5], [1, 5], [-1, 5]])
def test_duplicate_and_negative_ids_are_errors_and_change_nothing(bad):
    index = pi.FlatIndex(DIM)
    index.add(clustered(3))
    with pytest.raises(ValueError, match="ids"):
        index.add(clustered(2), ids=bad)
    assert len(index) == 3 and index.add(clustered(1)).tolist() == [3]


operations = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 40), st.none()),
        st.tuples(st.just("add"), st.integers(1, 5), st.integers(0, 400)),
        st.tuples(st.just("remove"), st.integers(1, 30), st.integers(0, 10**6)),
        st.tuples(st.just("update"), st.integers(1, 10), st.integers(0, 10**6)),
        st.tuples(st.just("upsert"), st.integers(1, 10), st.integers(0, 300)),
    ),
    max_size=12,
)


@settings(max_examples=80, deadline=None)
@given(operations, st.integers(1, 8), st.sampled_from(["none", "int8"]), st.sampled_from(METRICS), st.booleans())
def test_any_history_equals_an_index_built_at_once(history, bits, store, metric, fitted):
    """Add, remove, update and upsert in any order leave what building from the surviving rows would."""
    index = pi.FlatIndex(DIM, metric, bits, store=store)
    if fitted:
        index.fit(clustered(50, seed=7))
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
    rows = np.stack([model[one] for one in ids])
    at_once = pi.FlatIndex(DIM, metric, bits, store=store)
    if fitted:
        at_once.fit(clustered(50, seed=7))
    at_once.add(rows, ids)
    q = clustered(4, seed=1000)
    for one, other in zip(index.search(q, 12), at_once.search(q, 12), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(index.reconstruct(ids), at_once.reconstruct(ids))


def test_remove_and_update_name_an_unknown_id_and_change_nothing():
    x = clustered(6)
    index = pi.FlatIndex(DIM)
    index.add(x)
    before = index.search(x, 6)
    for call in (lambda: index.remove([2, 77]), lambda: index.update([2, 77], x[:2]), lambda: index.reconstruct([77])):
        with pytest.raises(KeyError, match="77"):
            call()
    for one, other in zip(before, index.search(x, 6), strict=True):
        np.testing.assert_array_equal(one, other)
    assert index.remove([2, 77], missing="ignore") == 1 and len(index) == 5


def test_removal_gives_memory_back():
    index = pi.FlatIndex(DIM)
    index.add(clustered(40_000))
    full = index.nbytes
    index.remove(np.arange(39_000))
    assert len(index) == 1000 and index.nbytes < full / 2


# --- the centre


def test_centre_is_the_mean_and_frozen_by_the_first_big_add():
    x = clustered(CENTRE_ROWS, offset=5)
    index = pi.FlatIndex(DIM)
    assert not index.info()["center_frozen"]
    index.add(x)
    np.testing.assert_allclose(index._coding.centre.mu, x.mean(axis=0, dtype=np.float64), rtol=1e-6)
    assert index.info()["center_frozen"] and index.info()["energy_removed_by_center"] > 0.5
    index.add(clustered(5000, offset=-50))
    np.testing.assert_allclose(index._coding.centre.mu, x.mean(axis=0, dtype=np.float64), rtol=1e-6)
    with pytest.raises(ValueError, match="frozen"):
        index.fit(x)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("first", [1, 7, 1023])
def test_tiny_first_adds_end_with_the_codes_of_one_big_add(metric, first):
    """Held rows are coded again from their float32 values when the centre is frozen: nothing is lost."""
    x, q = clustered(1500, offset=3), clustered(10, seed=1, offset=3)
    index, at_once = pi.FlatIndex(DIM, metric), pi.FlatIndex(DIM, metric)
    index.add(x[:first])
    index.add(x[first:])
    at_once.add(x)
    np.testing.assert_allclose(index._coding.centre.mu, at_once._coding.centre.mu, atol=1e-6)
    np.testing.assert_allclose(index.search(q)[0], at_once.search(q)[0], rtol=1e-3, atol=1e-3)
    wanted = recall(at_once.search(q)[1], x, q, metric)
    assert recall(index.search(q)[1], x, q, metric) == pytest.approx(wanted, abs=0.03)


def test_single_rows_freeze_the_centre_at_1024_rows():
    x = clustered(1100, offset=3)
    index = pi.FlatIndex(DIM)
    for row in x:
        index.add(row[None])
    assert index.info()["center_frozen"] and "held" not in index._arena.columns
    np.testing.assert_allclose(index._coding.centre.mu, x[:CENTRE_ROWS].mean(axis=0, dtype=np.float64), rtol=1e-5)
    q = clustered(30, seed=1, offset=3)
    assert recall(index.search(q)[1], x, q, "l2") > 0.85


@pytest.mark.parametrize("metric", METRICS)
def test_sorted_adds_lose_little(metric):
    """A centre from one end of sorted data is a poor one, and still correct."""
    x, q = clustered(4000), clustered(60, seed=1)
    order = np.argsort(x[:, 0])
    index, shuffled = pi.FlatIndex(DIM, metric), pi.FlatIndex(DIM, metric)
    for part in np.array_split(order, 3):
        index.add(x[part], ids=part)
    shuffled.add(x)
    good = recall(shuffled.search(q)[1], x, q, metric)
    assert recall(index.search(q)[1], x, q, metric) > good - 0.06


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_data_and_queries_far_from_the_origin_lose_nothing(metric):
    """100 standard deviations away: only x - mu and q - mu are rounded, so the recall stays."""
    x, q = clustered(4000), clustered(300, seed=1)
    far = np.float32(100 * x.std())
    near_index, far_index = pi.FlatIndex(DIM, metric), pi.FlatIndex(DIM, metric)
    near_index.add(x)
    far_index.add(x + far)
    near = recall(near_index.search(q)[1], x, q, metric)
    assert recall(far_index.search(q + far)[1], x + far, q + far, metric) > near - 0.005


def test_without_a_centre_offset_data_are_worse():
    x, q = clustered(3000, offset=6), clustered(50, seed=1, offset=6)
    centred, plain = pi.FlatIndex(DIM, bits=2), pi.FlatIndex(DIM, bits=2, center=False)
    centred.add(x)
    plain.add(x)
    assert recall(plain.search(q)[1], x, q, "l2") < recall(centred.search(q)[1], x, q, "l2") - 0.2


def test_fit_on_an_index_with_held_rows_codes_them_again():
    x = clustered(500, offset=4)
    fitted, held = pi.FlatIndex(DIM), pi.FlatIndex(DIM)
    fitted.fit(x)
    fitted.add(x)
    held.add(x)
    held.fit(x)  # learns from x and the 500 held rows, which are x
    np.testing.assert_allclose(held._coding.centre.mu, fitted._coding.centre.mu, atol=1e-6)
    np.testing.assert_allclose(held.search(x[:9])[0], fitted.search(x[:9])[0], rtol=1e-3, atol=1e-3)


# --- errors, re-ranking, ranges


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("quantizer", ["eden", "eden-biased", "turboquant"])
def test_reported_errors_are_one_standard_error(metric, quantizer):
    dim = 64
    rng = np.random.default_rng(3)
    x, q = rng.standard_normal((1500, dim)).astype(np.float32), rng.standard_normal((40, dim)).astype(np.float32)
    index = pi.FlatIndex(dim, metric, bits=2, quantizer=quantizer)
    index.add(x)
    distances, ids, errors = index.search(q, 1500, return_error=True)
    z = (distances - np.take_along_axis(exact(x, q, metric), ids, 1)) / errors
    spread = 0.15 if index.quantizer.unbiased else 0.35
    assert 1 - spread < np.sqrt(np.mean(z**2)) < 1 + spread


@pytest.mark.parametrize("store", ["float32", "float16", "int8"])
@pytest.mark.parametrize("metric", METRICS)
def test_reranking_gives_exact_distances_and_better_recall(metric, store):
    x, q = clustered(3000), clustered(40, seed=1)
    index = pi.FlatIndex(DIM, metric, bits=2, store=store)
    index.add(x)
    distances, ids, errors = index.search(q, 10, return_error=True)
    tolerance = {"float32": 1e-6, "float16": 2e-3, "int8": 2e-2}[store]
    truth = np.take_along_axis(exact(x, q, metric), ids, 1)
    np.testing.assert_allclose(distances, truth, rtol=tolerance, atol=tolerance * np.abs(truth).max())
    assert (errors == 0).all() if store == "float32" else np.isnan(errors).all()
    plain = recall(index.search(q, 10, rerank=0)[1], x, q, metric)
    assert recall(ids, x, q, metric) > plain + 0.1
    assert recall(index.search(q, 10, rerank=20)[1], x, q, metric) > 0.97


def test_reconstruct_gives_originals_where_stored():
    x = clustered(30)
    for store, tolerance in (("float32", 0), ("float16", 1e-3), ("int8", 1e-2)):
        index = pi.FlatIndex(DIM, store=store)
        index.add(x)
        np.testing.assert_allclose(index.reconstruct([4, 2]), x[[4, 2]], atol=tolerance * np.abs(x).max())


def test_reconstruct_decodes_to_unit_length_for_cosine():
    x = clustered(1200)
    index = pi.FlatIndex(DIM, "cosine", bits=8)
    index.add(x)
    decoded = index.reconstruct(np.arange(50))
    np.testing.assert_allclose(np.linalg.norm(decoded, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(decoded, x[:50] / np.linalg.norm(x[:50], axis=1, keepdims=True), atol=0.02)


@pytest.mark.parametrize("metric", METRICS)
def test_range_search_is_search_cut_at_the_radius(metric):
    x, q = clustered(900), clustered(7, seed=1)
    index = pi.FlatIndex(DIM, metric)
    index.add(x, ids=np.arange(900) * 3)
    distances, ids = index.search(q, 900)
    radius = float(np.median(distances))
    lims, found_distances, found_ids = index.range_search(q, radius)
    hits = distances <= radius if metric == "l2" else distances >= radius
    assert lims.tolist() == [0, *np.cumsum(hits.sum(axis=1)).tolist()]
    np.testing.assert_array_equal(found_ids, ids[hits])
    np.testing.assert_array_equal(found_distances, distances[hits])


def test_range_search_of_nothing():
    index = pi.FlatIndex(DIM)
    lims, distances, ids = index.range_search(clustered(2), 1e9)
    assert lims.tolist() == [0, 0, 0] and len(distances) == len(ids) == 0
    index.add(clustered(5))
    assert index.range_search(clustered(2) + 1e3, 0.0)[0].tolist() == [0, 0, 0]


# --- inputs


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (dict(dim=0), ValueError, "dim"),
        (dict(dim=4.5), TypeError, "dim"),
        (dict(dim=4, metric="l1"), ValueError, "metric"),
        (dict(dim=4, bits=0), ValueError, "bits"),
        (dict(dim=4, bits=9), ValueError, "bits"),
        (dict(dim=4, bits=2, quantizer="drive"), ValueError, "bits"),
        (dict(dim=4, quantizer="pq"), ValueError, "quantizer"),
        (dict(dim=4, store="float64"), ValueError, "store"),
        (dict(dim=4, seed=-1), ValueError, "seed"),
        (dict(dim=4, center="yes"), TypeError, "center"),
    ],
)
def test_bad_construction_is_one_line_naming_the_argument(arguments, error, words):
    with pytest.raises(error, match=words) as caught:
        pi.FlatIndex(**arguments)
    assert "\n" not in str(caught.value)


def bad_vectors():
    good = clustered(4)
    for name, change, error in [
        ("dim", lambda x: x[:, :5], ValueError),
        ("one vector", lambda x: x[0], ValueError),
        ("three axes", lambda x: x[None], ValueError),
        ("NaN", lambda x: np.where(np.arange(4)[:, None] == 2, np.nan, x), ValueError),
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
    index = pi.FlatIndex(DIM)
    index.add(x)
    before = index.search(x, 5), index.nbytes
    for call in (
        lambda: index.add(bad),
        lambda: index.update([0, 1, 2, 3], bad),
        lambda: index.upsert([0, 1, 2, 99], bad),
        lambda: index.fit(bad),
    ):
        with pytest.raises(error, match="x") as caught:
            call()
        assert "\n" not in str(caught.value)
        after = index.search(x, 5), index.nbytes
        assert len(index) == 30 and before[1] == after[1]
        for one, other in zip(before[0], after[0], strict=True):
            np.testing.assert_array_equal(one, other)
    if np.ndim(bad) != 1:
        with pytest.raises(error, match="q"):
            index.search(bad)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_the_first_bad_row_is_named_across_chunks(value):
    x = np.zeros((10_000, 3), np.float32)
    x[7_777, 1] = x[9_000, 0] = value
    with pytest.raises(ValueError, match="7777"):
        pi.FlatIndex(3).add(x)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (dict(k=0), ValueError, "k"),
        (dict(k=-1), ValueError, "k"),
        (dict(k=2.5), TypeError, "k"),
        (dict(nprobe=3), TypeError, "nprobe"),
        (dict(rerank=4), ValueError, "store"),
        (dict(rerank=-1), ValueError, "rerank"),
        (dict(num_threads=0), ValueError, "num_threads"),
        (dict(filter=[True]), ValueError, "filter"),
        (dict(filter="abc"), TypeError, "filter"),
        (dict(filter=[[1], [2]]), ValueError, "filter"),
    ],
)
def test_bad_search_arguments_are_one_line_naming_the_argument(arguments, error, words):
    index = pi.FlatIndex(DIM)
    index.add(clustered(30))
    with pytest.raises(error, match=words) as caught:
        index.search(clustered(3), **arguments)
    assert "\n" not in str(caught.value)


def test_zero_vectors_are_welcome_in_l2_and_ip_and_named_in_cosine():
    x = clustered(5)
    x[3] = 0
    for metric in ("l2", "ip"):
        index = pi.FlatIndex(DIM, metric, center=False)
        index.add(x)
        distances, ids = index.search(x[:1], 5)
        exact_score = (x[0].astype(np.float64) ** 2).sum() if metric == "l2" else 0.0
        assert distances[0, ids[0].tolist().index(3)] == pytest.approx(exact_score, rel=1e-6, abs=1e-6)
        index.search(x[3])
    index = pi.FlatIndex(DIM, "cosine")
    with pytest.raises(ValueError, match=r"x\[3\]"):
        index.add(x)
    assert len(index) == 0
    with pytest.raises(ValueError, match=r"q\[0\]"):
        index.search(x[3])


def test_one_repeated_vector_and_one_dimension_work():
    index = pi.FlatIndex(DIM)
    index.add(np.tile(clustered(1), (2000, 1)))
    distances, ids = index.search(clustered(1)[0], 3)
    assert ids.tolist() == [0, 1, 2] and distances == pytest.approx(0, abs=1e-3)
    for quantizer, bits in itertools.product(("eden", "turboquant", "polarquant", "qjl"), (1, 4)):
        line = pi.FlatIndex(1, quantizer=quantizer, bits=bits)
        line.add([[1.0], [2.0], [9.0]])
        distances, ids = line.search([[8.5]], 3)
        assert np.isfinite(distances).all() and sorted(ids[0]) == [0, 1, 2]
        if quantizer in ("eden", "turboquant"):  # the one coordinate of a unit vector is -1 or 1: exact
            assert ids.tolist() == [[2, 1, 0]]


CONTAINERS = {
    "float64": lambda x: x.astype(np.float64),
    "float16": lambda x: x.astype(np.float16),
    "fortran": np.asfortranarray,
    "strided": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "backwards": lambda x: x[::-1][::-1],
    "list": lambda x: x.tolist(),
    "uint8": lambda x: x.astype(np.uint8),
    "int8": lambda x: x.astype(np.int8),
    "int64": lambda x: x.astype(np.int64),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_container_gives_the_index_of_its_float32_values(name):
    x = np.random.default_rng(0).integers(0, 100, (1100, DIM)).astype(np.float32)
    index, wanted = pi.FlatIndex(DIM), pi.FlatIndex(DIM)
    given = CONTAINERS[name](x)
    copy = np.array(given)
    index.add(given)
    wanted.add(x)
    np.testing.assert_array_equal(np.array(given), copy)
    for one, other in zip(index.search(given[:5]), wanted.search(x[:5]), strict=True):
        np.testing.assert_array_equal(one, other)


def test_memory_maps_and_hdf5_datasets_are_read_in_place(tmp_path):
    h5py = pytest.importorskip("h5py")
    x = clustered(5000)
    np.save(tmp_path / "x.npy", x)
    wanted = pi.FlatIndex(DIM)
    wanted.add(x)
    mapped = pi.FlatIndex(DIM)
    mapped.add(np.load(tmp_path / "x.npy", mmap_mode="r"))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        streamed = pi.FlatIndex(DIM)
        streamed.add(file.create_dataset("x", data=x))
        streamed_result = streamed.search(file["x"][:5])
    for one, other, third in zip(wanted.search(x[:5]), mapped.search(x[:5]), streamed_result, strict=True):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(one, third)


def test_torch_tensors_work():
    torch = pytest.importorskip("torch")
    x = clustered(50)
    index = pi.FlatIndex(DIM)
    index.add(torch.from_numpy(x))
    assert index.search(torch.from_numpy(x[:3]), 1)[1].ravel().tolist() == [0, 1, 2]


def test_arguments_are_never_modified_and_may_be_read_only():
    x, ids = clustered(40), np.arange(40)
    for array in (x, ids):
        array.flags.writeable = False
    for metric in METRICS:
        index = pi.FlatIndex(DIM, metric, store="float32")
        index.add(x, ids)
        index.search(x, filter=ids)
        index.update(ids, x)
    np.testing.assert_array_equal(x, clustered(40))


def test_changing_the_callers_array_afterwards_changes_nothing():
    x = clustered(40)
    index = pi.FlatIndex(DIM, store="float32")
    index.add(x)
    before = index.search(clustered(3), 5)
    x[:] = 0
    for one, other in zip(before, index.search(clustered(3), 5), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("quantizer", ["eden", "eden-biased", "turboquant", "polarquant"])
@pytest.mark.parametrize("metric", METRICS)
def test_codes_do_not_depend_on_how_rows_are_chunked(metric, quantizer, monkeypatch):
    """Rows 1,500 at a time or 16, and a centre learned on the way: the same bytes in every column."""
    x = clustered(1500, offset=1.0)
    arenas = []
    for rows in (4096, 16):
        monkeypatch.setattr(checks, "CHUNK_ROWS", rows)
        index = pi.FlatIndex(DIM, metric, 2, quantizer)
        index.add(x[:700])
        index.add(x[700:])
        arenas.append(index._arena)
    everyone = np.arange(len(x))
    for name in arenas[0].columns:
        np.testing.assert_array_equal(*(arena.take(name, everyone) for arena in arenas))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "dim"), [(200_000, 128), (20_000, 1536)])
def test_add_needs_a_fixed_memory_beside_the_index(n, dim, dtype):
    """16 MB, whatever the rows: a few chunks of 2 MB. 200,000 rows are 102 MB of float32, and were held for a while."""
    x = np.tile(clustered(1000, dim), (n // 1000, 1)).astype(dtype)
    pi.FlatIndex(dim).add(x[:2000])
    index = pi.FlatIndex(dim)
    tracemalloc.start()
    try:
        index.add(x)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak - index.nbytes < 16e6


def test_an_interrupted_add_changes_nothing(monkeypatch):
    index = pi.FlatIndex(DIM)
    index.add(clustered(2000))
    before = index.search(clustered(5), 9)
    encode = index.quantizer.encode_rows
    calls = itertools.count()

    def interrupted(*arguments, **options):
        if next(calls) == 2:
            raise KeyboardInterrupt
        return encode(*arguments, **options)

    monkeypatch.setattr(index.quantizer, "encode_rows", interrupted)
    with pytest.raises(KeyboardInterrupt):
        index.add(clustered(20_000, seed=3))
    assert len(index) == 2000 and index.info()["next_id"] == 2000
    for one, other in zip(before, index.search(clustered(5), 9), strict=True):
        np.testing.assert_array_equal(one, other)


def test_indexes_copy_and_pickle():
    import copy
    import pickle

    index = pi.FlatIndex(DIM)
    index.add(clustered(1500))
    wanted = index.search(clustered(4))
    for other in (copy.deepcopy(index), pickle.loads(pickle.dumps(index))):
        other.remove([0])
        other.add(clustered(1))
        for one, two in zip(wanted, index.search(clustered(4)), strict=True):
            np.testing.assert_array_equal(one, two)


def test_info_counts_every_byte():
    index = pi.FlatIndex(DIM, bits=4, store="int8")
    index.add(clustered(1024))
    info = index.info()
    assert info["bytes_per_vector"] == 16 + 4 + 4 + DIM + 4  # codes (4 words), scale, shift, original, its scale
    assert info["bits_per_dim"] == 8 * info["bytes_per_vector"] / DIM
    assert info["nbytes"] >= 1024 * info["bytes_per_vector"]
    assert len(repr(index)) < 120


def test_the_largest_id_is_found_and_no_id_follows_it():
    x = clustered(3)
    index = pi.FlatIndex(DIM)
    index.add(x[:1], ids=[2**63 - 2])
    assert index.search(x[0], 1)[1].tolist() == [2**63 - 2]
    with pytest.raises(ValueError, match="follow"):
        index.add(x)
    with pytest.raises(ValueError, match="ids"):
        index.add(x[:1], ids=np.array([2**63 - 1], np.uint64))
    assert len(index) == 1


def test_vectors_and_queries_of_any_small_length_work():
    x = clustered(2000)
    for scale in (1e-15, 1e-36, 1e-44):
        tiny = (x * scale).astype(np.float32)
        for metric, store in itertools.product(METRICS, ("none", "int8")):
            index = pi.FlatIndex(DIM, metric, store=store)
            rows = tiny[np.abs(tiny).max(axis=1) > 0] if metric == "cosine" else tiny
            index.add(rows)
            assert np.isfinite(index.search(rows[:5], 3)[0]).all()


def test_an_add_interrupted_between_its_steps_leaves_nothing_for_the_next(monkeypatch):
    index = pi.FlatIndex(DIM)
    index.add(clustered(1500))
    monkeypatch.setattr(index, "_commit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        index.add(clustered(40, seed=1))
    monkeypatch.undo()
    assert index.add(clustered(7, seed=2)).tolist() == list(range(1500, 1507))
    wanted = pi.FlatIndex(DIM)
    wanted.fit(clustered(1500))
    wanted.add(np.concatenate([clustered(1500), clustered(7, seed=2)]))
    for one, other in zip(index.search(clustered(5)), wanted.search(clustered(5)), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("store", ["none", "float16"])
def test_upsert_names_the_callers_row(store):
    index = pi.FlatIndex(DIM, "cosine" if store == "none" else "l2", store=store)
    index.add(clustered(6))
    x = clustered(6)
    x[4] = 0 if store == "none" else 1e5
    for ids in ([0, 1, 2, 3, 4, 99], [0, 97, 98, 3, 99, 5]):
        with pytest.raises(ValueError, match=r"x\[4\]"):
            index.upsert(ids, x)
    assert len(index) == 6


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_reported_errors_count_integer_levels_and_queries(bits):
    """At 8 bits rounding the codes to a grid and the query to int8 is most of the error."""
    rng = np.random.default_rng(3)
    x, q = rng.standard_normal((1500, 128)).astype(np.float32), rng.standard_normal((60, 128)).astype(np.float32)
    index = pi.FlatIndex(128, "ip", bits=bits, center=False)
    index.add(x)
    distances, ids, errors = index.search(q, 1500, return_error=True)
    z = (distances - np.take_along_axis(exact(x, q, "ip"), ids, 1)) / errors
    assert 0.9 < np.sqrt(np.mean(z**2)) < 1.1


def test_bytes_per_vector_do_not_count_rows_held_for_a_while():
    index = pi.FlatIndex(DIM)
    before = index.bytes_per_vector
    index.add(clustered(1024))
    assert index.bytes_per_vector == before == 16 + 4 + 4
