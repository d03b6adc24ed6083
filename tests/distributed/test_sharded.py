"""An index served by actors answers and changes like one index, and says what is wrong in the same words."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import polarindex as pi
from polarindex.distributed import ShardedIndex, actors, direct
from polarindex.distributed.routing import shards_of

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray and its processes warn of much that is not ours
ROWS, NLIST = 4_000, 32


def assert_same(got, wanted):
    for one, other in zip(got, wanted, strict=True):
        assert_array_equal(one, other)


def one_index(path, rows, ids=None):
    """The index that has all rows, around the same centroids."""
    frame = pi.load(path / "frame")
    whole = frame.empty_like() if isinstance(frame, pi.IVFIndex) else frame
    whole.add(rows, ids)
    return whole


@pytest.fixture(scope="module")
def served(ray, rows, tmp_path_factory):
    """Three shards with originals, two copies of each, and one index with the same rows."""
    path = tmp_path_factory.mktemp("served") / "index"
    ShardedIndex.build(rows, path, num_shards=3, engine="local", nlist=NLIST, store="float32")
    with ShardedIndex.open(path, replicas=2) as index:
        yield index, one_index(path, rows)


@pytest.mark.parametrize("nq", [1, 7, 2_100])
def test_answers_are_those_of_one_index(served, rows, nq):
    """2,100 queries are three parts, of which one is prepared while shards scan another."""
    index, whole = served
    q = rows[:nq] + np.float32(0.1)
    assert_same(index.search(q, 10), whole.search(q, 10))
    assert_same(index.search(q, 5, nprobe=6, gap=3.0, rerank=2), whole.search(q, 5, nprobe=6, gap=3.0, rerank=2))
    assert_same(index.search(q, 5, rerank=0, exact_scan=True), whole.search(q, 5, rerank=0, exact_scan=True))
    assert_same(index.search(q[0], 3), whole.search(q[0], 3))


@pytest.fixture
def never_through_ray(monkeypatch):
    """Calls that go through Ray are errors."""

    def refuse(asking, sent):
        raise AssertionError(f"{asking._method} of shard {sent.shard} goes through Ray")

    monkeypatch.setattr("polarindex.distributed.actors.Asking._send_through_ray", refuse)


def test_searches_go_by_connections_of_their_own(served, rows, never_through_ray):
    index, whole = served
    for nq in (1, 2_100):
        assert_same(index.search(rows[:nq], 5), whole.search(rows[:nq], 5))
    with pytest.raises(AssertionError, match="upsert of shard 0 goes through Ray"):  # which says what became of it
        index.upsert([next(id for id in range(9) if shards_of(np.array([id]), 3)[0] == 0)], rows[:1])


def test_a_connection_that_says_nothing_is_given_up_where_ray_knows_of_a_new_actor(served, rows):
    """As after a machine went off, which nobody tells who waits for it."""
    index, whole = served
    ways = index._searches._ways._ways.values()
    right = [way._address for way in ways]
    over = threading.Event()
    silent = direct.Door(right[0].host, lambda method, arguments: over.wait(20)).address
    for way in ways:
        way.close()
        way._address = silent
    began = time.monotonic()
    assert_same(index.search(rows[:20], 5, timeout=20), whole.search(rows[:20], 5))
    assert time.monotonic() - began > actors._SILENCE
    over.set()
    assert [way._address in right for way in ways].count(True) == index.num_shards  # one copy of each was asked


def test_a_machine_that_is_off_is_waited_for_once(served, rows, monkeypatch):
    """However many shards it has, the others are asked through Ray."""
    monkeypatch.setattr(direct, "_CONNECTING", 0.2)
    index, whole = served
    ways = index._searches._ways._ways.values()
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        off = direct.Address("127.0.0.1", nobody.getsockname()[1], "", b"", b"")
        for way in ways:
            way.close()
            way._address = off
        assert_same(index.search(rows[:20], 5), whole.search(rows[:20], 5))
        assert [way._address for way in ways].count(off) == len(ways) - 1


def test_without_connections_all_goes_through_ray(ray, rows, tmp_path):
    ShardedIndex.build(rows, tmp_path / "index", num_shards=2, engine="local", nlist=NLIST)
    whole = one_index(tmp_path / "index", rows)
    with ShardedIndex.open(tmp_path / "index", direct=False) as index:
        assert index._searches._ways is None
        for nq in (1, 1_100):
            assert_same(index.search(rows[:nq], 5), whole.search(rows[:nq], 5))


def test_more_results_than_rows_are_padded(served, rows):
    index, whole = served
    assert_same(index.search(rows[:2], ROWS + 9, nprobe=NLIST), whole.search(rows[:2], ROWS + 9, nprobe=NLIST))


def test_filters_allow_what_they_allow_in_one_index(served, rows):
    index, whole = served
    reused, q = pi.IdFilter(range(0, ROWS, 3)), rows[:40]
    few = np.array([5, 6, 4000, 17])
    mask = np.random.default_rng(0).random(ROWS) < 0.3
    aligned = mask[whole.ids]  # the sharded index's ids ascend
    assert_array_equal(index.ids, np.arange(ROWS))
    for filter, same in ((reused, reused), (few, few), ({1, 2}, {1, 2}), (mask, aligned), ([], np.empty(0, int))):
        for options in ({}, {"nprobe": 3}):
            assert_same(index.search(q, 6, filter=filter, **options), whole.search(q, 6, filter=same, **options))
    each = [None, reused, few] * 5
    assert_same(index.search(q[:15], 6, filter=each), whole.search(q[:15], 6, filter=each))
    with pytest.raises(ValueError, match=r"filter is a mask of shape \(3,\); it must be \(4000,\)"):
        index.search(q, 6, filter=np.ones(3, bool))


def test_ranges_errors_and_vectors_are_those_of_one_index(served, rows):
    index, whole = served
    assert_same(index.range_search(rows[:30], 20.0), whole.range_search(rows[:30], 20.0))
    filter = pi.IdFilter(range(50))
    wanted = whole.range_search(rows[:30], 20.0, nprobe=4, filter=filter)
    assert_same(index.range_search(rows[:30], 20.0, nprobe=4, filter=filter), wanted)
    wanted = whole.search(rows[:9], 4, rerank=0, return_error=True)
    assert_same(index.search(rows[:9], 4, rerank=0, return_error=True), wanted)
    assert_array_equal(index.reconstruct([9, 3, 700]), rows[[9, 3, 700]])


def test_arguments_are_checked_as_by_one_index(served, rows):
    index, whole = served
    wrong = [
        lambda one: one.search(rows[:2, :5]),
        lambda one: one.search(rows[:2], 0),
        lambda one: one.search(rows[:2] * np.nan),
        lambda one: one.search(rows[:2], nprobe=0),
        lambda one: one.search(rows[:2], query_bits=4),
        lambda one: one.search(rows[:2], filter=[None]),
        lambda one: one.remove([3, ROWS + 5]),
        lambda one: one.update([ROWS + 5], rows[:1]),
        lambda one: one.add(rows[:2], ids=[8, 9]),
        lambda one: one.add(rows[:2], ids=[10**7, 10**7]),
        lambda one: one.reconstruct([1, ROWS + 1]),
    ]
    for call in wrong:
        with pytest.raises((TypeError, ValueError, KeyError)) as wanted:
            call(whole)
        with pytest.raises(type(wanted.value)) as got:
            call(index)
        assert str(got.value) == str(wanted.value)
    for options, named in (({"timeout": 0}, "timeout"), ({"timeout": "x"}, "timeout"), ({"partial": 1}, "partial")):
        with pytest.raises((TypeError, ValueError), match=named):
            index.search(rows[:2], **options)
    assert len(index) == ROWS


def test_who_has_not_answered_in_time_is_named(served, rows):
    index, _ = served
    with pytest.raises(pi.ShardError, match=r"search: shards 0, 1, 2 of 3 did not answer within 1e-06 s") as error:
        index.search(rows[:2], timeout=1e-6)
    assert error.value.shards == (0, 1, 2)
    distances, ids, missing = index.search(rows[:2], 4, timeout=1e-6, partial=True)
    assert missing == (0, 1, 2) and (ids == -1).all() and np.isinf(distances).all()
    *whole, missing = index.search(rows[:2], 4, partial=True)
    assert missing == ()
    assert_same(whole, index.search(rows[:2], 4))
    assert index.range_search(rows[:2], 1.0, timeout=1e-6, partial=True)[3] == (0, 1, 2)


@pytest.fixture
def hanging(ray, served):
    """Stop a copy of shard 1, as a machine hangs: nobody tells."""
    index, stopped = served[0], []

    def stop(replica):
        info = ray.get(index._handles.handle(1, replica).info.remote(""))
        os.kill(info["process"], signal.SIGSTOP)
        stopped.append(info["process"])

    yield stop
    for process in stopped:
        os.kill(process, signal.SIGCONT)


@pytest.mark.parametrize("through_ray", [False, True])
def test_a_copy_that_hangs_is_not_waited_for(served, rows, hanging, monkeypatch, through_ray):
    """Half of the calls ask it first: all by connections, or this one through Ray and the others by connections."""
    index, whole = served
    hanging(0)
    if through_ray:
        monkeypatch.setattr(index._searches._ways._ways[0, 0], "_line", lambda: None)
    monkeypatch.setattr(index._searches, "_hedge", 0.1)
    for _ in range(4):
        assert_same(index.search(rows[:20], 5), whole.search(rows[:20], 5))


def test_a_shard_that_hangs_is_named_and_may_be_done_without(served, rows, hanging):
    index, whole = served
    hanging(0)
    hanging(1)
    with pytest.raises(pi.ShardError, match=r"search: shard 1 of 3 did not answer within 0.7 s"):
        index.search(rows[:20], 5, timeout=0.7)
    distances, ids, missing = index.search(rows[:20], 5, timeout=0.7, partial=True, nprobe=NLIST)
    assert missing == (1,)
    others = np.flatnonzero(shards_of(np.arange(ROWS), 3) != 1)
    assert_same((distances, ids), whole.search(rows[:20], 5, nprobe=NLIST, filter=others))
    some = others[:3]  # of other shards: it is not asked
    assert_same(index.search(rows[:20], 2, nprobe=4, filter=some), whole.search(rows[:20], 2, nprobe=4, filter=some))


def test_changes_are_those_of_one_index_in_every_copy_and_stay(ray, rows, tmp_path):
    path = tmp_path / "index"
    ShardedIndex.build(rows[:2_000], path, num_shards=2, engine="local", nlist=NLIST)
    whole = one_index(path, rows[:2_000])

    def check(index):
        for _ in range(2):  # calls take turns among the copies
            assert_same(index.search(rows[:50], 8, nprobe=NLIST), whole.search(rows[:50], 8, nprobe=NLIST))

    with ShardedIndex.open(path, replicas=2) as index:
        for one in (index, whole):
            assert_array_equal(one.add(rows[2_000:2_500]), np.arange(2_000, 2_500))
        check(index)
        for one in (index, whole):
            assert one.remove(np.arange(0, 900, 3)) == 300
            assert one.remove([0, 1], missing="ignore") == 1
            one.update([1_500, 1_501], rows[3_000:3_002])
            one.upsert([7, 9_000], rows[3_100:3_102])
            assert one.add(rows[:1]).tolist() == [9_001]
        check(index)
        assert len(index) == len(whole)
        index.compact()
        check(index)
        with pytest.raises(pi.LockedError), ShardedIndex.open(path):
            pass
        with ShardedIndex.open(path, read_only=True) as reader:
            check(reader)
            with pytest.raises(RuntimeError, match="read_only=True"):
                reader.add(rows[:1])
    with pytest.raises(RuntimeError, match="closed"):
        index.search(rows[:1])
    with ShardedIndex.open(path) as index:
        check(index)
        assert index.add(rows[:1]).tolist() == [9_002]
        info = index.info()
        assert (info["n"], info["num_shards"], info["replicas"]) == (len(whole) + 1, 2, 1)
        assert sum(shard["n"] for shard in info["shards"]) == info["n"]


@pytest.mark.parametrize("metric", ["ip", "cosine"])
def test_flat_shards_answer_like_one_flat_index(ray, rows, tmp_path, metric):
    path = tmp_path / "index"
    ShardedIndex.build(rows, path, num_shards=2, engine="local", kind="flat", metric=metric)
    whole = one_index(path, rows)
    with ShardedIndex.open(path) as index:
        assert_same(index.search(rows[:30], 7, exact_scan=True), whole.search(rows[:30], 7, exact_scan=True))
        wanted = whole.search(rows[:30], 7, exact_scan=True, query_bits=16, filter=[4, 5, 6, 7])
        assert_same(index.search(rows[:30], 7, exact_scan=True, query_bits=16, filter=[4, 5, 6, 7]), wanted)
        with pytest.raises(TypeError, match="nprobe=3 is of an inverted file"):
            index.search(rows[:3], nprobe=3)


@pytest.mark.parametrize("replicas", [1, 2])
def test_an_actor_that_is_killed_loses_nothing(ray, rows, tmp_path, replicas):
    """Killed while it is asked, and between an acknowledged change and the next search."""
    path = tmp_path / "index"
    ShardedIndex.build(rows, path, num_shards=2, engine="local", nlist=NLIST)
    whole = one_index(path, rows)
    with ShardedIndex.open(path, replicas=replicas) as index:
        for round in range(2):
            ids = index.add(rows[round : round + 40])
            whole.add(rows[round : round + 40], ids)
            victim = index.info()["shards"][round]["process"]  # the writer of a shard
            os.kill(victim, signal.SIGKILL)
            began = time.monotonic()
            assert_same(index.search(rows[:300], 9, nprobe=NLIST), whole.search(rows[:300], 9, nprobe=NLIST))
            assert time.monotonic() - began < 60  # the bound: an answer or an error
            index.upsert([5], rows[round : round + 1])
            whole.upsert([5], rows[round : round + 1])
    with ShardedIndex.open(path) as index:
        assert_same(index.search(rows[:300], 9, nprobe=NLIST), whole.search(rows[:300], 9, nprobe=NLIST))


def test_an_actor_that_is_gone_for_good_is_made_anew(ray, rows, served):
    index, whole = served
    for replica in range(2):
        ray.kill(index._handles.handle(1, replica), no_restart=True)
    assert_same(index.search(rows[:20], 5), whole.search(rows[:20], 5))


def test_a_directory_that_cannot_be_served_says_why(ray, rows, tmp_path):
    with pytest.raises(pi.FormatError, match="not a sharded polarindex index"):
        ShardedIndex.open(tmp_path)
    path = tmp_path / "index"
    ShardedIndex.build(rows[:500], path, num_shards=2, engine="local", nlist=4)
    for options in ({"replicas": 0}, {"threads": 0}, {"timeout": -1}, {"hedge": -1.0}, {"num_cpus": -1}):
        with pytest.raises(ValueError, match=next(iter(options))):
            ShardedIndex.open(path, **options)
    with pytest.raises(TypeError, match="direct"):
        ShardedIndex.open(path, direct="no")
    (path / "shard-00001" / "manifest.json").write_text("{}")
    with pytest.raises(pi.FormatError, match="shard-00001"):
        ShardedIndex.open(path)
