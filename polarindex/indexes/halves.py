"""A search in two halves, for rows that lie in several indexes alike: one prepares the queries, each scans its rows.

    queries -> prepared once: rotated, rounded, their lists chosen -> a Question
            -> of every index of rows its candidates: keys, ids, and what their originals say
            -> those that one index would have had, by key -> the k best of these

Law:       indexes with the same parameters and lists (IVFIndex.empty_like), or the same frozen centre, score alike.
           What one index with all rows finds with exact_scan=True is found here, bit for bit: its candidates are the
           `keep` best by (key, id), and each part gives as many of its own.
First planes: codes are scanned whole, so scan_bits says nothing here.
Not here:  who asks whom, and what is sent (distributed/)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polarindex import kernels
from polarindex.indexes.answers import most_queries, parts_for
from polarindex.indexes.filters import Allowed, IdFilter, filter_groups
from polarindex.indexes.flat import FlatIndex
from polarindex.indexes.interrupts import uninterrupted
from polarindex.indexes.ivf import IVFIndex
from polarindex.indexes.lines import StageQueries
from polarindex.indexes.originals import exact_scores
from polarindex.indexes.plan import IN_STEPS
from polarindex.indexes.probing import Probes
from polarindex.indexes.scan import best_rows
from polarindex.indexes.sharing import reading
from polarindex.indexes.threads import available_cores, run_all
from polarindex.kernels.limits import EMPTY_ID

_FLAT_ROOM = 1 << 22  # candidates
_FLAT_WORK = 1 << 36  # multiply-adds
_EVERYONE = np.empty(0, np.uint8)

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ids = NDArray[np.int64]
Numbers = NDArray[np.int32]
Index = FlatIndex | IVFIndex
_Found = tuple[Floats, Ids, Ids | None]  # keys, ids, and positions where the scan knows them


class FlatQuestion(NamedTuple):
    """Queries as the scan of a flat index takes them."""

    integers: list[list[StageQueries]]
    bits: int

    def found(self, index: Any, keep: int, allowed: Allowed, exact: bool) -> _Found:
        nq = len(self.integers[0][0].gains)
        plan = index._planner.plan(index._arena, nq, keep, exact) if self.bits == 8 else IN_STEPS
        law = index._coding.centre.law
        return *best_rows(index._arena, law, index.quantizer, plan, self.integers, keep, allowed, 1), None


class ListQuestion(NamedTuple):
    """Queries and the lists they probe, as kernels.candidates_of takes them."""

    queries: tuple[Numbers, Numbers, Floats]
    jobs: tuple[Numbers, Ids, Numbers, Floats]

    def found(self, index: Any, keep: int, allowed: Allowed, exact: bool) -> _Found:
        told = index._held.scan.told(probing=False)
        if told is None:
            raise RuntimeError("queries were prepared for registers, and these codes are not read in registers here")
        shape = len(self.queries[1]), keep
        keys, ids, places = np.empty(shape, np.float32), np.empty(shape, np.int64), np.empty(shape, np.int64)
        seen = _EVERYONE if allowed is None else allowed
        kernels.candidates_of(told.isa, told.about, _own(self.queries), _own(self.jobs), keep, seen, keys, ids, places)
        return keys, ids, places


class StepQuestion(NamedTuple):
    """Queries less the centre and the lists they probe, for codes that are scanned in steps."""

    centred: Floats
    probed: list[Numbers]
    bits: int

    def found(self, index: Any, keep: int, allowed: Allowed, exact: bool) -> _Found:
        return *index._held.scan.best_of_lists(self.centred, self.probed, keep, allowed, self.bits), None


Question = FlatQuestion | ListQuestion | StepQuestion


class Candidates(NamedTuple):
    """Rows of one index for each query, in no order.

    keys : (nq, m) float32, larger is better, -inf where there is none
    ids : (nq, m) int64, or int32 where they fit, for they are sent; -1 where there is none
    scores : (nq, m) float32 of their originals, larger is better; None where these are not asked
    """

    keys: Floats
    ids: NDArray[np.signedinteger[Any]]
    scores: Floats | None


def in_registers(index: Index) -> bool:
    """Whether 8-bit queries are prepared for registers here, and scanned so."""
    return isinstance(index, FlatIndex) or index._held.scan.in_registers(8)


def asked(
    frame: Index, given: Floats, probes: Probes | None, bits: int, registers: bool, threads: int | None = 1
) -> tuple[Question, Doubles]:
    """The question of checked queries (nq, dim), and what is added to the keys of each, (nq,).

    probes : of an inverted file. registers : whether all that will be asked say `in_registers`
    threads : that choose lists in registers; None: as many as a search uses
    """
    if isinstance(frame, FlatIndex):
        queries = frame._coding.codable(given, "q")
        constants = frame._coding.constants(queries)
        sign = -1 if frame.metric == "l2" else 1
        return FlatQuestion(frame._integer_queries(queries, bits), bits), sign * constants
    held = frame._held
    if probes is None:
        raise ValueError("an inverted file is asked with probes")
    told = held.scan.told() if registers and bits == 8 else None
    if told is None:
        queries = frame._coding.codable(given, "q")
        centred = queries - held.centroids.mu
        question = StepQuestion(centred, held.scan.coarse.nearest(centred, *probes), bits)
        return question, frame._coding.constants(queries, held.centroids)
    (own,) = _own((given,))

    def choose(part: slice) -> tuple[ListQuestion, Doubles]:
        with uninterrupted():  # a kernel that makes arrays runs Python at its end, where Ctrl-C is a SystemError
            able, integers, jobs, constants = kernels.asked_lists(told.isa, told.about, own[part], *probes)
        if not able:
            raise RuntimeError("queries that passed their checks cannot be answered")
        return ListQuestion(integers, jobs), constants

    found = run_all(choose, parts_for(len(own), len(own), threads), threads or available_cores())
    return _joined([question for question, _ in found], held.rows.nlist), np.concatenate([one for _, one in found])


def _joined(parts: list[ListQuestion], nlist: int) -> ListQuestion:
    """One question of queries that were asked one part after another: a list that several probe is scanned once."""
    if len(parts) == 1:
        return parts[0]
    counts = [len(part.queries[1]) for part in parts]
    firsts = np.cumsum([0, *counts[:-1]])
    told = [
        (first, len(part.jobs[0]), *(array.ctypes.data for array in part.jobs))
        for first, part in zip(firsts, parts, strict=True)
    ]
    pairs = sum(len(part.jobs[2]) for part in parts)
    lists, starts = np.empty(nlist, np.int32), np.empty(nlist + 1, np.int64)
    members, offsets = np.empty(pairs, np.int32), np.empty(pairs, np.float32)
    made = kernels.join_jobs(np.array(told, np.int64), (lists, starts, members, offsets))
    quads, sums, gains = (np.concatenate(arrays) for arrays in zip(*(part.queries for part in parts), strict=True))
    return ListQuestion((quads, sums, gains), (lists[:made], starts[: made + 1], members, offsets))


def some_question(frame: Index) -> tuple[Question, Floats | None]:
    """A question and the queries as given, of which kernels are compiled here, and where it is answered."""
    given = np.ones((1, frame.dim), np.float32)
    probes = None if isinstance(frame, FlatIndex) else Probes(1)
    question, constants = asked(frame, given, probes, 8, in_registers(frame))
    exact = given if frame.store != "none" else None
    if isinstance(question, ListQuestion) and not isinstance(frame, FlatIndex):
        _joined([question, question], frame._held.rows.nlist)
    best([candidates(frame, question, exact, 1, None, True)], constants, 1, 1, frame.metric)
    return question, exact


@reading
def candidates(
    index: Index, question: Question, given: Floats | None, keep: int, filter: IdFilter | None, exact: bool
) -> Candidates:
    """The `keep` best rows of an index for each query, or as many as it has.

    given : (nq, dim) the queries as they were, where candidates are to be scored by their originals
    exact : as `exact_scan` of FlatIndex.search
    """
    keep = max(1, min(keep, len(index)))
    ((_, allowed),) = filter_groups(filter, 1, index._id_map, len(index), index._version)
    keys, ids, places = question.found(index, keep, allowed, exact)
    there = ids != EMPTY_ID
    named = np.where(there, ids, -1)
    if named.max(initial=-1) < 2**31:
        named = named.astype(np.int32)
    if given is None:
        return Candidates(keys, named, None)
    if places is None:
        places = np.full(ids.shape, -1, np.int64)
        places[there] = index._id_map.positions(ids[there])
    arena = index._arena if isinstance(index, FlatIndex) else index._held.rows.arena
    exactly = exact_scores(arena, places, given, index.metric).astype(np.float32)
    return Candidates(keys, named, -exactly if index.metric == "l2" else exactly)


@reading
def allowed_rows(index: Index, filter: IdFilter) -> int:
    """How many rows of an index a filter allows."""
    return int((index._id_map.positions(filter.ids) >= 0).sum())


@reading
def errors(index: Index, given: Floats, ids: Ids) -> Floats:
    """Standard errors (nq, k) float32 of the estimates for ids (nq, k), +inf where the index has none."""
    there, named = np.full(ids.shape, -1, np.int64), ids >= 0
    some = ids[named]
    there[named] = np.where(index._id_map.positions(some) >= 0, some, -1)
    return index._errors(index._coding.codable(given, "q"), there, False)


def best(
    parts: list[Candidates], constants: Doubles, k: int, keep: int, metric: str, threads: int | None = 1
) -> tuple[Floats, Ids]:
    """Distances and ids (nq, k) of the best of all parts' candidates, as of FlatIndex.search; threads as of `asked`."""
    keys, given = (np.concatenate(arrays, axis=1) for arrays in zip(*(part[:2] for part in parts), strict=True))
    ids = given.astype(np.int64)
    ids[ids < 0] = EMPTY_ID
    exact = [part.scores for part in parts if part.scores is not None]
    if exact:
        scores = np.concatenate(exact, axis=1)
    else:
        scores = (keys + constants[:, None]).astype(np.float32)
    distances, names = np.empty((len(keys), k), np.float32), np.empty((len(keys), k), np.int64)

    def choose(some: slice) -> None:
        kernels.best_of(keys[some], ids[some], scores[some], keep, distances[some], names[some])

    run_all(choose, parts_for(len(keys), max(1, len(keys)), threads), threads or available_cores())
    return -distances if metric == "l2" else distances, np.where(names == EMPTY_ID, -1, names)


def queries_at_once(frame: Index, n: int, keep: int, probes: Probes | None) -> int:
    """Queries of one question: what an index with n rows finds of them has room, and takes some tenths of a second."""
    if isinstance(frame, FlatIndex) or probes is None:
        return max(1, min(_FLAT_ROOM // keep, _FLAT_WORK // max(n * frame.dim, 1)))
    return most_queries(frame, keep, probes.nprobe, n)


def _own(arrays: tuple[NDArray[Any], ...]) -> tuple[NDArray[Any], ...]:
    """Arrays as kernels are compiled for: what came from elsewhere may not be written."""
    return tuple(np.require(array, requirements=["C", "A", "W"]) for array in arrays)
