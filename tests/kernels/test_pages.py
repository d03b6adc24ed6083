"""Chains of pages are lists: a removal swaps a row with the last one, and rows are found by their ids."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from polarindex import kernels

PAGES, PANEL = 96, 16
CODES, FACTORS = 3, 2  # words


class World:
    """Lists of pages, a hash table, and beside them Python lists of ids."""

    def __init__(self, nlist, wide, page_bits, rng):
        self.rng, self.nlist, self.wide = rng, nlist, wide
        self.width, self.id_word = CODES + FACTORS + 1 + wide, CODES + FACTORS
        self.blocks = [
            rng.integers(0, 2**32, (2**page_bits, self.width, PANEL), dtype=np.uint32)
            for _ in range(-(-PAGES // 2**page_bits))
        ]
        self.store = np.array([block.ctypes.data for block in self.blocks]), page_bits, self.width, self.id_word
        self.lists = (
            np.full(nlist, -1, np.int32), np.full(PAGES, -1, np.int32), np.full(PAGES, -1, np.int32),
            np.zeros(nlist, np.int64),
        )
        self.table = np.full(4096, -1, np.int64), np.full(4096, -1, np.int64)
        self.free = rng.permutation(PAGES).astype(np.int32)
        self.model = [[] for _ in range(nlist)]
        self.rows = {}

    @property
    def ids(self):
        return [ident for part in self.model for ident in part]

    def words_of(self, ids):
        """(n, width) words of rows that are there."""
        names = np.array(ids, np.int64).reshape(-1, 1) >> np.array([0, 32])[: 1 + self.wide] & 0xFFFFFFFF
        rows = np.array([self.rows[ident] for ident in ids], np.uint32).reshape(len(ids), CODES + FACTORS)
        return np.concatenate([rows, names.astype(np.uint32)], axis=1)

    def add(self, lists):
        heads, following, owners, sizes = self.lists
        lists = np.array(lists, np.int32)
        ids = np.array([], np.int64)
        while len(ids) < len(lists):
            drawn = self.rng.integers(0, 2**62 if self.wide else 2**32, len(lists))
            ids = np.setdiff1d(drawn, self.ids)
        ids = self.rng.permutation(ids)
        added, wanted = np.zeros(self.nlist, np.int64), np.full(self.nlist, -7)
        kernels.pages_wanted(lists, sizes, added, wanted)
        assert_array_equal(added, np.bincount(lists, minlength=self.nlist))
        assert_array_equal(wanted, -(-(sizes + added) // PANEL) + -sizes // PANEL)
        fresh, self.free = np.split(self.free, [wanted.sum()])
        places = np.full(len(lists), -7)
        kernels.place_rows(lists, heads, sizes, fresh, wanted, places)
        rows = self.rng.integers(0, 2**32, (len(lists), CODES + FACTORS), dtype=np.uint32)
        kernels.write_rows(self.store, places, rows[:, :CODES].copy(), rows[:, CODES:].copy(), ids)
        self.check(fresh)  # nothing is part of a list yet
        kernels.link_pages(heads, following, owners, sizes, fresh, wanted, added)
        kernels.table_insert(*self.table, ids, places)
        for l, ident, row in zip(lists.tolist(), ids.tolist(), rows, strict=True):  # noqa: E741
            self.model[l].append(ident)
            self.rows[ident] = row

    def remove(self, ids):
        before = {place: ident for l in range(self.nlist) for place, ident in self.chain(l)}  # noqa: E741
        moves, freed = np.full((len(ids), 2), -7), np.full(len(ids), -7, np.int32)
        count = kernels.remove_rows(self.store, self.table, self.lists, np.array(ids, np.int64), moves, freed)
        assert (freed[count:] == -7).all()
        for ident, (source, target) in zip(ids, moves.tolist(), strict=True):
            part = next(part for part in self.model if ident in part)
            last = part.pop()
            if last == ident:
                assert (source, target) == (-1, -1)
            else:
                part[part.index(ident)] = last
                assert (before.pop(source), before[target]) == (last, ident)
                before[target] = last  # which may move again
        self.free = np.concatenate([self.free, freed[:count]])

    def chain(self, number):
        """(place, id) of a list's rows, the first one first."""
        heads, following, owners, sizes = self.lists
        pages, page = [], heads[number]
        while page >= 0:
            assert owners[page] == number
            pages.insert(0, int(page))
            page = following[page]
        assert len(pages) == -(-sizes[number] // PANEL)
        places = [16 * page + lane for page in pages for lane in range(PANEL)][: sizes[number]]
        return list(zip(places, self.model[number], strict=True))

    def check(self, staged=()):
        heads, _, owners, sizes = self.lists
        assert sizes.tolist() == [len(part) for part in self.model]
        filled = np.zeros(PAGES, int)
        for number in range(self.nlist):
            chain = self.chain(number)
            places, ids = np.array([place for place, _ in chain], np.int64), [ident for _, ident in chain]
            rows = np.full((len(ids), self.width), 7, np.uint32)
            kernels.read_rows(self.store, places, rows)
            assert_array_equal(rows, self.words_of(ids))
            found = np.full(len(ids), -7)
            kernels.table_find(*self.table, np.array(ids, np.int64), found)
            assert_array_equal(found, places)
            filled += np.bincount(places // PANEL, minlength=PAGES)
        assert (self.table[0] >= 0).sum() == len(self.ids)
        assert_array_equal(np.sort(np.concatenate([self.free, staged])), np.flatnonzero(filled == 0))
        assert_array_equal(owners >= 0, filled > 0)
        got = np.full(PAGES, -7)
        kernels.page_fill(self.lists, got)
        assert_array_equal(got, filled)


@pytest.mark.parametrize("page_bits", [0, 3])
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("nlist", [1, 2, 7])
def test_rows_come_and_go(nlist, wide, page_bits):
    rng = np.random.default_rng(nlist)
    world = World(nlist, wide, page_bits, rng)
    for _ in range(60):
        room = 16 * (len(world.free) - nlist)
        world.add(rng.integers(0, nlist, rng.integers(0, max(1, min(room, 150)))))
        world.check()
        ids = rng.permutation(world.ids)
        world.remove(ids[: rng.integers(0, len(ids) + 1) if rng.random() < 0.7 else len(ids)].tolist())
        world.check()


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 31, 32, 33])
@pytest.mark.parametrize("more", [0, 1, 15, 16, 17, 48, 49])
def test_every_fill_of_the_first_page_grows_by_every_tail(size, more):
    """Lists beside it grow too; then rows go one by one, from the front and from the back."""
    rng = np.random.default_rng(1)
    for front in (True, False):
        world = World(3, False, 1, rng)
        world.add([1] * size + [0] * 5)
        world.add([1] * more + [2] * 3)
        world.check()
        while world.model[1]:
            world.remove([world.model[1][0 if front else -1]])
            world.check()
        assert len(world.free) == PAGES - 2


def test_pages_move_and_chains_follow(rng):
    """Any used pages into any free ones: to the front of a chain, its middle and its end, several of one chain."""
    for turn in range(30):
        world = World(4, False, 2, np.random.default_rng(turn))
        world.add(rng.integers(0, 4, 500))
        heads, following, owners, sizes = world.lists
        sources = rng.permutation(np.flatnonzero(owners >= 0))[: rng.integers(0, 20)].astype(np.int32)
        targets = rng.permutation(world.free)[: len(sources)].copy()
        for source, target in zip(sources, targets, strict=True):
            places = np.arange(16) + 16 * np.array([[source], [target]])
            rows = np.empty((16, world.width), np.uint32)
            kernels.read_rows(world.store, places[0], rows)
            factors, names = rows[:, CODES : CODES + FACTORS].copy(), rows[:, -1].astype(np.int64)
            kernels.write_rows(world.store, places[1], rows[:, :CODES].copy(), factors, names)
        kernels.relink(world.lists, sources, targets)
        world.free = np.concatenate([np.setdiff1d(world.free, targets), sources])
        for number in range(4):
            chain = world.chain(number)
            places, ids = (np.array(part, np.int64) for part in zip(*chain, strict=True))
            kernels.table_insert(*world.table, ids, places)
        assert (owners[sources] == -1).all()
        world.check()


def test_no_row_is_read_at_a_negative_place(rng):
    world = World(1, True, 0, rng)
    world.add([0] * 20)
    rows = np.full((3, world.width), 7, np.uint32)
    place, ident = world.chain(0)[17]
    kernels.read_rows(world.store, np.array([-1, place, -5]), rows)
    assert_array_equal(rows[1:2], world.words_of([ident]))
    assert not rows[[0, 2]].any()
