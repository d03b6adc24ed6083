"""Which lists a query probes, seen through an index whose rows are its centroids, each in its own list."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import polarindex as pi
from polarindex import checks, kernels
from polarindex.indexes.coarse import Coarse
from polarindex.indexes.grouping import Groups, one_group
from polarindex.indexes.manifest import checksum
from polarindex.indexes.probing import ListScan
from polarindex.indexes.scan import integer_queries
from polarindex.indexes.spilling import Homes

NLIST, DIM = 1000, 256
SETS = [pytest.param(name, marks=[] if name == kernels.selected() else pytest.mark.isa) for name in kernels.available()]


def clustered(n, dim=DIM, seed=0, homes=25):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).standard_normal((homes, dim)) + 0.5
    return (centres[rng.integers(0, homes, n)] + 0.4 * rng.standard_normal((n, dim))).astype(np.float32)


def listed(metric="l2", full=None, bits=4):
    """An index with these centroids, of which each is a row whose id is its list's number."""
    full = clustered(NLIST) if full is None else full
    index = pi.IVFIndex(full.shape[1], metric, bits, nlist=len(full))
    if metric == "cosine":
        full = full / np.linalg.norm(full, axis=1, keepdims=True)
    index._take(index._coding.centroids(full, full.mean(axis=0), 1.0))
    ids = np.arange(len(full))
    index._commit(index._staged(checks.vectors(full, "x", full.shape[1]), Homes(ids.astype(np.int32), None), ids), ids)
    return index


def regrouped(index, groups):
    """The same rows, with the centroids grouped so."""
    other = pickle.loads(pickle.dumps(index))
    held = other._held
    other._lists_held = held._replace(scan=ListScan(other._coding, held.centroids, held.rows, groups=groups))
    return other


@pytest.fixture(scope="module")
def built():
    return {metric: listed(metric) for metric in ("l2", "ip", "cosine")}


def best(scores, count):
    """Numbers of the largest, ties to the smaller number."""
    return np.lexsort((np.arange(len(scores)), -scores))[:count]


def coded_scores(coarse, centred, lists, count):
    """The law of keys, in NumPy, by place."""
    ((queries,),) = integer_queries(coarse.quantizer, centred, coarse.coding.factor)
    rows = lists.rows(np.arange(count))
    levels = coarse.quantizer.stages[0].levels(np.ascontiguousarray(rows[:, : coarse.quantizer.words]))
    dots = queries.levels.astype(np.int64) @ levels[:, : queries.levels.shape[1]].astype(np.int64).T
    scales, shifts = lists.factors_of(rows).T
    return (dots.astype(np.float32) * queries.gains[:, None]) * scales + shifts


def law(coarse, centred, nprobe, gap=np.inf):
    """The lists of each query."""
    groups = coarse.groups
    by_place = coded_scores(coarse, centred, coarse.lists(coarse.quantizer), len(groups.order))
    group_scores = coded_scores(coarse, centred, coarse.centres(coarse.quantizer), groups.total)
    found = []
    for row, of_groups in zip(by_place, group_scores, strict=True):
        looked = best(of_groups, groups.looked(nprobe)) if groups.total > 1 else [0]
        scores = np.full(len(row), -np.inf, np.float32)
        for g in looked:
            mine = slice(g * groups.size, (g + 1) * groups.size)
            scores[groups.order[mine]] = row[mine]
        lists = best(scores, nprobe)
        found.append(lists[scores[lists] >= scores[lists[0]] - np.float32(gap)])
    return found


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_the_lists_of_a_query_are_the_best_of_its_groups(built, metric):
    index, q = built[metric], clustered(30, seed=1)
    coarse = index._held.scan.coarse
    assert 1 < coarse.groups.looked(1) < coarse.groups.total
    rows = index._coding.codable(q, "q")
    for nprobe in (1, 3, 8, 60, 125, 126, NLIST):
        for gap in (np.inf, 0.1, 40.0):
            wanted = law(coarse, rows - index._held.centroids.mu, nprobe, gap)
            found = coarse.nearest(rows - index._held.centroids.mu, nprobe, gap)
            for one, other in zip(found, wanted, strict=True):
                assert_array_equal(one, other)


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_a_groups_score_is_that_of_the_mean_of_its_directions(built, metric):
    """Of unit length for cosine; up to a constant of the query, and to 8 bits."""
    index = built[metric]
    coarse, q = index._held.scan.coarse, index._coding.codable(clustered(9, seed=10), "q")
    rows, mu = index.centroids.astype(np.float64)[coarse.groups.order], index._held.centroids.mu
    means = np.stack([rows[at : at + coarse.groups.size].mean(axis=0) for at in range(0, NLIST, coarse.groups.size)])
    if metric == "l2":
        wanted = ((q - mu) ** 2).sum(axis=1)[:, None] - ((q[:, None] - means[None]) ** 2).sum(axis=2)
    else:
        if metric == "cosine":
            means /= np.linalg.norm(means, axis=1, keepdims=True)
        wanted = q @ (means if metric == "cosine" else means - mu).T
    found = coded_scores(coarse, q - mu, coarse.centres(coarse.quantizer), coarse.groups.total)
    np.testing.assert_allclose(found, wanted, atol=0.01 * np.ptp(wanted))


@pytest.mark.parametrize("isa", SETS)
@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_a_search_looks_into_just_these_lists(built, metric, isa):
    index, q = built[metric], clustered(70, seed=2)
    rows = index._coding.codable(q, "q")
    with kernels.using(isa):
        for nprobe in (1, 4, 33, 100) if isa != kernels.GENERIC else (4,):
            wanted = law(index._held.scan.coarse, rows - index._held.centroids.mu, nprobe)
            _, ids = index.search(q, nprobe, nprobe=nprobe)
            for one, other in zip(ids, wanted, strict=True):
                assert_array_equal(np.sort(one), np.sort(other))


def test_one_query_a_few_and_many_find_the_same(built):
    index, q = built["l2"], clustered(300, seed=3)
    wanted = index.search(q, 20, nprobe=6, num_threads=1)
    for step in (1, 2, 3, 64, 65):
        parts = [index.search(q[at : at + step], 20, nprobe=6) for at in range(0, 65, step)]
        for one, other in zip(map(np.concatenate, zip(*parts, strict=True)), wanted, strict=True):
            assert_array_equal(one[:65], other[:65])
    for one, other in zip(index.search(q, 20, nprobe=6, num_threads=3), wanted, strict=True):
        assert_array_equal(one, other)


def test_all_groups_are_a_scan_of_all_centroids(built):
    index, q = built["cosine"], clustered(40, seed=4)
    plain = regrouped(index, one_group(NLIST))
    groups = index._held.scan.coarse.groups
    everywhere = regrouped(index, Groups(groups.order, groups.size, np.full_like(groups.looks, groups.total)))
    for nprobe in (1, 7, 126, NLIST):
        for one, other in zip(plain.search(q, 30, nprobe=nprobe), everywhere.search(q, 30, nprobe=nprobe), strict=True):
            assert_array_equal(one, other)
    found, wanted = index.search(q, NLIST, nprobe=NLIST), plain.search(q, NLIST, nprobe=NLIST)
    for one, other in zip(found, wanted, strict=True):
        assert_array_equal(one, other)


def test_little_is_lost_by_groups(built):
    index, q = built["l2"], clustered(500, seed=5)
    full = regrouped(index, one_group(NLIST))
    for nprobe in (1, 8, 60):
        found, wanted = index.search(q, nprobe, nprobe=nprobe)[1], full.search(q, nprobe, nprobe=nprobe)[1]
        share = np.mean([np.isin(one, other).mean() for one, other in zip(wanted, found, strict=True)])
        assert 0.97 < share


@pytest.mark.parametrize("kind", ["equal", "zero", "pairs"])
@pytest.mark.parametrize("nlist", [1, 2, 17, 600])
def test_centroids_that_are_alike_can_be_grouped_and_searched(kind, nlist):
    full = {"equal": np.ones((nlist, DIM)), "zero": np.zeros((nlist, DIM))}.get(kind, np.repeat(clustered(nlist), 2, 0))
    index = listed(full=full.astype(np.float32)[:nlist])
    coarse, q = index._held.scan.coarse, clustered(3, seed=6)
    for nprobe in {1, min(nlist, 20), nlist}:
        centred = q - index._held.centroids.mu
        for one, other in zip(coarse.nearest(centred, nprobe), law(coarse, centred, nprobe), strict=True):
            assert_array_equal(one, other)
            assert len(one) == nprobe
        index.search(q, 1, nprobe=nprobe)
    assert (index.search(q, nlist, nprobe=nlist)[1] >= 0).all()


def test_a_file_keeps_the_groups_and_one_without_them_finds_them(built, tmp_path):
    index, q = built["l2"], clustered(9, seed=7)
    groups = index._held.scan.coarse.groups
    other = regrouped(index, Groups(groups.order[::-1].copy(), groups.size, groups.looks))  # as another machine might
    wanted = other.search(q, 8, nprobe=3)
    other.save(tmp_path / "index")
    for mapped in (False, True):
        again = pi.load(tmp_path / "index", mmap=mapped)
        assert_array_equal(again._held.scan.coarse.groups.order, groups.order[::-1])
        for one, two in zip(again.search(q, 8, nprobe=3), wanted, strict=True):
            assert_array_equal(one, two)
    manifest = json.loads((tmp_path / "index" / "manifest.json").read_text())
    del manifest["state"]["groups"], manifest["segments"][0]["files"]["groups.npy"]
    manifest["checksum"] = checksum(manifest)
    Path(tmp_path / "index" / "manifest.json").write_text(json.dumps(manifest))
    old = pi.load(tmp_path / "index", verify=False)._held.scan.coarse.groups
    for one, two in zip(old, groups, strict=True):
        assert_array_equal(one, two)


def test_indexes_with_the_same_lists_have_the_same_groups(built):
    groups = built["ip"]._held.scan.coarse.groups
    given = regrouped(built["ip"], Groups(groups.order[::-1].copy(), groups.size, groups.looks))
    for index in (given.empty_like(), pickle.loads(pickle.dumps(given))):
        assert_array_equal(index._held.scan.coarse.groups.order, groups.order[::-1])


def test_all_that_groups_take_is_counted(built):
    index = built["cosine"]
    index.search(clustered(1)[0], 1, nprobe=1)
    coarse = index._held.scan.coarse
    parts = coarse._lists.nbytes + coarse._centres.nbytes + coarse.directions.nbytes + coarse.shifts.nbytes
    assert coarse.nbytes == parts + coarse.groups.order.nbytes + coarse.groups.looks.nbytes


def test_codes_that_no_register_reads_meet_all_centroids():
    index = pi.IVFIndex(DIM, quantizer="polarquant", nlist=NLIST)
    centroids = index._coding.centroids(clustered(NLIST), np.zeros(DIM, np.float32), 1.0)
    coarse = Coarse(index._coding, centroids)
    assert coarse.groups.total == 1
    q = clustered(5, seed=8)
    exact = ((q[:, None] - centroids.full[None]).astype(np.float64) ** 2).sum(axis=2)
    for one, row in zip(coarse.nearest(q, 9), exact, strict=True):
        assert_array_equal(one, np.argsort(row, kind="stable")[:9])


@pytest.mark.slow
def test_a_search_among_65_536_lists_follows_the_law():
    """Of four coordinates, turned into 64."""
    rng = np.random.default_rng(0)
    plane = rng.standard_normal((4, 64))
    full, q = ((rng.standard_normal((n, 4)) @ plane).astype(np.float32) for n in (65_536, 40))
    index = listed(full=full)
    coarse = index._held.scan.coarse
    assert coarse.groups.size == 96 and 1 < coarse.groups.looked(100) < coarse.groups.total // 4
    for nprobe in (1, 100, 300):
        wanted = law(coarse, q - index._held.centroids.mu, nprobe)
        for queries in (q, q[:1]):
            _, ids = index.search(queries, nprobe, nprobe=nprobe)
            for one, other in zip(ids, wanted, strict=False):
                assert_array_equal(np.sort(one), np.sort(other))
