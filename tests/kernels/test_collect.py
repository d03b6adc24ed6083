"""Keys that reach a limit are appended in the order of lanes; nothing else happens."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from polarindex import kernels
from polarindex.kernels.collect import allowed_lanes, keys_reaching, keys_start, tile_collect
from polarindex.kernels.simd import lanes_of, start, tile_from

SETS = [name for name in kernels.available() if name != "generic"]
EVERYDAY = [name for name in SETS if name in (SETS[0], "avx2")]
NAMED = [
    *(pytest.param(name, marks=[] if name in EVERYDAY else pytest.mark.isa) for name in SETS),
    *(pytest.param("neon", marks=pytest.mark.isa) for _ in range("neon" not in SETS)),
]
needs_registers = pytest.mark.skipif(not SETS, reason="only plain loops can run here")
POISON = np.float32(7e33)


@numba.njit(error_model="numpy")
def collected(isa, values, slots, slot, factors, scale, shift, valid, place, scores, places):
    gains, offsets, limits, cursors, ends = slots
    per_slot = start(gains), start(offsets), start(limits), start(cursors), start(ends)
    tile, found = tile_from(isa, start(values), slot), (start(scores), start(places))
    return tile_collect(tile, per_slot, slot, start(factors), scale, shift, np.uint64(valid), place, found)


def checked(isa, values, slots, slot, factors, scale, shift, valid, place):
    """By the formula: each row's candidates, cursor and end; then nothing else may have changed."""
    gains, offsets, limits, cursors, ends = slots
    room = 64
    scores, places = np.full(room * len(values), POISON, np.float32), np.full(room * len(values), -77, np.int32)
    moved = cursors.copy()
    past = collected(
        isa, values, (gains, offsets, limits, moved, ends), slot, factors, scale, shift, valid, place, scores, places
    )
    lanes = np.arange(isa.lanes)
    counts = (valid >> lanes & 1).astype(bool)
    wanted_past, hits = False, 0
    for r in range(slot, slot + isa.rows):
        key = (np.float32(values[r]) * gains[r]) * factors[scale : scale + isa.lanes]
        key = (key + factors[shift : shift + isa.lanes]) + offsets[r]
        chosen = (key >= limits[r]) & counts
        hits += chosen.sum()
        after = cursors[r] + chosen.sum()
        assert moved[r] == after
        assert_array_equal(scores[cursors[r] : after], key[chosen])
        assert_array_equal(places[cursors[r] : after], place + lanes[chosen])
        wanted_past |= after > ends[r]
        scores[cursors[r] : cursors[r] + isa.lanes], places[cursors[r] : cursors[r] + isa.lanes] = POISON, -77
    assert past == (wanted_past and hits > 0)
    assert (scores == POISON).all() and (places == -77).all(), "written farther on than a register"
    others = np.delete(np.arange(len(values)), slice(slot, slot + isa.rows))
    assert_array_equal(moved[others], cursors[others])
    return hits


def random_slots(rng, n, share):
    limits = rng.normal(size=n).astype(np.float32) + np.float32(200 * (0.5 - share))
    gains, offsets = rng.random((2, n)).astype(np.float32)
    cursors = np.arange(n) * 64 + rng.integers(0, 40, n)
    return gains, offsets, limits, cursors, cursors + rng.integers(-3, 17, n)


@needs_registers
@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize("name", NAMED)
def test_what_reaches_the_limit_is_appended(rng, name, rows):
    isa = kernels.Isa(name, rows, 4)
    hits = []
    for turn in range(300):
        values = rng.integers(-3, 4, 24).astype(np.int32)
        factors = rng.normal(size=100).astype(np.float32)
        valid = int(rng.integers(0, 2**16)) if turn % 3 == 1 else 2**16 - 1
        slots = random_slots(rng, 24, (0, 0.5, 1)[turn % 3])
        scale, shift = rng.integers(0, 84, 2)
        hits.append(checked(isa, values, slots, rng.integers(0, 25 - rows), factors, scale, shift, valid, 16 * turn))
    assert min(hits) == 0 and max(hits) == rows * isa.lanes


@needs_registers
@pytest.mark.parametrize("name", NAMED)
def test_limits_are_reached_by_equal_keys_and_by_no_nan(rng, name):
    """Each lane alone; keys and limits NaN, infinite and equal."""
    isa = kernels.Isa(name, 8, 4)
    for kind in (np.nan, np.inf, -np.inf, 0.0):
        for limit in (np.nan, np.inf, -np.inf, 0.0, -0.0):
            for lane in range(isa.lanes):
                factors = np.zeros(32, np.float32)
                factors[16 + lane] = kind
                slots = (
                    *np.zeros((2, 8), np.float32), np.full(8, limit, np.float32), np.arange(8) * 64, np.arange(8) * 64
                )
                hits = checked(isa, np.ones(8, np.int32), slots, 0, factors, 0, 16, 1 << lane, 0)
                assert hits == 8 * (kind >= limit)


@numba.njit(error_model="numpy")
def reaching(isa, keys, slots, slot, lengths, valid, out):
    offsets, reaches, least = slots
    own = start(offsets), start(reaches), start(least)
    return keys_reaching(
        keys_start(isa, start(keys), 0), own, slot, start(lengths), 0, np.uint64(valid), start(out), lanes_of(isa)
    )


@needs_registers
@pytest.mark.parametrize("name", NAMED)
def test_rows_are_told_that_may_reach_what_they_must(rng, name):
    isa = kernels.Isa(name, 8, 8)
    seen = set()
    for turn in range(200):
        keys, lengths = rng.normal(size=(2, isa.lanes)).astype(np.float32)
        offsets, reaches = rng.normal(size=24).astype(np.float32), rng.random(24).astype(np.float32)
        least = rng.normal(size=24).astype(np.float32) + np.float32(turn % 4)
        least[5], keys[3] = np.nan, np.nan if turn % 5 == 0 else keys[3]
        valid, slot = int(rng.integers(0, 2**isa.lanes)), int(rng.integers(0, 17))
        out = np.full(isa.lanes * 10, POISON)
        found = reaching(isa, keys, (offsets, reaches, least), slot, np.abs(lengths), valid, out)
        bounds = (keys + offsets[:, None]) + reaches[:, None] * np.abs(lengths)
        near = (bounds >= least[:, None]) & (valid >> np.arange(isa.lanes) & 1 > 0)
        wanted = near[slot : slot + 8].any(axis=1)
        assert found == sum(1 << r for r in np.flatnonzero(wanted))
        if found:
            assert_array_equal(out[isa.lanes : 9 * isa.lanes].reshape(8, -1), np.tile(keys, (8, 1)))
        assert (out[: isa.lanes] == POISON).all() and (out[9 * isa.lanes :] == POISON).all()
        seen.add(int(wanted.sum()))
    assert 0 in seen and max(seen) > 4


@numba.njit
def bits_of(allowed, place):
    return allowed_lanes(start(allowed), place)


def test_any_value_but_0_allows_a_lane(rng):
    allowed = rng.integers(0, 3, 64).astype(np.uint8) * np.uint8(100)
    for place in range(49):
        wanted = sum(1 << lane for lane in range(16) if allowed[place + lane])
        assert bits_of(allowed, place) == wanted
