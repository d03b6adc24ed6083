"""Range searches of an inverted file: all rows within a radius, in registers or list by list in steps.

    queries grouped by filter -> parts for threads -> one call of kernels.within each -> put together, query by query
                              -> or keys of a step of a list, distances, those within the radius, sorted at the end

Law:       a hit is distance <= radius (l2) or similarity >= radius of the float32 estimate by whole codes; each query's
           are sorted by (distance, id). Both ways give the same bits.
Not here:  the arguments' checks (ivf.py); lists and keys (probing.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polarindex.indexes.answers import most_queries
from polarindex.indexes.copies import once_each
from polarindex.indexes.filters import Allowed, filter_groups
from polarindex.indexes.ids import Ids
from polarindex.indexes.probing import Probes
from polarindex.indexes.threads import available_cores, run_all

if TYPE_CHECKING:
    from polarindex.indexes.ivf import IVFIndex

_TOGETHER = 128  # queries from which a thread is worth its own decoding of lists
_MOST = 1024  # queries of one call
_ROOM = 1 << 20  # candidates of one call, 8 bytes each, of which only those that are there are touched

Floats = NDArray[np.float32]
Hits = tuple[Ids, Floats, Ids]  # lims, distances and ids, see FlatIndex.range_search
_Groups = list[tuple[Ids, Allowed]]  # queries that share a filter, and what it allows


class _Part(NamedTuple):
    """Some queries of a search, as they were given."""

    members: Ids
    given: Floats
    allowed: Allowed


def within_radius(
    index: IVFIndex, given: Floats, queries: Floats, radius: np.float64, probes: Probes, filter: object
) -> Hits:
    """The hits of `queries`, codable, which were `given` so."""
    groups = filter_groups(filter, len(queries), index._id_map, len(index), index._version)
    way = _in_registers if index._held.scan.in_registers(8) else _in_steps
    hits = way(index, given, queries, radius, probes, groups)
    return hits if index._held.copies is None else once_each(*hits)


def _in_registers(
    index: IVFIndex, given: Floats, queries: Floats, radius: np.float64, probes: Probes, groups: _Groups
) -> Hits:
    def find(part: _Part) -> Hits:
        return index._held.scan.within(part.given, probes, radius, _ROOM, part.allowed)

    threads, largest = available_cores(), max(1, index._held.largest)
    parts = []
    for group, allowed in groups:
        step = len(group) if len(group) < 2 * _TOGETHER else -(-len(group) // threads)
        step = max(1, min(step, _MOST, _ROOM // largest, most_queries(index, 0, probes.nprobe)))
        for start in range(0, len(group), step):
            members = group[start : start + step]
            parts.append(_Part(members, given[members], allowed))
    return _together(len(queries), parts, run_all(find, parts, threads))


def _together(nq: int, parts: list[_Part], found: list[Hits]) -> Hits:
    """The hits of all queries, of which each part has some."""
    lims = np.zeros(nq + 1, np.int64)
    for part, (ends, _, _) in zip(parts, found, strict=True):
        lims[part.members + 1] = np.diff(ends)
    lims = np.cumsum(lims)
    distances, ids = np.empty(lims[-1], np.float32), np.empty(lims[-1], np.int64)
    for part, (ends, some, names) in zip(parts, found, strict=True):
        at = np.repeat(lims[part.members] - ends[:-1], np.diff(ends)) + np.arange(ends[-1])
        distances[at], ids[at] = some, names
    return lims, distances, ids


def _in_steps(
    index: IVFIndex, given: Floats, queries: Floats, radius: np.float64, probes: Probes, groups: _Groups
) -> Hits:
    held = index._held
    centred, constants = queries - held.centroids.mu, index._coding.constants(queries, held.centroids)
    found: list[list[tuple[Floats, Ids]]] = [[] for _ in range(len(queries))]
    for group, allowed in groups:
        lists = held.scan.coarse.nearest(centred[group], *probes)
        for block in held.scan.key_blocks(centred[group], lists, allowed):
            members = group[block.members]
            distances = (block.keys + constants[members, None]).astype(np.float32)
            distances = -distances if index.metric == "l2" else distances
            index._add_hits(found, members, distances, block.ids, block.allowed, radius)
    return index._sorted_hits(found)
