"""Lists of pages hold what was put there: under additions, removals, moves of pages, wide ids and interruption."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from numpy.testing import assert_array_equal

from polarindex import kernels
from polarindex.indexes import arena as arenas
from polarindex.indexes import lists as module
from polarindex.indexes.arena import Column
from polarindex.indexes.lists import Lists

NLIST, WORDS, STAGES = 5, 3, 2
ORIGINALS = {"originals": Column(np.dtype(np.float16), (3,)), "original_scales": Column(np.dtype(np.float32))}
PANEL = 16


@pytest.fixture
def small_blocks(monkeypatch):
    """Four pages a block."""
    monkeypatch.setattr(module, "block_rows", lambda row_bytes: 4 * PANEL)
    monkeypatch.setattr(arenas, "_STEP", PANEL)


class Kept:
    """Lists, an id table, and what they should hold."""

    def __init__(self, columns):
        self.lists, self.columns = Lists(NLIST, WORDS, STAGES, columns), columns
        self.table = np.full(8192, -1, np.int64), np.full(8192, -1, np.int64)
        self.rng = np.random.default_rng(0)
        self.model = [[] for _ in range(NLIST)]
        self.rows = {}

    @property
    def ids(self):
        return [ident for part in self.model for ident in part]

    def fresh(self, numbers, large=False):
        """Rows for lists, with ids that were not used before."""
        n, rng = len(numbers), self.rng
        ids = rng.permutation(np.setdiff1d(rng.integers(0, 2**62 if large else 2**32, n), list(self.rows)))
        numbers = np.array(numbers, np.int32)[: len(ids)]
        n = len(ids)
        codes, factors = rng.integers(0, 2**32, (n, WORDS), dtype=np.uint32), rng.random((n, STAGES + 1), np.float32)
        originals = {
            name: rng.integers(0, 999, (n, *column.shape)).astype(column.dtype) for name, column in self.columns.items()
        }
        return numbers, codes, factors, ids, originals

    def stage(self, rows):
        numbers, codes, factors, ids, originals = rows
        staged = self.lists.stage(numbers, int(ids.max(initial=0)))
        half = len(ids) // 2
        for part in (slice(half, None), slice(0, half)):
            mine = {name: values[part] for name, values in originals.items()}
            self.lists.put(staged.places[part], codes[part], factors[part], ids[part], mine)
        return staged

    def commit(self, rows, staged):
        numbers, codes, factors, ids, originals = rows
        self.lists.commit(staged)
        kernels.table_insert(*self.table, ids, staged.places)
        for i, ident in enumerate(ids.tolist()):
            self.model[numbers[i]].append(ident)
            self.rows[ident] = codes[i], factors[i], *(values[i] for values in originals.values())

    def add(self, numbers, large=False):
        rows = self.fresh(numbers, large)
        self.commit(rows, self.stage(rows))

    def places(self, ids):
        found = np.empty(len(ids), np.int64)
        kernels.table_find(*self.table, np.array(ids, np.int64), found)
        return found.tolist()

    def remove(self, ids):
        left = [ident for ident in self.ids if ident not in set(ids)]
        before = self.places(left)
        moves = self.lists.remove(self.table, np.array(ids, np.int64))
        before = moves.follow(np.array(before, np.int64))
        moves = self.lists.tidy(self.table)
        before = before if moves is None else moves.follow(before)
        assert before.tolist() == self.places(left), "rows are where they were told to have moved to"
        for ident in ids:
            part = next(part for part in self.model if ident in part)
            last = part.pop()
            if last != ident:
                part[part.index(ident)] = last
        lists = self.lists
        pages = sum(-(-len(part) // PANEL) for part in self.model)
        assert 8 * (lists.places - PANEL * pages) <= lists.places, "an eighth of the pages may be free"

    def check(self):
        lists = self.lists
        assert lists.n == len(self.ids)
        assert_array_equal(lists.sizes, [len(part) for part in self.model])
        every = []
        for number, part in enumerate(self.model):
            places = lists.places_of(number)
            every.append(places)
            first = len(part) - (-(-len(part) // PANEL) - 1) * PANEL  # rows of the first page
            pages = [places[:first], *np.split(places[first:], range(PANEL, len(part) - first, PANEL))]
            in_order = np.concatenate(pages[::-1] if len(part) > first else pages[:1])
            self.check_rows(number, in_order, part)
        every = np.concatenate(every)
        assert_array_equal(lists.used(), np.sort(every))
        assert lists.places % PANEL == 0 and every.max(initial=-1) < lists.places
        assert (self.table[0] >= 0).sum() == lists.n
        found = np.empty(lists.n, np.int64)
        kernels.table_find(*self.table, np.array(self.ids, np.int64), found)
        assert_array_equal(lists.ids_of(lists.rows(found)), self.ids)

    def check_rows(self, number, places, ids):
        """Rows in the order in which they came, the last one always in the place of one that was removed."""
        lists = self.lists
        rows = lists.rows(places)
        assert_array_equal(lists.ids_of(rows), np.array(ids, np.int64))
        assert (lists.lists_of(places) == number).all()
        found = np.empty(len(ids), np.int64)
        kernels.table_find(*self.table, np.array(ids, np.int64), found)
        assert_array_equal(found, places)
        if ids:
            codes, factors, *originals = (np.stack(part) for part in zip(*map(self.rows.get, ids), strict=True))
            assert_array_equal(rows[:, :WORDS], codes)
            assert_array_equal(lists.factors_of(rows), factors)
            for name, values in zip(self.columns, originals, strict=True):
                assert_array_equal(lists.arena.take(name, places), values)


class Rows(RuleBasedStateMachine):
    columns = ORIGINALS

    @initialize()
    def begin(self):
        self.kept = Kept(self.columns)

    def drawn(self, seed, n):
        """List numbers; half of the time all of one list."""
        rng = np.random.default_rng(seed)
        return np.full(n, rng.integers(NLIST)) if seed % 2 else rng.integers(0, NLIST, n)

    @rule(seed=st.integers(0, 99), n=st.sampled_from([0, 1, 15, 16, 17, 40, 200]))
    def add(self, seed, n):
        """Nothing shows before the commit. Large ids come late, if at all."""
        rows = self.kept.fresh(self.drawn(seed, n), seed % 10 == 9)
        staged = self.kept.stage(rows)
        self.kept.check()
        self.kept.commit(rows, staged)

    @rule(seed=st.integers(0, 99), n=st.sampled_from([1, 17, 100]), discard=st.booleans())
    def stage_in_vain(self, seed, n, discard):
        """What was staged is forgotten, by `discard` or by what comes next."""
        self.kept.stage(self.kept.fresh(self.drawn(seed, n)))
        if discard:
            self.kept.lists.discard()

    @rule(seed=st.integers(0, 99), share=st.sampled_from([0, 0.02, 0.3, 0.9, 1]))
    def remove(self, seed, share):
        ids = np.random.default_rng(seed).permutation(self.kept.ids)
        self.kept.remove(ids[: round(share * len(ids))].tolist())

    @rule(number=st.integers(0, NLIST - 1), count=st.integers(1, 40), last=st.booleans())
    def remove_from_one(self, number, count, last):
        """The first rows of a list, or its last ones."""
        part = self.kept.model[number]
        self.kept.remove(part[-count:][::-1] if last else part[:count])

    @invariant()
    def holds_what_it_should(self):
        if hasattr(self, "kept"):
            self.kept.check()


class BareRows(Rows):
    columns = {}


@pytest.mark.parametrize("machine", [Rows, BareRows])
def test_lists_hold_what_was_put_there(small_blocks, machine):
    run_state_machine_as_test(machine, settings=settings(max_examples=40, stateful_step_count=25, deadline=None))


def test_pages_that_nobody_needs_are_given_back(small_blocks):
    kept = Kept(ORIGINALS)
    kept.add(np.arange(2000) % NLIST)
    full = kept.lists.nbytes
    for left in (1500, 700, 100, 30, 5):
        ids = kept.rng.permutation(kept.ids)
        kept.remove(ids[left:].tolist())
        kept.check()
        pages = sum(-(-len(part) // PANEL) for part in kept.model)
        assert kept.lists.places <= PANEL * pages * 8 / 7
        assert kept.lists.arena.nbytes <= kept.lists.bytes_per_row * max(2 * kept.lists.places, 4 * PANEL)
    kept.remove(kept.ids)
    assert kept.lists.places == 0 and kept.lists.arena.nbytes == 0 and kept.lists.nbytes < full / 50
    kept.add([3] * 20)
    kept.check()


@pytest.mark.parametrize("large", [2**32 - 1, 2**32, 2**62])
def test_ids_take_a_second_word_from_2_to_the_32_on(small_blocks, large):
    """Whatever is held then is kept, in the same places; and what was staged before is not."""
    kept = Kept(ORIGINALS)
    kept.add(np.arange(300) % NLIST)
    kept.remove(kept.ids[100:110])
    width, used = kept.lists.width, kept.lists.used()
    kept.stage(kept.fresh([1] * 50))
    numbers, codes, factors, ids, originals = kept.fresh([2] * 3)
    ids[1] = large
    rows = numbers, codes, factors, ids, originals
    staged = kept.stage(rows)
    assert kept.lists.width == width, "readers find it as it was"
    kept.check()
    assert_array_equal(kept.lists.used(), used)
    kept.commit(rows, staged)
    assert kept.lists.width == width + (large >= 2**32)
    kept.check()
    kept.remove(kept.ids[::2])
    kept.check()


def test_a_staging_may_be_repeated_and_the_last_one_counts(small_blocks):
    kept = Kept(ORIGINALS)
    kept.add([0] * 20 + [1] * 300)
    kept.remove(kept.model[1][:40])  # some pages are free
    places = kept.lists.places
    for n in (5, 100, 3, 50):
        rows = kept.fresh([0] * n + [4] * n)
        staged = kept.stage(rows)
        kept.check()
    kept.commit(rows, staged)
    kept.check()
    once = Kept(ORIGINALS)
    once.add([0] * 20 + [1] * 300)
    once.remove(once.model[1][:40])
    assert once.lists.places == places
    once.add([0] * 50 + [4] * 50)
    assert kept.lists.places == once.lists.places, "room for what was staged in vain is used"


def test_addresses_are_told_anew_when_blocks_move(small_blocks):
    """A kernel that is told the store sees what `rows` sees, after every change."""
    kept = Kept({})
    for step in range(12):
        kept.add(kept.rng.integers(0, NLIST, 60))
        blocks, page_bits, width, id_word = kept.lists.store
        assert (2**page_bits, width, id_word) == (4, kept.lists.width, width - 1)
        assert_array_equal(blocks, kept.lists.arena.addresses("rows"))
        if step % 3 == 2:
            kept.remove(kept.rng.permutation(kept.ids)[: len(kept.ids) // 2].tolist())
            assert_array_equal(kept.lists.store[0], kept.lists.arena.addresses("rows"))
        rows = kept.lists.rows(kept.lists.places_of(0))
        assert_array_equal(np.sort(kept.lists.ids_of(rows)), np.sort(kept.model[0]))


def test_no_rows_at_all():
    lists = Lists(3, WORDS, STAGES, ORIGINALS)
    assert lists.n == lists.places == 0 and lists.used().shape == (0,) and lists.places_of(2).shape == (0,)
    assert lists.rows(np.array([-1])).tolist() == [[0] * lists.width]
    staged = lists.stage(np.empty(0, np.int32), 0)
    lists.commit(staged)
    lists.remove((np.full(16, -1), np.full(16, -1)), np.empty(0, np.int64))
    assert lists.n == lists.places == 0
