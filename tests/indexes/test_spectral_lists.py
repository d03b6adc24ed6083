"""Spectral codes in an inverted file: what they gain, that one call and steps agree, and that all else still works."""

import copy
import json
import pickle
import re

import numpy as np
import pytest

import polarindex as pi
from polarindex import kernels
from polarindex.distributed import ShardedIndex
from polarindex.indexes import manifest
from polarindex.indexes.probing import ListScan
from polarindex.indexes.residuals import ResidualCoding
from polarindex.indexes.scan import integer_queries
from polarindex.quantizers import EDEN, Trellis
from polarindex.quantizers.spectral import Spectral

METRICS = ("l2", "ip", "cosine")
DIM, NLIST = 100, 20  # no multiple of 32
BITS = (1, pytest.param(2, marks=pytest.mark.slow), 4)  # of plain codes too, whose search compiles for every width


def decaying(n, dim=DIM, seed=0, power=1.0):
    """Gaussian rows whose energy along hidden axes falls as 1 / j^(2 power), off the origin."""
    axes = np.linalg.qr(np.random.default_rng(77).standard_normal((dim, dim)))[0]
    rows = np.random.default_rng(seed).standard_normal((n, dim)) * np.arange(1, dim + 1.0) ** -power @ axes
    return (rows + 0.3).astype(np.float32)


def isotropic(n, dim=DIM, seed=0):
    return np.random.default_rng(seed).standard_normal((n, dim), np.float32)


def made(x, metric="l2", bits=2, **options):
    return pi.IVFIndex(x.shape[1], metric, bits, **{"nlist": NLIST, "codes": "spectral", **options}).fit(x)


def filled(x, *arguments, **options):
    index = made(x, *arguments, **options)
    index.add(x)
    return index


def truth(x, q, metric, k=10):
    x, q = x.astype(np.float64), q.astype(np.float64)
    if metric == "cosine":
        x, q = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, q))
    near = q @ x.T if metric != "l2" else 2 * q @ x.T - (x * x).sum(axis=1)
    return np.argsort(-near, axis=1)[:, :k]


def recall(index, x, q, **how):
    found = index.search(q, 10, nprobe=index.nlist, **how)[1]
    return np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, truth(x, q, index.metric), strict=True)])


def same(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def rows():
    return decaying(3000)


# --- what is gained, and what it costs


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("bits", BITS)
def test_decaying_residuals_are_found_much_better_in_no_more_bytes(rows, bits, metric):
    q = decaying(100, seed=1)
    plain, spectral = filled(rows, metric, bits, codes="plain"), filled(rows, metric, bits)
    assert isinstance(spectral.quantizer, Spectral)
    assert spectral.bytes_per_vector <= plain.bytes_per_vector
    assert recall(spectral, rows, q) > recall(plain, rows, q) + (0.01 if bits == 4 else 0.06)


@pytest.mark.parametrize("bits", BITS)
def test_residuals_without_structure_get_the_plain_code_itself(bits):
    x, q = isotropic(2000, 64), isotropic(20, 64, 1)
    plain, spectral = filled(x, bits=bits, codes="plain"), filled(x, bits=bits)
    assert spectral.info()["spectral"] == {"learned": True, "segments": None}
    assert spectral.quantizer == plain.quantizer
    same(plain.search(q, nprobe=5), spectral.search(q, nprobe=5))


@pytest.mark.parametrize("bits", [0.5, 1.25, 2.5, 3.7])
@pytest.mark.parametrize("dim", [96, 100])
def test_fractional_bits_are_kept_to_in_whole_words(bits, dim):
    index = filled(decaying(3000, dim), bits=bits)
    assert index.bits == bits == index.parameters()["bits"]
    codes = index.bytes_per_vector - 8  # beside shift and id
    assert codes <= 4 * bits * -(-dim // 32) + 4 and codes % 4 == 0
    assert codes > 4 * (bits - 0.5) * (dim / 32)


def test_axes_are_those_of_residuals_and_not_of_rows():
    """Centroids take all that rows have along the axes on which they differ most."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4000, 64)) / np.arange(1, 65)
    x[:, :2] = 0
    x[:, 63] += rng.integers(0, 8, 4000) * 50
    points = np.zeros((8, 64))
    points[:, 63] = np.arange(8) * 50
    index = pi.IVFIndex(64, bits=2, codes="spectral").fit(x.astype(np.float32), centroids=points)
    along = (index.quantizer.basis.astype(np.float64) ** 2).sum(axis=0)
    assert along[63] < 0.1 and along[2:20].min() > 0.9


# --- the score law


RINGS = {"quantizer": "trellis"}


def keys_of(index, q):
    """Keys (nq, n) of all rows, by ids, by NumPy, with the operations of the law in their order."""
    held, coding = index._held, index._coding
    centred = coding.codable(q, "q") - held.centroids.mu
    places = held.ids.positions(np.sort(index.ids))
    words, scales, lists = index._codes_at(places)
    keys = np.tile(held.rows.factors_of(held.rows.rows(places))[:, -1], (len(q), 1))
    parts = index.quantizer.split(words)
    for s, ((queries,), stage) in enumerate(
        zip(integer_queries(index.quantizer, centred, coding.factor), index.quantizer.stages, strict=True)
    ):
        levels = stage.levels(np.ascontiguousarray(parts[s]))[:, : stage.map.dims].astype(np.int64)
        dots = queries.levels.astype(np.int64) @ levels.T
        keys = keys + (dots.astype(np.float32) * queries.gains[:, None]) * scales[:, s]
    return keys + coding.offsets(centred, lists, held.centroids)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("bits", "options"), [*((bits, {}) for bits in (1, 2, 4, 6.5)), (2, RINGS)])
def test_search_is_the_score_law_bit_for_bit(rows, bits, options, metric):
    index, q = filled(rows, metric, bits, **options), decaying(9, seed=1)
    keys, sign = keys_of(index, q), -1 if metric == "l2" else 1
    constants = index._coding.constants(index._coding.codable(q, "q"), index._held.centroids)
    wanted = sign * (keys + constants[:, None]).astype(np.float32)
    order = np.lexsort((np.broadcast_to(np.arange(len(rows)), keys.shape), -sign * wanted))[:, :20]
    for queries in (slice(None), slice(3, 4), slice(2, 4)):
        distances, ids = index.search(q[queries], 20, nprobe=NLIST)
        np.testing.assert_array_equal(ids, order[queries])
        np.testing.assert_array_equal(distances, np.take_along_axis(wanted, order, 1)[queries])


def test_rings_find_more():
    """In no more bytes than EDEN's segments; a plain trellis where there is nothing to learn."""
    rows, q = decaying(3000, 128, power=0.5), decaying(100, 128, seed=1, power=0.5)
    eden, rings = filled(rows), filled(rows, **RINGS)
    assert rings.info()["scan"] == eden.info()["scan"] and rings.info()["spectral"]["code"] == "trellis"
    assert rings.bytes_per_vector <= eden.bytes_per_vector
    assert recall(rings, rows, q) > recall(eden, rows, q) + 0.01
    assert isinstance(made(isotropic(2000, 64), **RINGS).quantizer, Trellis)


@pytest.mark.isa
@pytest.mark.parametrize("isa", [name for name in kernels.available()[1:] if not name.endswith("vnni")])
@pytest.mark.parametrize(("bits", "options"), [(2, {}), (4, {}), (2, RINGS)])
def test_every_instruction_set_answers_the_same(rows, bits, options, isa):
    """Segments of 6 and 2 bits, of 8 and 4, and with rings among them."""
    index, q = filled(rows, bits=bits, **options), decaying(9, seed=1)
    wanted = [index.search(q[:nq], 20, nprobe=nprobe) for nq in (1, 9) for nprobe in (3, NLIST)]
    with kernels.using(isa):
        for nq, nprobe in ((1, 3), (1, NLIST), (9, 3), (9, NLIST)):
            same(index.search(q[:nq], 20, nprobe=nprobe), wanted.pop(0))


SEVERAL = [[(64, 3), (32, 1)], [(32, 8), (32, 6), (32, 4), (4, 1)]]
SEGMENTS = [(segments, "eden") for segments in [[(32, b)] for b in range(1, 9)] + SEVERAL]
SEGMENTS += [(segments, "trellis") for segments in [[(40, 2)], *SEVERAL]]


@pytest.mark.parametrize(("segments", "code"), SEGMENTS)
@pytest.mark.parametrize("options", [{}, pytest.param({"store": "float32", "spill": 0.3}, marks=pytest.mark.slow)])
def test_one_call_and_steps_find_the_same_bits(monkeypatch, rows, segments, code, options):
    """Alone and in batches, by some of the lists, filters, second lists, lists of a row or none; with bounds or not.
    Of a trellis segments of up to 4 bits are rings."""
    axes = np.linalg.qr(isotropic(DIM))[0]
    coded = sum(m for m, _ in segments)
    quantizer = Spectral(DIM, 4, 0, axes[:coded], segments, [1 / len(segments)] * len(segments) + [0], code)
    index = made(rows, nlist=40, **options)
    coding, learned = ResidualCoding(quantizer, "l2"), index._held.centroids
    index._take(coding.centroids(learned.full, learned.mu, learned.spread, learned.limit))
    index.add(rows[:500])
    index.remove(np.arange(100))
    asked = [(decaying(nq, seed=nq), nprobe, ids) for nq in (1, 2, 9, 30) for nprobe in (1, 7, 40) for ids in (None, 3)]

    def found(**how):
        return [
            index.search(q, 30, nprobe=nprobe, filter=None if ids is None else np.arange(100, 500, ids), **how)
            for q, nprobe, ids in asked
        ]

    first, full = found(), found(exact_scan=True)
    assert index._held.scan.in_one_call(8) is (kernels.selected() != kernels.GENERIC)
    monkeypatch.setattr(ListScan, "in_one_call", lambda *_: False)
    index._seen.clear()
    for one, other, third in zip(first, full, found(), strict=True):
        same(one, other)
        same(one, third)


FLATTER = {"power": 0.5}  # energies whose tails matter


def all_searches(index, **how):
    """Alone and in batches, for few rows and for more than there are, and by some rows."""
    n, some = len(index), index.ids[::3]
    return [
        index.search(decaying(nq, seed=nq, **FLATTER), k, nprobe=nprobe, filter=ids, **how)
        for nq in (1, 2, 70)
        for k, nprobe, ids in ((1, NLIST, None), (10, NLIST, None), (10, 3, None), (10, NLIST, some), (n + 3, 9, None))
    ]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("bits", "options"), [(2, {}), (4, {}), (2, RINGS)])
def test_what_bounds_leave_out_is_in_no_answer(bits, options, metric):
    """Rows are there twice, so that many keys are equal; some were removed."""
    x = decaying(3000, **FLATTER)
    index = filled(x, metric, bits, **options)
    index.add(x[:1500])
    index.remove(index.ids[::5])
    for one, other in zip(all_searches(index), all_searches(index, exact_scan=True), strict=True):
        same(one, other)


@pytest.mark.skipif(kernels.selected() == kernels.GENERIC, reason="steps read all segments of all rows")
def test_bounds_are_what_keeps_answers_right():
    """If what follows the head is taken for nothing, answers are lost, but by the full scan."""
    index, q = filled(decaying(3000, **FLATTER)), decaying(70, seed=1, **FLATTER)

    def found(**how):
        return index.search(q, nprobe=NLIST, **how)[1], np.array([index.search(v, nprobe=NLIST, **how)[1] for v in q])

    full = found(exact_scan=True)
    index._held.scan.told().held[-1].longest[:] = 0
    same(found(exact_scan=True), full)
    assert all((one != other).any() for one, other in zip(found(), full, strict=True))


@pytest.mark.isa
def test_instruction_sets_find_the_same_bits():
    index = filled(decaying(3000, **FLATTER))
    wanted = all_searches(index)
    for name in kernels.available()[1:]:
        if name in ("avx2", kernels.GENERIC):
            with kernels.using(name):
                for how in ({}, {"exact_scan": True}):
                    for one, other in zip(all_searches(index, **how), wanted, strict=True):
                        same(one, other)


@pytest.mark.parametrize("metric", METRICS)
def test_codes_do_not_depend_on_how_rows_arrive(rows, metric):
    a, b = made(rows, metric), made(rows, metric)
    a.add(rows)
    for start in range(0, len(rows), 701):
        b.add(rows[start : start + 701])
    at_a, at_b = (index._held.ids.positions(np.arange(len(rows))) for index in (a, b))
    np.testing.assert_array_equal(a._held.rows.rows(at_a), b._held.rows.rows(at_b))


def test_threads_do_not_change_what_is_found(rows):
    index, q = filled(rows), decaying(40, seed=1)
    same(*(index.search(q, nprobe=5, num_threads=threads) for threads in (1, 2)))


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_a_query_that_is_a_row_is_as_near_as_its_code_is_good(rows, metric):
    """Short scales are made good in the shift: what is off is what no segment has."""
    index = filled(rows, metric, 4)
    x = rows / np.linalg.norm(rows, axis=1, keepdims=True) if metric == "cosine" else rows
    held = index._held
    residuals = x - held.centroids.full[held.rows.lists_of(held.ids.positions(np.arange(len(x))))]
    along = residuals @ index.quantizer.basis.T
    out = (residuals**2).sum(axis=1) - (along**2).sum(axis=1)
    mine = [np.array([i]) for i in range(50)]
    distances = index.search(rows[:50], 1, query_bits=16, filter=mine)[0][:, 0]
    wanted = 2 * out[:50] if metric == "l2" else 1 - out[:50]
    np.testing.assert_allclose(distances, wanted, atol=2e-5 * (residuals**2).sum(axis=1).max())


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("bits", [1, 4])
def test_standard_errors_are_those_that_are_made(rows, bits, metric):
    index, q = filled(rows, metric, bits), decaying(60, seed=1)
    distances, ids, errors = index.search(q, 200, nprobe=NLIST, return_error=True)
    x, q64 = rows.astype(np.float64), q.astype(np.float64)
    if metric == "cosine":
        x, q64 = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, q64))
    exact = q64 @ x.T if metric != "l2" else ((q64[:, None] - x[None]) ** 2).sum(axis=-1)
    off = distances - np.take_along_axis(exact, ids, 1)
    assert 0.4 < np.sqrt((off**2).mean() / (errors.astype(np.float64) ** 2).mean()) < 2.5


# --- everything else an index does


@pytest.mark.parametrize(("metric", "options"), [*((metric, {}) for metric in METRICS), ("l2", RINGS)])
def test_filters_updates_removal_and_ranges(rows, metric, options):
    index, q = filled(rows, metric, **options), decaying(7, seed=1)
    fresh = decaying(50, seed=9)
    index.update(np.arange(50), fresh)
    index.remove(np.arange(100, 200))
    now = np.concatenate([fresh, rows[50:100], rows[200:]])
    other = index.empty_like()
    other.add(now, np.concatenate([np.arange(100), np.arange(200, 3000)]))
    same(index.search(q, 30, nprobe=4), other.search(q, 30, nprobe=4))
    allowed = np.arange(0, 3000, 7)
    found = index.search(q, 10, filter=allowed)[1]
    assert np.isin(found, allowed).all() and not np.isin(found, np.arange(100, 200)).any()
    distances, ids = index.search(q, 40, nprobe=NLIST)
    _, within, hits = index.range_search(q[0], float(distances[0, 20]))
    np.testing.assert_array_equal(hits, ids[0, : len(hits)])
    np.testing.assert_array_equal(within, distances[0, : len(hits)])


@pytest.mark.parametrize("metric", METRICS)
def test_decoded_rows_are_near_the_rows(rows, metric):
    index = filled(rows, metric, 4)
    x = rows / np.linalg.norm(rows, axis=1, keepdims=True) if metric == "cosine" else rows
    there = index._held.rows.lists_of(index._held.ids.positions(np.arange(len(x))))
    residuals = x - index.centroids[there]
    error = ((index.reconstruct(np.arange(len(x))) - x) ** 2).sum() / (residuals**2).sum()
    assert error < 0.02
    assert error == pytest.approx(index.info()["expected_relative_error"], rel=0.5)


@pytest.mark.parametrize("options", [{}, {"spill": 0.5}, {"spill": 0.5, **RINGS}])
def test_originals_rerank_and_rows_may_spill(rows, options):
    index, q = filled(rows, bits=1, store="float32", **options), decaying(50, seed=1)
    assert recall(index, rows, q) > 0.97
    np.testing.assert_array_equal(index.reconstruct([5]), rows[5:6])


def test_given_centroids_are_taken_and_tuning_finds_a_setting(rows):
    index = pi.IVFIndex(DIM, bits=4, codes="spectral").fit(rows, centroids=rows[:NLIST])
    index.add(rows)
    np.testing.assert_array_equal(index.centroids, rows[:NLIST])
    tuned = index.tune(decaying(200, seed=1), 0.9)
    assert tuned.recall >= 0.9 and index.info()["nprobe"] == tuned.nprobe


def test_indexes_merge_by_their_axes(rows):
    index, q = filled(rows), decaying(9, seed=1)
    one, two = index.empty_like(), index.empty_like()
    one.add(rows[:1000])
    two.add(rows[1000:], np.arange(1000, len(rows)))
    one.merge(two)
    same(one.search(q), index.search(q))
    other = pi.IVFIndex(DIM, bits=2, nlist=NLIST, codes="spectral", center=False)
    strange = pi.IVFIndex(DIM, bits=2, nlist=NLIST, codes="spectral", center=False)
    other.fit(rows, centroids=index.centroids)
    strange.fit(decaying(3000, power=0.7), centroids=index.centroids)
    with pytest.raises(ValueError, match="other axes"):
        other.merge(strange)


@pytest.mark.parametrize(("metric", "code"), [*((metric, "eden") for metric in METRICS), ("l2", "trellis")])
@pytest.mark.parametrize("store", ["float32", pytest.param("int8", marks=pytest.mark.slow)])
def test_refit_makes_the_index_that_new_rows_would_have(rows, metric, store, code):
    index = made(isotropic(2000), metric, 1, store=store, quantizer=code)
    index.add(rows, ids=np.arange(len(rows))[::-1])
    index.remove([5, 6])
    ids, q = index.ids, decaying(50, seed=1)
    originals = index.reconstruct(ids)
    other = pi.IVFIndex(DIM, metric, 1, code, nlist=NLIST, codes="spectral", store=store)
    other.fit(originals, centroids=index.centroids).add(originals, ids)
    before = index.quantizer
    index.refit()
    assert index.quantizer == other.quantizer != before
    np.testing.assert_array_equal(np.sort(index.ids), np.sort(ids))
    np.testing.assert_array_equal(index.reconstruct(ids), originals)
    same(index.search(q, nprobe=NLIST, rerank=0), other.search(q, nprobe=NLIST, rerank=0))


def test_refit_without_originals_or_rows_is_refused(rows):
    with pytest.raises(ValueError, match="store='float32'"):
        filled(rows).refit()
    with pytest.raises(ValueError, match="no rows"):
        made(rows, store="float32").refit()


def test_rebalance_learns_axes_where_it_has_vectors(rows):
    """From codes it would find no axes but those that it has."""
    index, q = filled(rows, store="none"), decaying(100, seed=1)
    before = index.quantizer
    index.rebalance()
    assert index.quantizer is before
    drifted, ids = decaying(3000, power=0.7), index.ids
    index.rebalance(drifted)
    assert index.quantizer != before
    assert recall(index, drifted[np.argsort(ids)], q) > 0.6


@pytest.mark.parametrize("options", [{}, RINGS])
def test_drift_shows_in_info(rows, options):
    index = filled(rows, **options)
    before = index.info()["spectral"]
    assert before["head_now"] == pytest.approx(before["head_learned"], abs=0.03)
    assert before["left_out_now"] == pytest.approx(before["left_out_learned"], abs=0.02)
    index.add(isotropic(6000) * rows.std())
    after = index.info()["spectral"]
    assert after["head_learned"] == before["head_learned"]
    assert after["head_now"] < before["head_now"] - 0.1


@pytest.mark.parametrize("options", [{}, {"metric": "cosine", "store": "int8", "spill": 0.2}, RINGS])
@pytest.mark.parametrize("mmap", [False, True])
def test_a_saved_index_comes_back_to_the_bit(tmp_path, rows, options, mmap):
    index, q = filled(rows, bits=2.5, **options), decaying(9, seed=1)
    index.remove([7, 9])
    index.save(tmp_path / "index")
    other = pi.load(tmp_path / "index", mmap=mmap)
    assert other.parameters() == index.parameters() and other.quantizer == index.quantizer
    same(index.search(q), other.search(q))
    for one in (index, other):
        one.add(q)
    same(index.search(q), other.search(q))
    assert pi.verify(tmp_path / "index") == []


def test_an_opened_index_syncs_and_another_follows(tmp_path, rows):
    made(rows, store="float32").save(tmp_path / "index")
    q = decaying(9, seed=1)
    with pi.open(tmp_path / "index") as index:
        index.add(rows[:2000])
        index.sync()
        reader = pi.open(tmp_path / "index", read_only=True)
        index.add(rows[2000:])
        index.remove([3])
        index.sync()
        reader.refresh()
        same(index.search(q), reader.search(q))
        index.refit()
        index.sync()
        reader.refresh()
        assert reader.quantizer == index.quantizer
        same(index.search(q), reader.search(q))
        reader.close()


def test_indexes_that_are_not_fitted_and_plain_ones_by_choice_are_saved_as_such(tmp_path):
    pi.IVFIndex(64, bits=0.5, codes="spectral", nlist=5).save(tmp_path / "empty")
    assert pi.load(tmp_path / "empty").bits == 0.5
    filled(isotropic(2000, 64)).save(tmp_path / "index")
    other = pi.load(tmp_path / "index")
    assert isinstance(other.quantizer, EDEN) and other.codes == "spectral"
    assert other.info()["spectral"] == {"learned": True, "segments": None}


def test_plain_indexes_are_saved_as_ever(tmp_path, rows):
    filled(rows, codes="plain").save(tmp_path / "index")
    text = json.loads((tmp_path / "index" / "manifest.json").read_text())
    assert "codes" not in text["parameters"] and "spectral" not in text["state"]
    assert "basis.npy" not in text["segments"][0]["files"]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"segments": [[32, 9]]}, "bits"),
        ({"segments": []}, "basis"),
        ({"shares": [0.5]}, "shares"),
        ({"segments": [[1000, 2]]}, "dims"),
        ({"segments": None}, "NoneType"),
    ],
)
def test_a_state_that_cannot_be_is_a_format_error(tmp_path, rows, change, word):
    filled(rows).save(tmp_path / "index")
    read = manifest.read(tmp_path / "index")
    state = {**read["state"], "spectral": {**read["state"]["spectral"], **change}}
    manifest.put(tmp_path / "index", manifest.sealed({**read, "state": state}))
    with pytest.raises(pi.FormatError, match=word):
        pi.load(tmp_path / "index")


@pytest.mark.parametrize("mmap", [False, True])
def test_a_basis_that_is_damaged_or_missing_is_a_format_error(tmp_path, rows, mmap):
    filled(rows).save(tmp_path / "index")
    (file,) = (tmp_path / "index").rglob("basis.npy")
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    with pytest.raises(pi.FormatError, match="basis"):
        pi.load(tmp_path / "index", mmap=mmap)
    file.unlink()
    with pytest.raises(pi.FormatError, match="basis"):
        pi.load(tmp_path / "index", mmap=mmap)


def test_copies_and_pickles_are_indexes_of_their_own(rows):
    index, q = filled(rows), decaying(5, seed=1)
    before = index.search(q)
    for other in (copy.deepcopy(index), pickle.loads(pickle.dumps(index))):
        same(other.search(q), before)
        other.remove(other.ids)
    same(index.search(q), before)


@pytest.mark.parametrize("kind", ["ivf", "flat"])
def test_shards_share_the_axes_and_find_what_one_index_finds(tmp_path, rows, kind):
    lists = {"nlist": NLIST} if kind == "ivf" else {}
    built = ShardedIndex.build(rows, tmp_path, num_shards=3, kind=kind, bits=1.5, codes="spectral", **lists)
    one = (pi.IVFIndex if kind == "ivf" else pi.FlatIndex)(DIM, bits=1.5, codes="spectral", **lists)
    one.fit(rows).add(rows)
    q, how = decaying(9, seed=1), {"nprobe": 5} if kind == "ivf" else {}
    shards = [pi.load(tmp_path / name) for name in built.shards]
    assert all(shard.quantizer == one.quantizer for shard in shards)
    answers = [shard.search(q, **how) for shard in shards]
    distances, ids = (np.concatenate(parts, axis=1) for parts in zip(*answers, strict=True))
    order = np.lexsort((ids, distances))[:, :10]
    found = np.take_along_axis(distances, order, 1), np.take_along_axis(ids, order, 1)
    same(found, one.search(q, **how))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"codes": "learned"}, ValueError, "codes must be one of 'plain', 'spectral'"),
        ({"codes": "spectral", "bits": 9}, ValueError, "bits must be from 0.25 to 8.0, got 9"),
        ({"codes": "spectral", "quantizer": "drive"}, ValueError, "must be 'eden' or 'trellis', got 'drive'"),
        ({"codes": "spectral", "scan_bits": 1}, ValueError, "scan_bits=1 is for codes='plain'"),
        ({"bits": 2.5}, TypeError, "bits must be an integer"),
    ],
)
def test_bad_arguments_are_named(options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        pi.IVFIndex(64, **options)


def test_a_gpu_is_refused_in_words(rows):
    with pytest.raises(ValueError, match="spectral"):
        filled(rows).to_gpu()


def test_rows_without_energy_get_plain_codes():
    index = filled(np.ones((2000, 40), np.float32), nlist=2)
    assert isinstance(index.quantizer, EDEN)
    assert (index.search(np.ones((2, 40), np.float32), 3)[0] == 0).all()


@pytest.mark.parametrize("factor", [1e-15, 1e15])
def test_units_do_not_matter(rows, factor):
    q = decaying(20, seed=1)
    a, b = filled(rows), filled(rows * np.float32(factor))
    assert a.quantizer.segments == b.quantizer.segments
    assert (a.search(q)[1] == b.search(q * np.float32(factor))[1]).mean() > 0.9


def test_the_file_has_what_it_says_of_the_basis(rows):
    index = filled(rows)
    info = index.info()
    assert info["codes"] == "spectral" and info["bits"] == 2
    assert sum(m for m, _ in info["spectral"]["segments"]) == len(index.quantizer.basis)
    assert index.nbytes >= index._held.rows.nbytes + index.quantizer.basis.nbytes
