"""The copies of an index's rows on one or more devices of a host, and a search of all of them.

Law:       what is found is what one device with all rows finds, bit for bit: each has its share (share.py), and the
           best of the best of each, by key and id, are the best of all.
Turns:     one thread gives all devices their work before it waits for one, since calls return before a device is done.
           With a thread a device, two H200s took 4.4 ms for 256 queries of 8 million rows of 256 coordinates, and one
           2.3: most likely because threads hand the GIL to each other at every call. Processes would need the rows,
           and every change, in each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from polarindex.gpu.device import Device
from polarindex.gpu.mirror import Mirror
from polarindex.gpu.search import Floats, Ids, Prepare, Search, Turns, best_rows
from polarindex.gpu.share import Share
from polarindex.gpu.streamed import StreamedSearch
from polarindex.indexes.arena import Arena
from polarindex.indexes.changes import Numbers
from polarindex.indexes.filters import Group
from polarindex.indexes.scan import merged
from polarindex.indexes.segment_factors import Law
from polarindex.kernels.limits import EMPTY_ID
from polarindex.quantizers import Quantizer

T = TypeVar("T")

# From some queries, by their numbers, and a device: what best_rows takes of them there
Prepared = Callable[[NDArray[np.int64], Device], Callable[[Any, slice], Prepare]]


class Copies:
    """One mirror a device; a number that comes twice has two, and each an equal part of what is free."""

    def __init__(self, quantizer: Quantizer, numbers: list[int], memory: int | None) -> None:
        self._mirrors = [
            Mirror(quantizer, number, memory, Share(i, len(numbers)), numbers.count(number))
            for i, number in enumerate(numbers)
        ]

    def __iter__(self) -> Iterator[Mirror]:
        return iter(self._mirrors)

    @property
    def streamed(self) -> int:
        """Bytes of pinned host memory."""
        return sum(mirror.streamed for mirror in self)

    def note(self, numbers: Numbers | range) -> None:
        """Rows at some positions are about to change."""
        for mirror in self:
            mirror.note(numbers)

    def note_everything(self) -> None:
        for mirror in self:
            mirror.note_everything()

    def best(
        self, arena: Arena, law: Law | None, groups: list[Group], nq: int, k: int, prepared: Prepared
    ) -> tuple[Floats, Ids]:
        """Keys (nq, k) float32 and ids (nq, k), best first; empty places are -inf and EMPTY_ID."""
        mirrors = [mirror for mirror in self if mirror.share.count(arena.n)]
        found = in_turn([(mirror.device, _best(mirror, arena, law, groups, nq, k, prepared)) for mirror in mirrors])
        return found[0] if len(found) == 1 else merged(found)


def in_turn(searches: list[tuple[Device, Turns[T]]]) -> list[T]:
    """What all return: each goes on until it pauses, its device the current one, and then the next."""
    going, results = dict(enumerate(searches)), {}
    try:
        while going:
            for number, (device, search) in list(going.items()):
                with device.use("searching"):
                    try:
                        next(search)
                    except StopIteration as done:
                        results[number] = done.value
                        del going[number]
    finally:
        for _, search in searches:
            search.close()
    return [results[number] for number in range(len(searches))]


def _best(
    mirror: Mirror, arena: Arena, law: Law | None, groups: list[Group], nq: int, k: int, prepared: Prepared
) -> Turns[tuple[Floats, Ids]]:
    """The best of one device's rows."""
    keys, ids = np.empty((nq, k), np.float32), np.empty((nq, k), np.int64)
    with mirror.current(arena, law) as rows:
        kind = Search if rows.beyond is None else StreamedSearch
        for group, allowed in groups:
            mask = None if allowed is None else mirror.share.of_mask(allowed, arena.n)
            mine, on = prepared(group, mirror.device), mirror.device
            keys[group], ids[group] = yield from best_rows(on, on.cp, rows, mine, len(group), k, mask, kind)
    if rows.ids is None and mirror.share.of > 1:
        there = ids != EMPTY_ID
        ids[there] = mirror.share.positions(ids[there])
    return keys, ids
