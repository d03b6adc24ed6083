"""The answers to one search of an inverted file: at once where its arguments were seen to be right, else by parts.

    arguments seen before, a plain array -> one call of the compiled search
    else: checked arguments -> queries grouped by filter -> parts for threads -> registers or steps -> (originals)

Why:       a query's search is 15 us; checking arguments and sorting out filters took 20 more.
Not here:  the arguments' checks (ivf.py); lists and keys (probing.py)."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polarindex import kernels
from polarindex.indexes.base import require_results
from polarindex.indexes.filters import Allowed, filter_groups
from polarindex.indexes.ids import Ids
from polarindex.indexes.originals import exact_scores
from polarindex.indexes.probing import Probes, Told
from polarindex.indexes.threads import available_cores, run_all
from polarindex.kernels.limits import EMPTY_ID

if TYPE_CHECKING:
    from polarindex.indexes.ivf import IVFIndex

_WIDENED = 0.4  # the power of 1 / (allowed share) by which more lists are probed; measured in IVFIndex.search
_FEW_ALLOWED = 256  # rows: fewer are looked for in all lists, most of whose pages are then skipped
_TOGETHER = 128  # queries from which a thread is worth its own decoding of lists
_ROOM = 1 << 22  # candidates of one call
_WORK = 1 << 34  # multiply-adds of one call: .1 s with AVX-512, .4 s with AVX2; but a tile of queries
_TILE = 8
_SEEN = 256  # sets of arguments that are remembered
_EVERYONE = np.empty(0, np.uint8)
_FLOATS, _IDS = np.dtype(np.float32), np.dtype(np.int64)  # objects, which NumPy need not look up

Floats = NDArray[np.float32]


class Seen(NamedTuple):
    """What a search's arguments came to, one by one: a look into a tuple in a tuple takes .03 us."""

    version: int
    answer: Callable[..., Any]  # kernels.answer, answer_by_planes or answer_by_segments, for just such arguments
    tag: Any  # its first two
    kind: Any
    about: Ids
    nprobe: int
    gap: float
    keep: int
    exact: bool
    most: int  # queries at a time
    isa: str
    told: Told  # what `about` has addresses of


class Task(NamedTuple):
    """Some queries of a search."""

    given: Floats
    queries: Floats
    where: Any  # of the results
    probes: Probes
    k: int
    keep: int
    exact: bool  # whether the best `keep` are scored again
    first: bool  # whether these are the best by the first planes of their codes, or found by their first segments
    allowed: NDArray[np.uint8] | None
    bits: int


class Way(NamedTuple):
    """How an index answers its tasks.

    answer : distances and ids (nq, k) of a task
    most : queries a task, of how many candidates are kept and how many lists are probed
    threads : that tasks are for, where it is not the caller who says; None for the machine's
    told : whether a kernel that was told of the index answers, so that the next search need not check its arguments
    """

    answer: Callable[[Task], tuple[Floats, Ids]]
    most: Callable[[int, int], int]
    threads: int | None = None
    told: bool = False


def way_on_host(index: IVFIndex, bits: int) -> Way:
    """In registers, where a kernel reads the codes for queries of so many bits, or in steps."""
    in_registers = index._held.scan.in_one_call(bits)
    answer = partial(_in_registers if in_registers else _in_steps, index)
    return Way(answer, partial(most_queries, index), told=in_registers)


def answered_at_once(
    index: IVFIndex, q: Any, k: Any, nprobe: Any, gap: Any, rerank: Any, num_threads: Any, first: bool
) -> tuple[Floats, Ids] | None:
    """Results for a plain float32 array of few queries, or None where the long way is needed: for arguments that
    have not been seen to be right, for what a kernel does not read, and for queries that raise an error.
    """
    if type(q) is not np.ndarray or q.dtype.char != "f" or not q.flags.carray or type(k) is not int:
        return None
    single = q.ndim == 1
    if q.ndim not in (1, 2) or q.shape[-1] != index.dim:
        return None
    if num_threads is not None and (type(num_threads) is not int or num_threads < 1):
        return None
    if not (single or len(q) <= _TOGETHER or num_threads == 1):
        return None
    gate, me = index._gate, get_ident()
    if me in gate.readers:
        return None
    try:  # as sharing.reading does
        gate.readers[me] = None
        if gate.closed is not None:
            return None
        try:
            seen = index._seen.get((k, nprobe, gap, rerank, type(nprobe), type(gap), type(rerank), first))
        except TypeError:  # an array of no dimensions is a number without a hash
            return None
        if seen is None:
            return None
        version, answer, tag, kind, about, nprobe, gap, keep, exact, most, isa, _ = seen
        if version != index._version or len(q) > most or isa != kernels.selected():
            return None
        nq = 1 if single else len(q)
        distances, ids = np.empty((nq, k), _FLOATS), np.empty((nq, k), _IDS)
        given = q.reshape(nq, index.dim)
        if not answer(tag, kind, about, given, nprobe, gap, keep, exact, _EVERYONE, distances, ids):
            return None
        return (distances[0], ids[0]) if single else (distances, ids)
    finally:
        gate.readers.pop(me, None)
        if gate.closed is not None:
            gate.left()


def answered(
    index: IVFIndex,
    given: Floats,
    queries: Floats,
    arguments: tuple[Any, ...],
    k: int,
    probes: Probes,
    factor: int,
    first: bool,
    filter: Any,
    threads: int | None,
    bits: int,
) -> tuple[Floats, Ids]:
    """Distances and ids (nq, k) of `queries`, codable, which were `given` so; `first`: scan a first part of the codes,
    planes or segments, of most rows only."""
    nq = len(queries)
    require_results(nq, k)
    distances, ids = np.empty((nq, k), np.float32), np.empty((nq, k), np.int64)
    keep = max(1, min(max(factor, 1) * k, len(index)))
    groups = filter_groups(filter, nq, index._id_map, len(index), index._version)
    way = index._way(bits)
    threads = way.threads or threads

    def find(members: Ids | None, allowed: Allowed, probes: Probes) -> None:
        tasks = []
        for part in parts_for(nq if members is None else len(members), way.most(keep, probes.nprobe), threads):
            mine: Any = part if members is None else members[part]
            tasks.append(Task(given[mine], queries[mine], mine, probes, k, keep, bool(factor), first, allowed, bits))
        for task, (found, names) in zip(tasks, run_all(way.answer, tasks, threads or available_cores()), strict=True):
            distances[task.where], ids[task.where] = found, names

    nprobe, gap = arguments[1:3]
    for group, allowed in groups:
        members = None if len(groups) == 1 else group
        if allowed is None or nprobe is not None:
            find(members, allowed, probes)
            continue
        count = int(np.count_nonzero(allowed[: index._id_map.places]))
        wider = widened(probes, gap is None, count, len(index), index._held.rows.nlist)
        find(members, allowed, wider)
        short = group[ids[group, min(k, max(count, 1)) - 1] < 0]
        if count and len(short) and wider.nprobe < index._held.rows.nlist:
            find(short, allowed, Probes(index._held.rows.nlist, wider.gap))
    if way.told:
        _remember(index, arguments, probes, keep, bool(factor), first)
    return distances, ids


def _remember(
    index: IVFIndex, arguments: tuple[Any, ...], probes: Probes, keep: int, exact: bool, first: bool
) -> None:
    """These arguments were checked: searches with them need not check again, until rows change."""
    if not all(isinstance(argument, Hashable) for argument in arguments):
        return
    if len(index._seen) >= _SEEN:
        index._seen.clear()
    told = index._held.scan.told()
    if told is None:
        return
    some, out = np.empty((1, index.dim), np.float32), (np.empty((1, 1), np.float32), np.empty((1, 1), np.int64))
    kernel, tag, kind, about = told.way(first)
    answer = kernels.entry(kernel, tag, kind, about, some, *probes, keep, exact, _EVERYONE, *out)
    most, isa = most_queries(index, keep, probes.nprobe), kernels.selected()
    nprobe, gap = probes
    index._seen[arguments] = Seen(
        index._version, answer, tag, kind, about, nprobe, gap, keep, exact, most, isa, told
    )


def _in_registers(index: IVFIndex, task: Task) -> tuple[Floats, Ids]:
    shape = len(task.queries), task.k
    out = np.empty(shape, np.float32), np.empty(shape, np.int64)
    index._held.scan.answer(task.given, task.probes, task.keep, task.exact, task.allowed, out, task.first)
    return out


def _in_steps(index: IVFIndex, task: Task) -> tuple[Floats, Ids]:
    held, planes = index._held, task.first and index.scan_bits is not None
    centred = task.queries - held.centroids.mu
    keys, ids = held.scan.best_in_steps(centred, task.probes, task.keep, task.allowed, task.bits, planes)
    sign = np.float32(-1 if index.metric == "l2" else 1)
    with np.errstate(over="ignore", invalid="ignore"):  # rows of a damaged file that is mapped may be any bits
        if task.exact:
            places = np.where(ids == EMPTY_ID, -1, held.ids.positions(ids.ravel()).reshape(ids.shape))
        if task.exact and not planes:
            keys = sign * exact_scores(held.rows.arena, places, task.given, index.metric).astype(np.float32)
        else:
            if task.exact:
                keys, ids = _best(held.scan.whole_keys(centred, places, task.bits), ids, task.k)
            keys = (keys + index._coding.constants(task.queries, held.centroids)[:, None]).astype(np.float32)
    keys, ids = _best(keys, ids, task.k)
    return index._padded(sign * keys, np.where(ids == EMPTY_ID, -1, ids), task.k)


def _best(keys: Floats, ids: Ids, k: int) -> tuple[Floats, Ids]:
    """The k best of each row by (key, id)."""
    order = np.lexsort((ids, -keys))[:, :k]
    return np.take_along_axis(keys, order, 1), np.take_along_axis(ids, order, 1)


def widened(probes: Probes, free: bool, count: int, n: int, nlist: int) -> Probes:
    """The lists to probe where a filter allows `count` of n rows; the gap goes too where the caller is `free` of it."""
    if count == n:
        return probes
    gap = np.inf if free else probes.gap
    if count < _FEW_ALLOWED:
        return Probes(nlist, gap)
    return Probes(min(nlist, math.ceil(probes.nprobe * (n / count) ** _WIDENED)), gap)


def parts_for(nq: int, most: int, threads: int | None) -> list[slice]:
    """Queries that are searched together: as many parts as there are threads, where these are worth it."""
    if threads is None:
        threads = available_cores() if nq >= 2 * _TOGETHER else 1
    step = max(1, min(most, -(-nq // threads)))
    return [slice(start, min(start + step, nq)) for start in range(0, nq, step)]


def most_queries(index: IVFIndex, keep: int, nprobe: int, n: int | None = None) -> int:
    """Queries at a time, whose candidates, rows and lists, have room, and for which Ctrl-C may wait.

    n : the rows that are scanned; by default the index's
    """
    rows = index._held.rows
    work = ((rows.n if n is None else n) * nprobe // rows.nlist + 8 * keep + rows.nlist) * index.dim
    return max(1, min(_ROOM // (2 * (keep + nprobe) + 128), max(_TILE, _WORK // max(work, 1))))
