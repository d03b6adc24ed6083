"""factor_bits=16 with codes="spectral": 12 bits each scale and 8 bits the shift, relative to what scales tell."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import polarindex as pi
from polarindex import kernels
from polarindex.codes import float_scales, upper_halves
from polarindex.indexes.factors import FactorLaw
from polarindex.indexes.scan import integer_queries
from polarindex.indexes.segment_factors import SegmentLaw
from polarindex.kernels import dispatch, reference
from polarindex.quantizers.spectral import Spectral

DIM = 100
SHORT = {"codes": "spectral", "factor_bits": 16}
SETS = [name for i, name in enumerate(kernels.available()) if i == 0 or not name.endswith("vnni")]
SOME = [("l2", "eden", 2), ("l2", "trellis", 1), ("cosine", "trellis", 4.5), ("cosine", "eden", 4)]


def decaying(n, seed=0, dim=DIM):
    axes = np.linalg.qr(np.random.default_rng(77).standard_normal((dim, dim)))[0]
    rows = np.random.default_rng(seed).standard_normal((n, dim)) / np.arange(1, dim + 1.0) @ axes
    return (rows + 0.3).astype(np.float32)


def filled(x, metric="l2", bits=2, quantizer="eden", **options):
    index = pi.FlatIndex(x.shape[1], metric, bits, quantizer, **{**SHORT, **options})
    index.add(x)
    return index


@pytest.fixture(scope="module")
def rows():
    return decaying(1500)


def law_of(energies=(2.0, 3.0), step=0.01, base=0.0, factor=1.0):
    return SegmentLaw(np.array(energies), step, base, factor)


def short(scales):
    return float_scales(upper_halves(np.asarray(scales, np.float32), 12))


# --- what is stored


def test_short_scales_have_five_bits_whatever_their_size():
    scales = np.float32(1.7) ** np.arange(-150, 150, dtype=np.float32)
    scales = scales[(scales > 1e-37) & (scales < 1e38)]
    stored = short(scales)
    assert (np.abs(stored / scales - 1) <= 2.0**-5).all()
    assert (stored.view(np.uint32) % 2**19 == 0).all()


@given(
    st.lists(st.tuples(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6), st.floats(-5, 5)), min_size=1, max_size=40),
    st.floats(1e-4, 0.1),
    st.sampled_from([(0.0, 1.0), (0.4, 0.5)]),
)
def test_the_nearest_ratio_there_is_is_taken(some, step, line):
    """Of energies up to e^5 times what scales tell, above and below."""
    law = law_of(step=step, base=line[0], factor=line[1])
    scales = short([one[:2] for one in some])
    told = (scales.astype(np.float64) ** 2) @ [2.0, 3.0]
    energies = told * np.exp([one[2] for one in some])
    base, factor = law.numbers[1:].astype(np.float64)
    halves = law.rows(scales, base - factor * energies, 0)
    assert halves.dtype == np.uint16 and halves.shape == (len(some), 2)
    stored, shifts = law.taken(halves)
    np.testing.assert_array_equal(stored, scales)
    found, there = (base - shifts) / factor, law.ratios.astype(np.float64)
    best = np.abs(told[:, None] * there - energies[:, None]).min(axis=1)
    assert (np.abs(found - energies) <= best + 1e-5 * (energies + told + np.abs(base) / factor)).all()


def test_ratios_are_even_near_one_and_reach_far():
    law = law_of(step=0.01)
    above, below = law.ratios[127:], law.ratios[127::-1]
    assert above[0] == 1 and above[-1] > 700 and (np.diff(law.ratios) > 0).all()
    np.testing.assert_allclose(above[:30], 1 + 0.01 * np.arange(30), rtol=1e-6)
    np.testing.assert_allclose(above * below, 1, rtol=1e-6)


def test_a_row_that_scales_say_nothing_of_keeps_its_energy():
    """Its first scale is as large as that needs."""
    law = law_of()
    wanted = np.array([4.0, 1e-6, 1e30, 0.0])
    scales, shifts = law.taken(law.rows(np.zeros((4, 2), np.float32), -wanted, 0))
    np.testing.assert_allclose(-shifts[:3], wanted[:3], rtol=0.15)
    assert shifts[3] == 0 and (scales[3] == 0).all() and (scales[:, 1] == 0).all()
    assert (2 * scales[:3, 0].astype(np.float64) ** 2 <= wanted[:3] / 500).all()


def test_what_no_halves_hold_is_an_error_that_names_the_row():
    law, one = law_of(), np.ones((3, 2), np.float32)
    for wrong in (np.inf, -np.inf, np.nan, -1e39):
        with pytest.raises(ValueError, match="row 42 has a scale or shift that 16 bits do not hold; use factor_bits"):
            law.rows(one, np.array([-5, -5, wrong]), 40)
    with pytest.raises(ValueError, match="row 41 "):
        law.rows(np.array([[1, 1], [1, np.inf], [1, 1]], np.float32), np.full(3, -5.0), 40)


def test_a_law_is_what_a_file_says_of_it():
    law = law_of()
    assert SegmentLaw.of_state(json.loads(json.dumps(law.state())), 2) == law
    assert law != law_of(step=0.02) and law != FactorLaw(1.0, 1.0, 1.0)
    for wrong in ({"energies": [1.0]}, {"energies": ["a", 1.0]}, {"step": 0}, {"base": 2}, {"factor": float("nan")}):
        with pytest.raises((KeyError, TypeError, ValueError)):
            SegmentLaw.of_state(law.state() | wrong, 2)


@pytest.mark.parametrize(("metric", "quantizer", "bits"), SOME)
def test_no_row_is_refused_whatever_was_learned_from(metric, quantizer, bits):
    """Rows across the segments, lengths over all that float32 squares, spikes, equal rows, and the zero row."""
    rng = np.random.default_rng(7)
    x = np.concatenate([rng.standard_normal((200, DIM)), np.eye(DIM), -np.eye(DIM), np.ones((2, DIM))])
    x = x * (10.0 ** rng.uniform(-18, 17, len(x)))[:, None]
    if metric != "cosine":
        x[0] = 0
    for scale in (1, 1e-9):
        index = pi.FlatIndex(DIM, metric, bits, quantizer, **SHORT).fit(np.float32(scale) * decaying(1200))
        assert isinstance(index._coding.centre.law, SegmentLaw)
        index.add(x.astype(np.float32))
        assert np.isfinite(index.reconstruct(index.ids)).all()
        across = np.linalg.svd(index.quantizer.basis)[2][len(index.quantizer.basis) :]
        if len(across):  # what no segment has
            index.add(across.astype(np.float32))
            assert np.isfinite(index.search(across[:1], 10)[0]).all()


# --- searches


def keys_of(index, q, bits=8):
    """The scan's keys (nq, n), by NumPy, with the operations of the law in their order."""
    coding, arena, every = index._coding, index._arena, np.arange(len(index))
    law, stored = coding.centre.law, arena.take("factors", every)
    panels = np.pad(stored, ((0, -len(stored) % 16), (0, 0))).reshape(-1, 16, stored.shape[1]).transpose(0, 2, 1)
    scales, shifts = reference.expand_segment_factors(panels, law.energies, law.numbers)
    keys = np.tile(shifts[: len(index)], (len(q), 1))
    words = index.quantizer.split(coding.words(arena, every))
    centred = coding.codable(q, "q") - coding.centre.mu
    for s, pieces in enumerate(integer_queries(index.quantizer, centred, coding.factor, bits)):
        levels = index.quantizer.stages[s].levels(words[s])[:, : index.quantizer.segments[s].dims].astype(np.int64)
        own = float_scales(np.ascontiguousarray(scales[:, s]).reshape(-1)[: len(index)])
        for piece in pieces:
            dots = (piece.levels.astype(np.int64) @ levels.T).astype(np.int32)
            keys = reference.add_scores(dots, piece.gains, own, keys)
    return keys


@pytest.mark.parametrize("name", [SETS[0], *(pytest.param(name, marks=pytest.mark.isa) for name in SETS[1:])])
@pytest.mark.parametrize(("metric", "quantizer", "bits"), [*SOME, ("l2", "trellis", 0.8)])
def test_a_search_is_the_formula_on_the_stored_halves(rows, metric, quantizer, bits, name):
    index, q = filled(rows, metric, bits, quantizer), decaying(5, 2)
    with dispatch.using(name):
        found = [index.search(q, 10), index.search(q, 10, exact_scan=True), index.search(q, 10, query_bits=16)]
        alone = index.search(q[2], 10)
    for precise, (distances, ids) in zip((8, 8, 16), found, strict=True):
        keys = keys_of(index, q, precise)
        order = np.stack([np.lexsort((np.arange(len(rows)), -row))[:10] for row in keys])
        best = np.take_along_axis(keys, order, 1)
        wanted = index._coding.distances(best, index._coding.constants(index._coding.codable(q, "q")))
        np.testing.assert_array_equal(distances, wanted)
        np.testing.assert_array_equal(ids, order)
    np.testing.assert_array_equal(alone, [part[2] for part in found[0]])


def test_a_code_of_one_segment_is_searched_by_the_formula():
    x = decaying(2000)
    index = filled(x, bits=1)
    assert isinstance(index.quantizer, Spectral) and len(index.quantizer.stages) == 1
    keys = keys_of(index, x[:4])
    distances, ids = index.search(x[:4], 1)
    np.testing.assert_array_equal(ids[:, 0], keys.argmax(axis=1))
    constants = index._coding.constants(x[:4])
    np.testing.assert_array_equal(distances, index._coding.distances(keys.max(axis=1)[:, None], constants))


@pytest.mark.parametrize(
    ("metric", "quantizer", "bits"), [("l2", "eden", 1), ("l2", "trellis", 1), ("cosine", "trellis", 1.5)]
)
def test_rows_take_less_and_answers_are_nearly_those_of_long_factors(rows, metric, quantizer, bits):
    long, q = filled(rows, metric, bits, quantizer, factor_bits=32), decaying(100, 3)
    index = filled(rows, metric, bits, quantizer)
    assert index.bytes_per_vector < long.bytes_per_vector
    stages, shorter = len(index.quantizer.stages), len(long.quantizer.stages)
    if index.quantizer.segments == long.quantizer.segments:
        saved = 2 * shorter + 4 - 2 * -(-(8 + 12 * stages) // 16)
        assert long.bytes_per_vector - index.bytes_per_vector == saved
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True) if metric == "cosine" else rows
    asked = q / np.linalg.norm(q, axis=1, keepdims=True) if metric == "cosine" else q
    true = np.argsort(((asked[:, None].astype(np.float64) - unit) ** 2).sum(axis=2), axis=1)[:, :10]
    found = [
        np.mean([len(set(a) & set(b)) / 10 for a, b in zip(one.search(q, 10)[1], true, strict=True)])
        for one in (index, long)
    ]
    assert found[0] > found[1] - 0.02
    assert index.info()["spectral"]["head_now"] == pytest.approx(index.info()["spectral"]["head_learned"], abs=0.05)


def test_rows_without_structure_get_plain_codes_and_their_words():
    x = np.random.default_rng(0).standard_normal((2000, 64)).astype(np.float32)
    index, plain = filled(x, bits=4), pi.FlatIndex(64, bits=4, factor_bits=16)
    plain.add(x)
    assert isinstance(index._coding.centre.law, FactorLaw) and index.bytes_per_vector == plain.bytes_per_vector
    for a, b in zip(index.search(x[:9]), plain.search(x[:9]), strict=True):
        np.testing.assert_array_equal(a, b)


# --- files and changes


@pytest.mark.parametrize(("metric", "quantizer", "bits"), [SOME[1], SOME[3]])
def test_files_logs_and_maps_keep_halves(rows, metric, quantizer, bits, tmp_path):
    index, q = filled(rows, metric, bits, quantizer, store="float32"), decaying(6, 5)
    wanted = index.search(q, 10, rerank=0)
    index.save(tmp_path / "i")
    for how in ({}, {"mmap": True}):
        read = pi.load(tmp_path / "i", **how)
        assert read.parameters() == index.parameters() and read.quantizer == index.quantizer
        assert read._coding.centre.law == index._coding.centre.law
        np.testing.assert_array_equal(read.search(q, 10, rerank=0), wanted)
    with pi.open(tmp_path / "i") as opened:
        for one in (opened, index):
            one.remove([3, 5, 8])
            one.update([10, 11], decaying(2, 6))
            one.upsert([12, 9000], decaying(2, 7))
    again = pi.load(tmp_path / "i")
    for got, there in zip(again.search(q, 10), index.search(q, 10), strict=True):
        np.testing.assert_array_equal(got, there)
    index.refit()
    fresh = pi.FlatIndex(DIM, metric, bits, quantizer, store="float32", **SHORT)
    fresh.add(index.reconstruct(index.ids), index.ids)
    for got, there in zip(index.search(q, rerank=0), fresh.search(q, rerank=0), strict=True):
        np.testing.assert_array_equal(got, there)


def test_a_law_that_does_not_fit_its_segments_is_refused(rows, tmp_path):
    filled(rows).save(tmp_path / "i")
    path = tmp_path / "i" / "manifest.json"
    state = json.loads(path.read_text())
    state["state"]["factors"]["energies"].append(1.0)
    path.write_text(json.dumps(state))
    with pytest.raises(ValueError):
        pi.load(tmp_path / "i")


def test_rows_that_come_one_by_one_are_coded_again_when_axes_are_known(rows):
    slowly = pi.FlatIndex(DIM, "l2", 2, **SHORT)
    for start in range(0, 1500, 300):
        slowly.add(rows[start : start + 300])
    at_once = filled(rows[:1200])
    assert "held" not in slowly._arena.columns and isinstance(slowly._coding.centre.law, SegmentLaw)
    assert slowly._coding.centre.law == at_once._coding.centre.law
    every = np.arange(1200)
    for name in slowly._arena.columns:
        np.testing.assert_array_equal(slowly._arena.take(name, every), at_once._arena.take(name, every))


def test_what_cannot_be_is_said():
    with pytest.raises(ValueError, match=r"factor_bits=16 with codes='spectral' is for metric='l2' and 'cosine'"):
        pi.FlatIndex(DIM, "ip", **SHORT)
    with pytest.raises(ValueError, match=r"factor_bits=16 with codes='spectral' is for flat indexes"):
        pi.IVFIndex(DIM, **SHORT)
    with pytest.raises(ValueError, match="center=False they have a scale alone"):
        pi.FlatIndex(DIM, "cosine", center=False, **SHORT)
    assert len(pi.FlatIndex(DIM, "l2", center=False, **SHORT)) == 0
