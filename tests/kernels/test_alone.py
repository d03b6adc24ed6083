"""A query alone finds in segments what the formula says, bit for bit: keys, or ranks where planes are read first."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from polarindex import kernels
from polarindex.kernels import reference
from polarindex.kernels.limits import RING
from polarindex.memory import aligned_zeros

SETS = [name for name in kernels.available() if name != kernels.GENERIC]
NAMED = [pytest.param(name, marks=[] if name == SETS[0] else pytest.mark.isa) for name in SETS]
WIDTHS = [
    ((32, 8), (32, 6), (40, 5)),
    ((64, 7), (32, 4), (32, 3), (20, 2)),
    ((32, 3), (7, 1)),
    ((32, 6), (32, 5), (64, 1)),
]
RINGS = [((32, 6), (64, RING + 4), (32, RING + 3), (20, RING + 1)), ((64, RING + 2), (9, RING + 1))]
needs_tables = pytest.mark.skipif("avx512" not in SETS, reason="needs byte lookups in 64-byte registers")


def whole(widths, count):
    """All of the first segments."""
    bits = np.array([bits for _, bits in widths[:count]])
    return bits, np.zeros((1, 0, 1, 2, 64), np.uint8), *np.zeros((2, count, 2), np.float32)


def arguments(given, first):
    """Of scan_alone from panels to names."""
    panels, count, (_, parted, parts), tables, longest, (_, *queries), factors, names, allowed, _ = given.values()
    head = given["segments"][0]
    return [panels, count, (head, parted, parts), tables, longest, first, tuple(queries), factors, names, allowed]


def found(name, given, first, hits=64, best=None):
    best = tuple(part.copy() for part in given["best"]) if best is None else best
    room = np.zeros(16 * hits * 16 + 16, np.float32), np.empty((3, hits * 16), np.int32)
    kernels.scan_alone(kernels.Isa(name, 1, 1 if name == "avx512" else 8), *arguments(given, first), best, room)
    kernels.sort_rows(*best)
    return best


def wanted(given, first):
    return reference.scan_alone(None, *arguments(given, first), given["best"], None)


def assert_same(one, other):
    for got, right in zip(one, other, strict=True):
        assert_array_equal(got, right)


def varied(given, number, n):
    rng = np.random.default_rng(number)
    if number % 3 == 1:
        given["allowed"] = (rng.random(n) < 0.3).astype(np.uint8)
    if number % 3 == 2:
        given["names"] = (rng.permutation(10 * n)[:n], 0)
    return given


def cases(cuts):
    """Every cut into segments with every tail of rows; filters, ids, k and queries take turns."""
    for number, (widths, n) in enumerate(itertools.product(cuts, (1, 15, 16, 33, 500, 1300))):
        yield number, widths, n, 1 + number % 2, (1, 10, n + 3)[number // 2 % 3]


@pytest.mark.parametrize("name", NAMED)
def test_keys_are_the_reference_to_the_bit_whatever_is_left_out(segment_scene, name):
    for number, widths, n, nq, k in cases([*WIDTHS, *RINGS]):
        head = max(1, len(widths) - 2)
        given = varied(segment_scene(widths, n, nq, k, head, number, 1), number, n)
        right = reference.scan_segments(None, None, *given.values(), None)
        for count, hits in itertools.product((head, len(widths)), (1, 100)):
            assert_same(found(name, given, whole(widths, count), hits), right)


def test_rows_are_left_out_that_their_tails_length_rules_out(segment_scene):
    """Told that all tails are nothing, it finds other rows: so it goes by them."""
    given = segment_scene(WIDTHS[1], 1300, 2, 10, 1, 3, 1, decay=1.0)
    first = whole(WIDTHS[1], 1)
    right = wanted(given, first)
    assert_array_equal(found(SETS[0], given, first)[1], right[1])
    given["factors"][2][:] = 0
    assert (found(SETS[0], given, first)[1] != right[1]).any()


def staged(given, planes, seed, lift):
    """A first pass over planes, with bounds that are many times below keys."""
    rng = np.random.default_rng(seed)
    parts, (_, asked, sums, gains, _) = given["segments"][2], given["queries"]
    estimates = np.abs(rng.normal(size=(len(planes), 6))) * (1, 60, 30, 15, lift, 1)
    estimates[:, 0] -= 50
    lines = sum(p * int(parts[s, 2]) for s, p in enumerate(planes) if p < parts[s, 0])
    tables = aligned_zeros((len(asked), lines, 1, 2, 64), np.uint8)
    steps, lifts = np.empty((2, len(planes), len(asked)), np.float32)
    kernels.stage_segments(asked, sums, gains, parts, np.array(planes), estimates, tables, steps, lifts)
    return np.array(planes), tables, steps, lifts


PLANES = [[(8, 2, 1), (8, 1)], [(3, 1), (1, 1, 1, 2), (7, 2, 1)], [(1,), (2, 1)], [(3, 2), (2, 5, 1)]]  # of WIDTHS


@needs_tables
def test_ranks_are_the_reference_to_the_bit_in_any_order(segment_scene):
    """Of rows together, and of some after others."""
    below = 0
    for number, widths, n, nq, k in cases(WIDTHS):
        for planes in PLANES[WIDTHS.index(widths)]:
            given = varied(segment_scene(widths, n, nq, k, max(1, len(widths) - 2), number, 1), number, n)
            first = staged(given, planes, number, (20.0, 3.0, 0.3)[number % 3])
            right = wanted(given, first)
            for hits in (1, 100):
                assert_same(found("avx512", given, first, hits), right)
            below += (right[0] != reference.scan_segments(None, None, *given.values(), None)[0]).any()
            if n > 16 and k < n:
                assert_same(apart(given, first, 16), right)
    assert below > 10


def apart(given, first, cut):
    """The ranks of rows from `cut` on, then those of the rows before."""
    best = tuple(part.copy() for part in given["best"])
    ids, base = given["names"]
    for rows in (slice(cut, None), slice(0, cut)):
        groups = slice(rows.start // 16, rows.stop and rows.stop // 16)
        count = len(range(given["count"])[rows])
        part = given | {
            "panels": tuple(np.ascontiguousarray(panels[groups]) for panels in given["panels"]),
            "count": count,
            "factors": (np.ascontiguousarray(given["factors"][0][groups]), *(f[rows] for f in given["factors"][1:])),
            "names": (ids[rows], base + (rows.start or 0)),
            "allowed": given["allowed"][rows],
        }
        best = found("avx512", part, first, best=best)
        for q in range(len(best[0])):  # heaps have the worst first
            best[0][q], best[1][q] = best[0][q][::-1].copy(), best[1][q][::-1].copy()
    for part in best:
        part[:] = part[:, ::-1]
    return best
