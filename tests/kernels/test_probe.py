"""The scan of lists equals the formula bit for bit: every set, width, tail, number of queries and split of the work."""

from __future__ import annotations

import itertools
from functools import lru_cache

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from polarindex import kernels
from polarindex.codes import RingLayout
from polarindex.indexes.rings import ring_book
from polarindex.kernels import reference

SETS = [name for name in kernels.available() if name != "generic"]
EVERYDAY = [name for name in SETS if name in (SETS[0], "avx2")]
DIMS = (1, 31, 32, 33, 100, 128)
KEEP = (1, 5, 40, 1000)
SIZES = (0, 1, 16, 40, 15, 17, 0, 32, 31, 33, 5, 48, 2)
ASKING = (1, 2, 3, 7, 8, 9, 17)
NQ = 20
ALL = np.empty(0, np.uint8)
GUARD = 64
pytestmark = pytest.mark.skipif(not SETS, reason="only plain loops can run here")


def tags():
    """Sets and bits: 7 s each to compile. `neon` computes in portable instructions where it is not native."""
    for name, bits in itertools.product(SETS, (1, 2, 3, 4, 8)):
        if name in EVERYDAY or bits in (4, 8):
            everyday = (name, bits) in {(SETS[0], 4), (SETS[0], 1), (EVERYDAY[-1], 4)}
            yield pytest.param(name, bits, marks=[] if everyday else pytest.mark.isa)
    if "neon" not in SETS:
        yield pytest.param("neon", 4, marks=pytest.mark.isa)


TAGS = list(tags())
SETS_AT_4 = [tag for tag in TAGS if tag.values[1] == 4]  # for claims that have nothing to do with codes


def nothing_found(nq, keep):
    """Empty candidates inside arrays of guards, and the arrays."""
    room = nq * kernels.candidate_room(keep) + 16
    whole = np.full(GUARD + room + GUARD, 7e33, np.float32), np.full(GUARD + room + GUARD, -77, np.int32)
    parts = [array[GUARD : GUARD + room] for array in whole]
    return (*parts, np.zeros(nq, np.int64), np.full(nq, -np.inf, np.float32)), whole


def as_jobs(jobs, sizes):
    """[(list, members, offsets)] as the kernel takes them."""
    numbers = np.array([number for number, *_ in jobs], np.int32)
    starts = np.cumsum([0, *(len(members) for _, members, _ in jobs)])
    members = np.concatenate([np.empty(0, np.int32), *(members for _, members, _ in jobs)]).astype(np.int32)
    offsets = np.concatenate([np.empty(0, np.float32), *(offsets for *_, offsets in jobs)]).astype(np.float32)
    return numbers, starts, members, offsets, sizes


def scan(name, bits, paged, jobs, queries, allowed, keep, found=None, window=0):
    """The keep best scores and places of each query, after jobs = [(list, members, offsets)] in one call."""
    nq = len(queries[0])
    held, whole = nothing_found(nq, keep) if found is None else found
    isa, alone = (kernels.Isa(name, rows, bits, window) for rows in (8, 1))
    kernels.scan_lists(
        isa, alone, paged.store, paged.code, paged.chains, as_jobs(jobs, paged.sizes), queries, allowed, held, keep
    )
    room = kernels.candidate_room(keep)
    for array, guard in zip(whole, (np.float32(7e33), -77), strict=True):
        assert (array[:GUARD] == guard).all() and (array[-GUARD:] == guard).all(), "written beside the candidates"
    assert (held[2] <= room - 32).all()
    candidates = reference._held_candidates(held)
    for (scores, places), floor in zip(candidates, held[3], strict=True):
        assert len(np.unique(places)) == len(places)
        best = np.sort(scores)[::-1][:keep]
        assert floor <= best[-1] if len(best) == keep else floor == -np.inf
        assert (scores >= floor).all()
    return reference._best_candidates(candidates, paged.store, keep)


def oracle(bits, paged, jobs, queries, allowed, keep, window=0):
    isa, found = kernels.Isa(SETS[0], 8, bits, window), nothing_found(len(queries[0]), keep)[0]
    given = isa, isa, paged.store, paged.code, paged.chains, as_jobs(jobs, paged.sizes), queries, allowed, found, keep
    return reference.scan_lists(*given)


def random_queries(rng, dims, bits, nq=NQ):
    """Levels as quads, one more than a row needs, their sums, and gains."""
    padded = -(-dims // (4 if bits == 8 else 32)) * (4 if bits == 8 else 32)
    levels = np.zeros((nq, padded + 4), np.int8)
    levels[:, :dims] = rng.integers(-127, 128, (nq, dims))
    return levels.view(np.int32), levels.sum(axis=1, dtype=np.int32), rng.random(nq, np.float32)


def random_lists(rng, dims, bits, sizes, scale=1.0, wide=False):
    """Rows with ids that are not in their order."""
    names = rng.permutation(10 * sum(sizes) + 1) + (2**40 if wide else 2**32 - 5000)
    if wide:  # both words decide
        names = (names % 7 << 32) + names // 7
    at, lists = 0, []
    for size in sizes:
        codes = rng.integers(1 if bits == 8 else 0, 2**bits, (size, dims), dtype=np.uint8)
        shifts = np.float32(scale * 1e4) * rng.standard_normal(size, np.float32)
        lists.append((codes, np.float32(scale) * rng.random(size, np.float32), shifts, names[at : at + size]))
        at += size
    return lists


def random_jobs(rng, lists, nq=NQ):
    """Every list, asked by some queries with an offset for each."""
    jobs = []
    for turn, number in enumerate(rng.permutation(lists)):
        members = rng.permutation(nq)[: ASKING[turn % len(ASKING)]]
        jobs.append((number, members, np.float32(1e3) * rng.standard_normal(len(members), np.float32)))
    return jobs


@pytest.fixture(scope="module")
def cases(lay_pages, uneven_table):
    """Of a width: every dimension with every number that is kept; filters, ids and blocks take turns."""

    @lru_cache
    def of(bits):
        found = []
        for number, (dims, keep) in enumerate(itertools.product(DIMS, KEEP)):
            rng = np.random.default_rng([number, bits])
            lists = random_lists(rng, dims, bits, SIZES, wide=number % 3 == 1)
            paged = lay_pages(bits, uneven_table(bits), lists, number % 4, number % 3 == 1, number)
            shares = (None, 0.3, 0.9, None, 0)
            share = shares[(number + number // 5) % 5]
            allowed = ALL if share is None else (rng.random(16 * paged.pages) < share) * np.uint8(1 + number)
            given = paged, random_jobs(rng, len(SIZES)), random_queries(rng, dims, bits), allowed, keep
            found.append((given, oracle(bits, *given)))
        return found

    return of


def assert_same(got, wanted, message=""):
    for one, other in zip(got, wanted, strict=True):
        assert_array_equal(one, other, err_msg=message)


@pytest.mark.parametrize(("name", "bits"), TAGS)
def test_every_width_size_and_tail_equals_the_formula(cases, name, bits):
    for number, (given, wanted) in enumerate(cases(bits)):
        assert_same(scan(name, bits, *given), wanted, f"case {number}")


@pytest.mark.parametrize(("name", "bits"), TAGS)
def test_the_split_of_the_work_does_not_matter(cases, name, bits):
    """Lists in another order; a call a list, whose candidates the next one continues; a call for each query."""
    for number, ((paged, jobs, queries, allowed, keep), wanted) in enumerate(cases(bits)):
        if number % 3:
            continue
        turned = [(one, members[::-1], offsets[::-1]) for one, members, offsets in jobs[::-1]]
        assert_same(scan(name, bits, paged, turned, queries, allowed, keep), wanted, f"case {number}")
        found = nothing_found(NQ, keep)
        for job in jobs:
            got = scan(name, bits, paged, [job], queries, allowed, keep, found)
        assert_same(got, wanted, f"case {number}")
        for q in range(NQ):
            mine = [(one, np.zeros(1, int), offsets[members == q]) for one, members, offsets in jobs if q in members]
            alone = tuple(part[q : q + 1] for part in queries)
            got = scan(name, bits, paged, mine, alone, allowed, keep)
            assert_same(got, [part[q : q + 1] for part in wanted], f"case {number}, query {q}")


def ring_tags():
    for name, window in itertools.product(SETS, (8, 12)):
        marks = pytest.mark.isa if name != SETS[0] else pytest.mark.slow if window == 12 else ()
        yield pytest.param(name, window, marks=marks)
    if "neon" not in SETS:
        yield pytest.param("neon", 8, marks=pytest.mark.isa)


def ring_scene(lay_pages, name, window, bits, dims, number, sizes=SIZES):
    """Lists of random rings with a random book, in pages, and random queries; the levels of all windows."""
    rng = np.random.default_rng([number, bits, dims, window])
    layout = RingLayout(dims, bits, () if window == 8 else tuple(rng.integers(0, 256, 64).tolist()))
    levels = rng.permutation(np.arange(-127, 128).repeat(2)[:256]).astype(np.int8)
    lists = [
        (rng.integers(0, 2**32, (len(ids), layout.words), dtype=np.uint32), *factors, ids)
        for _, *factors, ids in random_lists(rng, dims, bits, sizes, wide=number % 3 == 1)
    ]
    book = ring_book(name, bits, levels, layout.mix)
    paged = lay_pages(bits, book, lists, number % 4, number % 3 == 1, number)
    asked = np.zeros((NQ, layout.padded), np.int8)
    asked[:, :dims] = rng.integers(-127, 128, (NQ, dims))
    return paged, (asked.view(np.int32), asked.sum(axis=1, dtype=np.int32), rng.random(NQ, np.float32)), rng


@pytest.mark.parametrize(("name", "window"), ring_tags())
def test_rings_of_every_width_size_and_tail_equal_the_formula(lay_pages, name, window):
    """Of one text for all widths; in one call, and a call for each query, in filters of many rows, few and none."""
    for number, (bits, dims) in enumerate(itertools.product((1, 2, 3, 4), DIMS)):
        paged, queries, rng = ring_scene(lay_pages, name, window, bits, dims, number)
        keep, share = KEEP[number % len(KEEP)], (None, 0.3, 0.9, 0, None)[number % 5]
        allowed = ALL if share is None else (rng.random(16 * paged.pages) < share) * np.uint8(1 + number)
        jobs = random_jobs(rng, len(SIZES))
        wanted = oracle(1, paged, jobs, queries, allowed, keep, window)
        assert_same(scan(name, 1, paged, jobs, queries, allowed, keep, window=window), wanted, f"{bits}, {dims}")
        for q in range(0, NQ, 7):
            mine = [(one, np.zeros(1, int), offsets[members == q]) for one, members, offsets in jobs if q in members]
            got = scan(name, 1, paged, mine, tuple(part[q : q + 1] for part in queries), allowed, keep, window=window)
            assert_same(got, [part[q : q + 1] for part in wanted], f"{bits}, {dims}, query {q}")


@pytest.mark.parametrize(("name", "bits"), TAGS)
@pytest.mark.parametrize("asking", [1, 3])
def test_each_coordinate_meets_its_own_query_byte(lay_pages, name, bits, asking):
    """One code and one query byte are not zero at a time, so that swapped lanes cannot cancel."""
    dims, table = 70, np.zeros(16, np.int8)
    table[2**bits - 1 << (4 - bits) if bits < 8 else 0] = 100
    codes = np.full((dims, dims), 128 if bits == 8 else 0, np.uint8)
    np.fill_diagonal(codes, 228 if bits == 8 else 2**bits - 1)
    paged = lay_pages(bits, table, [(codes, np.ones(dims), np.zeros(dims), np.arange(dims))])
    levels = np.zeros((dims, 96), np.int8)
    np.fill_diagonal(levels, 1)
    quads, sums, gains = levels.view(np.int32), levels.sum(axis=1, dtype=np.int32), np.ones(dims, np.float32)
    jobs = [(0, members, np.zeros(len(members))) for members in np.array_split(np.arange(dims), -(-dims // asking))]
    scores, places = scan(name, bits, paged, jobs, (quads, sums, gains), ALL, 1)
    assert (scores[:, 0] == 100).all()
    assert_array_equal(places[:, 0], paged.places[0])


@pytest.mark.parametrize(("name", "bits"), SETS_AT_4)
def test_of_equal_keys_the_smaller_ids_win(lay_pages, uneven_table, name, bits):
    """Rows of three kinds with ids in any order, in three layouts, asked alone and together; then all rows equal."""
    rng = np.random.default_rng(5)
    for kinds, wide in itertools.product((3, 1), (False, True)):
        for keep in (5, 40):
            n, dims = 220, 33
            kind = rng.integers(0, kinds, n)
            models = rng.integers(1 if bits == 8 else 0, 2**bits, (kinds, dims), dtype=np.uint8)
            ids = rng.permutation(n) * (2**31 + 3 if wide else 1)
            queries = random_queries(rng, dims, bits)
            winners = []
            for layout in range(3):
                order, cuts = rng.permutation(n), np.sort(rng.integers(0, n, 7))
                lists = [
                    (models[kind[part]], np.ones(len(part)), np.zeros(len(part)), ids[part])
                    for part in np.split(order, cuts)
                ]
                paged = lay_pages(bits, uneven_table(bits), lists, wide=wide, seed=layout)
                asking = (NQ, 3, 1)[layout]
                jobs = [
                    (number, members, np.zeros(len(members)))
                    for number in range(len(lists))
                    for members in np.array_split(np.arange(NQ), -(-NQ // asking))
                ]
                scores, places = scan(name, bits, paged, jobs, queries, ALL, keep)
                if layout == 0:
                    assert_same((scores, places), oracle(bits, paged, jobs, queries, ALL, keep))
                winners.append(reference._ids_at(paged.store, places.ravel()).reshape(places.shape))
                if kinds == 1:
                    assert_array_equal(winners[-1], np.tile(np.sort(ids)[:keep], (NQ, 1)))
            assert_same(winners[1:], [winners[0]] * 2)


@pytest.mark.parametrize(("name", "bits"), SETS_AT_4)
@pytest.mark.parametrize("asking", [2, 3, 8])
def test_a_query_never_writes_among_anothers_candidates(lay_pages, uneven_table, name, bits, asking):
    """Room is filled to the brim with equal keys, whatever the room and what was held before; the second query holds a
    few candidates of other keys already."""
    rng = np.random.default_rng(asking)
    dims, sizes = 9, (1, 3, 5, 7, 8, 9, 11, 13, 15, 32, 32, 48, 64)
    codes = rng.integers(1, 2**bits, (1, dims), dtype=np.uint8)
    at, lists = 0, []
    for size in sizes:
        lists.append((np.tile(codes, (size, 1)), np.zeros(size), np.zeros(size), 1000 - np.arange(at, at + size)))
        at += size
    paged = lay_pages(bits, uneven_table(bits), lists)
    queries = random_queries(rng, dims, bits, asking)
    for keep in range(1, 9):  # every rest that 2 keep + 64 can leave
        for first in range(9):
            others = [(number, np.arange(1, asking), np.full(asking - 1, 5 + number)) for number in range(3)]
            filling = [(number, np.array([0]), np.zeros(1)) for number in (first, 9, 10)]
            together = [(number, np.arange(asking), np.arange(asking)) for number in (11, 12)]
            jobs = others + filling + together
            assert_same(
                scan(name, bits, paged, jobs, queries, ALL, keep), oracle(bits, paged, jobs, queries, ALL, keep)
            )


@pytest.mark.parametrize(("name", "bits"), SETS_AT_4)
@pytest.mark.parametrize("asking", [1, 2, 3, 9])
def test_keys_that_are_no_numbers(lay_pages, uneven_table, rng, name, bits, asking):
    """NaN is never a candidate; -inf comes last and +inf first, and neither touches what fills up a tile."""
    dims, n = 20, 230
    (codes, scales, shifts, ids), = random_lists(rng, dims, bits, [n])
    kinds = np.array([np.nan, np.inf, -np.inf], np.float32)
    for share in (0.02, 0.3, 0.9, 1):
        chosen = rng.random(n) < share
        odd = np.where(chosen, rng.choice(kinds, n), shifts)
        paged = lay_pages(bits, uneven_table(bits), [(codes, scales, odd, ids)])
        queries = random_queries(rng, dims, bits, asking)
        jobs = [(0, np.arange(asking), np.zeros(asking))]
        for keep in (1, 5, 40, 100):
            got = scan(name, bits, paged, jobs, queries, ALL, keep)
            assert_same(got, oracle(bits, paged, jobs, queries, ALL, keep), f"{share}, {keep}")


@pytest.mark.parametrize(("name", "planes"), [tag for tag in TAGS if tag.values[1] <= 4])
def test_the_first_planes_are_scanned_by_their_own_scales_and_shifts(lay_pages, uneven_table, name, planes):
    """Of codes of four planes, behind the two factors; and all four planes, as if the factors were not there."""
    for dims, keep, wide in ((33, 5, False), (100, 40, True)):
        rng = np.random.default_rng([dims, planes])
        lists = random_lists(rng, dims, 4, SIZES, wide=wide)
        firsts = [np.stack([rng.random(n), 1e4 * rng.standard_normal(n)], axis=1) for n in SIZES]
        both = [(*one, first) for one, first in zip(lists, firsts, strict=True)]
        paged = lay_pages(4, uneven_table(4), both, 2, wide)
        words, table, scale_word, _, code_word, law = paged.code
        assert (code_word, scale_word) == (2, 2 + 4 * words)
        jobs, queries = random_jobs(rng, len(SIZES)), random_queries(rng, dims, 4)
        prefix = paged._replace(code=(words, uneven_table(planes), 0, 1, 2, law))
        wanted = reference.scan_lists(
            kernels.Isa(name, 8, planes), None, prefix.store, prefix.code, prefix.chains, as_jobs(jobs, paged.sizes),
            queries, ALL, nothing_found(NQ, keep)[0], keep,
        )
        assert_same(scan(name, planes, prefix, jobs, queries, ALL, keep), wanted, f"{dims}")
        if planes == 4:
            plain = lay_pages(4, table, lists, 2, wide)
            scores, places = scan(name, 4, paged, jobs, queries, ALL, keep)
            other, elsewhere = scan(name, 4, plain, jobs, queries, ALL, keep)
            assert_array_equal(scores, other)
            assert_array_equal(places, elsewhere)


@pytest.mark.parametrize(("name", "bits"), [TAGS[0]])
def test_scale_and_shift_may_be_one_word(lay_pages, uneven_table, name, bits):
    """The word of a scale, read as that of both."""
    rng = np.random.default_rng(3)
    lists = random_lists(rng, 33, bits, SIZES)
    paged = lay_pages(bits, uneven_table(bits), lists, 2)
    words, table, scale_word, *_ = paged.code
    law = np.array([1e13, 1e31, -3e18], np.float32)  # a scale of 2^-1 is 2^-64 then
    paged = paged._replace(code=(words, table, scale_word, scale_word, 0, law))
    jobs, queries = random_jobs(rng, len(SIZES)), random_queries(rng, 33, bits)
    jobs.append((0, np.arange(2), np.zeros(2)))  # one query at a time
    got = scan(name, bits, paged, jobs, queries, ALL, 5)
    assert_same(got, oracle(bits, paged, jobs, queries, ALL, 5))
    assert len(np.unique(got[0])) > 20


@pytest.mark.parametrize(("name", "bits"), [TAGS[0]])
def test_a_list_may_be_named_twice_and_no_list_at_all(cases, name, bits):
    (paged, _, queries, allowed, keep), _ = cases(bits)[2]
    half = np.arange(NQ) < 9
    once = [(3, np.arange(NQ), np.arange(NQ)), (9, np.arange(NQ), -np.arange(NQ))]
    twice = [(one, members[mine], offsets[mine]) for mine in (half, ~half) for one, members, offsets in once]
    wanted = oracle(bits, paged, once, queries, allowed, keep)
    assert_same(scan(name, bits, paged, once, queries, allowed, keep), wanted)
    assert_same(scan(name, bits, paged, twice, queries, allowed, keep), wanted)
    scores, places = scan(name, bits, paged, [], queries, allowed, keep)
    assert np.isnan(scores).all() and (places == -1).all()


@pytest.mark.parametrize(("name", "bits"), TAGS)
def test_only_what_is_allowed_is_found(lay_pages, uneven_table, name, bits):
    """One row at a time, in every lane of a first, a middle and a last page; and each row is seen."""
    rng = np.random.default_rng(1)
    lists = random_lists(rng, 5, bits, [44])
    paged = lay_pages(bits, uneven_table(bits), lists)
    for asking in (1, 3):
        queries = random_queries(rng, 5, bits, asking)
        jobs = [(0, np.arange(asking), np.zeros(asking))]
        for place in paged.places[0]:
            allowed = np.zeros(16 * paged.pages, np.uint8)
            allowed[place] = 255
            _, places = scan(name, bits, paged, jobs, queries, allowed, 3)
            assert_array_equal(places, np.tile([place, -1, -1], (asking, 1)))


def test_the_pages_of_lists_in_the_order_of_their_chains(rng):
    heads = np.array([4, -1, 0, 7], np.int32)
    following = np.array([3, 2, -1, -1, 1, 5, 6, -1], np.int32)
    lists = np.array([3, 0, 1, 2, 0], np.int32)
    pages, ends = np.full(11, -7, np.int32), np.full(5, -7)
    kernels.list_pages((heads, following), lists, pages, ends)
    assert pages.tolist() == [7, 4, 1, 2, 0, 3, 4, 1, 2, -7, -7] and ends.tolist() == [1, 4, 4, 6, 9]
    assert_same(reference.list_pages((heads, following), lists), (pages[:9], ends))
