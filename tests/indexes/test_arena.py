"""An arena is a list of rows: the same after any operations, across blocks, growth, shrinking and interruption."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from numpy.testing import assert_array_equal

from polarindex import kernels
from polarindex.indexes import arena as module
from polarindex.indexes.arena import Arena, Column, block_rows

CODES = Column(np.dtype(np.uint32), (3,), lined=True)
SCALES = Column(np.dtype(np.float32), (2,))
SHIFTS = Column(np.dtype(np.float32))
IDS = Column(np.dtype(np.int64))
COLUMNS = {"codes": CODES, "scales": SCALES, "shifts": SHIFTS}
BLOCK, STEP = 64, 16


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(module, "BLOCK_ROWS", BLOCK)
    monkeypatch.setattr(module, "_STEP", STEP)


def new_rows(seed, count, columns=COLUMNS):
    """Rows that tell which they are: every number is a random 24-bit one."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.integers(1, 2**24, (count, *column.shape)).astype(column.dtype)
        for name, column in columns.items()
    }


def joined(a, b):
    return {name: np.concatenate([a[name], b[name]]) for name in a}


def append(arena, rows):
    arena.stage(rows)
    return arena.commit()


def as_panels(words, spare):
    """Whole panels as a file holds them, `spare` panels beyond."""
    panels = np.zeros((-(-len(words) // 16) + spare, words.shape[1], 16), np.uint32)
    kernels.to_panels(words, 0, panels)
    return panels


def whole_arrays(rows, spare=0):
    return {name: as_panels(values, spare) if name == "codes" else values.copy() for name, values in rows.items()}


def span_rows(span, name):
    array = span.arrays[name]
    if name != "codes":
        return array
    return np.stack([array[i // 16, :, i % 16] for i in range(span.rows)])


def assert_holds(arena, rows):
    n = len(rows["shifts"])
    assert arena.n == n
    assert arena.columns.keys() == rows.keys()
    for name, values in rows.items():
        taken = arena.take(name, np.arange(n))
        assert_array_equal(taken, values)
        assert taken.dtype == values.dtype
        if name != "codes":
            assert_array_equal(arena.whole(name), values)


class Interrupted(Exception):
    pass


class Rows(RuleBasedStateMachine):
    """Against a dict of plain arrays."""

    @initialize()
    def begin(self):
        self.arena, self.rows, self.seed = Arena(COLUMNS), new_rows(0, 0), 0

    def fresh(self, count):
        self.seed += 1
        return new_rows(self.seed, count, self.arena.columns)

    def some(self, data, unique=True):
        n = self.arena.n
        return np.array(data.draw(st.lists(st.integers(0, n - 1), max_size=n, unique=unique)), np.int64)

    @rule(counts=st.lists(st.integers(0, 150), min_size=1, max_size=3))
    def append(self, counts):
        """Several parts staged, one commit; nothing shows before it."""
        first = self.arena.n
        for count in counts:
            part = self.fresh(count)
            self.arena.stage(part)
            assert_holds(self.arena, {name: values[:first] for name, values in self.rows.items()})
            self.rows = joined(self.rows, part)
        assert self.arena.commit() == first

    @rule(count=st.integers(1, 200), call=st.integers(1, 4))
    def append_interrupted(self, count, call):
        """The call-th block's codes cannot be written: what was staged before it is forgotten."""
        store, calls = kernels.to_panels, 0

        def failing(*arguments):
            nonlocal calls
            calls += 1
            if calls == call:
                raise Interrupted
            store(*arguments)

        kernels.to_panels = failing
        try:
            self.arena.stage(self.fresh(count))
        except Interrupted:
            pass
        finally:
            kernels.to_panels = store
        self.arena.discard()

    @precondition(lambda self: self.arena.n)
    @rule(data=st.data())
    def put(self, data):
        positions = self.some(data)
        names = data.draw(st.sets(st.sampled_from(sorted(self.rows))))
        values = {name: rows for name, rows in self.fresh(len(positions)).items() if name in names}
        self.arena.put(positions, values)
        for name, rows in values.items():
            self.rows[name][positions] = rows

    @precondition(lambda self: self.arena.n)
    @rule(data=st.data())
    def remove(self, data):
        """The kept rows of the tail, in order, go to the gaps, in order."""
        positions = self.some(data)
        n = self.arena.n - len(positions)
        gone = set(positions.tolist())
        holes = sorted(p for p in gone if p < n)
        movers = [p for p in range(n, self.arena.n) if p not in gone]
        old, new = self.arena.remove(positions)
        assert (old.tolist(), new.tolist()) == (movers, holes)
        for name, values in self.rows.items():
            kept = values[:n].copy()
            kept[holes] = values[movers]
            self.rows[name] = kept

    @rule(share=st.floats(0, 1))
    def truncate(self, share):
        n = int(share * self.arena.n)
        self.arena.truncate(n)
        self.rows = {name: values[:n].copy() for name, values in self.rows.items()}

    @precondition(lambda self: "ids" not in self.rows)
    @rule()
    def add_column(self):
        ids = np.arange(self.arena.n) + 7
        self.arena.add_column("ids", IDS, ids)
        self.rows["ids"] = ids.copy()

    @precondition(lambda self: "ids" in self.rows)
    @rule()
    def drop_column(self):
        self.arena.drop_column("ids")
        del self.rows["ids"]

    @rule(n=st.integers(0, 200), spare=st.integers(0, 5))
    def adopt(self, n, spare):
        """Read-only, as a mapped file is: later writes must copy first, or be refused."""
        self.rows = self.fresh(n)
        self.arena.adopt(whole_arrays(self.rows, spare), n)

    @invariant()
    def holds_the_rows(self):
        assert_holds(self.arena, self.rows)

    @invariant()
    def takes_any_positions(self):
        n = self.arena.n
        positions = np.random.default_rng(n).integers(0, max(n, 1), min(n, 20))
        for name, values in self.rows.items():
            assert_array_equal(self.arena.take(name, positions), values[positions])

    @invariant()
    def spans_cover_the_rows_once(self):
        for step in (16, 32, BLOCK):
            start = 0
            for span in self.arena.spans(step):
                assert span.start == start and 0 < span.rows <= step
                for name, values in self.rows.items():
                    assert_array_equal(span_rows(span, name), values[start : start + span.rows])
                start += span.rows
            assert start == self.arena.n

    @invariant()
    def counts_its_memory(self):
        assert len(self.arena.blocks) == -(-self.arena.n // BLOCK)
        held = [array for block in self.arena.blocks for array in block.values()]
        assert self.arena.nbytes == sum(array.nbytes for array in held)
        assert self.arena.nbytes >= self.arena.n * self.arena.bytes_per_row


def test_any_operations_leave_the_rows_of_a_plain_list(small_blocks):
    run_state_machine_as_test(
        Rows, settings=settings(max_examples=50, stateful_step_count=20, deadline=None)
    )


@pytest.mark.parametrize("n", [1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 200])
def test_spare_room_is_an_eighth_and_a_step_at_most(small_blocks, n):
    for one_by_one in (False, True):
        arena = Arena(COLUMNS)
        rows = new_rows(n, n)
        step = 1 if one_by_one else n
        for i in range(0, n, step):
            append(arena, {name: values[i : i + step] for name, values in rows.items()})
        assert_holds(arena, rows)
        capacity, rest = arena.nbytes // arena.bytes_per_row, n % BLOCK
        assert n <= capacity <= -(-n // BLOCK) * BLOCK
        assert capacity <= n + rest // 8 + STEP
    assert arena.bytes_per_row == 3 * 4 + 2 * 4 + 4


def test_a_full_block_is_never_copied(small_blocks):
    arena = Arena(COLUMNS)
    append(arena, new_rows(1, 64))
    first = arena.blocks[0]
    arrays = dict(first)
    for i in range(100):
        append(arena, new_rows(i, 1))
    assert arena.blocks[0] is first
    assert all(arrays[name] is first[name] for name in COLUMNS)


def test_real_blocks_grow_by_eighths_up_to_their_size():
    """Without the small blocks of the other tests: steps of 64 rows, 16,384 at most, then a second block."""
    arena = Arena({"shifts": SHIFTS, "codes": CODES})
    seen = []
    for n in (1, 64, 65, 4097, 16_384, 16_385):
        append(arena, new_rows(n, n - arena.n, arena.columns))
        seen.append(arena.nbytes // arena.bytes_per_row)
    assert seen == [64, 64, 128, 4672, 16_384, 16_384 + 64]
    assert module.BLOCK_ROWS == 16_384


def test_announced_rows_are_never_copied(small_blocks):
    arena, rows = Arena(COLUMNS), new_rows(1, 150)
    append(arena, {name: values[:5] for name, values in rows.items()})
    arena.expect(145)
    blocks = []
    for at in range(5, 150, 5):
        arena.stage({name: values[at : at + 5] for name, values in rows.items()})
        blocks.append([dict(block) for block in arena.blocks])
    for one in blocks:
        for block, last in zip(one, blocks[-1], strict=False):
            assert all(block[name] is last[name] for name in COLUMNS)
    arena.commit()
    assert_holds(arena, rows)


@pytest.mark.parametrize("row_bytes", [0, 1, 64, 65, 200, 768, 20_000, 10**6])
def test_a_block_is_a_power_of_two_rows_that_fill_more_than_half_of_its_bytes(row_bytes):
    rows = block_rows(row_bytes)
    assert rows & (rows - 1) == 0 and 2**10 <= rows <= 2**18
    assert rows == 2**10 or rows * row_bytes <= module.BLOCK_BYTES
    assert rows == 2**18 or 2 * rows * row_bytes > module.BLOCK_BYTES


def test_an_arena_may_have_blocks_of_its_own_size():
    arena, rows = Arena(COLUMNS, 128), new_rows(1, 300)
    append(arena, rows)
    assert_holds(arena, rows)
    assert [len(block["shifts"]) for block in arena.blocks] == [128, 128, 64]


def test_removed_rows_give_their_memory_back(small_blocks):
    arena = Arena(COLUMNS)
    rows = new_rows(1, 64 + 64)
    append(arena, rows)
    for n, capacity in ((96, 128), (80, 128), (65, 80), (64, 64), (16, 64), (8, 16), (0, 0)):
        arena.remove(np.arange(n, arena.n))
        assert arena.nbytes == capacity * arena.bytes_per_row, n
        assert_holds(arena, {name: values[:n] for name, values in rows.items()})


@pytest.mark.parametrize("failing_call", [1, 2, 3])
@pytest.mark.parametrize("held", [0, 5, 64, 70])
def test_an_interrupted_append_leaves_n_and_rows_as_before(small_blocks, monkeypatch, held, failing_call):
    """The write of the first, second or third block's codes fails; then the append is tried again."""
    arena = Arena(COLUMNS)
    before = new_rows(1, held)
    append(arena, before)
    added, store, calls = new_rows(2, 150), kernels.to_panels, []

    def failing(*arguments):
        calls.append(arguments)
        if len(calls) == failing_call:
            raise KeyboardInterrupt
        store(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(kernels, "to_panels", failing)
        with pytest.raises(KeyboardInterrupt):
            arena.stage(added)
    assert_holds(arena, before)
    arena.discard()
    assert_holds(arena, before)
    assert len(arena.blocks) == -(-held // BLOCK)
    assert append(arena, added) == held
    assert_holds(arena, joined(before, added))


@pytest.mark.parametrize("n", [96, 100, 112, 127, 128])
def test_adopted_arrays_are_not_copied_but_for_a_part_empty_panel_and_never_written_by_appending(small_blocks, n):
    rows = new_rows(3, n)
    arrays = whole_arrays(rows)
    for array in arrays.values():
        array.flags.writeable = False  # as a mapped file's
    arena = Arena(COLUMNS)
    arena.adopt(arrays, n)
    for name, array in arrays.items():
        assert [np.shares_memory(block[name], array) for block in arena.blocks] == [True, n % 16 == 0]
    added = new_rows(4, 50)
    append(arena, added)
    assert_holds(arena, joined(rows, added))
    assert_array_equal(arrays["codes"], as_panels(rows["codes"], 0))


def test_spans_of_a_range_start_and_stop_there(small_blocks):
    arena, rows = Arena(COLUMNS), new_rows(5, 200)
    append(arena, rows)
    for start in range(0, 200, 32):
        for stop in {start, start + 1, min(start + 17, 200), 128, 199, 200}:
            spans = list(arena.spans(32, start, stop))
            assert sum(span.rows for span in spans) == max(0, stop - start)
            for span in spans:
                for name, values in rows.items():
                    assert_array_equal(span_rows(span, name), values[span.start : span.start + span.rows])


def test_each_row_is_put_where_it_belongs(small_blocks):
    """One row differs at a time."""
    rows, other = new_rows(6, 70), new_rows(7, 1)
    for i in range(70):
        arena = Arena(COLUMNS)
        append(arena, rows)
        arena.put(np.array([i]), other)
        wanted = {name: values.copy() for name, values in rows.items()}
        for name in wanted:
            wanted[name][i] = other[name][0]
        assert_holds(arena, wanted)


def test_an_empty_arena_reads_as_no_rows():
    arena = Arena(COLUMNS)
    assert arena.n == 0 and arena.nbytes == 0 and list(arena.spans(64)) == []
    assert arena.whole("scales").shape == (0, 2) and arena.whole("scales").dtype == np.float32
    assert arena.take("codes", np.empty(0, np.int64)).shape == (0, 3)
    assert append(arena, new_rows(0, 0)) == 0
    old, new = arena.remove(np.empty(0, np.int64))
    assert len(old) == len(new) == 0
