"""Another number of shards for an index: its rows' codes are moved as they are, none is coded again.

    old shards, mapped -> rows by the shards of their ids -> indexes/streamed.py -> new shards -> sharded.json
                       -> the old ones go

Law:       until sharded.json is replaced, in one step, the index is the old one, afterwards the new one; what a crash
           leaves of the other is removed by the next call. Answers are the same before and after, bit for bit.
Alone:     the locks of the index and of its old shards are held meanwhile: nobody has them open for writing. Who reads
           them goes on with what it has, and opens the index anew to see more.
Memory:    `memory` bytes for rows at a time, and 16 bytes a row of a new shard; old shards are mapped.
Not here:  which shard an id belongs to (routing.py)."""

from __future__ import annotations

import os
import shutil
import uuid
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polarindex import checks
from polarindex.distributed import layout
from polarindex.distributed.layout import Layout
from polarindex.distributed.routing import MOST_SHARDS, shards_of
from polarindex.indexes import durable, opened, segment, storage
from polarindex.indexes.flat import FlatIndex
from polarindex.indexes.ivf import IVFIndex
from polarindex.indexes.lock import WriterLock
from polarindex.indexes.streamed import saved_rows

MEMORY = 1 << 30

Ids = NDArray[np.int64]


def reshard(path: str | os.PathLike[str], num_shards: int, *, memory: int = MEMORY) -> Layout:
    """Give an index another number of shards; see `ShardedIndex.reshard`."""
    count = checks.integer(num_shards, "num_shards", low=1, high=MOST_SHARDS)
    checks.integer(memory, "memory", low=1)
    folder = Path(os.path.realpath(path))
    layout.read(folder)  # what is not one gets no lock
    with ExitStack() as held:
        held.callback(WriterLock(folder).release)
        before = layout.read(folder)
        shards: list[FlatIndex | IVFIndex] = []
        for name in before.shards:
            shards.append(opened.open(folder / name, mmap=True))
            held.enter_context(shards[-1])
        layout.sweep(folder, before)
        frame = storage.load(folder / before.frame)
        mark = uuid.uuid4().hex[:12]
        after = replace(
            before,
            shards=tuple(f"{layout.shard_name(number)}-{mark}" for number in range(count)),
            next_id=max(before.next_id, *(shard._id_map.next_id for shard in shards)),
        )
        try:
            for number, name in enumerate(after.shards):
                (folder / name).mkdir()
                moved = [_Moved(shard, number, count) for shard in shards]
                segment.replace(frame, folder / name, saved_rows(frame, moved, memory))
            durable.sync_directory(folder)
            layout.put(folder, after)
        except BaseException:
            if layout.read(folder) != after:
                for name in after.shards:
                    shutil.rmtree(folder / name, ignore_errors=True)
            raise
    layout.sweep(folder, after)
    return after


class _Moved:
    """The rows of an old shard that belong to a new one, as streamed.Run."""

    def __init__(self, shard: FlatIndex | IVFIndex, number: int, count: int) -> None:
        self._shard = shard
        places = np.arange(len(shard)) if isinstance(shard, FlatIndex) else shard._held.rows.used()
        places = places[shards_of(shard._id_map.at(places), count) == number]
        if isinstance(shard, IVFIndex):
            places = places[np.argsort(shard._held.rows.lists_of(places), kind="stable")]
        self._places: Ids = places
        self.n = len(places)

    def __call__(self, name: str, start: int, stop: int) -> NDArray[Any]:
        places = self._places[start:stop]
        if name == "ids":
            return self._shard._id_map.at(places)
        if isinstance(self._shard, FlatIndex):
            return self._shard._arena.take(name, places)
        rows = self._shard._held.rows
        if name == "lists":
            return rows.lists_of(places)
        codes, factors, _, originals = rows.taken(places)
        found: dict[str, NDArray[Any]] = {"codes": codes, "factors": factors, **originals}
        return found[name]
