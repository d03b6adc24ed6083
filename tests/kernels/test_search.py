"""A search is its parts one after the other: which lists, their offsets, their scan, and the order of the best."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from polarindex import kernels
from polarindex.indexes.lines import line_code
from polarindex.indexes.lists import Lists
from polarindex.indexes.originals import original_columns, pack_originals
from polarindex.indexes.probing import ListScan, Probes
from polarindex.indexes.residuals import ResidualCoding
from polarindex.kernels import reference
from polarindex.kernels.limits import COSINE, INNER_PRODUCT, L2, LONGEST
from polarindex.kernels.search import NEAR
from polarindex.quantizers import EDEN

SETS = [name for name in kernels.available() if name != "generic"]
EVERYDAY = [name for name in SETS if name in (SETS[0], "avx2")]
NAMED = [pytest.param(name, marks=[] if name in EVERYDAY[:1] else pytest.mark.isa) for name in EVERYDAY]
METRICS = {"l2": L2, "ip": INNER_PRODUCT, "cosine": COSINE}
needs_registers = pytest.mark.skipif(not SETS, reason="only plain loops can run here")
ALL = np.empty(0, np.uint8)
POISON = np.float32(np.nan)


def assert_same(got, wanted, message=""):
    for one, other in zip(got, wanted, strict=True):
        assert_array_equal(one, other, err_msg=message)


# --- parts


def rounded(y, m):
    quads, sums, peaks = np.full((len(y), m), 77, np.int32), np.full(len(y), 77, np.int32), np.full(len(y), POISON)
    kernels.round_queries(y, quads, sums, peaks)
    return quads, sums, peaks


@pytest.mark.parametrize("d", [1, 3, 4, 31, 32, 33, 100])
@pytest.mark.parametrize("spare", [0, 8])
def test_queries_are_rounded_to_127_steps_of_their_peak(rng, d, spare):
    y = rng.normal(size=(9, d)).astype(np.float32)
    y[1], y[2], y[3, d // 2], y[4] = 0, 1e-45, -50, np.float32(3e38)
    m = -(-d // 4) + spare
    quads, sums, peaks = rounded(y, m)
    assert_same((quads, sums, peaks), reference.round_queries(y, m))
    levels = quads.view(np.int8)
    assert levels.min() >= -127 and not levels[1].any() and not levels[:, d:].any()
    for q in (0, 3, 4):
        assert np.abs(levels[q].astype(int)).max() == 127
    assert [len(part) for part in rounded(y[:0], m)] == [0, 0, 0]


@needs_registers
@pytest.mark.parametrize("name", NAMED)
def test_the_nearest_lists_are_those_of_the_largest_scores(lay_pages, name):
    """One query, fewer and more than pass over the centres together; equal scores, and NaN beyond the last list.

    Scores are whole numbers, so that a list can be at the gap exactly.
    """
    isa, alone = kernels.Isa(name, 8, 8), kernels.Isa(name, 1, 8)
    for nlist, kinds, d in ((1, 1, 5), (7, 7, 33), (100, 100, 100), (100, 4, 12)):
        rng = np.random.default_rng([nlist, kinds])
        padded = -(-nlist // 16) * 16
        codes = rng.integers(1, 256, (kinds, d), dtype=np.uint8)[rng.integers(0, kinds, padded)]
        shifts = np.zeros(padded) if kinds < nlist else rng.integers(-9999, 9999, padded).astype(np.float32)
        shifts[nlist:] = np.nan
        rows = codes, np.ones(padded), shifts, np.arange(padded)
        paged = lay_pages(8, np.zeros(16, np.int8), [rows], in_order=True)
        side = paged.store, paged.code, paged.chains, paged.sizes
        coarse = *side, side, len(paged.chains[1]), np.ones(8, np.int32)
        for nq, nprobe in itertools.product((1, 3, 64, 65, 130), sorted({1, min(5, nlist), nlist})):
            levels = np.zeros((nq, -(-d // 4) * 4), np.int8)
            levels[:, :d] = rng.integers(-127, 128, (nq, d))
            queries = levels.view(np.int32), levels.sum(axis=1, dtype=np.int32), np.ones(nq, np.float32)
            (every, numbers) = every_score(isa, side, queries, nlist)
            for gap in (0.0, every[0, 0] - every[0, nprobe // 2], 30_000.0, np.inf):
                picked = np.full((nq, nprobe), -7, np.int32), np.full(nq, -7)
                kernels.nearest_lists(isa, alone, coarse, queries, nprobe, np.float32(gap), picked)
                lists, counts = reference.nearest_lists(isa, alone, coarse, queries, nprobe, gap)
                assert_array_equal(picked[1], counts)
                for q, count in enumerate(counts):
                    found = picked[0][q, :count]
                    assert_array_equal(np.sort(found), lists[q, :count])
                    assert (picked[0][q, count:] == -7).all()
                    scores = every[q, np.argsort(numbers[q])][found]
                    best, worst = every[q, 0], every[q, nprobe - 1]
                    near = scores >= max(best - np.float32(gap), best - NEAR * (best - worst))
                    assert not (near[1:] > near[:-1]).any(), "near lists come first"


@needs_registers
@pytest.mark.parametrize("name", NAMED)
def test_the_nearest_lists_are_those_of_the_nearest_groups(lay_pages, name):
    """The last group is part of a page, and of fewer pages; equal scores of groups, and of lists in several groups."""
    isa, alone = kernels.Isa(name, 8, 8), kernels.Isa(name, 1, 8)
    for nlist, pages, kinds in ((40, 1, 40), (100, 2, 100), (100, 2, 3), (17, 1, 17)):
        rng = np.random.default_rng([nlist, kinds])
        made = -(-nlist // (16 * pages))

        def side(count, ids, rng=rng, kinds=kinds):
            padded = -(-count // 16) * 16
            codes = rng.integers(1, 256, (kinds, 33), dtype=np.uint8)[rng.integers(0, kinds, padded)]
            shifts = np.full(padded, np.nan)
            shifts[:count] = rng.integers(-9, 9, count) if kinds == count else 0
            rows = codes, np.ones(padded), shifts, np.pad(ids, (0, padded - count))
            paged = lay_pages(8, np.zeros(16, np.int8), [rows], in_order=True)
            return (paged.store, paged.code, paged.chains, paged.sizes), paged

        coarse, held = side(nlist, rng.permutation(nlist))
        groups, held_groups = side(made, np.arange(made))
        for nq, look in itertools.product((1, 2, 3, 70), range(1, made + 1)):
            levels = np.zeros((nq, 36), np.int8)
            levels[:, :33] = rng.integers(-127, 128, (nq, 33))
            queries = levels.view(np.int32), levels.sum(axis=1, dtype=np.int32), np.ones(nq, np.float32)
            sure = (look - 1) * 16 * pages + nlist - (made - 1) * 16 * pages
            for nprobe in sorted({1, 2, 3, 4, 5, sure} & set(range(1, sure + 1))):
                looks = np.full(8, 99, np.int32)
                looks[int(np.ceil(np.log2(nprobe)))] = look
                told = *coarse, groups, pages, looks
                for gap in (0.0, 5_000.0, np.inf):
                    picked = np.full((nq, nprobe), -7, np.int32), np.full(nq, -7)
                    kernels.nearest_lists(isa, alone, told, queries, nprobe, np.float32(gap), picked)
                    lists, counts = reference.nearest_lists(isa, alone, told, queries, nprobe, gap)
                    assert_array_equal(picked[1], counts)
                    for q, count in enumerate(counts):
                        assert_array_equal(np.sort(picked[0][q, :count]), lists[q, :count], f"{nlist}, {nq}, {look}")
        assert held and held_groups  # whose memory was read


def every_score(isa, coarse, queries, nlist):
    """Scores and numbers (nq, nlist) of all lists, best first."""
    store, code, chains, sizes = coarse
    nq = len(queries[0])
    jobs = np.zeros(1, np.int32), np.array([0, nq]), np.arange(nq), np.zeros(nq, np.float32), sizes
    none = np.empty(16, np.float32), np.empty(16, np.int32), np.zeros(nq, np.int64), np.zeros(nq, np.float32)
    return reference.scan_lists(isa, isa, store, code, chains, jobs, queries, ALL, none, nlist)


@pytest.mark.parametrize("metric", [L2, INNER_PRODUCT])
@pytest.mark.parametrize("nq", [1, 2, 9])
def test_queries_are_grouped_by_list_with_exact_offsets(rng, metric, nq):
    """Some queries probe nothing, one all lists; no query probes the last list."""
    for d, nlist in itertools.product((1, 15, 16, 17, 100), (1, 2, 30)):
        centres, queries = (rng.normal(size=(n, d)).astype(np.float32) for n in (nlist, nq))
        constants = rng.normal(size=nlist).astype(np.float32)
        counts = rng.integers(0, nlist + 1, nq)
        counts[-1] = nlist
        probes = np.full((nq, nlist), 2**31 - 1, np.int32)
        for q, count in enumerate(counts):
            probes[q, :count] = rng.permutation(nlist)[:count]
        pairs = counts.sum()
        jobs = (
            np.full(pairs, -7, np.int32), np.full(pairs + 1, -7), np.full(pairs, -7, np.int32), np.full(pairs, POISON)
        )
        made = kernels.group_by_list(metric, centres, constants, queries, (probes, counts), jobs)
        wanted = reference.group_by_list(metric, centres, constants, queries, (probes, counts))
        assert made == len(wanted[0])
        assert_same((jobs[0][:made], jobs[1][: made + 1], *jobs[2:]), wanted, f"{d}, {nlist}")


@pytest.mark.parametrize("counts", [[1, 1], [3], [1, 6, 1, 4], [2, 0, 5]])
def test_jobs_of_queries_asked_apart_are_those_of_all(rng, counts):
    """One query's lists are in no order; a part may have no query, and a query no list."""
    nlist, d = 30, 5
    centres, queries = (rng.normal(size=(n, d)).astype(np.float32) for n in (nlist, sum(counts)))
    probed = rng.integers(0, nlist // 2, sum(counts))
    probes = np.argsort(rng.random((sum(counts), nlist)), axis=1).astype(np.int32)
    parts, at = [], 0
    for count in counts:
        mine = slice(at, at + count)
        picked = probes[mine], probed[mine]
        parts.append(reference.group_by_list(L2, centres, np.zeros(nlist, np.float32), queries[mine], picked))
        at += count
    firsts, pairs = np.cumsum([0, *counts[:-1]]), probed.sum()
    told = [
        (first, len(part[0]), *(array.ctypes.data for array in part))
        for first, part in zip(firsts, parts, strict=True)
    ]
    jobs = (
        np.full(nlist, -7, np.int32), np.full(nlist + 1, -7), np.full(pairs, -7, np.int32), np.full(pairs, POISON)
    )
    made = kernels.join_jobs(np.array(told), jobs)
    got = jobs[0][:made], jobs[1][: made + 1], *jobs[2:]
    assert_same(got, reference.join_jobs(parts, counts))
    if len(queries) > 1:
        wanted = reference.group_by_list(L2, centres, np.zeros(nlist, np.float32), queries, (probes, probed))
        assert_same(got, wanted)


def random_found(rng, paged, nq, keep, counts, kinds):
    """Candidates of queries: counts of the rows that there are, scores of so many kinds."""
    places = np.concatenate(paged.places)
    room = kernels.candidate_room(keep)
    found = np.full(nq * room + 16, POISON), np.full(nq * room + 16, -77, np.int32)
    for q, count in enumerate(counts):
        mine = slice(q * room, q * room + count)
        found[0][mine] = rng.integers(-kinds, kinds, count) * np.float32(0.125)
        found[1][mine] = rng.permutation(places)[:count]
    return (*found, np.array(counts), np.full(nq, -np.inf, np.float32))


@pytest.fixture
def some_rows(lay_pages, uneven_table):
    """300 rows in three lists, ids of two words."""

    def rows(wide=True):
        rng = np.random.default_rng(8)
        ids = rng.permutation(300) * (2**33 + 1 if wide else 1)
        parts = np.split(np.arange(300), [50, 171])
        rows = np.zeros((300, 9), np.uint8), np.ones(300), np.ones(300), ids
        lists = [tuple(column[part] for column in rows) for part in parts]
        return lay_pages(4, uneven_table(4), lists, 2, wide)

    return rows


@pytest.mark.parametrize("sign", [np.float32(-1), np.float32(1)])
@pytest.mark.parametrize("wide", [False, True])
def test_the_best_by_codes_are_in_the_order_of_their_distances(rng, some_rows, wide, sign):
    """Nothing held, fewer than k, more; large constants make keys equal that were not, and then ids decide."""
    paged = some_rows(wide)
    for k, kinds in itertools.product((1, 3, 20), (1, 5, 1000)):
        counts = [0, 1, k - 1, k, k + 1, k + 7, 2 * k + 30]
        found = random_found(rng, paged, 7, k, counts, kinds)
        for constant in (0.0, 2.0**22, 1e15):
            constants = constant * rng.uniform(0.5, 1, 7)
            given = tuple(part.copy() for part in found)
            distances, ids = np.full((7, k), POISON), np.full((7, k), -77)
            wanted = reference.best_by_codes(paged.store, found, constants, sign, k)
            kernels.best_by_codes(paged.store, given, constants, sign, distances, ids)
            assert_same((distances, ids), wanted, f"{k}, {kinds}, {constant}")


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("store", ["float32", "int8"])
def test_the_best_by_originals_are_of_those_kept_by_codes(rng, some_rows, store, metric):
    """Whole numbers, so that all sums are exact and many scores are equal."""
    paged, d, shift = some_rows(), 21, 5
    x = rng.integers(-2, 3, (-(-16 * paged.pages // 2**shift) * 2**shift, d)).astype(store)
    scales = np.exp2(rng.integers(0, 2, len(x))).astype(np.float32)
    blocks, scale_blocks = (
        np.array([part.ctypes.data for part in array.reshape(-1, 2**shift, width)])
        for array, width in ((x, d), (scales, 1))
    )
    originals = blocks, scale_blocks if store == "int8" else scale_blocks[:0], shift
    kind = np.empty(0, store)
    sign = np.float32(-1 if metric == "l2" else 1)
    for k, keep in ((1, 1), (3, 12), (20, 20), (20, 5)):
        counts = [0, 1, keep - 1, keep, keep + 1, keep + 7, 2 * keep + 30]
        found = random_found(rng, paged, 7, keep, counts, 6)
        queries = rng.integers(-2, 3, (7, d)).astype(np.float32)
        given = tuple(part.copy() for part in found)
        distances, ids = np.full((7, k), POISON), np.full((7, k), -77)
        about = kind, originals, METRICS[metric], paged.store
        wanted = reference.best_by_originals(*about, found, keep, queries, sign, k)
        kernels.best_by_originals(*about, given, keep, queries, sign, distances, ids)
        assert_array_equal(ids, wanted[1])
        np.testing.assert_allclose(distances, wanted[0], rtol=1e-6 if metric == "cosine" else 0)


# --- all of it

DIM, NLIST, ROWS = 40, 23, 700


class World:
    """An index's rows, in lists that need not be the nearest."""

    def __init__(self, name, metric, bits, store="none", dim=DIM, whole=False):
        rng = np.random.default_rng(0)
        self.metric, self.store, self.dim = metric, store, dim
        self.coding, coarse = ResidualCoding(EDEN(dim, bits), metric), EDEN(dim, 8)
        self.isa, self.code, self.coarse_code = name, line_code(self.coding.quantizer, name), line_code(coarse, name)

        def drawn(n):
            """In eighths where sums are to be exact."""
            rows = rng.normal(size=(n, dim))
            return (np.round(8 * rows) / 8 if whole else rows).astype(np.float32)

        full = drawn(NLIST)
        self.centroids = self.coding.centroids(full, drawn(NLIST).max(axis=0), 1.0)
        self.lists = Lists(NLIST, self.coding.quantizer.words, 1, original_columns(store, dim))
        self.x = self.coding.codable(rng.normal(size=(ROWS, dim)).astype(np.float32), "x")
        self.x[:60] = self.x[100]  # equal, in many lists and in one
        numbers = rng.integers(0, NLIST - 3, ROWS).astype(np.int32)
        numbers[:30] = numbers[100]
        self.ids = rng.permutation(ROWS) * 3
        staged = self.lists.stage(numbers, int(self.ids.max()))
        words, factors = self.coding.coded(self.x, numbers, self.centroids)
        self.lists.put(staged.places, words, factors, self.ids, pack_originals(self.x, store, 0))
        self.lists.commit(staged)
        self.scan = ListScan(self.coding, self.centroids, self.lists)
        self.queries = drawn(70)
        self.queries[:5] = self.queries[:5] if whole else self.x[100:105]
        self.answered(self.queries[:1], Probes(1), 1)  # lays out the centroids

    def answered(self, queries, probes, k, keep=None, exact=False, allowed=None):
        out = np.full((len(queries), k), POISON), np.full((len(queries), k), -77)
        assert self.scan.answer(queries, probes, keep or k, exact, allowed, out)
        return out

    def formula(self, queries, probes, k, keep=None, exact=False, allowed=None):
        """The formulas of the parts, one after the other."""
        keep = keep or k
        rows = self.coding.codable(queries, "q")
        centred = rows - self.centroids.mu
        constants = self.coding.constants(rows, self.centroids)
        rotation = self.coding.quantizer.stages[0].map
        y = reference.rotate(centred, *rotation.plan)
        lists, code, coarse, coarse_code = self.lists, self.code, self.scan.coarse._lists, self.coarse_code
        quads, sums, peaks = reference.round_queries(y, code.dims // 4)
        asked = quads, sums, peaks * np.float32(self.coding.factor / 127)
        tag, coarse_tag = kernels.Isa(self.isa, 8, code.bits), kernels.Isa(self.isa, 8, 8)
        side = coarse.store, self.described(coarse, coarse_code), coarse.chains, coarse.sizes
        centres = *side, side, len(coarse.chains[1]), np.ones(8, np.int32)
        picked = reference.nearest_lists(coarse_tag, coarse_tag, centres, asked, *probes)
        metric = L2 if self.metric == "l2" else INNER_PRODUCT
        jobs = reference.group_by_list(metric, self.centroids.relative, self.centroids.constants, centred, picked)
        none = np.empty(16, np.float32), np.empty(16, np.int32), np.zeros(len(rows), np.int64), None
        scores, places = reference.scan_lists(
            tag, tag, lists.store, self.described(lists, code), lists.chains, (*jobs, lists.sizes), asked,
            ALL if allowed is None else allowed, none, keep,
        )
        sign = np.float32(-1 if self.metric == "l2" else 1)
        if exact:
            x, wanted = np.zeros((lists.places, self.dim), np.float32), np.full(places.shape, -np.inf)
            x[lists.used()] = lists.arena.take("originals", lists.used())
            for q in range(len(rows)):
                there = places[q][places[q] >= 0]
                wanted[q, : len(there)] = sign * exact_distances(x[there], queries[q], self.metric)
            scores = wanted.astype(np.float32)
        else:
            scores = np.where(places < 0, -np.inf, scores + constants[:, None]).astype(np.float32)
        return reference._nearest(scores, places, lists.store, sign, k)

    def scores_of_all(self, queries, probes):
        """Keys and places (nq, rows) of what a search of so many lists for all rows finds, and constants."""
        rows = self.coding.codable(queries, "q")
        keys, ids = self.scan.best_in_steps(rows - self.centroids.mu, probes, ROWS, None, 8)
        places = self.lists.used()
        names = self.lists.ids_of(self.lists.rows(places))
        at = places[np.argsort(names)][np.minimum(np.searchsorted(np.sort(names), ids), len(names) - 1)]
        return keys, np.where(keys == -np.inf, -1, at), self.coding.constants(rows, self.centroids)

    def described(self, lists, code):
        return code.words, code.table, lists.scale_word, lists.shift_word, 0, np.zeros(3, np.float32)


def exact_distances(x, q, metric):
    x, q = x.astype(np.float64), q.astype(np.float64)
    if metric == "l2":
        return ((x - q) ** 2).sum(axis=1)
    lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(q) if metric == "cosine" else 1
    return (x * q).sum(axis=1) / lengths


@pytest.fixture(params=[
    pytest.param((SETS[0], 4, "float32") if SETS else None),
    pytest.param((EVERYDAY[-1], 1, "float32") if SETS else None, marks=pytest.mark.isa),
])
def built(request):
    """(metric, originals or not) -> World, its searches by one set at one width."""
    if request.param is None:
        pytest.skip("only plain loops can run here")
    name, bits, store = request.param
    with kernels.using(name):
        yield lambda metric, originals=False, **given: World(
            name, metric, bits, store if originals else "none", **given
        )


@pytest.mark.parametrize("metric", METRICS)
def test_an_answer_is_what_the_formulas_say(built, metric):
    """Some lists and all, near ones only, filters, more than there are rows."""
    for dim in (DIM, 5):  # of windows shorter than a register too
        world = built(metric, dim=dim)
        allowed = (np.random.default_rng(3).random(world.lists.places) < 0.2).astype(np.uint8)
        for probes, k, mask in (
            (Probes(1), 10, None),
            (Probes(6), 1, None),
            (Probes(6, 5.0), 10, None),
            (Probes(NLIST), 10, allowed),
            (Probes(NLIST), 900, None),
        ):
            got = world.answered(world.queries, probes, k, allowed=mask)
            assert_same(got, world.formula(world.queries, probes, k, allowed=mask), f"{dim}, {probes}, {k}")


@pytest.mark.parametrize("metric", METRICS)
def test_an_answer_by_originals_is_the_exact_one(built, metric):
    world = built(metric, True)
    for probes, k, keep in ((Probes(6), 10, 40), (Probes(NLIST), 10, ROWS)):
        distances, ids = world.answered(world.queries, probes, k, keep, True)
        wanted = world.formula(world.queries, probes, k, keep, True)
        np.testing.assert_allclose(distances, wanted[0], rtol=1e-6, atol=1e-6)
        assert_array_equal(ids, wanted[1])
    every = np.stack([exact_distances(world.x, q, metric) for q in world.queries]) * (1 if metric == "l2" else -1)
    order = np.stack([np.lexsort((world.ids, row)) for row in every.astype(np.float32)])
    assert_array_equal(ids, world.ids[order[:, :10]])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("room", [1, 9000, 1 << 20])
def test_what_is_within_a_radius_is_what_the_formula_says(built, metric, room):
    """A radius that no row or all rows reach, and a row's distance; room for a list at a time, some lists and all."""
    world = built(metric, whole=True)
    sign = np.float32(-1 if metric == "l2" else 1)
    for probes, nq in ((Probes(NLIST), 70), (Probes(NLIST), 1), (Probes(5), 9)):
        queries = world.queries[:nq]
        keys, places, constants = world.scores_of_all(queries, probes)
        distances = np.sort((sign * (keys + constants[:, None])).astype(np.float32)[places >= 0])
        for radius in (distances[0] - 1, distances[len(distances) // 9], distances[-1] + 1):
            got = world.scan.within(queries, probes, np.float64(radius), room, None)
            wanted = reference.within(world.lists.store, keys, places, constants, sign, np.float64(radius))
            assert_same(got, wanted, f"{probes}, {nq}, {radius}")
            assert got[0][-1] > 0 or radius == (distances[0] - 1 if metric == "l2" else distances[-1] + 1)


@pytest.mark.parametrize("metric", METRICS)
def test_keys_in_registers_are_those_in_steps(built, metric):
    """Key for key: distances before the constant of the query."""
    world = built(metric, whole=True)
    rows = world.coding.codable(world.queries, "q")
    keys, ids = world.scan.best_in_steps(rows - world.centroids.mu, Probes(NLIST), 30, None, 8)
    distances, names = world.answered(world.queries, Probes(NLIST), 30)
    if metric == "l2":
        assert_same((-distances, names), (keys, ids))
        return
    constants = world.coding.constants(rows, world.centroids)
    wanted = (keys + constants[:, None]).astype(np.float32)
    assert_array_equal(distances, wanted)
    order = np.lexsort((ids, -wanted))
    assert_array_equal(names, np.take_along_axis(ids, order, 1))


@pytest.mark.parametrize("metric", METRICS)
def test_a_query_is_answered_alike_alone_and_in_any_batch(built, metric):
    """Few queries are rotated in another way than many, and one alone is not grouped by lists."""
    world, probes = built(metric), Probes(6, 40.0)
    whole = world.answered(world.queries, probes, 10)
    for step in (1, 2, 3, 7, 8, 9, 64):
        parts = [
            world.answered(world.queries[at : at + step].copy(), probes, 10)
            for at in range(0, len(world.queries), step)
        ]
        assert_same([np.concatenate(part) for part in zip(*parts, strict=True)], whole, f"{step} at a time")


def test_no_query_is_answered_by_nothing(built):
    distances, ids = built("l2").answered(np.empty((0, DIM), np.float32), Probes(3), 4)
    assert distances.shape == ids.shape == (0, 4)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("nq", [1, 9])
def test_a_query_that_cannot_be_answered_is_refused_and_nothing_written(built, metric, nq):
    """Not finite, too long, or without a direction; in any place of a batch."""
    world = built(metric)
    bad = [np.nan, np.inf, -np.inf]
    bad += [0.0] if metric == "cosine" else [float(np.float32(LONGEST * 1.001)), 3e38]
    for value, at in itertools.product(bad, {0, nq // 2, nq - 1}):
        queries = world.queries[:nq].copy()
        queries[at] = 0
        queries[at, -1] = value
        out = np.full((nq, 5), POISON), np.full((nq, 5), -77)
        assert not world.scan.answer(queries, Probes(3), 5, False, None, out)
        assert np.isnan(out[0]).all() and (out[1] == -77).all()
    longest = np.zeros((nq, DIM), np.float32)
    longest[:, 3] = 3e38 if metric == "cosine" else LONGEST * 0.999
    distances, ids = world.answered(longest, Probes(NLIST), 5)
    assert np.isfinite(distances).all() and (ids >= 0).all()


def test_a_gap_leaves_lists_out_and_the_number_of_lists_bounds_them(built):
    """Everything is found through all lists, nothing of a list that is left out."""
    world = built("l2")
    scores = world.scan.coarse.scores(world.queries - world.centroids.mu)
    for nprobe, gap in ((NLIST, np.inf), (4, np.inf), (NLIST, 12.0), (NLIST, 0.0)):
        _, ids = world.answered(world.queries, Probes(nprobe, gap), ROWS)
        for q, row in enumerate(ids):
            places = world.lists.used()
            names = world.lists.ids_of(world.lists.rows(places))
            found = set(world.lists.lists_of(places[np.isin(names, row)]).tolist())
            held = sum(int(world.lists.sizes[number]) for number in found)
            assert (row >= 0).sum() == held, "a list is read whole"
            best = np.sort(scores[q])[::-1]
            close = 0.02 * (best[0] - best[-1])  # what rounding centroids to 8 bits may change
            limit = max(best[nprobe - 1], best[0] - gap)
            sure = {n for n in range(NLIST) if scores[q, n] > limit + close and world.lists.sizes[n]}
            able = {n for n in range(NLIST) if scores[q, n] >= limit - close}
            assert sure <= found <= able
