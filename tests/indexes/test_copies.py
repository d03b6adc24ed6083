"""Copies follow their rows: through additions, removals, moves of pages and files."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import polarindex as pi
from polarindex.indexes import arena as arenas
from polarindex.indexes import lists as module
from polarindex.indexes.copies import once_each
from polarindex.indexes.spilling import homes

DIM, NLIST, PANEL = 24, 12, 16


def clustered(n, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((8, DIM)) * 2
    return (centres[rng.integers(0, 8, n)] + rng.standard_normal((n, DIM))).astype(np.float32)


def made(spill, n=0, **options):
    index = pi.IVFIndex(DIM, nlist=NLIST, store="float32", spill=spill, **options).fit(clustered(800, 77))
    index.add(clustered(n))
    return index


@pytest.fixture
def small_blocks(monkeypatch):
    """Four pages a block."""
    monkeypatch.setattr(module, "block_rows", lambda row_bytes: 4 * PANEL)
    monkeypatch.setattr(arenas, "_STEP", PANEL)


def check(index):
    """Every row near a border has one copy, in its second list, with that list's code, and no other row has one."""
    held = index._held
    ids = index.ids
    x, places = index.reconstruct(ids), held.rows.used()
    first, second = homes(x, held.centroids.full, held.centroids.limit)
    assert_array_equal(held.rows.lists_of(places), first)
    there = second >= 0
    at = held.copies.of(places)
    assert_array_equal(at >= 0, there)
    assert len(held.copies) == there.sum() == len(np.unique(at[there]))
    assert_array_equal(held.copies.rows.lists_of(at[there]), second[there])
    words, factors, own, _ = held.copies.rows.taken(at[there])
    wanted = index._coding.coded(x[there], second[there], held.centroids)
    assert_array_equal(words, wanted[0])
    assert_array_equal(factors, wanted[1])
    assert_array_equal(own, places[there])
    assert_array_equal(held.copies.ids_of(held.copies.rows.rows(at[there])), ids[there])
    assert_array_equal(held.copies.lists_of_rows()[places], second)
    mask = np.random.default_rng(len(ids)).random(len(ids)) < 0.5
    over = held.ids.aligned(mask)
    assert_array_equal(over[places], mask)
    assert_array_equal(over[held.rows.places + at[there]], mask[there])
    assert len(over) == held.rows.places + held.copies.rows.places


@pytest.mark.parametrize("spill", [0.4, 1.0])
def test_copies_follow_any_history(spill, small_blocks, tmp_path):
    """Removals of one row and of many, so that rows move and pages do; places that are used again; files."""
    rng = np.random.default_rng(5)
    index = made(spill, 700)
    check(index)
    for step in range(14):
        ids = index.ids
        some = rng.permutation(ids)[: int(len(ids) * rng.choice([0.0, 0.02, 0.5, 0.9]))]
        if step % 3 == 0:
            index.remove(some)
        elif step % 3 == 1:
            index.update(some, clustered(len(some), step))
        else:
            index.upsert(np.concatenate([some, 10**6 * step + np.arange(150)]), clustered(len(some) + 150, step))
        check(index)
        if step in (5, 9):
            index.save(tmp_path / str(step))
            index = pi.load(tmp_path / str(step), mmap=step == 9)
            check(index)
    index.remove(index.ids)
    check(index)
    assert len(index._held.copies) == 0
    index.add(clustered(40), ids=np.arange(2**32, 2**32 + 40))  # rows become a word wider
    check(index)


def test_what_searches_do_not_need_is_made_when_it_is_needed():
    index = made(1.0, 500)
    before = index.nbytes
    index.search(clustered(3, 1), 5)
    index.search(clustered(3, 1), 5, filter=np.ones(500, bool))
    coarse = index._held.scan.coarse.nbytes + index._held.centroids.constants.nbytes
    assert index.nbytes <= before + coarse
    index.search(clustered(3, 1), 5, rerank=0, return_error=True)
    assert index.nbytes > before + coarse, "a table of copies counts"


def test_hits_are_told_once_with_their_best_distance():
    lims, distances = np.array([0, 4, 4, 7]), np.array([1, 2, 2, 3, 1, 5, 6], np.float32)
    ids = np.array([5, 7, 5, 8, 7, 5, 7])
    found = once_each(lims, distances, ids)
    assert [part.tolist() for part in found] == [[0, 3, 3, 5], [1, 2, 3, 1, 5], [5, 7, 8, 7, 5]]
    nothing = once_each(np.zeros(3, np.int64), distances[:0], ids[:0])
    assert [part.tolist() for part in nothing] == [[0, 0, 0], [], []]
