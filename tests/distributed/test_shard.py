"""A shard for itself, without Ray: when it opens its directory, looks at it again, and what changes it takes."""

from __future__ import annotations

import time

import numpy as np
import pytest

import polarindex as pi
from polarindex.distributed import shard as module
from polarindex.distributed.shard import Shard, Turn


@pytest.fixture
def folder(x, tmp_path):
    index = pi.IVFIndex(16, nlist=8).fit(x)
    index.add(x)
    index.save(tmp_path / "shard")
    return tmp_path / "shard"


def made(folder, writes=True, patience=0.0):
    return Shard(str(folder), writes, True, 1, patience)


def test_what_is_wrong_with_a_directory_is_the_answer_to_every_call(tmp_path):
    shard = made(tmp_path / "nothing")
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            shard.state()


def test_a_change_is_durable_when_it_returns_and_may_be_made_twice(folder, x):
    writer = made(folder)
    for number in (1, 1, 2):
        state = writer.upsert(Turn("driver", number), np.array([5, 5000]), x[:2])
        assert (state.n, state.next_id) == (1001, 5001)
        assert len(pi.load(folder)) == 1001
    for number in (3, 3):
        assert writer.remove(Turn("driver", number), np.array([5000, 7])).n == 999
        assert len(pi.load(folder)) == 999
    assert writer.known("", np.array([5, 7, 5000])).tolist() == [True, False, False]


def test_a_change_that_a_later_one_has_overtaken_is_refused(folder, x):
    writer = made(folder)
    writer.upsert(Turn("one", 7), np.array([5]), x[:1])
    with pytest.raises(RuntimeError, match="change 6 came after a later one of the same driver"):
        writer.upsert(Turn("one", 6), np.array([5]), x[1:2])
    writer.remove(Turn("other", 1), np.array([6]))


def test_a_reader_looks_again_for_a_change_that_is_named_and_after_a_while(folder, x, monkeypatch):
    writer, reader = made(folder), made(folder, writes=False)
    monkeypatch.setattr(module, "STALE", 1e9)
    assert reader.state().n == 1000
    writer.remove(Turn("driver", 1), np.array([0]))
    assert reader.state().n == 1000
    assert reader.state("a change").n == 999
    writer.remove(Turn("driver", 2), np.array([1]))
    assert reader.state("a change").n == 999  # it has heard of it
    monkeypatch.setattr(module, "STALE", 0.0)
    assert reader.state("a change").n == 998


def test_a_writer_that_takes_another_ones_place_waits_for_its_lock(folder):
    first = made(folder)
    first.state()
    with pytest.raises(pi.LockedError):
        made(folder).state()
    second, began = made(folder, patience=0.3), time.monotonic()
    with pytest.raises(pi.LockedError):
        second.state()
    assert time.monotonic() - began > 0.3
    first.close()
    assert second.state().n == 1000


def test_filters_with_a_key_are_remembered_and_few_of_them(folder):
    shard = made(folder)
    kept = shard._filter("a", np.array([1, 2]))
    assert shard._filter("a", np.array([1, 2])) is kept
    assert shard._filter(None, np.array([1, 2])) is not kept
    assert shard.allowed("", "a", np.array([1, 2])) == (2, 1000)
    for number in range(50):
        shard._filter(str(number), np.array([number]))
    assert len(shard._filters) == module._FILTERS and shard._filter("a", np.array([1, 2])) is not kept
