"""The fastest way to search an inverted file that still finds what is asked for: nprobe, gap and rerank, by measuring.

    queries -> true neighbours, and the codes' own order of all rows (one full scan)
            -> recall of any (nprobe, gap, rerank), with no search
            -> for each gap and rerank the least nprobe -> a race of these -> the winner, verified on queries held back

Law:       a true neighbour is found where its list is probed and fewer than max(rerank, 1) * k rows of probed lists
           come before it in the codes' order. Both are known from one search of every list, but for the centroids'
           rounding to 8 bits, so searches only verify. Where the first planes of codes are scanned (scan_bits), the
           order is theirs, and of the candidates fewer than k may come before it in the order of the whole codes.
Margin:    the recall of all queries is at least the target, and less DEVIATIONS standard errors at least the target -
           TOLERANCE: what other queries find is then seldom below that.
Timing:    CPU time, settings taking turns, the slower half leaving after each round; then medians.
Not here:  what is a true neighbour (exact.py)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from polarindex import checks
from polarindex.codes import PANEL
from polarindex.indexes.base import checked_threads
from polarindex.indexes.exact import RowNumbers, exact_rows
from polarindex.indexes.probing import Coarse, Defaults
from polarindex.rotations import raw_words

if TYPE_CHECKING:
    from polarindex.indexes.ivf import IVFIndex

FEWEST = 100  # queries; fewer say recall to some hundredths only
TOLERANCE = 0.005  # by which other queries may miss the target
DEVIATIONS = 3.0
FACTORS = 1, 2, 3, 4, 6, 8, 12, 16, 24, 32  # of re-ranking, where there are originals
_CANDIDATES = 4096  # a query, that more than the first FACTORS are tried with
_FEW_FACTORS = 4
_MISSED = 0.8, 0.5, 0.3, 0.15, 0.05  # shares of what a target allows to miss that a gap may cost
_SPLIT = 8  # the stream of random words (kmeans.py has those before)
_CELLS = 1 << 24  # of query x list scores at a time
_FINALISTS, _FINAL_ROUNDS = 4, 7
_FIRST_ROUND = 64  # queries, and more where fewer settings are left
_RAISED = 1.03  # nprobe, each time a search finds less than foreseen

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ids = NDArray[np.int64]


class Tuned(NamedTuple):
    """What `IVFIndex.tune` found and the index has taken for its defaults.

    Attributes
    ----------
    nprobe, gap, rerank
        As IVFIndex.search takes them; gap None leaves out no list.
    recall : float
        The share of the k true neighbours found, for the queries held back.
    seconds_per_query : float
        CPU time, of all threads.
    """

    nprobe: int
    gap: float | None
    rerank: int
    recall: float
    seconds_per_query: float


def tune(
    index: IVFIndex, queries: Any, target_recall: Any, k: Any, neighbors: Any, num_threads: Any, batch: Any
) -> Tuned:
    """What IVFIndex.tune says, but that the index does not take it for its defaults."""
    if not index._held.rows.n:
        raise ValueError("tune() needs rows to search; add vectors first")
    source = checks.vectors(queries, "queries", index.dim)
    target = checks.real(target_recall, "target_recall", low=0, high=1)
    k = checks.integer(k, "k", low=1, high=len(index))
    threads, batch = checked_threads(num_threads), checks.integer(batch, "batch", low=1)
    if source.n < FEWEST:
        raise ValueError(f"queries must be at least {FEWEST} for recall to be measured, got {source.n}")
    known = None if neighbors is None else _known_neighbors(index, neighbors, source.n, k)
    return Tuning(index, source.array(), target, k, known, threads, batch).winner()


def _known_neighbors(index: IVFIndex, neighbors: Any, nq: int, k: int) -> Ids:
    given = np.asarray(neighbors)
    if given.dtype.kind not in "iu":
        raise TypeError(f"neighbors must hold integers, got dtype {given.dtype}")
    if given.ndim != 2 or len(given) != nq or given.shape[1] < k:
        raise ValueError(f"neighbors must have shape ({nq}, >= {k}), a row a query, got {given.shape}")
    wanted = given[:, :k].astype(np.int64)
    unknown = RowNumbers(index.ids).of(wanted) < 0
    if unknown.any():
        row = int(unknown.any(axis=1).argmax())
        raise ValueError(f"neighbors[{row}] holds {wanted[row][unknown[row]][0]}, which is not an id of the index")
    return wanted


class Tuning:
    """The tuning of one index for some queries (nq, dim) float32; see `tune`."""

    def __init__(
        self,
        index: IVFIndex,
        queries: Floats,
        target: float,
        k: int,
        neighbors: Ids | None,
        threads: int | None,
        batch: int,
    ) -> None:
        self._index, self._queries, self._target, self._k = index, queries, target, k
        self._threads, self._batch = threads, batch
        self._numbers = RowNumbers(index.ids)
        order = np.argsort(raw_words(_SPLIT, index.seed, len(queries)), kind="stable")
        self._chosen_by, self._held_back = np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])
        again = index.store != "none" or index.scan_bits is not None
        self._factors = [f for f in FACTORS if f <= _FEW_FACTORS or f * k <= _CANDIDATES] if again else [0]
        found = self._coded(max(*self._factors, _FEW_FACTORS) * k)
        self._truth = self._true_ids(found, neighbors)
        self._foresight = self._foreseen(found)

    def winner(self) -> Tuned:
        """The fastest setting that finds the target.

        Raises
        ------
        ValueError
            No setting does.
        """
        settings = self._promising()
        if not settings:
            self._give_up()
        searched = self._queries[self._chosen_by]
        entered = len(settings)
        for kept in _rounds(entered):
            few = searched[: max(self._batch, _FIRST_ROUND) * entered // kept]
            times = self._times(settings, few, 1 + 2 * (kept == _FINALISTS))
            settings = [settings[i] for i in np.argsort(times, kind="stable")[:kept]]
        finalists = [verified for setting in settings if (verified := self._verified(setting)) is not None]
        if not finalists:
            self._give_up()
        times = self._times(finalists, searched, _FINAL_ROUNDS)
        best = int(np.argmin(times))
        recall = float(self._recalls(finalists[best], self._held_back).mean())
        return Tuned(*finalists[best], recall, times[best] / len(searched))

    # --- what is known without a search

    def _coded(self, count: int, rerank: int = 0, exact_scan: bool = False) -> Ids:
        """(nq, <= count) ids in the order of their codes, of all lists."""
        index = self._index
        return index.search(
            self._queries,
            min(count, len(index)),
            nprobe=self._nlist,
            rerank=rerank,
            num_threads=self._threads,
            exact_scan=exact_scan,
        )[1]

    def _true_ids(self, coded: Ids, neighbors: Ids | None) -> Ids:
        if neighbors is not None:
            return neighbors[:, : self._k]
        if self._index.scan_bits is not None:
            return self._coded(self._k, exact_scan=True)
        if self._index.store == "none":
            return coded[:, : self._k]
        held, ids = self._index._held, self._numbers.ids
        rows = exact_rows(
            held.rows.arena, held.rows.used(), ids, self._queries, self._k, self._index.metric, held.centroids.mu
        )
        return ids[rows]

    def _foreseen(self, coded: Ids) -> _Foresight:
        """Where candidates lie in their queries' orders of lists, and where true neighbours are among them."""
        index, held = self._index, self._index._held
        places = held.rows.used()[self._numbers.of(coded)]
        lists = held.rows.owners[places // PANEL]
        centred = index._coding.codable(self._queries, "queries") - held.centroids.mu
        ranks, drops = _standing(held.scan.coarse, centred, lists)
        if held.copies is not None:  # found through the better of two lists
            second = held.copies.lists_of_rows()[places]
            others = _standing(held.scan.coarse, centred, np.where(second < 0, lists, second))
            ranks, drops = np.minimum(ranks, others[0]), np.minimum(drops, others[1])
        wanted = np.full(self._truth.shape, coded.shape[1])
        for q, (row, true) in enumerate(zip(coded, self._truth, strict=True)):
            order = np.argsort(row)
            at = np.minimum(np.searchsorted(row[order], true), len(row) - 1)
            there = row[order[at]] == true
            wanted[q, there] = order[at[there]]
        whole = None
        if index.scan_bits is not None:
            by_whole = self._coded(coded.shape[1], rerank=1)  # the same candidates, in the order of their whole codes
            order, place = np.argsort(coded, axis=1), np.argsort(np.argsort(by_whole, axis=1), axis=1)
            whole = np.take_along_axis(order, place, 1)
        return _Foresight(ranks, drops, wanted, self._k, whole)

    def _promising(self) -> list[Defaults]:
        """For each gap and rerank factor the least nprobe, where there is one; none is worse than another in all."""
        chosen = self._foresight.of(self._chosen_by)
        settings: list[Defaults] = []
        for gap in [*chosen.gaps(1 - (1 - self._target) * np.array(_MISSED)), None]:
            for factor in self._factors:
                nprobe = self._least_nprobe(chosen, gap, factor)
                if nprobe is not None:
                    settings.append(Defaults(nprobe, gap, factor))
        return [one for one in settings if not any(_better(other, one) for other in settings)]

    def _least_nprobe(self, chosen: _Foresight, gap: float | None, factor: int) -> int | None:
        low, high = 0, self._nlist
        if not self._good(chosen.recalls(high, gap, factor)):
            return None
        while high - low > 1:
            middle = (low + high) // 2
            if self._good(chosen.recalls(middle, gap, factor)):
                high = middle
            else:
                low = middle
        return high

    def _good(self, recalls: Doubles) -> bool:
        """Whether the recalls of some queries say that others' will be good enough; all queries together decide."""
        mean = float(recalls.mean())
        # what binomial hits would have: queries that find everything say little of those that do not
        least = (mean * (1 - mean) * recalls.size + 1) / (recalls.size + 1) / self._k
        error = np.sqrt(max(float(recalls.var()), least) / len(self._queries))
        return mean >= self._target and mean - DEVIATIONS * error >= self._target - TOLERANCE

    # --- what is searched

    @property
    def _nlist(self) -> int:
        return self._index._held.rows.nlist

    def _recalls(self, setting: Defaults, part: Ids) -> Doubles:
        """(len(part),) recall of each query, by a search."""
        ids = self._search(setting, self._queries[part])
        return np.array([np.isin(true, row).mean() for row, true in zip(ids, self._truth[part], strict=True)])

    def _verified(self, setting: Defaults) -> Defaults | None:
        """The setting with the nprobe that all queries ask for; None where all lists are not enough."""
        everyone = np.arange(len(self._queries))
        while not self._good(self._recalls(setting, everyone)):
            if setting.nprobe == self._nlist:
                return None
            nprobe = max(setting.nprobe + 1, round(_RAISED * setting.nprobe))
            if setting.gap is not None:
                setting = setting._replace(gap=setting.gap * _RAISED)
            setting = setting._replace(nprobe=min(nprobe, self._nlist))
        return setting

    def _search(self, setting: Defaults, queries: Floats) -> Ids:
        nprobe, gap, rerank = setting
        return self._index.search(
            queries, self._k, nprobe=nprobe, gap=gap, rerank=rerank, num_threads=self._threads
        )[1]

    def _times(self, settings: list[Defaults], queries: Floats, rounds: int) -> list[float]:
        """Median CPU seconds of each setting, which take turns; a first turn does not count."""
        batches = [queries[start : start + self._batch] for start in range(0, len(queries), self._batch)]
        times = np.empty((rounds + 1, len(settings)))
        for turn in times:
            for number, setting in enumerate(settings):
                started = time.process_time()
                for batch in batches:
                    self._search(setting, batch)
                turn[number] = time.process_time() - started
        return [float(value) for value in np.median(times[1:], axis=0)]

    def _give_up(self) -> NoReturn:
        index, factor = self._index, self._factors[-1]
        reached = self._recalls(Defaults(self._nlist, None, factor), np.arange(len(self._queries))).mean()
        if index.scan_bits is not None:
            advice = "scan more bits, use more bits, or store originals in place of scan_bits (store='float16')"
        elif index.store == "none":
            advice = "store originals to score candidates again (store='float16'), or use more bits"
        else:
            advice = "use more bits"
        raise ValueError(
            f"target_recall={self._target} is out of reach: with all {self._nlist} lists and rerank={factor} the "
            f"index finds {reached:.4f} of the true neighbours, and some margin is needed; {advice}, or ask for less"
        )


class _Foresight(NamedTuple):
    """What is known of candidates, best first by their codes.

    ranks : (nq, m) int32, the place of a candidate's list in its query's order of lists
    drops : (nq, m) float32, how much that list's score is below the best one's
    wanted : (nq, k), which candidate a true neighbour is; m for none
    k : results a query
    whole : (nq, m), the candidates in the order of their whole codes, where the first planes alone gave theirs
    """

    ranks: NDArray[np.int32]
    drops: Floats
    wanted: Ids
    k: int
    whole: Ids | None = None

    def of(self, part: Ids) -> _Foresight:
        whole = None if self.whole is None else self.whole[part]
        return _Foresight(self.ranks[part], self.drops[part], self.wanted[part], self.k, whole)

    def gaps(self, shares: Doubles) -> list[float]:
        """Gaps that keep the lists of these shares of the true neighbours."""
        m = self.drops.shape[1]
        drops = np.take_along_axis(self.drops, np.minimum(self.wanted, m - 1), 1)[self.wanted < m]
        return [float(gap) for gap in np.unique(np.quantile(drops, shares))] if drops.size else []

    def recalls(self, nprobe: int, gap: float | None, factor: int) -> Doubles:
        """(nq,) recall of each query."""
        seen = self.ranks < nprobe
        if gap is not None:
            seen &= self.drops <= gap
        scored = seen & (np.cumsum(seen, axis=1, dtype=np.int32) <= max(factor, 1) * self.k)
        if self.whole is not None:
            ordered = np.take_along_axis(scored, self.whole, 1)
            ordered &= np.cumsum(ordered, axis=1, dtype=np.int32) <= self.k
            np.put_along_axis(scored, self.whole, ordered, 1)
        scored = np.pad(scored, ((0, 0), (0, 1)))
        found: Doubles = np.take_along_axis(scored, self.wanted, 1).mean(axis=1)
        return found


def _standing(coarse: Coarse, centred: Floats, lists: NDArray[np.int32]) -> tuple[NDArray[np.int32], Floats]:
    """The ranks and drops of lists (nq, m) in the orders of their queries."""
    ranks, drops = np.empty(lists.shape, np.int32), np.empty(lists.shape, np.float32)
    step = max(1, _CELLS // len(coarse.directions))
    for start in range(0, len(centred), step):
        scores = coarse.scores(centred[start : start + step])
        for q, row in enumerate(scores, start):
            mine = row[lists[q]]
            ordered = np.sort(row)
            ranks[q] = len(row) - np.searchsorted(ordered, mine, side="right")
            drops[q] = ordered[-1] - mine
    return ranks, drops


def _better(one: Defaults, other: Defaults) -> bool:
    """Whether a setting looks into no more than another in every respect, and into less in some."""
    gaps = [np.inf if setting.gap is None else setting.gap for setting in (one, other)]
    no_more = one.nprobe <= other.nprobe and gaps[0] <= gaps[1] and one.rerank <= other.rerank
    return no_more and one != other


def _rounds(count: int) -> list[int]:
    """How many settings stay after each round of a race of so many."""
    left = []
    while count > _FINALISTS:
        count = max(_FINALISTS, count // 2)
        left.append(count)
    return left
