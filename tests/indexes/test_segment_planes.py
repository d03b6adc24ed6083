"""A query alone that reads planes of the first segments first finds what the scan of all codes finds."""

import numpy as np
import pytest

import polarindex as pi
from polarindex import kernels
from polarindex.indexes.plan import IN_STEPS, Plan, Planner, _Sample
from polarindex.indexes.segment_planes import LIFT, SegmentPlanes, passes, segment_planes

pytestmark = pytest.mark.skipif(kernels.selected() != "avx512", reason="needs byte lookups in 64-byte registers")
METRICS = ("l2", "ip", "cosine")
DIM = 320


def decaying(n, seed):
    """Rows whose energy falls along hidden axes."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(np.random.default_rng(77).standard_normal((DIM, DIM)))[0]
    rows = rng.standard_normal((n, DIM)) * np.arange(1, DIM + 1.0) ** -0.7 @ axes
    return (rows * (1 + rng.random((n, 1))) + 0.1).astype(np.float32)


def filled(x, metric="l2"):
    index = pi.FlatIndex(DIM, metric, 4, codes="spectral")
    index.add(x)
    return index


@pytest.fixture(scope="module")
def large():
    return filled(decaying(17_000, 0))


def planned(index, plan, q, k, **options):
    """Found a query at a time by a plan."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Planner, "plan", lambda self, arena, nq, k, exact: plan)
        found = [index.search(one[None], k, **options) for one in q]
    return tuple(np.concatenate(part) for part in zip(*found, strict=True))


def staged(index, planes):
    given = index.quantizer.stages, index.quantizer.shares
    return Plan(index._planner._code("avx512"), segment_planes(*given, planes), 0.1)


@pytest.mark.parametrize("metric", METRICS)
def test_planes_first_find_what_all_codes_say(metric):
    """After removals, with filters, and more asked for than there is; whatever is read first."""
    x, q = decaying(2000, 1), decaying(12, 2)
    q[:3] = x[:3]
    index = filled(x, metric)
    index.remove(np.arange(0, 2000, 7))
    allowed = np.random.default_rng(3).random(len(index)) < 0.3
    tried = passes(index.quantizer.stages, index.quantizer.shares)
    assert len(tried) > 5
    for planes in tried[:: len(tried) // 5]:
        for k, options in ((10, {}), (10, {"filter": allowed}), (3000, {}), (1, {"num_threads": 2})):
            one = planned(index, staged(index, planes), q, k, **options)
            np.testing.assert_array_equal(one[1], planned(index, IN_STEPS, q, k, **options)[1])


def test_a_query_alone_reads_planes_first_where_that_pays(large):
    plan = large._planner.plan(large._arena, 1, 10, False)
    assert isinstance(plan.first, SegmentPlanes) and plan.survivors < 0.05
    assert "planes of" in plan.describe() and "read further" in large.info()["scan"]["single"]
    assert large._planner.plan(large._arena, 1, 10, True) == Plan(plan.code)
    assert large._planner.plan(large._arena, 1, 17_000, False) == Plan(plan.code)
    assert not isinstance(large._planner.plan(large._arena, 64, 10, False).first, SegmentPlanes)
    q = decaying(50, 5)
    for one in q:
        for a, b in zip(large.search(one, 10), large.search(one, 10, exact_scan=True), strict=True):
            np.testing.assert_array_equal(a, b)


def test_keys_exceed_bounds_as_seldom_as_the_lift_says(large):
    """Of rows as queries, to which some are near. The bounds are not so high that they say nothing."""
    code, quantizer = large._planner._code("avx512"), large.quantizer
    sample = _Sample(large._coding, large._arena)
    for planes in passes(quantizer.stages, quantizer.shares):
        sample.near(code, segment_planes(quantizer.stages, quantizer.shares, planes), 0.01)
        keys, bounds = sample._segments.keys(), sample._ranked[planes][1]
        keys[np.arange(len(keys)), sample._chosen()] = -np.inf
        assert (keys > bounds).mean() < 1e-4
        assert (bounds < np.median(keys)).mean() > 0.01 or len(planes) == 1


def test_a_code_of_one_segment_has_bounds_of_as_many_deviations():
    """Its first pass is that of plain codes, which allow for fewer."""
    x = (np.random.default_rng(6).standard_normal((2000, 64)) / np.arange(1, 65)).astype(np.float32)
    lifts = []
    for codes, bits in (("plain", 2), ("spectral", 1)):  # which is 32 axes of 2 bits
        index = pi.FlatIndex(64, bits=bits, codes=codes)
        index.add(x)
        lifts.append(index._planner._first(index._planner._code("avx512"), 1).lift)
    assert len(index.quantizer.stages) == 1 and lifts[0] < lifts[1] == LIFT


def test_passes_are_some_planes_of_the_first_segments(large):
    bits = [stage.layout.bits for stage in large.quantizer.stages]
    given = large.quantizer.shares
    found = passes(large.quantizer.stages, given)
    assert len(set(found)) == len(found)
    for planes in (*found, *passes(large.quantizer.stages, [given[0], *np.zeros(len(given) - 1)])):
        pairs = list(zip(planes, bits, strict=False))
        assert all(p == b or 1 <= p <= min(3, b) for p, b in pairs) and any(p < b for p, b in pairs)
