"""Another number of shards: the same rows, the same answers, and nothing in between."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import polarindex as pi
from polarindex.distributed import ShardedIndex, layout, resharding
from polarindex.distributed.routing import shards_of
from polarindex.indexes import halves

NLIST = 16


def shards_at(path):
    return [pi.load(path / name) for name in layout.read(path).shards]


def found(path, q, k=10):
    """What a search of all shards finds, asked one after the other."""
    frame, shards = pi.load(path / "frame"), shards_at(path)
    probes = frame._probes(6, None) if isinstance(frame, pi.IVFIndex) else None
    question, constants = halves.asked(frame, q, probes, 8, True)
    keep = max(frame._rerank_factor(None), 1) * k
    parts = [halves.candidates(shard, question, q if frame.store != "none" else None, keep, None, True)
             for shard in shards]
    return halves.best(parts, constants, k, keep, frame.metric)


@pytest.mark.parametrize(
    "made", [{"store": "int8"}, {"scan_bits": 1}, {"quantizer": "polarquant"}, {"kind": "flat", "store": "float16"}]
)
def test_answers_are_the_same_for_every_number_of_shards(rows, tmp_path, made):
    path = tmp_path / "index"
    options = made if "kind" in made else {"nlist": NLIST, **made}
    ids = np.random.default_rng(0).permutation(len(rows)) * 3
    ShardedIndex.build(rows, path, num_shards=3, ids=ids, engine="local", processes=1, **options)
    large = np.arange(2**33, 2**33 + 99)
    kept, used = large[shards_of(large, 3) == 1][:2].tolist()
    with pi.open(path / "shard-00001") as shard:
        shard.remove(shard.ids[:40])
        shard.add(rows[:2], ids=[kept, used])
        shard.remove([used])  # and never used again
    wanted, everyone = found(path, rows[:60]), np.sort(np.concatenate([shard.ids for shard in shards_at(path)]))
    for count in (5, 1, 2):
        after = ShardedIndex.reshard(path, count, memory=1)
        assert after == layout.read(path) and after.num_shards == count and after.next_id == used + 1
        shards = shards_at(path)
        for number, shard in enumerate(shards):
            assert (shards_of(shard.ids, count) == number).all()
        assert_array_equal(np.sort(np.concatenate([shard.ids for shard in shards])), everyone)
        for one, other in zip(found(path, rows[:60]), wanted, strict=True):
            assert_array_equal(one, other)
        there = sorted(entry.name for entry in path.iterdir() if entry.is_dir())
        assert there == sorted(("frame", *after.shards))


def test_what_fails_leaves_the_old_shards(rows, tmp_path, monkeypatch):
    path = tmp_path / "index"
    before = ShardedIndex.build(rows, path, num_shards=2, nlist=NLIST, engine="local", processes=1)
    there = sorted(entry.name for entry in path.iterdir())
    with pi.open(path / "shard-00001"), pytest.raises(pi.LockedError):
        ShardedIndex.reshard(path, 4)
    for bad in (0, 1.5, 10**6):
        with pytest.raises((TypeError, ValueError), match="num_shards"):
            ShardedIndex.reshard(path, bad)
    for step in ("put", "sync_directory"):
        with monkeypatch.context() as patch:
            def fail(*arguments):
                raise OSError("no")
            patch.setattr(layout if step == "put" else resharding.durable, step, fail)
            with pytest.raises(OSError, match="no"):
                ShardedIndex.reshard(path, 4)
        assert layout.read(path) == before
        assert sorted(entry.name for entry in path.iterdir()) == there
    (path / "shard-00003-0123456789ab").mkdir()  # a crash left it
    ShardedIndex.reshard(path, 2)
    assert not (path / "shard-00003-0123456789ab").exists()
