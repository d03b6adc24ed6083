"""Range searches in registers: those in steps, bit for bit, whatever the radius, the queries and the room."""

import numpy as np
import pytest

import polarindex as pi
from polarindex import kernels
from polarindex.indexes import ranges

METRICS = ("l2", "ip", "cosine")
DIM, NLIST = 24, 12


def clustered(n, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((8, DIM)) * 2
    x = centres[rng.integers(0, 8, n)] + rng.standard_normal((n, DIM))
    return (x * rng.uniform(0.5, 1.5, (n, 1))).astype(np.float32)


def made(metric="l2", n=900, bits=4, **options):
    index = pi.IVFIndex(DIM, metric, bits, nlist=NLIST, **options).fit(clustered(800, 77))
    index.add(clustered(n), ids=np.random.default_rng(0).permutation(3 * n)[:n])
    return index


def same(one, other):
    for a, b in zip(one, other, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def check(index, q, radius, **options):
    """The hits, which are those in steps."""
    found = index.range_search(q, radius, **options)
    with kernels.using("generic"):
        same(found, index.range_search(q, radius, **options))
    return found


def some_radii(index, q, k=900):
    """Radii of few hits, many and all, which are distances, or lie a rounding beside one."""
    distances = np.sort(index.search(q, k, nprobe=NLIST)[0], axis=None)
    distances = distances[np.isfinite(distances)]
    for at in (0, 9, len(distances) // 3, len(distances) - 1):
        yield from (float(distances[at]), *(float(np.nextafter(distances[at], side)) for side in (-np.inf, np.inf)))


@pytest.mark.parametrize("metric", METRICS)
def test_hits_in_registers_are_those_in_steps(metric):
    index = made(metric)
    for q in (clustered(1, 1), clustered(2, 2), clustered(40, 3)):
        hits = []
        for radius in some_radii(index, q):
            hits.append(check(index, q, radius)[0][-1])
            check(index, q, radius, nprobe=3)
            check(index, q, radius, nprobe=5, gap=2.0)
        assert min(hits) == 0 and max(hits) == 900 * len(q)


@pytest.mark.isa
@pytest.mark.parametrize("isa", kernels.available())
@pytest.mark.parametrize("metric", METRICS)
def test_every_instruction_set_finds_the_same_hits(metric, isa):
    """Of one width: the scan of lists, which is tested of all, is what differs."""
    index, q = made(metric), clustered(40, 3)
    with kernels.using(isa):
        for radius in some_radii(index, q):
            check(index, q, radius)


@pytest.mark.parametrize("metric", METRICS)
def test_no_hit_is_lost_where_keys_are_far_from_distances(metric):
    """Far from the origin, where a query's constant is a million times what tells distances apart."""
    far = np.float32(1000)
    index = pi.IVFIndex(DIM, metric, nlist=8).fit(clustered(500) + far)
    index.add(clustered(1500) + far)
    q = clustered(20, 1) + far
    for radius in some_radii(index, q, 1500):
        check(index, q, radius)
    small = pi.IVFIndex(DIM, metric, nlist=8).fit(clustered(500) * np.float32(1e-18))
    small.add(clustered(500) * np.float32(1e-18))
    if metric != "cosine":
        for radius in (0.0, 1e-38, -1e-38, 1e-36, 1e-44):
            check(small, clustered(5, 1) * np.float32(1e-18), radius)


def test_a_radius_may_be_any_number():
    for metric in METRICS:
        index, q = made(metric, 100), clustered(3, 1)
        for radius in (1e300, -1e300, 1e39, -1e39, 0, -0.0, 5, np.float32(7.5)):
            assert check(index, q, radius)[0][-1] in (range(301) if abs(radius) < 1e30 else (0, 300))


@pytest.mark.parametrize("metric", METRICS)
def test_every_query_sees_its_own_filter_and_hits_come_in_the_order_of_queries(metric):
    index, q = made(metric), clustered(60, 1)
    radius = float(np.median(index.search(q, 900, nprobe=NLIST)[0]))
    mask = np.random.default_rng(1).random(900) < 0.4
    filters = [(None, mask, index.ids[::5], [], None, [int(index.ids[0])])[i % 6] for i in range(60)]
    lims, distances, ids = check(index, q, radius, filter=filters)
    for i, allowed in enumerate(filters):
        mine = slice(lims[i], lims[i + 1])
        alone = index.range_search(q[i], radius, filter=allowed)
        same((np.array([0, lims[i + 1] - lims[i]]), distances[mine], ids[mine]), alone)
    assert lims[4] == lims[3] and 0 < lims[-1]
    check(index, q, radius, filter=mask)


def test_equal_distances_are_in_the_order_of_ids():
    index = made(n=0)
    ids = np.random.default_rng(0).permutation(1000)[:90]
    index.add(np.tile(clustered(1), (90, 1)), ids=ids)
    found = check(index, clustered(1), 1e9)
    assert found[2].tolist() == sorted(ids)


@pytest.mark.parametrize("room", [1, 20_000])
def test_the_room_and_the_parts_of_a_search_do_not_matter(monkeypatch, room):
    """Room for a list at a time, and for a few; queries in parts for threads, and one by one."""
    index, q = made("cosine", 2000), clustered(600, 1)
    radius = float(np.quantile(index.search(q, 900, nprobe=NLIST)[0], 0.9))
    wanted = check(index, q, radius)
    monkeypatch.setattr(ranges, "_ROOM", room)
    same(index.range_search(q, radius), wanted)
    monkeypatch.setattr(ranges, "_MOST", 7)
    same(index.range_search(q, radius), wanted)


@pytest.mark.skipif(kernels.selected() == kernels.GENERIC, reason="steps have room of their own")
def test_queries_of_one_call_have_no_more_room_together_than_is_allowed(monkeypatch):
    index, q = made(n=2000), clustered(100, 1)
    largest, calls = int(index._held.rows.sizes.max()), []
    within = index._held.scan.within

    def counted(given, *arguments):
        calls.append(len(given))
        return within(given, *arguments)

    monkeypatch.setattr(index._held.scan, "within", counted)
    monkeypatch.setattr(ranges, "_ROOM", 8 * largest + 1)
    index.range_search(q, 5.0)
    assert max(calls) == 8 and sum(calls) == 100


def test_rows_that_were_removed_are_no_hits_and_ids_may_be_large():
    index, q = made(n=300), clustered(5, 1)
    index.add(clustered(40, 9), ids=2**40 + np.arange(40))
    index.remove(index.ids[::3])
    found = check(index, q, 1e9)
    assert found[0].tolist() == [len(index) * i for i in range(6)]
    assert sorted(found[2][: len(index)]) == sorted(index.ids)


@pytest.mark.parametrize("how", ["float64", "fortran", "strided", "read only"])
def test_queries_of_any_form(how):
    index, q = made("cosine"), clustered(8, 1)
    given = {
        "float64": q.astype(np.float64),
        "fortran": np.asfortranarray(q),
        "strided": np.repeat(q, 2, axis=0)[::2],
        "read only": q.copy(),
    }[how]
    given.flags.writeable = how != "read only"
    same(index.range_search(given, 0.5), index.range_search(q, 0.5))
