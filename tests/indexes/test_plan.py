"""Plans: which scan a search uses, that it loses next to nothing, and that answers depend on the plan alone."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import polarindex as pi
from polarindex import kernels
from polarindex.codebooks import first_planes
from polarindex.indexes import flat
from polarindex.indexes.plan import Plan, Planner
from polarindex.indexes.scan import integer_queries
from polarindex.kernels import dispatch, reference
from polarindex.quantizers import EDEN

ISA = "avx512"
METRICS = ("l2", "ip", "cosine")
needs_tables = pytest.mark.skipif(ISA not in kernels.available(), reason="needs byte lookups in 64-byte registers")


@pytest.fixture(autouse=True)
def _the_set_with_tables(monkeypatch):
    if ISA in kernels.available():
        monkeypatch.setattr(dispatch, "_chosen", ISA)


def clusters(n, seed, dim=384):
    centres = np.random.default_rng(99).standard_normal((640, dim))
    rng = np.random.default_rng(seed)
    return (centres[rng.integers(0, 640, n)] + 0.7 * rng.standard_normal((n, dim))).astype(np.float32)


@pytest.fixture(scope="module")
def index():
    made = pi.FlatIndex(384)
    made.add(clusters(60_000, 1))
    return made


@pytest.fixture(scope="module")
def queries():
    return clusters(200, 2)


def plan_of(index, nq, k=10, exact=False):
    return index._planner.plan(index._arena, nq, k, exact)


def always(monkeypatch, plan):
    monkeypatch.setattr(Planner, "plan", lambda self, arena, nq, k, exact: plan)


def assert_same(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


# --- which


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_small_index_is_scanned_in_full(bits):
    index = pi.FlatIndex(64, bits=bits)
    index.add(clusters(5000, 1, 64))
    for nq in (1, 100):
        assert plan_of(index, nq).first is None


UNPLANED = [("eden", 8), ("eden", 6), ("turboquant-prod", 3), ("polarquant", 4), ("trellis", 2), ("trellis-12", 1)]


@pytest.mark.parametrize(("quantizer", "bits"), UNPLANED)
def test_codes_without_nibble_tables_are_scanned_in_full(quantizer, bits):
    index = pi.FlatIndex(256, bits=bits, quantizer=quantizer)
    index.add(clusters(17_000, 1, 256))
    assert plan_of(index, 100).first is None


def test_other_instruction_sets_scan_in_full(index, monkeypatch):
    for name in kernels.available():
        if name != ISA:
            monkeypatch.setattr(dispatch, "_chosen", name)
            plan = plan_of(index, 100)
            assert plan.first is None and (plan.code is None) == (name == "generic")


@needs_tables
def test_clustered_data_get_a_first_pass_that_leaves_few_rows(index):
    for nq in (1, 200):
        plan = plan_of(index, nq)
        assert plan.first is not None and plan.first.deviation > 0
        assert 10 / 60_000 <= plan.survivors < 0.05


@needs_tables
@pytest.mark.parametrize("bits", [3, 4])
def test_an_exact_scan_has_no_statistical_bound(monkeypatch, bits):
    """Even if a first pass cost nothing."""
    monkeypatch.setattr(Planner, "_cost", lambda self, code, nq, planes, survivors: 0.0)
    index = pi.FlatIndex(256, bits=bits)
    index.add(clusters(17_000, 1, 256))
    assert plan_of(index, 100).first is not None
    for nq in (1, 3, 100):
        for k in (1, 10, 5000):
            plan = plan_of(index, nq, k, exact=True)
            assert plan.first is None or plan.first.deviation == 0


@needs_tables
def test_few_dimensions_have_no_statistical_bound():
    index = pi.FlatIndex(60)
    index.add(clusters(70_000, 1, 60))
    assert 70_000 * 64 >= 1 << 22
    assert plan_of(index, 100).first is None


@needs_tables
def test_where_many_rows_are_wanted_nothing_can_be_left_out(index):
    assert plan_of(index, 200, 30_000).first is None


def test_a_plan_says_what_it_is(index, monkeypatch):
    monkeypatch.setattr(dispatch, "_chosen", "generic")
    assert plan_of(index, 64).describe() == "full scan in steps"
    if ISA not in kernels.available():
        return
    monkeypatch.setattr(dispatch, "_chosen", ISA)
    plan = plan_of(index, 64)
    assert Plan(plan.code).describe() == "full scan (avx512)"
    assert plan.describe().startswith(f"first pass over {len(plan.first.weights)} of 4 planes (avx512), ")
    assert plan.describe().endswith(f"{plan.survivors:.1%} read in full")
    assert index.info()["scan"] == {"batch": plan.describe(), "single": plan_of(index, 1).describe()}
    signs = pi.FlatIndex(256, bits=1)
    signs.add(clusters(17_000, 1, 256))
    assert plan_of(signs, 64).describe() == "lossless first pass over the whole code (avx512)"


@needs_tables
def test_the_sample_is_of_the_first_power_of_two_rows_whenever_it_is_taken():
    index, late = pi.FlatIndex(256), pi.FlatIndex(256)
    rows = clusters(40_000, 1, 256)
    index.add(rows[:17_000])
    seen = []
    changes = (lambda: index.add(rows[17_000:30_000]), lambda: index.add(rows[30_000:]), lambda: index.remove([0]))
    for change in (lambda: None, *changes):
        change()
        plan_of(index, 100)
        seen.append(index._planner._sample.n)
    assert seen == [2**14, 2**14, 2**15, 2**15]
    early = pi.FlatIndex(256)
    for made, parts in ((early, 2), (late, 1)):
        for part in np.array_split(rows[:30_000], parts):
            made.add(part)
            if made is early:
                plan_of(made, 100)
    assert plan_of(early, 100).describe() == plan_of(late, 100).describe()


# --- what it finds


@needs_tables
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("bits", [1, 2])
def test_a_lossless_pass_answers_as_the_full_scan_to_the_bit(monkeypatch, bits, metric):
    index = pi.FlatIndex(256, metric, bits)
    index.add(clusters(17_000, 1, 256))
    q = clusters(20, 2, 256)
    plan = plan_of(index, 20, exact=True)
    assert plan.first is not None and plan.first.deviation == 0
    with monkeypatch.context() as patched:
        found = [index.search(q[:nq], 50, exact_scan=True) for nq in (1, 20)]
        found += [index.search(q, 50)] if bits == 1 else []  # a bound from one plane of two may be cheaper
        always(patched, Plan(plan.code))
        full = index.search(q, 50)
        always(patched, plan)
        found.append(index.search(q[:1], 50))
    monkeypatch.setattr(dispatch, "_chosen", "generic")
    assert_same(full, index.search(q, 50))
    for answers in found:
        assert_same(answers, tuple(part[: len(answers[0])] for part in full))


@needs_tables
@pytest.mark.parametrize("planes", [1, 2])
def test_a_statistical_bound_loses_next_to_nothing(index, queries, monkeypatch, planes):
    """Of the ten best of the full scan, over 200 queries: at most .0005 and three standard errors."""
    code = plan_of(index, 200).code
    always(monkeypatch, Plan(code, index._planner._first(code, planes), 0.01))
    _, ids = index.search(queries)
    always(monkeypatch, Plan(code))
    _, full = index.search(queries)
    lost = np.array([1 - len(set(a) & set(b)) / 10 for a, b in zip(ids.tolist(), full.tolist(), strict=True)])
    assert lost.mean() <= 0.0005 + 3 * lost.std() / np.sqrt(len(lost))


@needs_tables
def test_the_plan_is_what_search_uses(index, queries, monkeypatch):
    """With bounds lowered until they lose rows, a search shows whether it asked for an exact one."""
    code = plan_of(index, 200).code
    poor = index._planner._first(code, 1)
    poor = type(poor)(poor.base, poor.weights, poor.deviation, -3.0)
    monkeypatch.setitem(index._planner._firsts, 1, poor)
    monkeypatch.setattr(index._planner, "_plans", {})
    monkeypatch.setattr(index._planner, "_sample", None)
    with monkeypatch.context() as patched:
        patched.setattr(Planner, "_cost", lambda self, code, nq, planes, survivors: planes)  # one plane is best
        lossy, exact = index.search(queries), index.search(queries, exact_scan=True)
    always(monkeypatch, Plan(code))
    full = index.search(queries)
    assert_same(exact, full)
    assert (lossy[1] != full[1]).any()


@needs_tables
@pytest.mark.parametrize("filtered", [False, True])
def test_staged_answers_do_not_depend_on_threads_or_on_other_queries(index, queries, monkeypatch, filtered):
    plan = plan_of(index, 200)
    allowed = np.arange(5, 60_000, 3) if filtered else None
    one = index.search(queries, filter=allowed, num_threads=1)
    always(monkeypatch, plan)
    for threads in (2, 3):
        assert_same(one, index.search(queries, filter=allowed, num_threads=threads))
    for threads in (1, 3):
        few = index.search(queries[:5], filter=allowed, num_threads=threads)
        assert_same(few, tuple(part[:5] for part in one))
        alone = index.search(queries[4], filter=allowed, num_threads=threads)
        assert_same(alone, tuple(part[4] for part in one))
    if filtered:
        assert (one[1] % 3 == 2).all()


@needs_tables
def test_a_filter_is_not_left_to_the_bounds(index, queries, monkeypatch):
    """Filters a query, masks and few allowed rows: as the full scan but for what bounds lose."""
    plan = plan_of(index, 8)
    rng = np.random.default_rng(0)
    filters = [rng.permutation(60_000)[:count] for count in (1, 9, 500, 20_000)] * 2
    always(monkeypatch, plan)
    distances, ids = index.search(queries[:8], filter=filters)
    always(monkeypatch, Plan(plan.code))
    full_distances, full = index.search(queries[:8], filter=filters)
    assert np.mean(ids == full) > 0.97
    for mine, allowed in zip(ids, filters, strict=True):
        assert set(mine.tolist()) <= {*allowed.tolist(), -1}
        assert (mine >= 0).sum() == min(10, len(allowed))


@needs_tables
def test_staged_answers_do_not_depend_on_the_order_of_rows_or_their_history(queries, monkeypatch):
    """Rows added at once, in another order, and among others that are removed; ids say which they are."""
    small_blocks = partial(monkeypatch.setattr, flat, "block_rows", lambda row_bytes: 1024)
    small_blocks()
    rows, order = clusters(17_000, 1), np.random.default_rng(0).permutation(17_000)
    answers = []
    for history in ("at once", "shuffled", "with removals"):
        index = pi.FlatIndex(384)
        index.fit(rows)
        if history == "at once":
            index.add(rows, ids=np.arange(17_000))
        elif history == "shuffled":
            index.add(rows[order], ids=order)
        else:
            index.add(clusters(3000, 3), ids=np.arange(100_000, 103_000))
            index.add(rows, ids=np.arange(17_000))
            index.remove(np.arange(100_000, 103_000))
        code = plan_of(index, 50).code
        always(monkeypatch, Plan(code, index._planner._first(code, 1), 0.01))
        answers.append([index.search(queries[:50], num_threads=threads) for threads in (1, 3)])
        monkeypatch.undo()
        monkeypatch.setattr(dispatch, "_chosen", ISA)
        small_blocks()
    for found in answers:
        for other in found:
            assert_same(answers[0][0], other)


@needs_tables
@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["add", "remove", "update"]), st.integers(1, 300)), min_size=1, max_size=8),
    st.sampled_from([(1, 1), (2, 1), (2, 2), (3, 1), (3, 2), (4, 1), (4, 2)]),
    st.sampled_from(METRICS),
)
def test_any_history_gives_the_staged_answers_of_an_index_built_at_once(history, code, metric):
    """The other rows of panels, removed or never there, are not found."""
    (bits, planes), dim = code, 40
    with pytest.MonkeyPatch.context() as patched:
        index, at_once = (pi.FlatIndex(dim, metric, bits) for _ in range(2))
        for one in (index, at_once):
            one.fit(clusters(50, 7, dim))
        made = index._planner._code(ISA)
        always(patched, Plan(made, index._planner._first(made, planes), 0.1))
        model: dict[int, np.ndarray] = {}
        for step, (what, count) in enumerate(history):
            rows = clusters(count, step, dim)
            chosen = np.random.default_rng(step).permutation(sorted(model))[:count].astype(np.int64)
            if what == "add":
                model.update(zip(index.add(rows).tolist(), rows, strict=True))
            elif what == "remove":
                index.remove(chosen)
                model = {one: row for one, row in model.items() if one not in chosen}
            else:
                index.update(chosen, rows[: len(chosen)])
                model.update(zip(chosen.tolist(), rows, strict=False))
        at_once.add(np.reshape(list(model.values()), (len(model), dim)).astype(np.float32), list(model))
        q = clusters(5, 1000, dim)
        for k, nq in ((1, 5), (12, 5), (400, 1)):
            assert_same(index.search(q[:nq], k), at_once.search(q[:nq], k))


# --- the bound


@pytest.mark.parametrize(("bits", "planes"), [(4, 1), (4, 2), (3, 1), (2, 1)])
def test_keys_exceed_their_bounds_as_rarely_as_a_normal_law_says(bits, planes):
    """A share of (query, row) pairs within a factor of two of the tail of `lift` deviations; rotated Gaussian rows."""
    dim, quantizer = 384, EDEN(384, bits, 5)
    rng = np.random.default_rng(bits)
    words = quantizer.encode_rows(rng.standard_normal((4000, dim), np.float32), integer=True).words
    ((asked,),) = integer_queries(quantizer, rng.standard_normal((100, dim), np.float32), 1.0)
    stage = quantizer.stages[0]
    first = first_planes(stage.table, stage.thresholds, planes)
    estimate = first.base, first.weights, first.lift * first.deviation
    tables, steps, lifts = reference.stage_queries(asked.levels, asked.gains, estimate, 0)[:3]
    tables = tables[:, :, None]  # a tile each
    sums = reference._nibble_sums(tables, np.ascontiguousarray(words[:, : planes * dim // 32]))
    keys = reference.dot(stage.levels(words), asked.levels) * asked.gains[:, None]
    share = np.mean(keys > sums * steps[:, None] + lifts[:, None])
    assert 0.5 < share / stats.norm.sf(first.lift) < 2
