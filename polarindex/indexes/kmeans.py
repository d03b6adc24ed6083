"""k-means for the centroids of an inverted file: seeds far apart, Lloyd's iterations, no list empty or huge.

Law:       a centroid is the float32 mean of its rows, or has been moved: from where it was cheap into a cluster that is
           wide (`_traded`) or over OVERSIZE times the mean (`_balanced`), or, where it had no row, to one (`_filled`).
           Rows belong to the nearest centroid (assign.py); from LARGE lists on, to the nearest of those looked at.
Why trade: Lloyd's iterations never carry a centroid across the data. Trading some in each of the first four is worth
           .3 % of the objective on SIFT and GloVe, 1.4 % on Fashion-MNIST, and makes the longest list a quarter to
           two fifths shorter.
Bits:      random numbers are raw words, and distances are compared in float64 (assign.py), so a seed means the same
           whatever the number of threads; which centroids are neighbours is decided by float64 products.
Source:    D^2 seeding: k-means++, Arthur and Vassilvitskii 2007; many seeds a round: k-means||, arXiv:1203.6402.
Not here:  argument checks (checks.py); the nearest centroid (assign.py); lists and their rows."""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from polarindex import kernels
from polarindex.indexes.assign import (
    NEIGHBOURS,
    Doubles,
    Floats,
    Nearest,
    Numbers,
    Rows,
    Search,
    grouped,
    nearest,
    nearest_exactly,
    nearest_others,
)
from polarindex.indexes.threads import available_cores, run_all
from polarindex.rotations import raw_words

__all__ = ["Clusters", "kmeans", "nearest", "sample_rows"]

Progress = Callable[[int, int], None]

# Rows of a sample. 1,024 lists, the mean squared distance of rows that are not in it, and the time: with 64 rows a
# centroid 1.2 % (SIFT) and 1.4 % (GloVe) more in two thirds of the time, with 256 .6 and .9 % less in 1.85 times. Few
# lists take little time: 256 of GloVe's are 1.8 % better, and 1-bit codes find 1.1 % more, with 256 rows than with 64.
PER_CENTROID, FEWEST = 128, 65_536
LARGE = 16_384  # centroids from which on no row meets all of them: at 4,096 that is 3.4 times as fast, .45 % worse
OVERSIZE = 10  # times the mean size

# Streams of random words, one a purpose; 1 to 4 are those of rotations.
_SAMPLE, _FEWER, _SEEDS = 5, 6, 7

_SEED_ROWS = 16  # rows a centroid from which seeds are drawn
_EARLY = 5  # iterations in which a row meets all centroids, all but the last with a trade; later it meets NEIGHBOURS
_HIDDEN = 2  # what a split saves in the end, in units of what it saves at once
_SETTLED = 1e-3  # the share by which an iteration must improve the objective
_REFINED = 2  # iterations over all rows after those in cells
_ROUNDS = 10  # of balancing
_SPLIT_ROWS = 2048  # of a cluster, by which it is split


class Clusters(NamedTuple):
    """What k-means found.

    centroids : (nlist, d) float32
    sizes : (nlist,) int64, the rows of the sample in each cluster
    objective : the mean squared distance of a row of the sample to its centroid
    """

    centroids: Floats
    sizes: NDArray[np.int64]
    objective: float


def kmeans(
    sample: Floats, nlist: int, seed: int = 0, iterations: int = 10, progress: Progress | None = None
) -> Clusters:
    """Centroids of nlist clusters of a sample (m, d) float32, finite and bounded.

    No cluster is empty, and none is over OVERSIZE times the mean, unless identical rows make that impossible.

    Parameters
    ----------
    iterations : int
        At most so many over the whole sample; fewer where the objective settles.
    progress : callable, optional
        Called with (done, total) after each iteration, and with (total, total) at the end.

    Raises
    ------
    ValueError
        There are fewer rows than clusters.
    """
    if not 1 <= nlist <= len(sample):
        rows = f"{len(sample)} row{'s' if len(sample) != 1 else ''}"
        raise ValueError(f"{rows} cannot make nlist={nlist} lists; nlist must be between 1 and the number of rows")
    tell = progress or (lambda done, total: None)
    sample = np.ascontiguousarray(sample)
    if nlist < LARGE:
        search = Search(sample)
        centroids = _lloyd(search, _seeds(sample, nlist, seed), iterations, lambda done: tell(done, iterations))
        total = iterations
    else:
        coarse, centroids, total = _in_cells(sample, nlist, seed, iterations, tell)
        search = Search(sample, coarse)
    centroids, (numbers, distances) = _balanced(search, centroids)
    tell(total, total)
    return Clusters(centroids, np.bincount(numbers, minlength=nlist), float(distances.mean()))


def clusters_around(sample: Floats, centroids: Floats) -> Clusters:
    """What a sample (m, d) makes of centroids (nlist, d) as they are: nothing is learned."""
    numbers, distances = nearest_exactly(sample, centroids)
    return Clusters(centroids, np.bincount(numbers, minlength=len(centroids)), float(distances.mean()))


def sample_rows(n: int, nlist: int, seed: int, most: int | None = None) -> Rows:
    """Row numbers, ascending, of the sample for nlist clusters: PER_CENTROID * nlist of n rows and at least FEWEST,
    or all; `most` where memory has no room for so many."""
    wanted = min(n, max(PER_CENTROID * nlist, FEWEST))
    return _drawn(n, wanted if most is None else min(wanted, most), _SAMPLE, seed)


# --- random numbers


def _uniform(purpose: int, seed: int, count: int) -> Doubles:
    """`count` numbers in [0, 1), each a raw word."""
    return (raw_words(purpose, seed, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _drawn(n: int, count: int, purpose: int, seed: int) -> Rows:
    """`count` of the numbers below n, every set as likely as any; ascending."""
    if 2 * count > n:
        return np.delete(np.arange(n), _drawn(n, n - count, purpose, seed))
    words = 2 * count + 64
    while True:
        numbers, places = np.unique((_uniform(purpose, seed, words) * n).astype(np.int64), return_index=True)
        if len(numbers) >= count:
            return np.sort(numbers[np.argsort(places)[:count]])
        words *= 2


# --- centroids


def _means(sample: Floats, numbers: Numbers, centroids: Floats) -> Floats:
    """The mean of each cluster's rows; of an empty one, its centroid."""
    starts, order = grouped(numbers, len(centroids))
    means, step = centroids.copy(), 64
    run_all(
        lambda first: kernels.mean_rows(sample, starts, order, first, min(first + step, len(means)), means),
        range(0, len(means), step),
        available_cores(),
    )
    return means


def _seeds(sample: Floats, nlist: int, seed: int) -> Floats:
    """nlist rows of a part of the sample, far apart.

    A round draws as many rows as there are seeds, in proportion to their squared distance to the nearest of those.
    """
    x = sample[_drawn(len(sample), min(len(sample), _SEED_ROWS * nlist), _FEWER, seed)]
    uniform = _uniform(_SEEDS, seed, nlist + 1)
    new = chosen = np.array([int(uniform[0] * len(x))])
    distances = np.full(len(x), np.inf)
    while len(chosen) < nlist:
        distances = np.minimum(distances, nearest_exactly(x, x[new])[1])
        ends = np.cumsum(distances)
        count = min(len(chosen), nlist - len(chosen))
        if ends[-1] == 0:  # every row is a seed or its twin
            free = np.delete(np.arange(len(x)), chosen)
            chosen = np.concatenate([chosen, free[: nlist - len(chosen)]])
            break
        marks = (np.arange(count) + uniform[len(chosen)]) / count * ends[-1]
        new = np.unique(np.searchsorted(ends, np.minimum(marks, np.nextafter(ends[-1], 0)), side="right"))
        chosen = np.concatenate([chosen, new])
    return x[np.sort(chosen)]


def _lloyd(search: Search, centroids: Floats, iterations: int, tell: Callable[[int], None] | None = None) -> Floats:
    """Centroids after at most so many iterations: assign, take means, and early on trade clusters."""
    numbers, before = np.empty(0, np.int32), np.inf
    many = len(centroids) >= 8 * NEIGHBOURS
    for done in range(1, iterations + 1):
        found = search.near(centroids, numbers) if many and done > _EARLY else search.all(centroids)
        objective, same = float(found[1].mean()), np.array_equal(numbers, found[0])
        numbers = found[0]
        centroids = _means(search.sample, numbers, centroids)
        moved = _traded(search.sample, centroids, found) if done < min(_EARLY, iterations) else None
        centroids = centroids if moved is None else moved
        if tell:
            tell(done)
        if moved is None and (same or objective >= (1 - _SETTLED) * before):
            break
        before = objective if moved is None else np.inf
    return centroids


def _traded(sample: Floats, centroids: Floats, found: Nearest) -> Floats | None:
    """The widest clusters in halves, in place of those that cost less than is saved; None where there are none such.

    Halving saves |m_1 - m_2|^2 n_1 n_2 / (n_1 + n_2) at once, and more when other rows have followed.
    """
    numbers, distances = found
    nlist = len(centroids)
    energies = np.argsort(np.bincount(numbers, distances, minlength=nlist), kind="stable")
    starts, order = grouped(numbers, nlist)
    givers = _givers(centroids, np.diff(starts), energies[: nlist // 5])
    wide = energies[::-1][: min(nlist // 10, len(givers))]
    pairs = [_pair(sample[_thinned(order[starts[j] : starts[j + 1]])]) for j in wide]
    saved = np.array([_HIDDEN * pair.saved * (starts[j + 1] - starts[j]) for j, pair in zip(wide, pairs, strict=True)])
    moved = centroids.copy()
    for (giver, cost), taker in zip(givers, np.argsort(-saved, kind="stable"), strict=False):
        if saved[taker] <= cost:
            break
        moved[wide[taker]], moved[giver] = pairs[taker].means
    return None if np.array_equal(moved, centroids) else moved


class _Pair(NamedTuple):
    """The means of two halves of a cluster, and what they save: the mean square a row."""

    means: list[Floats]
    saved: float


def _pair(rows: Floats) -> _Pair:
    halves = _halves(rows) if len(rows) > 1 else None
    if halves is None:
        return _Pair([], 0.0)
    means = [_mean(half) for half in halves]
    shares = len(halves[0]) * len(halves[1]) / len(rows) ** 2
    return _Pair(means, shares * float(((means[0].astype(np.float64) - means[1]) ** 2).sum()))


def _givers(centroids: Floats, sizes: Rows, some: Rows) -> list[tuple[int, float]]:
    """Clusters that may be given up together, of some, and what each adds to the sum of squares; cheapest first.

    The rows of a cluster join the nearest other one, which then stays.
    """
    if len(centroids) < 2 or len(some) == 0:
        return []
    hosts, distances = nearest_others(centroids, some)
    own, other = sizes[some], sizes[hosts]
    costs = distances * own * other / np.maximum(own + other, 1)
    givers: list[tuple[int, float]] = []
    given: set[int] = set()
    staying: set[int] = set()
    for place in np.argsort(costs, kind="stable"):
        giver, host = int(some[place]), int(hosts[place])
        if giver not in staying and host not in given:
            givers.append((giver, float(costs[place])))
            given.add(giver)
            staying.add(host)
    return givers


def _mean(rows: Floats) -> Floats:
    """(d,) float32."""
    return np.asarray(rows.mean(axis=0, dtype=np.float64), np.float32)


def _thinned(rows: Rows) -> Rows:
    """At most _SPLIT_ROWS of some rows, evenly apart."""
    return rows[:: max(1, -(-len(rows) // _SPLIT_ROWS))]


def _filled(sample: Floats, centroids: Floats, found: Nearest) -> Floats | None:
    """Centroids without a row, moved to rows that are farthest from theirs, no two alike; None where none can be."""
    numbers, distances = found
    empty = np.flatnonzero(np.bincount(numbers, minlength=len(centroids)) == 0)
    if len(empty) == 0 or not distances.any():
        return None
    order = np.lexsort((numbers, -distances))
    order = order[distances[order] > 0]
    twins = (np.diff(distances[order], prepend=-1) == 0) & (np.diff(numbers[order], prepend=-1) == 0)
    rows = order[~twins][: len(empty)]
    centroids = centroids.copy()
    centroids[empty[: len(rows)]] = sample[rows]
    return centroids


def _balanced(search: Search, centroids: Floats) -> tuple[Floats, Nearest]:
    """Centroids whose clusters are neither empty nor over OVERSIZE times the mean, and the rows' places among them."""
    sample = search.sample
    found = search.all(centroids)
    for _ in range(_ROUNDS):
        split = _split(sample, centroids, found[0])
        if split is None:
            break
        centroids = _means(sample, search.all(split)[0], split)
        found = search.all(centroids)
    while (filled := _filled(sample, centroids, found)) is not None:
        centroids = filled
        found = search.all(centroids)
    return centroids, found


def _split(sample: Floats, centroids: Floats, numbers: Numbers) -> Floats | None:
    """Oversized clusters in pieces of half the limit, in place of those that cost least; None where none can be."""
    starts, order = grouped(numbers, len(centroids))
    sizes, limit = np.diff(starts), OVERSIZE * len(sample) / len(centroids)
    large = np.flatnonzero(sizes > limit)
    if len(large) == 0:
        return None
    small = np.setdiff1d(np.argsort(sizes, kind="stable")[: len(centroids) // 2], large)
    givers = _givers(centroids, sizes, small)
    centroids = centroids.copy()
    made: list[Floats] = []
    for j in large[np.argsort(-sizes[large], kind="stable")]:
        rows = _thinned(order[starts[j] : starts[j + 1]])
        pieces = _pieces(sample[rows], max(8.0, limit / 2 * len(rows) / sizes[j]), len(givers) - len(made) + 1)
        if len(pieces) > 1:
            centroids[j] = pieces[0]
            made += pieces[1:]
    for (giver, _), piece in zip(givers, made, strict=False):
        centroids[giver] = piece
    return centroids if made else None


def _pieces(rows: Floats, size: float, most: int) -> list[Floats]:
    """The means of at most so many pieces of rows (n, d), halved at a median until none is over a size."""
    whole: list[Floats] = [rows]
    done: list[Floats] = []
    while whole:
        piece = whole.pop(int(np.argmax([len(one) for one in whole])))
        halves = _halves(piece) if len(piece) > size and len(whole) + len(done) + 2 <= most else None
        if halves is None:
            done.append(_mean(piece))
        else:
            whole += halves
    return done


def _halves(rows: Floats) -> list[Floats] | None:
    """Rows below and above the median of the coordinate that varies most; None where all are alike."""
    axis = int(np.argmax(np.var(rows, axis=0, dtype=np.float64)))
    values = rows[:, axis]
    middle = np.median(values.astype(np.float64))
    below = values <= middle if (values > middle).any() else values < middle
    return [rows[below], rows[~below]] if below.any() else None


def _in_cells(sample: Floats, nlist: int, seed: int, iterations: int, tell: Progress) -> tuple[Floats, Floats, int]:
    """About sqrt(nlist) coarse centroids, the centroids made in their cells and then refined, and the steps it took."""
    count = isqrt(nlist)
    rows = _drawn(len(sample), min(len(sample), 4 * PER_CENTROID * count), _FEWER, seed)
    coarse = kmeans(sample[rows], count, seed, iterations).centroids
    starts, order = grouped(nearest_exactly(sample, coarse)[0], count)
    shares = np.diff(starts[1:] * nlist // len(sample), prepend=0)
    total = count + _REFINED
    made = []
    for cell in range(count):
        if shares[cell] > 0:
            own = sample[order[starts[cell] : starts[cell + 1]]]
            made.append(_lloyd(Search(own), _seeds(own, int(shares[cell]), seed), iterations))
        tell(cell + 1, total)
    search = Search(sample, coarse)
    centroids = _lloyd(search, np.concatenate(made), _REFINED, lambda done: tell(count + done, total))
    return coarse, centroids, total
