"""A row that is found in both of its lists is one candidate, with the better key."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from polarindex.kernels.candidates import candidate_room, name_at, shrink
from polarindex.kernels.copies import join_copies, raise_limits
from polarindex.kernels.limits import EMPTY_ID, THROUGH

ROWS, COPIES = 300, 200
POISON = np.float32(np.nan)


class World:
    """Rows with ids, some of which have a copy; own[i] is the place of the row of the copy at places[i]."""

    def __init__(self, lay_pages, table, wide=False):
        rng = np.random.default_rng(8)
        ids = rng.permutation(ROWS) * (2**33 + 1 if wide else 1)
        self.rows = self.laid(lay_pages, table, ids, wide, 0)
        self.row_places = np.concatenate(self.rows.places)
        self.own = rng.permutation(self.row_places)[:COPIES]
        self.copies = self.laid(lay_pages, table, self.own, False, 1)
        self.places = np.concatenate(self.copies.places)
        blocks, page_bits, width, id_word = self.copies.store
        first = self.rows.store[0]
        behind = first.ctypes.data, *self.rows.store[1:], 16 * self.rows.pages
        self.store = np.concatenate([blocks, np.array(behind)]), page_bits, width, id_word + THROUGH
        self.ids = dict(zip(self.row_places.tolist(), ids.tolist(), strict=True))

    def laid(self, lay_pages, table, ids, wide, seed):
        n = len(ids)
        rows = np.zeros((n, 9), np.uint8), np.ones(n), np.ones(n), ids
        lists = [tuple(column[part] for column in rows) for part in np.split(np.arange(n), [50, 171])]
        return lay_pages(4, table, lists, 2, wide, seed)

    def found(self, rng, places, keep, counts, kinds):
        """Candidates of queries: so many of some places, with scores of so many kinds."""
        room = candidate_room(keep)
        found = np.full(len(counts) * room + 16, POISON), np.full(len(counts) * room + 16, -77, np.int32)
        for q, count in enumerate(counts):
            mine = slice(q * room, q * room + count)
            found[0][mine] = rng.integers(-kinds, kinds, count) * np.float32(0.125)
            found[1][mine] = rng.permutation(places)[:count]
        return (*found, np.array(counts), np.full(len(counts), -np.inf, np.float32))


@pytest.fixture
def world(lay_pages, uneven_table):
    return lambda wide=False: World(lay_pages, uneven_table(4), wide)


def held(found, q):
    scores, places, counts, _ = found
    first = q * ((len(scores) - 16) // len(counts))
    return scores[first :][: counts[q]], places[first :][: counts[q]]


@pytest.mark.parametrize("wide", [False, True])
def test_a_copys_id_is_that_of_its_row(world, wide):
    w = world(wide)
    got = [name_at(w.store, place) for place in w.places]
    assert got == [w.ids[own] for own in w.own.tolist()]
    assert [name_at(w.rows.store, place) for place in w.row_places] == [*w.ids.values()]


@pytest.mark.parametrize("keep", [1, 7, 40])
@pytest.mark.parametrize("kinds", [1, 3, 1000])
def test_candidates_are_joined_by_row_with_the_larger_key(world, keep, kinds):
    """None, few, as many as are kept, more: of rows and of copies; what ties is decided by ids."""
    w, rng = world(), np.random.default_rng([keep, kinds])
    own_of = dict(zip(w.places.tolist(), w.own.tolist(), strict=True))
    rows, copies = zip(*itertools.product((0, 1, keep, keep + 7), (0, 1, keep, 2 * keep + 30)), strict=True)
    for _ in range(5):
        found = w.found(rng, w.row_places, keep, rows, kinds)
        others = w.found(rng, w.places, keep, copies, kinds)
        wanted = []
        for q in range(len(rows)):
            best = {}
            for scores, places in (held(found, q), held(others, q)):
                for score, place in zip(scores.tolist(), places.tolist(), strict=True):
                    own = own_of[place] if places.base is others[1] else place
                    best[own] = max(score, best.get(own, -np.inf))
            wanted.append(sorted((-score, w.ids[own]) for own, score in best.items())[:keep])
        raise_limits(found, keep, w.rows.store)
        join_copies(found, others, w.rows.store, w.store, keep)
        for q, want in enumerate(wanted):
            scores, places = held(found, q)
            assert len(scores) <= candidate_room(keep)
            assert len(set(places.tolist())) == len(places)
            got = sorted((-score, w.ids[place]) for score, place in zip(scores.tolist(), places.tolist(), strict=True))
            assert got[: len(want)] == want and len(got[:keep]) == len(want)


@pytest.mark.parametrize("kinds", [1, 3, 1000])
def test_limits_are_raised_to_what_enough_candidates_reach(world, kinds):
    w, keep = world(), 7
    counts = [0, 3, keep, keep + 1, 2 * keep + 60]
    found = w.found(np.random.default_rng(kinds), w.row_places, keep, counts, kinds)
    before = [[part.copy() for part in held(found, q)] for q in range(len(counts))]
    raise_limits(found, keep, w.rows.store)
    for q, (scores, places) in enumerate(before):
        left, limit = held(found, q), found[3][q]
        if len(scores) <= keep:
            assert limit == -np.inf
            assert_array_equal(left, [scores, places])
            continue
        assert keep <= len(left[0]) <= candidate_room(keep) - keep
        assert (left[0] >= limit).all() and limit <= np.sort(scores)[-keep]
        every = np.array([w.ids[place] for place in places.tolist()])
        order = np.lexsort((every, -scores))[:keep]
        assert set(places[order].tolist()) <= set(left[1].tolist())


def test_a_copy_of_no_row_is_passed_over(world):
    """A damaged file that is mapped may hold any places."""
    w = world()
    for block in w.copies.blocks:
        block[:, w.copies.store[3]] = 2**32 - 1 if block is w.copies.blocks[0] else 16 * w.rows.pages
    assert {name_at(w.store, place) for place in w.places} == {EMPTY_ID}
    rng = np.random.default_rng(0)
    found = w.found(rng, w.row_places, 7, [3], 9)
    before = [part.copy() for part in held(found, 0)]
    join_copies(found, w.found(rng, w.places, 7, [40], 9), w.rows.store, w.store, 7)
    assert_array_equal(held(found, 0), before)


def test_ties_among_copies_are_decided_by_the_ids_of_their_rows(world):
    w, keep = world(True), 5
    found = w.found(np.random.default_rng(0), w.places, keep, [2 * keep + 60], 1)
    shrink(*found[:2], 0, 2 * keep + 60, keep, w.store)
    names = dict(zip(w.places.tolist(), (w.ids[own] for own in w.own.tolist()), strict=True))
    before = w.found(np.random.default_rng(0), w.places, keep, [2 * keep + 60], 1)
    order = np.lexsort((np.array([names[place] for place in held(before, 0)[1].tolist()]), -held(before, 0)[0]))[:keep]
    assert set(found[1][:keep].tolist()) == set(held(before, 0)[1][order].tolist())


