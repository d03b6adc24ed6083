"""factor_bits=16: a row's scale and shift in one word, whose rounding costs queries near it nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import polarindex as pi
from polarindex.indexes.factors import FactorLaw, law_of, rounded, scales_of
from polarindex.indexes.scan import integer_queries
from polarindex.kernels import reference
from polarindex.quantizers import make_quantizer
from polarindex.quantizers.base import Centres

DIM, NLIST = 24, 5
METRICS = ("l2", "ip", "cosine")
SHORT = {"factor_bits": 16}
# one kernel each: all else is the same text
FLAT = [("eden", 4), ("trellis", 2)]


def rows(n, seed, dim=DIM):
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32) + np.float32(0.5)


def flat(metric="l2", n=1500, quantizer="eden", bits=4, **settings):
    index = pi.FlatIndex(DIM, metric, bits, quantizer, **{**SHORT, **settings})
    index.add(rows(n, 1))
    return index


def lists(metric="l2", n=600, **settings):
    index = pi.IVFIndex(DIM, metric, nlist=NLIST, **{**SHORT, **settings}).fit(rows(n, 1))
    index.add(rows(n, 1))
    return index


def best(keys, ids, k):
    """The k best of keys (nq, n) by (key, id)."""
    order = np.stack([np.lexsort((ids, -row))[:k] for row in keys])
    return np.take_along_axis(keys, order, 1), ids[order]


# --- what is stored


def test_scales_have_eleven_bits_whatever_their_size():
    scales = np.float32(1.7) ** np.arange(-160, 160, dtype=np.float32)
    scales = scales[(scales > 1e-37) & (scales < 1e38)]
    stored = rounded(scales)
    assert (np.abs(stored / scales - 1) <= 2.0**-11).all()
    assert (stored.view(np.uint32) % 2**13 == 0).all()
    np.testing.assert_array_equal(scales_of(stored.view(np.uint32) << 1), stored)
    assert rounded(np.array([0, 1e-39], np.float32)).tolist() == [0, 0]


@given(
    st.lists(st.tuples(st.floats(1e-6, 1e6), st.floats(-1, 1)), min_size=1, max_size=40),
    st.tuples(st.floats(1e-3, 1e3), st.floats(0, 1e3), st.floats(-1e3, 1e3)),
)
def test_the_nearest_shift_there_is_is_taken(some, ends):
    """Whatever the scale, of all shifts that the law reaches with it."""
    across, own, core = (float(np.float32(x)) for x in (ends[0] / 8191**2, ends[1] / 8191**2, ends[2]))
    law = FactorLaw(across, own, core)
    scales = rounded(np.array([scale for scale, _ in some], np.float32)).astype(np.float64)
    units = scales * (across + own * scales)
    shifts = units * np.array([part for _, part in some]) * 8191**2 + core * scales**2
    words = law.words(scales.astype(np.float32), shifts, 0)
    stored, found = law.floats(words)
    np.testing.assert_array_equal(stored, scales.astype(np.float32))
    t = (words & 0x3FFF).astype(np.int64)
    t = np.abs(np.where(t < 8192, t, t - 16384))
    room = units * (t + 0.5) + 2.0**-21 * (np.abs(shifts) + np.abs(core) * scales**2)
    assert (np.abs(found - shifts) <= room).all()


def test_what_no_word_holds_is_an_error_that_names_the_row():
    law = FactorLaw(1.0, 0.0, 0.0)
    one = np.ones(3, np.float32)
    assert law.floats(law.words(one, np.array([8191.0**2, -(8191.0**2), 0]), 0))[1].tolist() == [
        np.float32(8191**2), -np.float32(8191**2), 0,
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"row 42 has a scale or shift that 16 bits do not hold; use factor_bits=32"):
        law.words(one, np.array([0, 0, 8193.0**2]), 40)
    with pytest.raises(ValueError, match="row 41 "):
        law.words(np.array([1, np.inf, 1], np.float32), np.zeros(3), 40)
    with pytest.raises(ValueError, match="row 40 "):
        law.words(rounded(np.array([-1, 1, 1], np.float32)), np.zeros(3), 40)
    good = {"across": 1.0, "own": 1.0, "core": -1.0}
    assert FactorLaw.of_state(good) == FactorLaw(1.0, 1.0, -1.0)
    for wrong in ({"across": "1"}, {"own": -1}, {"across": 1e39}, {"core": float("nan")}, {"core": None}):
        with pytest.raises((KeyError, TypeError, ValueError)):
            FactorLaw.of_state(good | wrong)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("quantizer", "bits"), [("eden", 1), ("eden", 4), ("drive", 1), ("turboquant", 2), ("trellis", 1)]
)
def test_no_row_is_refused_whatever_was_learned_from(metric, quantizer, bits):
    """Lengths over all that float32 squares, spikes, equal coordinates, and the zero row."""
    rng = np.random.default_rng(7)
    x = np.concatenate([rng.standard_normal((200, DIM)), np.eye(DIM), -np.eye(DIM), np.ones((1, DIM))])
    x = x * (10.0 ** rng.uniform(-18, 17, len(x)))[:, None]
    if metric != "cosine":
        x[0] = 0
    x = x.astype(np.float32)
    for index in (
        pi.FlatIndex(DIM, metric, bits, quantizer, **SHORT).fit(rows(30, 2)),
        pi.FlatIndex(DIM, metric, bits, quantizer, **SHORT).fit(1e-9 * rows(30, 2)),
        pi.IVFIndex(DIM, metric, bits, quantizer, nlist=3, **SHORT).fit(1e-9 * rows(30, 2)),
    ):
        index.add(x)
        assert np.isfinite(index.reconstruct(index.ids)).all()


@pytest.mark.parametrize("seed", range(3))
def test_a_query_at_a_row_is_as_far_as_with_32_bits(seed):
    """l2: 2 S <r, levels> + shift = |r|^2, but for half a step of the shift."""
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((500, 64)) * 10.0 ** rng.uniform(-3, 3, (500, 1))).astype(np.float32)
    for name, bits in (("eden", 1), ("eden", 4), ("trellis", 2)):
        quantizer = make_quantizer(name, 64, bits, seed)
        index = pi.FlatIndex(64, "l2", bits, name, seed=seed, **SHORT)
        law = law_of(quantizer, "l2", np.zeros(64, np.float32))
        columns = index._coding.columns_of(quantizer.encode_rows(x, integer=True), index._coding.centre)
        scales, shifts = law.floats(columns["factors"]).astype(np.float64)
        exact = quantizer.encode_rows(x, integer=True)
        products = exact.energies / exact.scales[:, 0]  # <r, levels>, for the scale is unbiased
        left = np.abs(2 * scales * products + shifts - exact.energies) / exact.energies
        assert left.max() < 2.0**-12 and np.median(left) < 2.0**-14
        assert np.abs(scales / exact.scales[:, 0] - 1).max() > 2.0**-13  # which a float of that scale is not


@pytest.mark.parametrize(("name", "bits"), [("eden", 2), ("eden", 8), ("drive", 1), ("turboquant", 3), ("trellis", 2)])
def test_the_typical_energy_is_that_of_most_rows(name, bits):
    quantizer = make_quantizer(name, 128, bits)
    encoded = quantizer.encode_rows(rows(400, 1, 128), integer=True)
    found = encoded.energies / encoded.scales[:, 0].astype(np.float64) ** 2 / quantizer.typical_energy
    assert abs(np.median(found) - 1) < 0.03


def test_a_centroid_far_away_is_in_the_law():
    """What a shift holds of it reaches as far as its length."""
    quantizer, centroids = make_quantizer("eden", DIM, 2), np.float32(1e4) * rows(3, 5)
    near, far = (law_of(quantizer, "l2", np.zeros(DIM, np.float32), c) for c in (rows(3, 5), centroids))
    assert far.across > 1e3 * near.across and far.own == near.own and far.core == near.core
    x = centroids[:1] + rows(50, 6)
    encoded = quantizer.encode_in_lists(x, Centres(centroids, quantizer.mapped(centroids)), np.zeros(50, np.int32))
    shifts = -encoded.energies - 2 * encoded.crosses
    found = far.floats(far.words(rounded(encoded.scales)[:, 0], shifts, 0))[1]
    assert np.abs(found - shifts).max() < 2.0**-11 * np.abs(shifts).max()


# --- searches


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("quantizer", "bits"), FLAT)
def test_a_search_is_the_formula_on_the_stored_words(metric, quantizer, bits):
    index, q = flat(metric, quantizer=quantizer, bits=bits), rows(5, 2)
    everyone = np.arange(len(index))
    law = index._coding.centre.law
    scales, shifts = reference.expand_factors(index._arena.take("factors", everyone), law.numbers)
    stage = index.quantizer.stages[0]
    levels = stage.levels(index._coding.words(index._arena, everyone))[:, :DIM].astype(np.int64)
    queries = index._coding.codable(q, "q")
    ((asked,),) = index._integer_queries(queries)
    dots = (asked.levels.astype(np.int64) @ levels.T).astype(np.int32)
    keys = reference.add_scores(dots, asked.gains, scales, np.tile(shifts, (len(q), 1)))
    keys, ids = best(keys, index.ids, 10)
    wanted = index._coding.distances(keys, index._coding.constants(queries))
    for one in (slice(0, 5), slice(0, 1)):
        distances, found = index.search(q[one], 10, exact_scan=True)
        np.testing.assert_array_equal(distances, wanted[one])
        np.testing.assert_array_equal(found, ids[one])


@pytest.mark.parametrize("metric", METRICS)
def test_lists_are_the_formula_on_the_stored_words(metric):
    index, q = lists(metric), rows(4, 2)
    held, coding = index._held, index._coding
    places = held.rows.used()
    stored, numbers = held.rows.rows(places), held.rows.lists_of(places)
    words = np.ascontiguousarray(stored[:, index.quantizer.words])
    scales, shifts = reference.expand_factors(words, held.centroids.law.numbers)
    levels = index.quantizer.stages[0].levels(coding.code_words(stored))[:, :DIM].astype(np.int64)
    queries = coding.codable(q, "q")
    ((asked,),) = integer_queries(index.quantizer, queries - held.centroids.mu, coding.factor)
    dots = (asked.levels.astype(np.int64) @ levels.T).astype(np.int32)
    keys = reference.add_scores(dots, asked.gains, scales, np.tile(shifts, (len(q), 1)))
    every = np.arange(NLIST, dtype=np.int32)
    keys = keys + coding.offsets(queries - held.centroids.mu, every, held.centroids)[:, numbers]
    sign = np.float32(-1 if metric == "l2" else 1)
    similarities = (keys + coding.constants(queries, held.centroids)[:, None]).astype(np.float32)
    wanted, ids = best(similarities, held.rows.ids_at(places), 10)
    for one in (slice(0, 4), slice(0, 1)):
        distances, found = index.search(q[one], 10, nprobe=NLIST)
        np.testing.assert_array_equal(distances, sign * wanted[one])
        np.testing.assert_array_equal(found, ids[one])
    fine = index.search(q, 10, nprobe=NLIST, query_bits=16)[0]  # in steps
    np.testing.assert_allclose(fine, sign * wanted, rtol=0.02, atol=0.3)


@pytest.mark.parametrize("make", [flat, lists])
@pytest.mark.parametrize("metric", METRICS)
def test_answers_are_nearly_those_of_32_bits_and_rows_take_four_bytes_less(make, metric):
    short, plain, q = make(metric), make(metric, factor_bits=32), rows(20, 3)
    everywhere = {"nprobe": NLIST} if make is lists else {}
    (got, near), (wanted, there) = (index.search(q, 10, **everywhere) for index in (short, plain))
    assert plain.bytes_per_vector - short.bytes_per_vector == 4
    assert (near == there).mean() > 0.93
    np.testing.assert_allclose(got, wanted, rtol=0, atol=0.004 * np.abs(wanted).max())
    assert short.info()["factor_bits"] == 16 and plain.info()["factor_bits"] == 32
    assert "factor_bits=16" in repr(short) and "factor_bits" not in repr(plain)


@pytest.mark.parametrize("make", [flat, lists])
def test_ranges_filters_errors_and_stored_originals(make):
    index, q, x = make(store="float32"), rows(3, 4), rows(600, 1)
    everywhere = {"nprobe": NLIST} if make is lists else {}
    distances, ids = index.search(q, 20, rerank=0, filter=np.arange(0, 400), **everywhere)
    assert (ids < 400).all()
    lims, found, names = index.range_search(q[:1], float(distances[0, 9]), filter=np.arange(0, 400))
    np.testing.assert_array_equal(names[: lims[1]], ids[0, :10])
    np.testing.assert_array_equal(found[: lims[1]], distances[0, :10])
    *_, errors = index.search(q, 5, rerank=0, return_error=True, **everywhere)
    assert (errors > 0).all() and np.isfinite(errors).all()
    exact, nearest = index.search(x[:3], 1, **everywhere)
    assert nearest[:, 0].tolist() == [0, 1, 2] and (exact == 0).all()


# --- files, changes, other indexes


@pytest.mark.parametrize("make", [flat, lists])
def test_files_logs_and_maps_keep_words(make, tmp_path):
    index, q = make(), rows(6, 5)
    everywhere = {"nprobe": NLIST} if make is lists else {"exact_scan": True}
    wanted = index.search(q, 10, **everywhere)
    index.save(tmp_path / "i")
    manifest = json.loads((tmp_path / "i" / "manifest.json").read_text())
    assert manifest["parameters"]["factor_bits"] == 16
    assert set(manifest["state"]["factors"]) == {"across", "own", "core"}
    for how in ({}, {"mmap": True}):
        read = pi.load(tmp_path / "i", **how)
        assert read.parameters() == index.parameters()
        np.testing.assert_array_equal(read.search(q, 10, **everywhere), wanted)
    with pi.open(tmp_path / "i") as opened:
        for one in (opened, index):
            one.remove([3, 5, 8])
            one.update([10, 11], rows(2, 6))
            one.upsert([12, 9000], rows(2, 7))
    again = pi.load(tmp_path / "i")
    for got, there in zip(again.search(q, 10, **everywhere), index.search(q, 10, **everywhere), strict=True):
        np.testing.assert_array_equal(got, there)


def test_a_file_without_it_is_as_it_was(tmp_path):
    flat(factor_bits=32).save(tmp_path / "i")
    manifest = json.loads((tmp_path / "i" / "manifest.json").read_text())
    assert "factor_bits" not in manifest["parameters"] and "factors" not in manifest["state"]
    assert pi.load(tmp_path / "i").factor_bits == 32


def test_rows_that_come_one_by_one_are_coded_again_when_the_centre_is_known():
    x = rows(1500, 1)
    once, slowly = pi.FlatIndex(DIM, **SHORT), pi.FlatIndex(DIM, **SHORT)
    once.fit(x[:1024])
    once.add(x)
    for start in range(0, 1500, 256):
        slowly.add(x[start : start + 256])
    slowly_fitted = pi.FlatIndex(DIM, **SHORT)
    slowly_fitted.add(x[:1024])
    assert slowly_fitted._coding.centre.law == once._coding.centre.law
    assert slowly._coding.centre.law is not None and "held" not in slowly._arena.columns
    assert slowly._coding.shifts(slowly._arena, np.arange(1500)).max() < 0


def test_lists_with_second_codes_merge_rebalance_and_move():
    index = lists(store="float32", spill=0.5)
    other = index.empty_like()
    other.add(rows(100, 8), ids=np.arange(100) + 5000)
    index.merge(other)
    q = rows(4, 9)
    whole = index.search(q, 10, nprobe=NLIST, rerank=0)
    assert index._held.copies.rows.short
    index.remove(index.ids[::9])
    index.rebalance()
    assert index.factor_bits == 16 and len(index.search(q, 10, nprobe=NLIST)[0]) == len(whole[0])
    with pytest.raises(ValueError, match="factor_bits=32, this index factor_bits=16"):
        index.merge(lists(store="float32", spill=0.5, factor_bits=32))


def test_plans_count_words_and_make_such_indexes():
    plans = [pi.plan(20_000, 64, 0.7, factor_bits=bits) for bits in (32, 16)]
    parts = [plan.parts["scales and shifts"] for plan in plans]
    assert parts == [8 * 20_000, 4 * 20_000]
    assert plans[1].make().factor_bits == 16
    with pytest.raises(ValueError, match="factor_bits must be 32 or 16, got 24"):
        pi.plan(20_000, 64, factor_bits=24)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"factor_bits": 8}, "factor_bits must be 32 or 16, got 8"),
        ({"factor_bits": "16"}, "factor_bits must be 32 or 16, got '16'"),
        ({"factor_bits": None}, "factor_bits must be 32 or 16, got None"),
        ({"quantizer": "polarquant", **SHORT}, "factor_bits=16 is not offered for quantizer='polarquant'"),
        ({"quantizer": "qjl", **SHORT}, "factor_bits=16 is not offered for quantizer='qjl'"),
        ({"quantizer": "turboquant-prod", **SHORT}, "factor_bits=16 is not offered for quantizer='turboquant-prod'"),
    ],
)
def test_what_cannot_be_is_said(wrong, message):
    for kind in (pi.FlatIndex, pi.IVFIndex):
        with pytest.raises(ValueError, match=message):
            kind(DIM, **wrong)


def test_indexes_that_have_no_word_say_why():
    for metric in ("ip", "cosine"):
        with pytest.raises(ValueError, match=f"with metric='{metric}' and center=False they have a scale alone"):
            pi.FlatIndex(DIM, metric, center=False, **SHORT)
    pi.FlatIndex(DIM, "l2", center=False, **SHORT)
    with pytest.raises(ValueError, match="not with scan_bits=2"):
        pi.IVFIndex(DIM, scan_bits=2, **SHORT)
