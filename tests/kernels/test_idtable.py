"""The hash table is a dict: any operations in any order, crowded slots and wrap-around included."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from numpy.testing import assert_array_equal

from polarindex import kernels
from polarindex.kernels import reference
from polarindex.kernels.idtable import _slot

SIZE = 64
LARGEST = 2**63 - 1


def home(ident, size=SIZE):
    return int(_slot(ident, size))


def idents_at(slots, size, count):
    """The first `count` ids whose home is one of the slots."""
    found = []
    ident = 0
    while len(found) < count:
        if home(ident, size) in slots:
            found.append(ident)
        ident += 1
    return found


# Ids that crowd the last and the first slots, so that runs wrap around and shifting back crosses the end.
CROWDED = idents_at({SIZE - 2, SIZE - 1, 0}, SIZE, 24)
IDENTS = st.sampled_from(CROWDED) | st.sampled_from([LARGEST - i for i in range(8)]) | st.integers(0, LARGEST)


def new_table(size=SIZE):
    return np.full(size, -1, np.int64), np.full(size, 0x55555555, np.int64)


def found(table, idents):
    out = np.full(len(idents), -77, np.int64)
    kernels.table_find(*table, np.array(idents, np.int64), out)
    return out


class IdTable(RuleBasedStateMachine):
    @initialize()
    def begin(self):
        self.table, self.entries, self.gone = new_table(), {}, set()

    @rule(idents=st.lists(IDENTS, max_size=12), data=st.data())
    def insert(self, idents, data):
        """Repeated and present ids are overwritten, the last one wins. The table stays at most 3/4 full."""
        new = [ident for ident in dict.fromkeys(idents) if ident not in self.entries]
        too_many = set(new[max(0, 48 - len(self.entries)) :])
        idents = np.array([ident for ident in idents if ident not in too_many], np.int64)
        positions = np.array(
            data.draw(st.lists(st.integers(0, 2**40), min_size=len(idents), max_size=len(idents))), np.int64
        )
        kernels.table_insert(*self.table, idents, positions)
        self.entries = reference.table_insert(self.entries, idents, positions)

    @rule(idents=st.lists(IDENTS, max_size=6), data=st.data())
    def remove(self, idents, data):
        """Present ids, absent ids and ids named twice."""
        if self.entries:
            idents = idents + data.draw(st.lists(st.sampled_from(sorted(self.entries)), max_size=12))
        idents = np.array(idents, np.int64)
        kernels.table_remove(*self.table, idents)
        self.entries = reference.table_remove(self.entries, idents)
        self.gone.update(idents.tolist())

    @invariant()
    def finds_what_a_dict_finds(self):
        asked = np.array([*self.entries, *self.gone, *CROWDED, LARGEST], np.int64)
        assert_array_equal(found(self.table, asked), reference.table_find(self.entries, asked))

    @invariant()
    def holds_each_id_once_and_nothing_else(self):
        keys = self.table[0]
        assert sorted(keys[keys != -1].tolist()) == sorted(self.entries)


TestIdTable = IdTable.TestCase
TestIdTable.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize("n", [0, 1, 2, 7, 8, 63])
def test_a_table_may_be_full_but_for_one_slot(n):
    table = new_table()
    idents = np.array(idents_at({SIZE - 1}, SIZE, n), np.int64)
    kernels.table_insert(*table, idents, np.arange(n))
    assert_array_equal(found(table, idents), np.arange(n))
    kernels.table_remove(*table, idents[::2].copy())
    assert_array_equal(found(table, idents), [-1 if i % 2 == 0 else i for i in range(n)])


def test_removal_keeps_every_other_id_of_a_run_in_reach():
    """Runs of three crossing homes, at every place of the table and across its end; each id removed in turn."""
    for first in range(SIZE):
        slots = [first, (first + 1) % SIZE, (first + 2) % SIZE]
        idents = [ident for slot in slots for ident in idents_at({slot}, SIZE, 2)]
        for ordered in (idents, idents[::-1]):
            for i, gone in enumerate(ordered):
                table = new_table()
                kernels.table_insert(*table, np.array(ordered, np.int64), np.arange(6))
                kernels.table_remove(*table, np.array([gone], np.int64))
                assert_array_equal(found(table, ordered), [-1 if j == i else j for j in range(6)])
                assert (table[0] != -1).sum() == 5


def test_ids_from_outside_are_absent_rather_than_an_error():
    table = new_table()
    kernels.table_insert(*table, np.arange(20), np.arange(20))
    assert_array_equal(found(table, [-1, -2, -(2**63), LARGEST, 20]), [-1] * 5)


def test_consecutive_ids_spread():
    """A random hash fills 1,610 of 4,096 slots; Fibonacci hashing more."""
    homes = {home(ident, 4096) for ident in range(2048)}
    assert len(homes) > 1500


@pytest.mark.parametrize("shift", [32, 40])
def test_ids_with_equal_low_bits_spread(shift):
    """Ids such as (customer << 40) or (document << 32) | chunk: a random hash fills 1,600 of 4,096 slots."""
    assert len({home(ident << shift, 4096) for ident in range(2048)}) > 1000
