"""The device's search of lists in NumPy is right, and is the CPU's: everywhere, without a card."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import polarindex as pi
from polarindex import kernels
from polarindex.codes import PANEL
from polarindex.gpu import lists_reference as twin
from polarindex.gpu import probing
from polarindex.gpu.layout import TILE, Layout
from polarindex.gpu.lists import ListMirror, _ids_by_place
from polarindex.gpu.probing import ITEM_PAGES, most_queries, room_of, scan_shape
from polarindex.gpu.shapes import Card
from polarindex.gpu.source import lists_source
from polarindex.indexes.coarse import _coded_scores
from polarindex.indexes.grouping import Groups
from polarindex.indexes.originals import score_rows
from polarindex.kernels.limits import EMPTY_ID, INNER_PRODUCT, L2

WIDTHS = (1, 2, 3, 4, 8)
H100, TURING = Card((9, 0), 132, 232_448), Card((7, 5), 40, 65_536)
seeds = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("bits", WIDTHS)
def test_four_pages_are_a_tile(bits, rng):
    layout = Layout(bits, 300)
    codes = rng.integers(0, 1 << min(bits, 7), (TILE, 300)).astype(np.uint8)
    pages = twin.pages(layout, codes)
    assert pages.shape == (4, layout.tile_bytes // 4)
    for quarter in range(4):  # alone in a tile, at its place, a page's rows are the tile's
        alone = np.zeros_like(codes)
        mine = slice(PANEL * quarter, PANEL * (quarter + 1))
        alone[mine] = codes[mine]
        np.testing.assert_array_equal(twin.pages(layout, alone)[quarter], pages[quarter])
    first = np.zeros_like(codes)
    first[:PANEL] = codes[3 * PANEL :]
    np.testing.assert_array_equal(twin.pages(layout, first)[0], pages[3])  # where it is in a tile says nothing


@given(seeds, st.integers(1, 60), st.booleans())
def test_a_limit_leaves_as_many_as_are_wanted(seed, n, equal):
    rng = np.random.default_rng(seed)
    keys = rng.integers(0, 4 if equal else 2**32, n).astype(np.uint32)
    numbers, wanted = rng.permutation(2 * n)[:n], int(rng.integers(1, n + 1))
    chosen = twin.within(keys, numbers, twin.limit_of(keys, numbers, wanted))
    expected = np.lexsort((numbers, -keys.astype(np.int64)))[:wanted]
    np.testing.assert_array_equal(np.flatnonzero(chosen), np.sort(expected))


@given(seeds, st.sampled_from([1, 7, 16, 17, 100, 128, 333]))
def test_sums_are_those_of_the_host_to_the_bit(seed, d):
    rng = np.random.default_rng(seed)
    rows, queries = (np.exp2(rng.uniform(-9, 9, (3, d))).astype(np.float32) * rng.choice([-1, 1], (3, d)) for _ in "ab")
    rows, queries = rows.astype(np.float32), queries.astype(np.float32)
    out = np.empty((3, 3))
    numbers = np.tile(np.arange(3), (3, 1))
    score_rows(rows, numbers, queries, INNER_PRODUCT, out)
    np.testing.assert_array_equal(out, [[twin.lanes_sum(row, q) for row in rows] for q in queries])
    score_rows(rows, numbers, queries, L2, out)
    np.testing.assert_array_equal(out, [[twin.lanes_sum(row - q, row - q) for row in rows] for q in queries])


@given(seeds, st.sampled_from([1, 2, 8, 32]), st.sampled_from([1, 3, 32]))
def test_items_are_every_pair_and_page_once(seed, queries, pages):
    rng = np.random.default_rng(seed)
    nlist = int(rng.choice([1, 2, 31, 33, 200]))
    tally = rng.integers(0, 50, nlist) * (rng.random(nlist) < 0.6)
    sizes = rng.integers(0, 9, nlist) * (rng.random(nlist) < 0.6)
    pairs = np.concatenate([[0], np.cumsum(tally)])
    seen = {}
    for item in twin.items(tally, sizes, queries, pages):
        assert 1 <= item.pairs <= queries and 1 <= item.last - item.first <= pages
        for pair in range(item.begin, item.begin + item.pairs):
            assert pairs[item.number] <= pair < pairs[item.number + 1]
            for page in range(item.first, item.last):
                seen[pair, page] = seen.get((pair, page), 0) + 1
    wanted = {(pair, page) for i in range(nlist) for pair in range(pairs[i], pairs[i + 1]) for page in range(sizes[i])}
    assert set(seen) == wanted and set(seen.values()) <= {1}


@given(seeds, st.integers(1, 40), st.sampled_from(["plain", "ties", "equal", "few"]))
def test_the_best_rows_are_found_whatever_the_order_of_pages(seed, keep, kind):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 60))
    keys = rng.normal(size=(count, PANEL)).astype(np.float32)
    if kind == "ties":
        keys = rng.integers(0, 3, keys.shape).astype(np.float32)
    if kind == "equal":
        keys[:] = 1
    keys[rng.random(keys.shape) < (0.9 if kind == "few" else 0.1)] = -np.inf
    ids = rng.permutation(keys.size * 3)[: keys.size].reshape(keys.shape)
    room, warps = 2 * keep + 2 * PANEL, 2
    found, names, _ = twin.best_rows(keys, ids, keep, room, warps, rng.permutation(count))
    flat = keys.ravel() > -np.inf
    order = np.lexsort((ids.ravel()[flat], -keys.ravel()[flat]))[:keep]
    np.testing.assert_array_equal(names, ids.ravel()[flat][order])
    np.testing.assert_array_equal(found, keys.ravel()[flat][order])


def test_more_ties_than_there_is_room_for_are_cut(rng):
    keys, ids = np.zeros((200, PANEL), np.float32), rng.permutation(200 * PANEL).reshape(200, PANEL)
    _, names, cuts = twin.best_rows(keys, ids, 10, 512, 8, np.arange(200))
    np.testing.assert_array_equal(names, np.arange(10))
    assert cuts > 1


def found_by_twin(index, q, k, nprobe, gap, allowed=None):
    """A whole search as the device goes about it, with the host's keys."""
    held = index._held
    rows, coarse, coding = held.rows, held.scan.coarse, index._coding
    queries = coding.codable(q, "q")
    centred = queries - held.centroids.mu
    groups, integers = coarse.groups, coarse._integers(coarse.quantizer, centred)
    scores = _coded_scores(coarse.quantizer, integers, coarse.lists(coarse.quantizer), rows.nlist)
    group_scores = _coded_scores(coarse.quantizer, integers, coarse.centres(coarse.quantizer), groups.total)
    by_place, sign = _ids_by_place(rows), np.float32(-1 if index.metric == "l2" else 1)
    constants = coding.constants(queries, held.centroids)
    distances = np.full((len(q), k), sign * np.float32(-np.inf), np.float32)
    ids = np.full((len(q), k), -1)
    keep = max(1, min(k, len(index)))
    for i in range(len(q)):
        lists = twin.choose_lists(
            scores[i], group_scores[i], groups.order, groups.size, groups.looked(nprobe), nprobe, gap
        )
        pages = np.empty(int((-(-rows.sizes[lists] // PANEL)).sum()), np.int32)
        kernels.list_pages(rows.chains, lists.astype(np.int32), pages, np.empty(len(lists), np.int64))
        places = pages.astype(np.int64)[:, None] * PANEL + np.arange(PANEL)
        there = by_place[places] != EMPTY_ID
        keys = np.full(places.shape, -np.inf, np.float32)
        keys[there] = held.scan.whole_keys(centred[i : i + 1], places[there][None], 8)[0]
        if allowed is not None:
            keys[there] = np.where(allowed[by_place[places[there]]], keys[there], np.float32(-np.inf))
        best, names, _ = twin.best_rows(keys, by_place[places], keep, room_of(keep), 8, np.arange(len(pages))[::-1])
        best = (best.astype(np.float64) + constants[i]).astype(np.float32)
        order = np.lexsort((names, -best))
        distances[i, : len(order)], ids[i, : len(order)] = sign * best[order], names[order]
    return distances, ids


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("nlist", [12, 90])  # one group of centroids, and several
def test_the_twin_finds_what_the_cpu_finds(metric, nlist, rng):
    dim = 40
    x = (rng.normal(size=(2500, dim)) + 3 * rng.normal(size=(20, dim))[rng.integers(20, size=2500)]).astype(np.float32)
    index = pi.IVFIndex(dim, metric=metric, nlist=nlist).fit(x[:1500])
    if nlist == 90:
        looks = np.array([2, 2, 2, 2, 2, 3, 5, 6], np.int32)
        index._take(index._held.centroids, Groups(rng.permutation(nlist).astype(np.int32), 16, looks))
    index.add(x)
    index.remove(np.flatnonzero(rng.random(2500) < 0.2))
    q, allowed = x[:12] + np.float32(0.1), rng.random(2500) < 0.3
    for nprobe, gap, k in ((1, np.inf, 3), (4, np.inf, 10), (5, 0.5, 10), (nlist, np.inf, 40)):
        for mask in (None, allowed):
            expected = index.search(
                q, k, nprobe=nprobe, gap=gap, filter=None if mask is None else np.flatnonzero(mask), exact_scan=True
            )
            distances, ids = found_by_twin(index, q, k, nprobe, gap, mask)
            np.testing.assert_array_equal(ids, expected[1])
            np.testing.assert_array_equal(distances, expected[0])


def test_ids_by_place_are_those_of_the_rows_that_are_there(rng):
    index = pi.IVFIndex(16, nlist=9).fit(rng.normal(size=(200, 16)))
    index.add(rng.normal(size=(500, 16)))
    index.remove(rng.permutation(500)[:300])
    found = _ids_by_place(index._held.rows)
    places = index._id_map.positions(index.ids)
    np.testing.assert_array_equal(found[places], index.ids)
    assert (found != EMPTY_ID).sum() == len(index)


@pytest.mark.parametrize("bits", WIDTHS)
def test_every_card_has_a_scan_that_fits(bits):
    for card in (H100, TURING):
        for dim in (1, 128, 1536, 8192, 60_000):
            for queries in (0.1, 3, 20, 1000):
                form = scan_shape(card, Layout(bits, dim), queries)
                assert form.shared <= card.shared
                assert form.mma == (card is H100 and 8 * Layout(bits, dim).padded <= card.shared - 4096)
    with pytest.raises(ValueError, match="do not fit"):
        scan_shape(TURING, Layout(bits, 130_000), 1)


@pytest.mark.parametrize("keep", [1, 10, 40, 512, 2800, 10**6])
def test_there_is_room_for_what_is_kept_and_a_round(keep):
    assert room_of(keep) >= keep + PANEL * 8
    assert room_of(keep) & (room_of(keep) - 1) == 0
    for width in (1, 10**4, 10**8):
        assert 1 <= most_queries(4000, width, keep, 32, 128)


@given(seeds)
def test_pages_that_are_not_sent_again_are_as_they_were(seed):
    """Whatever rows were added, removed, updated and moved: what a copy keeps is what the host has."""
    rng = np.random.default_rng(seed)
    index = pi.IVFIndex(8, nlist=6, seed=1).fit(rng.normal(size=(60, 8)))
    mirror = ListMirror(index._coding, "none", 0)
    index._note = mirror.note  # as GpuIVFIndex does
    index.add(rng.normal(size=(int(rng.integers(1, 400)), 8)))
    mirror.note_everything()
    for _ in range(3):
        mirror._sent = _ids_by_place(index._held.rows)
        mirror._stale.clear()
        before = words_by_page(index)
        for _ in range(int(rng.integers(1, 4))):
            some = rng.permutation(index.ids)[: int(rng.integers(0, len(index) + 1))]
            match rng.integers(4):
                case 0:
                    index.remove(some)
                case 1:
                    index.update(some[:50], rng.normal(size=(len(some[:50]), 8)))
                case 2:
                    index.add(rng.normal(size=(int(rng.integers(1, 90)), 8)))
                case 3:
                    index.upsert(some[:9] + rng.integers(2), rng.normal(size=(len(some[:9]), 8)))
        after = words_by_page(index)
        kept = np.setdiff1d(np.arange(len(after)), mirror._changed_pages(_ids_by_place(index._held.rows)))
        assert (kept < len(before)).all()
        np.testing.assert_array_equal(after[kept], before[kept])


def words_by_page(index):
    """Words of all places, 0 where no row is."""
    rows = index._held.rows
    words = rows.rows(np.arange(rows.places))
    words[_ids_by_place(rows) == EMPTY_ID] = 0
    return words.reshape(-1, PANEL, rows.width)


def test_what_kernels_are_told_is_what_they_read():
    """The struct of the kernels' text has the fields of the host's, in their order."""
    text = re.sub(r"//[^\n]*", "", lists_source("probe").split("struct Lists {")[1].split("};")[0])
    kinds = r"(?:const |u?int8_t|u?int32_t|float|double|long long|void|Pick|Pair|Table|int|\s|\*)+"
    fields = [name.strip() for line in text.split(";") for name in re.sub(f"^{kinds} ", "", line.strip()).split(",")]
    assert [name.split()[-1].lstrip("*") for name in fields if name] == list(probing._LISTS.names)


def test_a_blocks_warps_share_an_item_evenly():
    assert ITEM_PAGES % (2 * probing._WARPS) == 0  # two pages each


def test_indexes_merge_whichever_of_them_are_on_a_gpu(devices, rng):
    x = rng.standard_normal((600, 16)).astype(np.float32)
    cpu = pi.IVFIndex(16, nlist=4)
    cpu.fit(x)
    gpu, other = cpu.to_gpu(), cpu.to_gpu()
    gpu.add(x[:300], np.arange(300))
    other.add(x[300:], np.arange(300, 600))
    gpu.merge(other)
    cpu.merge(gpu)
    (like := other.empty_like()).merge(cpu)
    for index in (gpu, cpu, like):
        np.testing.assert_array_equal(np.sort(index.ids), np.arange(600))
