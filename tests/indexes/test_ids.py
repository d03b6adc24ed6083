"""Ids: counted while they can be, stored from the first change on, and found through every move."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from numpy.testing import assert_array_equal

from polarindex.indexes.arena import Arena, Column
from polarindex.indexes.ids import IdMap

COLUMNS = {"shifts": Column(np.dtype(np.float32))}
LARGEST = 2**63 - 2


def append(arena, ids, given):
    """What an index does with new rows."""
    arena.stage({"shifts": given.astype(np.float32)})
    ids.make_room(given, arena)
    ids.appended(given, arena.commit())


def remove(arena, ids, gone):
    """What an index does with the positions of removed rows."""
    removed = ids.at(gone)
    ids.store()
    _, holes = arena.remove(gone)
    ids.moved(removed, ids.at(holes), holes)


@pytest.fixture
def arena():
    return Arena(COLUMNS)


@pytest.fixture
def ids(arena):
    return IdMap(arena)


def longs(*values):
    return np.array(values, np.int64)


class Ids(RuleBasedStateMachine):
    """Against a list of ids in the order of positions, with the kept tail moving into the gaps."""

    @initialize()
    def begin(self):
        self.arena = Arena(COLUMNS)
        self.ids, self.list, self.used = IdMap(self.arena), [], set()

    @rule(count=st.integers(0, 40))
    def append_next(self, count):
        """Ids that the map itself would give."""
        first = self.ids.next_id
        if first + count <= LARGEST:
            self.append(np.arange(first, first + count))

    @rule(values=st.lists(st.integers(0, 200) | st.integers(0, LARGEST), max_size=20, unique=True))
    def append_given(self, values):
        self.append(np.array([value for value in values if value not in self.list], np.int64))

    def append(self, given):
        append(self.arena, self.ids, given)
        self.list += given.tolist()
        self.used.update(given.tolist())

    @precondition(lambda self: self.list)
    @rule(data=st.data())
    def remove(self, data):
        gone = data.draw(st.lists(st.integers(0, len(self.list) - 1), max_size=len(self.list), unique=True))
        if gone:
            remove(self.arena, self.ids, np.array(gone, np.int64))
            n = len(self.list) - len(gone)
            kept = [ident for p, ident in enumerate(self.list) if p >= n and p not in gone]
            self.list = [kept.pop(0) if p in gone else self.list[p] for p in range(n)]

    @invariant()
    def lists_ids_in_the_order_of_positions(self):
        assert self.ids.all().tolist() == self.list
        backwards = np.arange(len(self.list))[::-1]
        assert self.ids.at(backwards).tolist() == self.list[::-1]
        assert self.ids.stored or self.list == list(range(len(self.list)))

    @rule(strangers=st.lists(st.integers(0, LARGEST), max_size=5))
    def find(self, strangers):
        """Not after every step, so that the table is also built late, and follows several changes unread."""
        asked = np.array([*self.list, *sorted(self.used), *strangers], np.int64)
        places = {ident: p for p, ident in enumerate(self.list)}
        assert self.ids.positions(asked).tolist() == [places.get(ident, -1) for ident in asked.tolist()]

    @invariant()
    def next_id_is_above_all_that_were_ever_used(self):
        assert self.ids.next_id == max(self.used, default=-1) + 1

    @invariant()
    def the_table_has_room_and_is_not_wasteful(self):
        """16 bytes a slot: at least 2 slots an id, at most 16, or 64 slots."""
        slots = self.ids.nbytes // 16
        assert slots == 0 or 2 * len(self.list) <= max(slots, 2) and slots <= max(64, 16 * len(self.used))


TestIds = Ids.TestCase
TestIds.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_ids_that_count_are_not_stored(arena, ids):
    append(arena, ids, np.arange(5))
    append(arena, ids, np.arange(5, 9))
    assert not ids.stored and ids.nbytes == 0 and "ids" not in arena.columns
    assert ids.next_id == 9
    assert_array_equal(ids.all(), np.arange(9))
    assert_array_equal(ids.positions(longs(0, 8, 9, -1, LARGEST)), [0, 8, -1, -1, -1])
    assert ids.nbytes == 0


@pytest.mark.parametrize("given", [[6], [5, 7], [6, 5], [100, 3_000_000_000]])
def test_other_ids_are_stored_from_then_on(arena, ids, given):
    append(arena, ids, np.arange(5))
    append(arena, ids, longs(*given))
    assert ids.stored and ids.next_id == max(given) + 1
    assert ids.all().tolist() == [0, 1, 2, 3, 4, *given]
    assert_array_equal(ids.positions(longs(*given, 0, 4)), [*range(5, 5 + len(given)), 0, 4])


def test_a_map_that_starts_at_another_id_stores_ids(arena):
    """A restored index whose ids 0 .. 9 were all removed: position 0 is id 10."""
    ids = IdMap(arena, next_id=10)
    append(arena, ids, longs(10, 11))
    assert ids.all().tolist() == [10, 11] and ids.next_id == 12
    assert_array_equal(ids.positions(longs(0, 10, 11)), [-1, 0, 1])


def test_removal_never_lowers_next_id(arena, ids):
    append(arena, ids, np.arange(6))
    remove(arena, ids, longs(5, 0, 1, 2, 3, 4))
    assert ids.next_id == 6 and len(ids.all()) == 0
    append(arena, ids, longs(6, 7))
    assert ids.all().tolist() == [6, 7]
    append(arena, ids, longs(2))  # smaller than what was used: next_id stays
    assert ids.next_id == 8


def test_the_table_follows_moves_without_being_built_again(arena, ids):
    append(arena, ids, np.arange(100, 200))
    ids.positions(longs(100))
    table = ids._table
    remove(arena, ids, longs(0, 50, 98))
    assert ids._table is table
    assert_array_equal(ids.positions(longs(100, 150, 198, 199, 197, 196)), [-1, -1, -1, 50, 0, 96])
    append(arena, ids, longs(7))
    assert ids._table is table
    assert_array_equal(ids.positions(longs(7)), [97])


def test_the_table_grows_before_it_is_full_and_shrinks_when_it_is_empty(arena, ids):
    append(arena, ids, np.arange(1, 11))
    ids.positions(longs(1))
    small = ids.nbytes
    append(arena, ids, np.arange(1000, 3000))
    assert_array_equal(ids.positions(longs(10, 1000, 2999)), [9, 10, 2009])
    assert ids.nbytes == 4096 * 16 > small
    remove(arena, ids, np.arange(5, 2010))
    assert_array_equal(ids.positions(longs(1, 5, 6)), [0, 4, -1])
    assert ids.nbytes <= 64 * 16


def test_at_and_all_are_copies(arena, ids):
    append(arena, ids, np.arange(4))
    for stored in (False, True):
        positions = np.arange(4)
        for array in (ids.at(positions), ids.all()):
            array[:] = -5
        assert_array_equal(positions, np.arange(4))
        assert_array_equal(ids.all(), np.arange(4))
        ids.store()
        assert ids.stored is (stored or True)


def test_the_largest_ids_are_found(arena, ids):
    given = longs(LARGEST, LARGEST - 1, 0)
    append(arena, ids, given)
    assert_array_equal(ids.positions(given), [0, 1, 2])
    assert ids.next_id == LARGEST + 1
