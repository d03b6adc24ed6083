"""Searches of all shards at once: queries are prepared here, in parts, while shards scan those before.

    batch -> parts -> (rotated, lists chosen) -> one question to all shards, `threads` and _AHEAD parts at a time
          -> candidates of all -> the k best (indexes/halves.py)
    filter -> its ids by the shards they belong to; a shard of which none is allowed is not asked

Law:       what one index with all rows finds with exact_scan=True, bit for bit. A part lacks a shard only where the
           caller takes partial answers, and is told which.
Not here:  arguments' checks (sharded.py); calls and what becomes of those that are lost (actors.py)."""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from polarindex.distributed.actors import Asking, Deadline, Handles, Large
from polarindex.distributed.direct import Ways
from polarindex.distributed.routing import shards_of
from polarindex.indexes import halves
from polarindex.indexes.answers import widened
from polarindex.indexes.filters import IdFilter
from polarindex.indexes.flat import FlatIndex
from polarindex.indexes.ivf import IVFIndex
from polarindex.indexes.probing import Probes

_TOGETHER = 128  # queries from which a part of a batch is worth its own decoding of lists, for another thread
_MOST = 1024  # queries of a part: a shard decodes a list once for all of them, and the next part is prepared meanwhile
_AHEAD = 1  # parts that wait at a shard beside those that it scans

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]
Hits = tuple[Ids, Floats, Ids]


class Wanted(NamedTuple):
    """What a search asks for.

    factor : candidates a result that are scored by their originals, 0 for none
    probes, given_nprobe, given_gap : of an inverted file: the lists to look into, and what the caller said of that
    exact, bits : as exact_scan and query_bits of FlatIndex.search
    threads : calls that a shard scans for this search at a time
    """

    k: int
    factor: int
    probes: Probes | None
    given_nprobe: bool
    given_gap: bool
    exact: bool
    bits: int
    threads: int


class Group(NamedTuple):
    """Queries that share a filter."""

    members: Ids
    filter: IdFilter | None


class Searches:
    """Searches of one sharded index.

    Parameters
    ----------
    changes : of each shard the last change that answers have to show
    """

    def __init__(
        self,
        frame: FlatIndex | IVFIndex,
        handles: Handles,
        changes: Sequence[str],
        registers: bool,
        hedge: float | None,
        ways: Ways | None,
    ) -> None:
        self._frame, self._handles, self._changes, self._hedge = frame, handles, changes, hedge
        self._registers, self._ways = registers, ways
        self._filters: WeakKeyDictionary[IdFilter, list[tuple[Any, ...]]] = WeakKeyDictionary()

    def ask(
        self, method: str, arguments: dict[int, tuple[Any, ...]], deadline: Deadline, first_only: bool = False
    ) -> Asking:
        """A call whose answers show all changes."""
        named = {shard: (self._changes[shard], *given) for shard, given in arguments.items()}
        return Asking(self._handles, method, named, deadline, first_only, self._hedge, self._ways)

    def everyone(self, *arguments: Any) -> dict[int, tuple[Any, ...]]:
        """The same arguments for all shards."""
        return dict.fromkeys(range(self._handles.num_shards), arguments)

    # --- the k best

    def best(
        self, given: Floats, wanted: Wanted, groups: list[Group], n: int, deadline: Deadline, partial: bool
    ) -> tuple[Floats, Ids, tuple[int, ...]]:
        """Distances and ids (nq, k), and the shards that are missing. n : rows, about, of the largest shard."""
        run = _Run(self, given, wanted, n, deadline, partial)
        for members, filter in groups:
            probes, frame = wanted.probes, self._frame
            if filter is None or wanted.given_nprobe or probes is None or not isinstance(frame, IVFIndex):
                run.find(members, filter, probes)
                continue
            count, rows = run.allowed(filter)
            nlist = frame._held.rows.nlist
            wider = widened(probes, not wanted.given_gap, count, rows, nlist) if count else probes
            run.find(members, filter, wider)
            short = members[run.ids[members, min(wanted.k, max(count, 1)) - 1] < 0]
            if count and len(short) and wider.nprobe < nlist:
                run.find(short, filter, Probes(nlist, wider.gap))
        return run.distances, run.ids, tuple(sorted(run.missing))

    def parts_of(self, filter: IdFilter | None) -> list[tuple[Any, ...]]:
        """Of every shard what it is told of a filter: nothing, or a key and ids; () where it has none of them."""
        if filter is None:
            return [(None, None)] * self._handles.num_shards
        parts = self._filters.get(filter)
        if parts is None:
            key, homes = uuid.uuid4().hex, shards_of(filter.ids, self._handles.num_shards)
            mine = [filter.ids[homes == shard] for shard in range(self._handles.num_shards)]
            parts = self._filters[filter] = [(key, Large(ids, again=True)) if len(ids) else () for ids in mine]
        return parts

    # --- all within a radius

    def within(
        self, given: Floats, radius: float, options: dict[str, Any], groups: list[Group], deadline: Deadline,
        partial: bool,
    ) -> tuple[Ids, Floats, Ids, tuple[int, ...]]:
        """lims, distances and ids of `range_search`, and the shards that are missing."""
        askers, parts, missing = [], [], set()
        for members, filter in groups:
            sent = self.parts_of(filter)
            for start in range(0, len(members), _MOST):
                some = members[start : start + _MOST]
                asking = self.ask(
                    "within",
                    {shard: (given[some], radius, options, *mine) for shard, mine in enumerate(sent) if mine},
                    deadline,
                )
                found = asking.answers() if partial else asking.all("range_search")
                missing |= set(asking.missing())
                for lims, distances, ids in found.values():
                    askers.append(np.repeat(some, np.diff(lims)))
                    parts.append((distances, ids))
        numbers = np.concatenate([np.empty(0, np.int64), *askers])
        distances = np.concatenate([np.empty(0, np.float32), *(part[0] for part in parts)])
        ids = np.concatenate([np.empty(0, np.int64), *(part[1] for part in parts)])
        order = np.lexsort((ids, distances if self._frame.metric == "l2" else -distances, numbers))
        lims = np.concatenate([[0], np.cumsum(np.bincount(numbers, minlength=len(given)))])
        return lims, distances[order], ids[order], tuple(sorted(missing))


class _Run:
    """One search, whose parts fill distances and ids."""

    def __init__(
        self, searches: Searches, given: Floats, wanted: Wanted, n: int, deadline: Deadline, partial: bool
    ) -> None:
        self._searches, self._given, self._wanted, self._n = searches, given, wanted, n
        self._deadline, self._partial = deadline, partial
        worst = np.inf if searches._frame.metric == "l2" else -np.inf
        self.distances = np.full((len(given), wanted.k), worst, np.float32)
        self.ids = np.full((len(given), wanted.k), -1, np.int64)
        self.missing: set[int] = set()

    def allowed(self, filter: IdFilter) -> tuple[int, int]:
        """Rows that a filter allows, and rows, of all shards."""
        searches, sent = self._searches, self._searches.parts_of(filter)
        nothing = (None, np.empty(0, np.int64))
        arguments = {shard: mine or nothing for shard, mine in enumerate(sent)}
        counts = self._answers(searches.ask("allowed", arguments, self._deadline)).values()
        return sum(some for some, _ in counts), sum(rows for _, rows in counts)

    def find(self, members: Ids, filter: IdFilter | None, probes: Probes | None) -> None:
        """Fill the answers of some queries."""
        wanted, frame, sent = self._wanted, self._searches._frame, self._searches.parts_of(filter)
        keep = max(wanted.factor, 1) * wanted.k
        most = halves.queries_at_once(frame, self._n, max(1, min(keep, self._n)), probes)
        share = max(_TOGETHER, -(-len(members) // wanted.threads))
        step = max(1, min(most, share, _MOST))
        waiting: deque[tuple[Ids, Any, Asking]] = deque()
        for start in range(0, len(members), step):
            some = members[start : start + step]
            given = self._given[some]
            question, constants = halves.asked(frame, given, probes, wanted.bits, self._searches._registers, None)
            asked = Large((question, given if wanted.factor else None))
            arguments = {
                shard: (asked, keep, wanted.exact, *mine) for shard, mine in enumerate(sent) if mine
            }
            waiting.append((some, constants, self._searches.ask("candidates", arguments, self._deadline)))
            if len(waiting) > wanted.threads + _AHEAD:
                self._finish(*waiting.popleft(), keep)
        for part in waiting:
            self._finish(*part, keep)

    def _finish(self, some: Ids, constants: Any, asking: Asking, keep: int) -> None:
        found = self._answers(asking)
        if found:
            parts, metric = list(found.values()), self._searches._frame.metric
            best = halves.best(parts, constants, self._wanted.k, keep, metric, None)
            self.distances[some], self.ids[some] = best

    def _answers(self, asking: Asking) -> dict[int, Any]:
        found = asking.answers() if self._partial else asking.all("search")
        self.missing |= set(asking.missing())
        return found
