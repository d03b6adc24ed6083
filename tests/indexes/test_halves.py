"""A search in two halves over parts of the rows finds what one index with all rows finds with exact_scan=True."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import polarindex as pi
from polarindex import kernels
from polarindex.indexes import halves

N, DIM, NLIST = 3_000, 40, 24


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(5)
    x = (rng.normal(size=(30, DIM))[rng.integers(0, 30, N)] + 0.4 * rng.normal(size=(N, DIM))).astype(np.float32)
    x[100:110] = x[100]  # equal keys and distances in several parts: ids decide
    return x


def parts_of(whole, rows, count):
    """The same rows in `count` indexes like `whole`, which is empty, and what prepares queries for them."""
    ids = np.random.default_rng(1).permutation(len(rows)) + 7
    parts = [whole.empty_like() if isinstance(whole, pi.IVFIndex) else pickle.loads(pickle.dumps(whole))
             for _ in range(count)]
    frame = pickle.loads(pickle.dumps(whole))
    homes = np.random.default_rng(2).integers(0, count, len(rows))
    for number, part in enumerate(parts):
        part.add(rows[homes == number], ids[homes == number])
    whole.add(rows, ids)
    return frame, parts


def apart(frame, parts, q, k, *, nprobe=None, gap=None, rerank=None, filter=None, bits=8, exact=True, registers=True):
    """A search by halves, as the driver of shards does it; questions and candidates are sent as pickles."""
    n, factor = sum(map(len, parts)), 0 if getattr(frame, "scan_bits", None) else frame._rerank_factor(rerank)
    keep = max(1, min(max(factor, 1) * k, n))
    probes = frame._probes(nprobe, gap) if isinstance(frame, pi.IVFIndex) else None
    question, constants = halves.asked(frame, q, probes, bits, registers)
    found = []
    for part in parts:
        sent = pickle.loads(pickle.dumps(question))
        given = q if factor else None
        found.append(halves.candidates(part, sent, given, keep, filter, exact))
    return halves.best(found, constants, k, keep, frame.metric)


def assert_same(got, wanted):
    assert_array_equal(got[1], wanted[1])
    assert_array_equal(got[0], wanted[0])


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("store", ["none", "float32"])
def test_lists_in_parts_equal_one_index(rows, metric, store):
    whole = pi.IVFIndex(DIM, metric, nlist=NLIST, store=store).fit(rows)
    frame, parts = parts_of(whole, rows, 3)
    allowed = pi.IdFilter(np.arange(0, N, 3))
    for nq, k, nprobe in ((1, 1, 1), (1, 10, 5), (30, 10, 5), (200, 7, NLIST), (3, N + 5, NLIST)):
        q = rows[50 : 50 + nq] + np.float32(0.01)
        assert_same(apart(frame, parts, q, k, nprobe=nprobe), whole.search(q, k, nprobe=nprobe))
        wanted = whole.search(q, k, nprobe=nprobe, filter=allowed)
        assert_same(apart(frame, parts, q, k, nprobe=nprobe, filter=allowed), wanted)
    assert_same(apart(frame, parts, rows[:9], 5, nprobe=8, gap=0.2), whole.search(rows[:9], 5, nprobe=8, gap=0.2))


@pytest.mark.parametrize("rerank", [0, 1, 3, 1000])
def test_what_is_scored_by_originals_is_what_one_index_would_score(rows, rerank):
    """Parts that kept the best of their own candidates would find more."""
    whole = pi.IVFIndex(DIM, nlist=NLIST, store="int8").fit(rows)
    frame, parts = parts_of(whole, rows, 4)
    q = rows[:40] * np.float32(1.01)
    assert_same(apart(frame, parts, q, 10, nprobe=6, rerank=rerank), whole.search(q, 10, nprobe=6, rerank=rerank))


@pytest.mark.parametrize(
    "made",
    [
        {"quantizer": "polarquant"},
        {"bits": 6},
        {"bits": 4, "scan_bits": 2},
        {"bits": 4, "store": "int8", "spill": 0.5},
    ],
)
def test_other_codes_in_parts_equal_one_index(rows, made):
    whole = pi.IVFIndex(DIM, nlist=NLIST, **made).fit(rows)
    frame, parts = parts_of(whole, rows, 2)
    wanted = whole.search(rows[:20], 10, nprobe=6, exact_scan=True)
    assert_same(apart(frame, parts, rows[:20], 10, nprobe=6), wanted)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_threads_ask_and_choose_what_one_does(rows, metric):
    whole = pi.IVFIndex(DIM, metric, nlist=NLIST).fit(rows)
    frame, parts = parts_of(whole, rows, 2)
    q = rows[:250]
    question, constants = halves.asked(frame, q, frame._probes(6, None), 8, True)
    found = [halves.candidates(part, question, None, 10, None, True) for part in parts]
    for threads in (2, 3, 250):
        divided, others = halves.asked(frame, q, frame._probes(6, None), 8, True, threads)
        assert_array_equal(others, constants)
        if halves.in_registers(frame):
            asked = (*divided.queries, *divided.jobs), (*question.queries, *question.jobs)
            for one, other in zip(*asked, strict=True):
                assert_array_equal(one, other)
        wanted = halves.best(found, constants, 10, 10, metric)
        assert_same(halves.best(found, constants, 10, 10, metric, threads), wanted)


def test_queries_of_16_bits_and_machines_without_registers_go_in_steps(rows):
    whole = pi.IVFIndex(DIM, nlist=NLIST, store="float32").fit(rows)
    frame, parts = parts_of(whole, rows, 2)
    q = rows[:20]
    wanted = whole.search(q, 10, nprobe=6, query_bits=16)
    assert_same(apart(frame, parts, q, 10, nprobe=6, bits=16), wanted)
    assert_same(apart(frame, parts, q, 10, nprobe=6, registers=False), whole.search(q, 10, nprobe=6))
    if halves.in_registers(frame):
        question, _ = halves.asked(frame, q, frame._probes(6, None), 8, True)
        with kernels.using("generic"), pytest.raises(RuntimeError, match="not read in registers here"):
            halves.candidates(parts[0], question, None, 10, None, True)


@pytest.mark.parametrize("made", [{}, {"store": "float32"}, {"metric": "ip", "bits": 2}, {"quantizer": "polarquant"}])
def test_flat_rows_in_parts_equal_one_index(rows, made):
    whole = pi.FlatIndex(DIM, **made).fit(rows)
    frame, parts = parts_of(whole, rows, 3)
    for nq, k in ((1, 1), (30, 10), (3, N + 5)):
        assert_same(apart(frame, parts, rows[:nq], k), whole.search(rows[:nq], k, exact_scan=True))
    allowed = pi.IdFilter([7, 9, 200])
    wanted = whole.search(rows[:9], 4, filter=allowed, exact_scan=True)
    assert_same(apart(frame, parts, rows[:9], 4, filter=allowed), wanted)
    bits = whole.search(rows[:9], 4, query_bits=16, exact_scan=True)
    assert_same(apart(frame, parts, rows[:9], 4, bits=16), bits)
    assert [halves.allowed_rows(part, allowed) for part in parts] != [3, 3, 3]
    assert sum(halves.allowed_rows(part, allowed) for part in parts) == 3


def test_ids_are_sent_in_32_bits_where_they_fit(rows):
    whole = pi.IVFIndex(DIM, nlist=NLIST).fit(rows)
    for largest, kind in ((2**31 - 1, np.int32), (2**31, np.int64), (2**40, np.int64)):
        index, other = whole.empty_like(), whole.empty_like()
        index.add(rows[:3], ids=[1, 2, largest])
        question, constants = halves.asked(whole, rows[:3], whole._probes(NLIST, None), 8, True)
        found = [halves.candidates(part, question, None, 5, None, True) for part in (index, other)]
        assert found[0].ids.dtype == kind and (found[1].ids == -1).all()
        assert_same(halves.best(found, constants, 5, 5, "l2"), index.search(rows[:3], 5, nprobe=NLIST))


def test_a_part_without_rows_has_no_candidates(rows):
    whole = pi.IVFIndex(DIM, nlist=NLIST).fit(rows)
    frame, parts = parts_of(whole, rows, 1)
    q = rows[:5]
    assert_same(apart(frame, [*parts, frame.empty_like()], q, 10, nprobe=4), whole.search(q, 10, nprobe=4))


def test_a_shard_does_not_code_the_centroids(rows):
    whole = pi.IVFIndex(DIM, nlist=NLIST).fit(rows)
    frame, parts = parts_of(whole, rows, 1)
    apart(frame, parts, rows[:5], 10, nprobe=4)
    assert parts[0]._held.scan.coarse._lists is None or not halves.in_registers(frame)
    assert_same(parts[0].search(rows[:5], 10, nprobe=4), whole.search(rows[:5], 10, nprobe=4))
