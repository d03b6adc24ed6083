"""Which shard an id belongs to: a fixed function of the id and the number of shards, so that anybody can ask.

    id -> splitmix64 (ids that count become numbers without a pattern) -> jump consistent hash -> 0 .. num_shards - 1

Law:       the same on every machine, in every version. Shards get equal shares but for chance. From S to T > S shards
           an id stays, or moves to one of the new ones: 1 - S / T of them do. From T to S it is the same backwards.
Source:    splitmix64's finaliser: Steele, Lea, Flood 2014; jump consistent hash: Lamping and Veach, arXiv:1406.2294.
Not here:  what lies in a shard (layout.py)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ROUTING = "splitmix64-jump"  # as sharded.json names it
MOST_SHARDS = 65_536  # a shard is one entry of a manifest of at most a MiB
_STEP = np.uint64(2862933555777941757)  # of the generator that jump draws from

Ids = NDArray[np.int64]


def shards_of(ids: Ids, num_shards: int) -> NDArray[np.int32]:
    """(n,) int32, the shard of every id of ids (n,) int64."""
    shards = np.zeros(len(ids), np.int32)
    keys, jumping = mixed(ids), np.arange(len(ids))
    while len(jumping):  # log(num_shards) times: ever fewer ids jump once more
        keys = keys * _STEP + np.uint64(1)
        unit = np.float64(2**31) / ((keys >> np.uint64(33)).astype(np.float64) + 1)
        landed = np.floor((shards[jumping] + 1) * unit)
        inside = landed < num_shards
        jumping, keys = jumping[inside], keys[inside]
        shards[jumping] = landed[inside].astype(np.int32)
    return shards


def mixed(ids: Ids) -> NDArray[np.uint64]:
    """(n,) uint64: splitmix64 of each id."""
    z = ids.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
