"""Spectral codes in a flat index: what they gain, what they cost, and that everything an index does goes on working."""

import copy
import itertools
import json
import math
import pickle
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import polarindex as pi
from polarindex import allocation, kernels
from polarindex.indexes import learned, manifest
from polarindex.indexes.scan import integer_queries
from polarindex.kernels import dispatch
from polarindex.quantizers import EDEN
from polarindex.quantizers.spectral import Spectral
from polarindex.quantizers.trellis import TrellisStage

METRICS = ("l2", "ip", "cosine")
DIM = 100  # no multiple of 32
SETS = [name for i, name in enumerate(kernels.available()) if i == 0 or not name.endswith("vnni")]  # kernels have all
CODES = st.sampled_from(["eden", "trellis"])
TRELLIS = {"quantizer": "trellis"}


def decaying(n, dim=DIM, seed=0, power=1.0, offset=0.3):
    """Gaussian rows whose energy along hidden axes falls as 1 / j^(2 power), off the origin."""
    axes = np.linalg.qr(np.random.default_rng(77).standard_normal((dim, dim)))[0]
    deviations = np.arange(1, dim + 1.0) ** -power
    rows = np.random.default_rng(seed).standard_normal((n, dim)) * deviations @ axes
    return (rows + offset).astype(np.float32)


def isotropic(n, dim=DIM, seed=0):
    return np.random.default_rng(seed).standard_normal((n, dim), np.float32)


def truth(x, q, metric, k=10):
    x, q = x.astype(np.float64), q.astype(np.float64)
    if metric == "cosine":
        x, q = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, q))
    near = q @ x.T if metric != "l2" else 2 * q @ x.T - (x * x).sum(axis=1)
    return np.argsort(-near, axis=1)[:, :k]


def recall(index, x, q):
    return np.mean(
        [len(set(a) & set(b)) / 10 for a, b in zip(index.search(q, 10)[1], truth(x, q, index.metric), strict=True)]
    )


def filled(x, metric="l2", bits=2, **options):
    index = pi.FlatIndex(x.shape[1], metric, bits, codes="spectral", **options)
    index.add(x)
    return index


@pytest.fixture(scope="module")
def rows():
    return decaying(3000)


# --- what is gained, and what it costs


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_decaying_spectra_are_found_much_better_in_no_more_bytes(rows, bits, metric):
    q = decaying(100, seed=1)
    plain, spectral = pi.FlatIndex(DIM, metric, bits), filled(rows, metric, bits)
    plain.add(rows)
    assert isinstance(spectral.quantizer, Spectral)
    assert spectral.bytes_per_vector <= plain.bytes_per_vector
    assert recall(spectral, rows, q) > recall(plain, rows, q) + (0.02 if bits == 4 else 0.08)


@pytest.mark.parametrize("bits", [2, 2.5, 4])
def test_segments_that_are_rings_find_more_than_others_and_than_a_plain_trellis(bits):
    """In dimensions where all take as many bytes, and a spectrum of which most is coded in few bits."""
    rows, q = decaying(3000, 128, power=0.5), decaying(100, 128, seed=1, power=0.5)
    eden, rings = filled(rows, bits=bits), filled(rows, bits=bits, **TRELLIS)
    plain = pi.FlatIndex(128, bits=int(bits), **TRELLIS)
    plain.add(rows)
    assert rings.bytes_per_vector <= eden.bytes_per_vector
    assert bits != int(bits) or rings.bytes_per_vector <= plain.bytes_per_vector
    widths = [part.bits for part in rings.quantizer.segments]
    assert [isinstance(stage, TrellisStage) for stage in rings.quantizer.stages] == [width <= 4 for width in widths]
    assert recall(rings, rows, q) > max(recall(plain, rows, q), recall(eden, rows, q)) + (0.005 if bits == 4 else 0.01)


@pytest.mark.parametrize(("bits", "options"), [*((bits, {}) for bits in (1, 2, 3, 4, 8)), (1, TRELLIS), (4, TRELLIS)])
@pytest.mark.parametrize("dim", [32, 64, 96])
def test_rows_without_structure_get_the_plain_code_itself(dim, bits, options):
    x, q = isotropic(2000, dim), isotropic(20, dim, 1)
    plain, spectral = pi.FlatIndex(dim, bits=bits, **options), filled(x, bits=bits, **options)
    plain.add(x)
    assert spectral.info()["spectral"] == {"learned": True, "segments": None}
    assert spectral.quantizer == plain.quantizer
    for a, b in zip(plain.search(q), spectral.search(q), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("dim", [33, 100])
def test_unstructured_rows_of_odd_dimensions_lose_nothing(dim, bits):
    gains = []
    for seed in range(4):
        x, q = isotropic(6000, dim, seed), isotropic(200, dim, 10 + seed)
        plain, spectral = pi.FlatIndex(dim, bits=bits), filled(x, bits=bits)
        plain.add(x)
        gains.append(recall(spectral, x, q) - recall(plain, x, q))
    assert np.mean(gains) >= -0.003


def words_of(m, bits, code):
    """Of a segment, or of all coordinates of a plain code, by the pages on codes."""
    if code == "trellis" and bits <= 4:
        return math.ceil(m * bits / 32)
    return -(-m // 4) if bits == 8 else bits * -(-m // 32)


@given(
    bits=st.floats(0.25, 8),
    dim=st.sampled_from([32, 40, 100, 128, 200]),
    power=st.floats(0.3, 3),
    code=CODES,
    short=st.booleans(),
)
@settings(max_examples=90)
def test_no_allocation_takes_more_bytes_than_plain_codes_of_so_many_bits(bits, dim, power, code, short):
    """A plain trellis code has no more than 4 bits; of more it would take as much."""
    energies = np.arange(1, dim + 1.0) ** (-2 * power)
    segments = allocation.allocate(energies / energies.sum(), bits, code=code, short=short).segments
    words = sum(words_of(m, b, code) for m, b in segments)
    tail = 2 * allocation.tail_half_words(dim, bits, code)
    factors = 2 * math.ceil((8 + 12 * len(segments)) / 16) if short else 2 * len(segments)
    whole = math.ceil(dim * bits / 32) if code == "trellis" else words_of(dim, bits, code)
    assert 4 * words + factors + tail <= 4 * whole + 4
    assert sum(m for m, _ in segments) <= dim
    widths = [b for _, b in segments]
    assert widths == sorted(widths, reverse=True) and len(set(widths)) == len(widths)


@given(bits=st.floats(0.5, 4), power=st.floats(0.2, 2), seed=st.integers(0, 99), code=CODES, short=st.booleans())
@settings(max_examples=30)
def test_the_allocation_is_the_best_of_all(bits, power, seed, code, short):
    """Against every choice of widths that do not rise, in few blocks."""
    noise = np.exp(np.random.default_rng(seed).normal(0, 0.3, 100))
    energies = np.sort(np.arange(1, 101.0) ** (-2 * power) * noise)[::-1]
    energies /= energies.sum()
    blocks = [slice(0, 32), slice(32, 64), slice(64, 96), slice(96, 100)]
    least = np.inf
    for widths in itertools.combinations_with_replacement(range(8, -1, -1), 4):
        segments = len(set(widths) - {0})
        cost = (8 + 12 * segments) / 8 if short else 2 * segments
        error = 0.0
        for block, width in zip(blocks, widths, strict=True):
            m = len(energies[block])
            cost += 4 * words_of(m, width, code)
            weight = (energies[block].sum() / m) ** allocation.WEIGHT
            each = allocation.inner_error(width, code) if width else allocation.LEFT_OUT
            error += weight * energies[block].sum() * each
        room = int(2 * words_of(100, bits, code)) + 2
        if cost <= 2 * (room - allocation.tail_half_words(100, bits, code)):
            least = min(least, error)
    found = allocation.allocate(energies, bits, code=code, short=short)
    widths = np.repeat([b for _, b in found.segments], [m for m, _ in found.segments])
    widths = np.pad(widths, (0, 100 - len(widths)))
    chosen = predicted = 0.0
    for block in blocks:
        share, width = energies[block].sum(), int(widths[block][0])
        own = share * (share / len(energies[block])) ** allocation.WEIGHT * allocation.inner_error(width, code)
        predicted += own
        chosen += own * (1 if width else allocation.LEFT_OUT)
    np.testing.assert_allclose(chosen, least, rtol=1e-9)
    np.testing.assert_allclose(found.error, predicted, rtol=1e-9)


def test_shares_are_no_more_than_all_whatever_sums_of_floats_say():
    energies = np.full(100, 0.01)
    energies[0] += 2.0**-52  # a sum of 1 + 2^-52
    shares = allocation.Allocation((allocation.Segment(100, 4),), 0.1).shares(energies / (1 - 2.0**-52))
    assert shares == [1.0, 0.0]


@pytest.mark.parametrize("bits", [0.5, 1.25, 2.5, 3.7])
def test_fractional_bits_are_kept_to(rows, bits):
    index = filled(rows, bits=bits)
    assert index.bits == bits == index.parameters()["bits"]
    assert index.bytes_per_vector <= 4 * bits * -(-DIM // 32) + 4 + 4  # words, a scale's worth, the shift
    assert index.bytes_per_vector > 4 * (bits - 0.5) * (DIM / 32) + 4


def test_more_bits_find_more(rows):
    q = decaying(100, seed=1)
    found = [recall(filled(rows, bits=bits), rows, q) for bits in (0.5, 1, 1.5, 2, 3, 4)]
    assert all(b > a for a, b in zip(found, found[1:], strict=False))


def test_rows_far_off_do_not_choose_the_axes(rows):
    """One row in 500 is 10,000 times as far from the mean as others; in pairs, for the mean is not robust."""
    x, q = rows.copy(), decaying(100, seed=1)
    far = isotropic(3, seed=5) * 1e4
    x[::1000], x[500::1000] = far, -far
    assert recall(filled(x), x, q) > recall(filled(rows), rows, q) - 0.02


def test_eight_bits_cut_nothing_off():
    """Rows that lie along one axis of a segment, 20 times as far out as others."""
    rng = np.random.default_rng(0)
    x = np.zeros((3000, 64), np.float32)
    x[:, :4] = rng.standard_t(2, (3000, 4)) * 10
    x[:, 4:] = rng.normal(size=(3000, 60)) * 0.01
    index = filled(x, bits=4)
    assert index.quantizer.segments[0].bits == 8
    error = np.linalg.norm(index.reconstruct(index.ids) - x, axis=1) / np.linalg.norm(x, axis=1)
    assert error.max() < 0.03


# --- the score law


def keys_of(index, q, bits=8):
    """The scan's keys (nq, n), by NumPy, with the operations of the law in their order."""
    every, arena, coding = np.arange(len(index)), index._arena, index._coding
    centred = coding.codable(q, "q") - coding.centre.mu
    keys = np.zeros((len(q), len(index)), np.float32)
    if "shifts" in arena.columns:
        keys += arena.take("shifts", every)
    words, scales = index.quantizer.split(coding.words(arena, every)), arena.take("scales", every)
    scales = (scales.astype(np.uint32) << np.uint32(16)).view(np.float32)
    for s, pieces in enumerate(integer_queries(index.quantizer, centred, coding.factor, bits)):
        stage = index.quantizer.stages[s]
        levels = stage.levels(words[s])[:, : stage.map.dims].astype(np.int64)
        for piece in pieces:
            dots = piece.levels.astype(np.int64) @ levels.T
            keys = keys + (dots.astype(np.float32) * piece.gains[:, None]) * scales[:, s]
    return keys


NAMED = [pytest.param("l2", name, marks=[] if name in (SETS[0], "generic") else pytest.mark.isa) for name in SETS]


@pytest.mark.parametrize(("metric", "name"), [*NAMED, ("ip", SETS[0]), ("cosine", SETS[0])])
@pytest.mark.parametrize(
    ("bits", "query_bits", "options"),
    [(1, 8, {}), (3, 8, {}), (4, 8, {}), (6.5, 8, {}), (2, 16, {})]
    + [(0.7, 8, TRELLIS), (2.5, 8, TRELLIS), (4, 8, TRELLIS), (2, 16, TRELLIS)],
)
def test_search_is_the_score_law_bit_for_bit(rows, bits, query_bits, options, metric, name):
    x = rows[:1500]
    index, q = filled(x, metric, bits, **options), decaying(9, seed=1)
    with dispatch.using(name):
        distances, ids = index.search(q, 20, query_bits=query_bits)
        alone = index.search(q[3], 20, query_bits=query_bits)
    keys = keys_of(index, q, query_bits)
    best = np.lexsort((np.broadcast_to(np.arange(1500), keys.shape), -keys))[:, :20]
    wanted = index._coding.distances(
        np.take_along_axis(keys, best, 1), index._coding.constants(index._coding.codable(q, "q"))
    )
    order = np.lexsort((best, wanted if metric == "l2" else -wanted))
    np.testing.assert_array_equal(ids, np.take_along_axis(best, order, 1))
    np.testing.assert_array_equal(distances, np.take_along_axis(wanted, order, 1))
    np.testing.assert_array_equal(alone[1], ids[3])
    np.testing.assert_array_equal(alone[0], distances[3])


@pytest.mark.parametrize(("metric", "code"), [*((metric, "eden") for metric in METRICS), ("l2", "trellis")])
def test_codes_do_not_depend_on_how_rows_arrive(rows, metric, code):
    a, b = (pi.FlatIndex(DIM, metric, 2, code, codes="spectral") for _ in range(2))
    a.fit(rows).add(rows)
    b.fit(rows)
    for start in range(0, len(rows), 701):
        b.add(rows[start : start + 701])
    every = np.arange(len(rows))
    for name in a._arena.columns:
        np.testing.assert_array_equal(a._arena.take(name, every), b._arena.take(name, every))


def test_threads_do_not_change_what_is_found(rows):
    index, q = filled(rows), decaying(40, seed=1)
    one, two = (index.search(q, num_threads=threads) for threads in (1, 2))
    np.testing.assert_array_equal(one[1], two[1])
    np.testing.assert_array_equal(one[0], two[0])


@pytest.mark.parametrize("options", [{}, TRELLIS])
def test_a_query_that_is_a_row_is_at_distance_zero_but_for_what_is_left_out(rows, options):
    """Short scales are made good in the shift: what is off is twice what no segment has."""
    index = filled(rows, bits=4, **options)
    centred = rows - index._coding.centre.mu
    along = centred @ index.quantizer.basis.T
    out = (centred**2).sum(axis=1) - (along**2).sum(axis=1)
    mine = [np.array([i]) for i in range(50)]
    distances = index.search(rows[:50], 1, query_bits=16, filter=mine)[0][:, 0]
    np.testing.assert_allclose(distances, 2 * out[:50], atol=1e-5 * (centred**2).sum(axis=1).max())


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("bits", "options"), [(1, {}), (2, {}), (4, {}), (1, TRELLIS), (4, TRELLIS)])
def test_standard_errors_are_those_that_are_made(rows, bits, options, metric):
    index, q = filled(rows, metric, bits, **options), decaying(60, seed=1)
    distances, ids, errors = index.search(q, 200, return_error=True)
    x = rows.astype(np.float64)
    q64 = q.astype(np.float64)
    if metric == "cosine":
        x, q64 = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, q64))
    exact = q64 @ x.T if metric != "l2" else ((q64[:, None] - x[None]) ** 2).sum(axis=-1)
    made = distances - np.take_along_axis(exact, ids, 1)
    assert 0.4 < np.sqrt((made**2).mean() / (errors.astype(np.float64) ** 2).mean()) < 2.5


# --- everything else an index does


@pytest.mark.parametrize(("metric", "options"), [*((metric, {}) for metric in METRICS), ("cosine", TRELLIS)])
def test_filters_updates_removal_and_ranges(rows, metric, options):
    index, q = filled(rows, metric, **options), decaying(7, seed=1)
    fresh = decaying(50, seed=9)
    index.update(np.arange(50), fresh)
    index.remove(np.arange(100, 200))
    now = np.concatenate([fresh, rows[50:100], rows[200:]])
    ids = np.concatenate([np.arange(100), np.arange(200, 3000)])
    other = copy.copy(index)
    other.remove(other.ids)
    other.add(now, ids)
    for a, b in zip(index.search(q, 30), other.search(q, 30), strict=True):
        np.testing.assert_array_equal(a, b)
    allowed = np.arange(0, 3000, 7)
    found = index.search(q, 10, filter=allowed)[1]
    assert np.isin(found, allowed).all() and not np.isin(found, np.arange(100, 200)).any()
    distances, ids = index.search(q, 40)
    radius = float(distances[0, 20])
    lims, within, hits = index.range_search(q[0], radius)
    np.testing.assert_array_equal(hits[:20], ids[0, :20])
    assert ((within <= radius) if metric == "l2" else (within >= radius)).all()


@pytest.mark.parametrize(("metric", "options"), [*((metric, {}) for metric in METRICS), ("l2", TRELLIS)])
def test_decoded_rows_are_near_the_rows(rows, metric, options):
    index = filled(rows, metric, 4, **options)
    x = rows / np.linalg.norm(rows, axis=1, keepdims=True) if metric == "cosine" else rows
    error = ((index.reconstruct(index.ids) - x) ** 2).sum() / ((x - x.mean(axis=0)) ** 2).sum()
    assert error < 0.02
    assert error == pytest.approx(index.info()["expected_relative_error"], rel=0.5)


def test_originals_rerank(rows):
    index, q = filled(rows, bits=1, store="float32"), decaying(50, seed=1)
    assert recall(index, rows, q) > 0.97
    np.testing.assert_array_equal(index.reconstruct([5]), rows[5:6])


@pytest.mark.parametrize("center", [True, False])
def test_rows_before_there_are_enough_are_held_and_then_coded_like_all(rows, center):
    a, b = (pi.FlatIndex(DIM, "ip", 2, codes="spectral", center=center) for _ in range(2))
    a.add(rows[:2000])
    for start in range(0, 2000, 100):
        assert b.info()["spectral"]["learned"] is (start >= 1100)  # 1,024 rows are enough for 100 dimensions
        b.add(rows[start : start + 100])
    assert isinstance(a.quantizer, Spectral) and isinstance(b.quantizer, Spectral)
    q = decaying(60, seed=1)
    assert recall(a, rows[:2000], q) == pytest.approx(recall(b, rows[:2000], q), abs=0.05)
    if not center:
        assert not a._coding.centre.mu.any()


@pytest.mark.slow
def test_wide_rows_wait_for_four_rows_a_dimension():
    index = pi.FlatIndex(400, bits=1, codes="spectral")
    index.add(decaying(1500, 400))
    assert not index.info()["center_frozen"]
    index.add(decaying(100, 400, seed=3))
    assert isinstance(index.quantizer, Spectral) and "held" not in index._arena.columns


def test_a_frozen_basis_is_not_learned_again(rows):
    index = filled(rows)
    with pytest.raises(ValueError, match="frozen"):
        index.fit(rows)


@pytest.mark.parametrize(
    ("metric", "code"), [*((metric, "eden") for metric in METRICS), pytest.param("l2", "trellis", id="trellis")]
)
@pytest.mark.parametrize("store", ["float32", "int8"])
def test_refit_makes_the_index_that_new_rows_would_have(rows, metric, store, code):
    index = pi.FlatIndex(DIM, metric, 1, code, codes="spectral", store=store)
    index.fit(isotropic(2000)).add(rows, ids=np.arange(len(rows))[::-1])
    index.remove([5, 6])
    originals, ids, q = index.reconstruct(index.ids), index.ids, decaying(50, seed=1)
    other = pi.FlatIndex(DIM, metric, 1, code, codes="spectral", store="float32")
    other.add(originals, ids)
    index.refit()
    np.testing.assert_array_equal(index.ids, ids)
    np.testing.assert_array_equal(index.reconstruct(ids), originals)
    assert index.quantizer == other.quantizer
    for a, b in zip(index.search(q, rerank=0), other.search(q, rerank=0), strict=True):
        np.testing.assert_array_equal(a, b)


def test_refit_without_originals_or_before_anything_is_learned_is_refused(rows):
    with pytest.raises(ValueError, match="store='float32'"):
        filled(rows).refit()
    with pytest.raises(ValueError, match="nothing was learned"):
        filled(rows[:10], store="float32").refit()


@pytest.mark.parametrize("options", [{}, TRELLIS])
def test_drift_shows_in_info(rows, options):
    index = filled(rows, **options)
    before = index.info()["spectral"]
    assert before["head_now"] == pytest.approx(before["head_learned"], abs=0.03)
    index.add(isotropic(6000) * rows.std())
    after = index.info()["spectral"]
    assert after["head_learned"] == before["head_learned"]
    assert after["head_now"] < before["head_now"] - 0.1


@pytest.mark.parametrize(("metric", "options"), [*((metric, {}) for metric in METRICS), ("l2", TRELLIS)])
@pytest.mark.parametrize("mmap", [False, True])
def test_a_saved_index_comes_back_to_the_bit(tmp_path, rows, metric, mmap, options):
    index, q = filled(rows, metric, 2.5, **options), decaying(9, seed=1)
    index.remove([7, 9])
    index.save(tmp_path / "index")
    other = pi.load(tmp_path / "index", mmap=mmap)
    assert other.parameters() == index.parameters()
    assert other.quantizer == index.quantizer
    for a, b in zip(index.search(q), other.search(q), strict=True):
        np.testing.assert_array_equal(a, b)
    for one in (index, other):
        one.add(q)
    for a, b in zip(index.search(q), other.search(q), strict=True):
        np.testing.assert_array_equal(a, b)
    assert pi.verify(tmp_path / "index") == []


@pytest.mark.parametrize(("n", "code"), [(100, "eden"), (2000, "eden"), (2000, "trellis")])
def test_an_opened_index_syncs_and_another_follows(tmp_path, rows, n, code):
    pi.FlatIndex(DIM, bits=2, quantizer=code, codes="spectral").save(tmp_path / "index")
    q = decaying(9, seed=1)
    with pi.open(tmp_path / "index") as index:
        index.add(rows[:n])
        index.sync()
        reader = pi.open(tmp_path / "index", read_only=True)
        index.add(rows[n : n + 1000])
        index.remove([3])
        index.sync()
        reader.refresh()
        assert len(reader) == n + 999
        for a, b in zip(index.search(q), reader.search(q), strict=True):
            np.testing.assert_array_equal(a, b)
        reader.close()


def test_a_plain_code_by_choice_is_saved_as_such(tmp_path):
    index = filled(isotropic(2000, 64))
    index.save(tmp_path / "index")
    other = pi.load(tmp_path / "index")
    assert isinstance(other.quantizer, EDEN) and other.codes == "spectral"
    assert other.info()["spectral"] == {"learned": True, "segments": None}


def test_plain_indexes_are_saved_as_ever(tmp_path, rows):
    index = pi.FlatIndex(DIM)
    index.add(rows)
    index.save(tmp_path / "index")
    text = json.loads((tmp_path / "index" / "manifest.json").read_text())
    assert "codes" not in text["parameters"] and "spectral" not in text["state"]


BAD = [
    ({"segments": [[32, 9]]}, "bits"),
    ({"segments": [[32, 2], [0, 1]]}, "dims"),
    ({"segments": []}, "basis"),
    ({"shares": [0.5]}, "shares"),
    ({"shares": [0.5, "a", 0]}, "shares"),
    ({"segments": [[1000, 2]]}, "dims"),
    ({"segments": None}, "NoneType"),
]


@pytest.mark.parametrize(("change", "word"), BAD)
def test_a_state_that_cannot_be_is_a_format_error(tmp_path, rows, change, word):
    filled(rows).save(tmp_path / "index")
    read = manifest.read(tmp_path / "index")
    state = {**read["state"], "spectral": {**read["state"]["spectral"], **change}}
    manifest.put(tmp_path / "index", manifest.sealed({**read, "state": state}))
    with pytest.raises(pi.FormatError, match=word):
        pi.load(tmp_path / "index")


def test_copies_and_pickles_are_indexes_of_their_own(rows):
    index, q = filled(rows), decaying(5, seed=1)
    before = index.search(q)
    for other in (copy.deepcopy(index), pickle.loads(pickle.dumps(index))):
        np.testing.assert_array_equal(other.search(q)[1], before[1])
        other.remove(other.ids)
    np.testing.assert_array_equal(index.search(q)[1], before[1])


def test_info_and_nbytes_count_the_basis(rows):
    index = filled(rows)
    info = index.info()
    assert info["codes"] == "spectral" and info["bits"] == 2
    assert sum(m for m, _ in info["spectral"]["segments"]) == len(index.quantizer.basis)
    assert index.nbytes >= index._arena.nbytes + index.quantizer.basis.nbytes
    assert learned.state_of(index.quantizer)["segments"] == info["spectral"]["segments"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"codes": "learned"}, ValueError, "codes must be one of 'plain', 'spectral'"),
        ({"codes": 3}, TypeError, "codes must be one of"),
        ({"codes": "spectral", "bits": 0.1}, ValueError, "bits must be from 0.25 to 8.0, got 0.1"),
        ({"codes": "spectral", "bits": "2"}, TypeError, "bits must be a real number"),
        ({"codes": "spectral", "quantizer": "drive"}, ValueError, "must be 'eden' or 'trellis', got 'drive'"),
        ({"codes": "spectral", "bits": 8.5, **TRELLIS}, ValueError, "bits must be from 0.25 to 8.0, got 8.5"),
        ({"bits": 2.5}, TypeError, "bits must be an integer"),
    ],
)
def test_bad_arguments_are_named(options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        pi.FlatIndex(64, **options)


def test_a_gpu_is_refused_in_words(rows):
    with pytest.raises(ValueError, match="spectral"):
        filled(rows).to_gpu()


@pytest.mark.parametrize("x", [np.zeros((2000, 40), np.float32), np.ones((2000, 40), np.float32)])
def test_rows_without_energy_get_plain_codes(x):
    index = filled(x)
    assert isinstance(index.quantizer, EDEN)
    assert (index.search(x[:2], 3)[0] == 0).all()


def test_rows_of_few_axes_leave_the_others_out():
    x = isotropic(2000, 20) @ isotropic(20, 128, 3)
    index = filled(x, bits=1)
    assert sum(m for m, _ in index.quantizer.segments) == 32
    assert recall(index, x, isotropic(50, 20, 4) @ isotropic(20, 128, 3)) > 0.9


@pytest.mark.parametrize("factor", [1e-15, 1e15])
def test_units_do_not_matter(rows, factor):
    q = decaying(20, seed=1)
    a, b = filled(rows), filled(rows * np.float32(factor))
    assert a.quantizer.segments == b.quantizer.segments
    assert (a.search(q)[1] == b.search(q * np.float32(factor))[1]).mean() > 0.9
