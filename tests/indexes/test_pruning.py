"""A search of spectral codes that leaves rows out finds what the scan of all of them finds, to the bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import polarindex as pi
from polarindex import kernels
from polarindex.codebooks import integer_codebook, longest_levels, normal_codebook
from polarindex.codes import float_scales, upper_halves_above
from polarindex.indexes.plan import IN_STEPS, Plan, Planner
from polarindex.quantizers import trellis
from polarindex.quantizers.spectral import Spectral

needs_registers = pytest.mark.skipif(kernels.selected() == kernels.GENERIC, reason="only plain loops can run here")
METRICS = ("l2", "ip", "cosine")
DIM = 160


def decaying(n, power, tails, seed, dim=DIM):
    """Rows whose energy falls along hidden axes, their lengths spread as heavily as Student's t of `tails` degrees."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(np.random.default_rng(77).standard_normal((dim, dim)))[0]
    rows = rng.standard_normal((n, dim)) * np.arange(1, dim + 1.0) ** -power @ axes
    return (rows * (1 + np.abs(rng.standard_t(tails, (n, 1)))) + 0.1).astype(np.float32)


def filled(x, metric="l2", bits=4.0, code="eden"):
    index = pi.FlatIndex(x.shape[1], metric, bits, code, codes="spectral")
    index.add(x)
    return index


def planned(index, q, k, pruned, **options):
    """Found by the plan that leaves rows out, or in steps."""
    code = index._planner._code(kernels.selected())
    plan = Plan(code, None, 0.1, True) if pruned else IN_STEPS
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Planner, "plan", lambda self, arena, nq, k, exact: plan)
        return index.search(q, k, **options)


def assert_same(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


@needs_registers
@given(
    metric=st.sampled_from(METRICS),
    coded=st.sampled_from([(3, "eden"), (4, "eden"), (5.5, "eden"), (3.5, "trellis"), (4, "trellis")]),
    power=st.floats(0.4, 2),
    tails=st.sampled_from([1, 3, 30]),
    nq=st.sampled_from([1, 2, 7, 20]),
    k=st.sampled_from([1, 10, 200, 5000]),
    share=st.sampled_from([None, 0.5, 0.01]),
    copies=st.booleans(),
    scale=st.sampled_from([1e-15, 1.0, 1e12]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=30)
def test_what_is_left_out_is_in_no_answer(metric, coded, power, tails, nq, k, share, copies, scale, seed):
    """Any spectrum, rows far off, equal rows, filters, more asked for than there is, and any unit."""
    rng = np.random.default_rng(seed)
    x = decaying(1500 + seed % 17, power, tails, seed) * np.float32(scale)
    if copies:
        x[rng.integers(0, len(x), len(x) // 2)] = x[rng.integers(0, 20)]
    index = filled(x, metric, *coded)
    if not index.quantizer.segmented:
        return
    allowed = None if share is None else rng.random(len(x)) < share
    q = decaying(nq, power, tails, seed + 1) * np.float32(scale)
    q[::3] = x[:nq][::3]
    assert_same(planned(index, q, k, True, filter=allowed), planned(index, q, k, False, filter=allowed))


@needs_registers
@pytest.mark.parametrize(("metric", "code"), [*((metric, "eden") for metric in METRICS), ("l2", "trellis")])
def test_after_changes_and_from_files_too(tmp_path, metric, code):
    x, q = decaying(3000, 1.0, 3, 0), decaying(20, 1.0, 3, 1)
    index = filled(x, metric, code=code)
    assert index.quantizer.head < len(index.quantizer.stages)
    index.remove(np.arange(0, 3000, 7))
    index.update([1, 2, 3], q[:3])
    index.add(q, ids=np.arange(9000, 9020))
    index.save(tmp_path / "index")
    for one in (index, pi.load(tmp_path / "index"), pi.load(tmp_path / "index", mmap=True)):
        assert_same(planned(one, q, 30, True, num_threads=2), planned(index, q, 30, False))


@pytest.mark.parametrize("code", ["eden", "trellis"])
def test_a_tails_length_is_no_less_than_what_is_decoded(code):
    x = decaying(2000, 1.0, 1, 0)
    index, every = filled(x, code=code), np.arange(2000)
    head, arena = index.quantizer.head, index._arena
    parts = index.quantizer.mapped(index._coding.decoded_at(arena, every))[head:]
    exact = np.sqrt(sum((part.astype(np.float64) ** 2).sum(axis=1) for part in parts))
    told = float_scales(arena.take("tails", every))
    assert (told >= exact * (1 - 1e-5)).all() and (told <= exact * 1.01).all()


@given(st.lists(st.floats(0, 1e30), min_size=1, max_size=20))
def test_upper_halves_above_are_the_least_that_are_not_below(values):
    values = np.array(values)
    found = upper_halves_above(values)
    assert (float_scales(found).astype(np.float64) >= values).all()
    below = float_scales(np.maximum(found, 1) - np.uint16(1)).astype(np.float64)
    assert ((below < values) | (found == 0)).all()


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("dims", [1, 4, 32, 96])
@pytest.mark.parametrize("gain", [1.0, 1.15])
def test_no_code_has_longer_levels_than_the_bound(bits, dims, gain):
    """Rows of all kinds: Gaussian, spiky, and with every coordinate just above a threshold; and of all gains."""
    book = integer_codebook(normal_codebook(bits))
    rng = np.random.default_rng(bits)
    rows = [rng.standard_normal((500, dims)), rng.standard_t(1, (500, dims)), rng.choice([0.01, 1.0], (500, dims))]
    for threshold in np.maximum(np.abs(book.thresholds[np.isfinite(book.thresholds)]), 1e-9):
        many = np.full((8, dims), 1e-6)
        count = np.minimum(dims, max(1, int(dims / max(threshold, 1e-3) ** 2)))
        many[:, :count] = threshold * (1 + 1e-9)
        rows.append(many)
    y = np.concatenate(rows)
    y *= np.minimum(1, gain * np.sqrt(dims) / np.linalg.norm(y, axis=1))[:, None]
    levels = book.table[np.searchsorted(book.thresholds, y, side="right")].astype(np.float64)
    assert np.linalg.norm(levels, axis=1).max() <= gain * longest_levels(book.table, book.thresholds, dims)


@needs_registers
def test_scans_are_told_a_bound_for_all_gains_that_are_tried():
    index = filled(decaying(1500, 1.0, 3, 0))
    told = index._planner._code(kernels.selected()).longest
    for stage, longest in zip(index.quantizer.stages, told, strict=True):
        least = longest_levels(stage.table, stage.thresholds, stage.map.dims)
        assert longest >= least * (1.15 if 1 < stage.layout.bits < 8 else 1) * (1 - 1e-6)


@pytest.mark.parametrize("bits", [1, 4])
def test_no_ring_has_longer_levels_than_the_bound(monkeypatch, bits):
    """Of a bound that bites, for a fifth of the rows and more, the scale is still that which is unbiased."""
    rng, axes = np.random.default_rng(bits), np.linalg.qr(np.random.default_rng(0).standard_normal((40, 40)))[0]
    x = rng.standard_normal((500, 40)).astype(np.float32)
    for most, share in ((trellis.LONGEST, 0), (0.8, 0.2)):
        monkeypatch.setattr(trellis, "LONGEST", most)
        quantizer = Spectral(40, bits, 0, axes.astype(np.float32), [(40, bits)], [1, 0], "trellis")
        (stage,) = quantizer.stages
        y, norms2 = quantizer.mapped(x)[0], (x.astype(np.float64) ** 2).sum(axis=1)
        free = np.linalg.norm(stage.values(stage.coded(y, norms2)[0]), axis=1)
        encoded = quantizer.encode_rows(x, integer=True)
        levels = stage.values(encoded.words).astype(np.float64)
        assert (np.linalg.norm(levels, axis=1) <= stage.longest).all()
        assert (free > stage.longest).mean() >= share
        np.testing.assert_allclose(encoded.scales[:, 0] * (y * levels).sum(axis=1), norms2, rtol=2**-8)


@needs_registers
@pytest.mark.parametrize("code", ["eden", "trellis"])
def test_plans_leave_rows_out_where_that_pays_and_not_where_all_are_asked(code):
    x = decaying(30_000, 1.0, 30, 0, 320)
    index = filled(x, code=code)
    for nq in (1, 64):
        plan = index._planner.plan(index._arena, nq, 10, False)
        assert (plan.pruned or plan.first) and plan.survivors < 0.1 and "read further" in plan.describe()
        assert index._planner.plan(index._arena, nq, 10, True) == Plan(plan.code)
        assert index._planner.plan(index._arena, nq, 20_000, False) == Plan(plan.code)
    assert not filled(x[:2000])._planner.plan(filled(x[:2000])._arena, 64, 10, False).pruned
