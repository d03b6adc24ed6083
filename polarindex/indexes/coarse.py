"""Which lists of an inverted file a query probes: those whose centroids score best, of the groups it looks into.

Law:       a list's score is -|q - c|^2 for l2, <q, c> for ip, and <q, c> / |c| for cosine, up to a constant of the
           query: at equal recall, cosine's reads 5-10 % fewer rows than <q, c>. A group's is the same of its centre,
           the mean of its lists' directions, which for cosine are centroids of unit length, as it is then too. A query
           looks into its best groups (grouping.py), probes the nprobe best of their lists, ties to the smaller number,
           and leaves out those whose score is more than `gap` below the best one's.
Codes:     centroids and centres are coded at 8 bits in the quantizer's own rotation, so that a query's int8 levels
           serve all three; beside spectral codes they have a rotation of their own. Scores are those of the codes also
           where a search of the same index goes in steps; where no register kernel reads the index's codes they are
           exact, and all lists are looked at."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from polarindex import kernels
from polarindex.codes import PANEL
from polarindex.indexes.grouping import Groups, askers, grouped, one_group, with_looks
from polarindex.indexes.lines import StageQueries, lined_stage
from polarindex.indexes.lists import Lists
from polarindex.indexes.residuals import Centroids, ResidualCoding
from polarindex.indexes.rings import ring_stage
from polarindex.indexes.scan import Products, integer_queries
from polarindex.quantizers import EDEN, Quantizer
from polarindex.quantizers.spectral import Spectral
from polarindex.rotations import HadamardRotation
from polarindex.vectors import squared_norms

COARSE_BITS = 8

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Numbers = NDArray[np.int32]


class Coarse:
    """The centroids of one inverted file as a search sees them.

    Parameters
    ----------
    groups : how they are grouped; found when first asked for where it is None.
    """

    def __init__(self, coding: ResidualCoding, centroids: Centroids, groups: Groups | None = None) -> None:
        self.coding, self.centroids = coding, centroids
        self._given_groups = groups
        if coding.metric == "cosine":
            self.directions = _unit(centroids.full)
        else:
            self.directions = centroids.relative
        self.shifts = self._shifts(self.directions)
        self.rotation = _rotation(coding.quantizer)
        self.quantizer = EDEN(coding.quantizer.dim, COARSE_BITS, self.rotation.seed) if self.rotation else None
        self._lists: Lists | None = None
        self._centres: Lists | None = None

    @property
    def nbytes(self) -> int:
        lists = sum(lists.nbytes for lists in (self._lists, self._centres) if lists)
        groups = self.groups.nbytes if "groups" in self.__dict__ else 0
        own = self.directions.nbytes if self.directions is not self.centroids.relative else 0
        return lists + groups + own + self.shifts.nbytes

    @cached_property
    def groups(self) -> Groups:
        """How the centroids are grouped."""
        if self._given_groups is not None:
            return self._given_groups
        groups = grouped(self.directions) if self.quantizer else one_group(len(self.directions))
        if groups.total == 1:
            return groups
        some = askers(len(groups.order))
        centred = self.directions[some]
        if self.coding.metric == "cosine":
            centred = centred - self.centroids.mu
        centres = self._group_directions(groups)
        scores, group_scores = (
            np.float32(self.coding.factor) * (centred @ directions.T) + self._shifts(directions).astype(np.float32)
            for directions in (self.directions, centres)
        )
        return with_looks(groups, scores, group_scores, some, self.coding.quantizer.dim)

    def scores(self, centred: Floats) -> Floats:
        """(nq, nlist) float32, of all lists."""
        if self.quantizer is None:
            products = centred.astype(np.float64) @ self.directions.astype(np.float64).T
            return (self.coding.factor * products + self.shifts).astype(np.float32)
        queries, nlist = self._integers(self.quantizer, centred), len(self.directions)
        scores = np.empty((len(centred), nlist), np.float32)
        scores[:, self.groups.order] = _coded_scores(self.quantizer, queries, self.lists(self.quantizer), nlist)
        return scores

    def nearest(self, centred: Floats, nprobe: int, gap: float = np.inf) -> list[Numbers]:
        """The lists each query probes, best first."""
        scores, groups = self.scores(centred), self.groups
        look, found = groups.looked(nprobe), []
        seen = np.ones(scores.shape, bool)
        if self.quantizer and look < groups.total:
            queries = self._integers(self.quantizer, centred)
            coded = _coded_scores(self.quantizer, queries, self.centres(self.quantizer), groups.total)
            ranks = np.argsort(np.argsort(-coded, axis=1, kind="stable"), axis=1)
            seen[:, groups.order] = (ranks < look)[:, np.arange(scores.shape[1]) // groups.size]
        for row, mine in zip(scores, seen, strict=True):
            lists = np.flatnonzero(mine)
            order = lists[np.argsort(-row[lists], kind="stable")][:nprobe]
            found.append(order[row[order] >= row[order[0]] - np.float32(gap)].astype(np.int32))
        return found

    def lists(self, quantizer: EDEN) -> Lists:
        """The directions, in the order of groups, as one list of 8-bit codes whose ids are the lists' numbers."""
        if self._lists is None:
            order = self.groups.order
            self._lists = _coded(quantizer, self.directions[order], self.shifts[order], order)
        return self._lists

    def centres(self, quantizer: EDEN) -> Lists:
        """The groups' directions as one list likewise; where there is one group, which nobody asks for, `lists`."""
        if self.groups.total == 1:
            return self.lists(quantizer)
        if self._centres is None:
            directions = self._group_directions(self.groups)
            self._centres = _coded(quantizer, directions, self._shifts(directions), np.arange(len(directions)))
        return self._centres

    def _group_directions(self, groups: Groups) -> Floats:
        centres = groups.centres(self.directions)
        return _unit(centres) if self.coding.metric == "cosine" else centres

    def _shifts(self, directions: Floats) -> Doubles:
        """(n,) what is added to the products of centred queries and directions."""
        if self.coding.metric == "l2":
            return -squared_norms(directions)
        shifts: Doubles = np.einsum("ij,j->i", directions, self.centroids.mu, dtype=np.float64)
        return shifts

    def _integers(self, quantizer: EDEN, centred: Floats) -> StageQueries:
        ((queries,),) = integer_queries(quantizer, centred, self.coding.factor)
        return queries


def _rotation(quantizer: Quantizer) -> HadamardRotation | None:
    """Of the centroids' codes, where they are coded."""
    if isinstance(quantizer, Spectral):
        return HadamardRotation(quantizer.dim, quantizer.seed)
    stage = lined_stage(quantizer) or ring_stage(quantizer)
    return stage.map if stage and isinstance(stage.map, HadamardRotation) else None


def _coded_scores(quantizer: EDEN, queries: StageQueries, lists: Lists, count: int) -> Floats:
    """(nq, count) what kernels.answer finds for the first places of lists, to the bit."""
    rows = lists.rows(np.arange(count))
    factors = lists.factors_of(rows)
    levels = quantizer.stages[0].levels(np.ascontiguousarray(rows[:, : quantizer.words]))
    scores = np.tile(factors[:, 1], (len(queries.gains), 1))
    kernels.add_scores(Products(queries)(levels), queries.gains, np.ascontiguousarray(factors[:, 0]), scores)
    return scores


def _unit(rows: Floats) -> Floats:
    """Rows of unit length, or zero."""
    lengths = np.sqrt(squared_norms(rows))
    unit: Floats = rows / np.where(lengths > 0, lengths, 1).astype(np.float32)[:, None]
    return unit


def _coded(quantizer: EDEN, directions: Floats, shifts: Doubles, ids: NDArray[np.integer]) -> Lists:
    """One list of 8-bit codes in whole pages, row i at place i."""
    padding = -len(directions) % PANEL
    rows = np.pad(directions, ((0, padding), (0, 0)))
    factors = np.pad(shifts, (0, padding), constant_values=np.nan).astype(np.float32)  # reaches no limit
    lists = Lists(1, quantizer.words, 1, {})
    staged = lists.stage(np.zeros(len(rows), np.int32), len(rows))
    encoded = quantizer.encode_rows(rows, integer=True)
    numbers = np.pad(ids.astype(np.int64), (0, padding))
    lists.put(
        np.arange(len(rows)), encoded.words, np.concatenate([encoded.scales, factors[:, None]], axis=1), numbers, {}
    )
    lists.commit(staged)
    return lists
