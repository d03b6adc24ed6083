"""The nearest centroid of every row: among all of them, or among some that are likely.

Law:       a row belongs to the centroid at the least squared distance, a float64 sum over row and centroid as given, so
           nothing is lost far from the origin, at any scale; ties to the smaller number.
Why so:    BLAS makes the products, and they only say which centroids may be nearest (kernels/clusters.py). The answer
           depends on no block, thread, BLAS or machine.
Not here:  where centroids come from (kmeans.py)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from polarindex import kernels
from polarindex.indexes.threads import available_cores, go_on, run_all
from polarindex.vectors import squared_norms

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Numbers = NDArray[np.int32]
Rows = NDArray[np.int64]
Nearest = tuple[Numbers, Doubles]  # of each row: the number of its centroid, and the squared distance

LANES = 16  # products are made for whole registers of the kernel
NEIGHBOURS = 128  # centroids that a row looks at, where it looks only around its own
CELLS = 8  # the nearest coarse clusters that a row looks into, where there are such

_BLOCK = 256  # rows whose products with a tile are made at once: 2 MB
_TILE = 2048  # centroids, fewer where they are over 4 MB
_PART = 8192  # rows that are one thread's task
_FEW = 32  # points whose neighbours are found at once
_VISITORS = 128  # rows a cell that are looked at together, each in CELLS cells


def nearest(x: Floats, centroids: Floats) -> tuple[Numbers, Floats]:
    """The nearest centroid of each row x (n, d), ties to the smaller number: (n,) int32; squared distances (n,)."""
    numbers, distances = nearest_exactly(np.ascontiguousarray(x), np.ascontiguousarray(centroids))
    return numbers, distances.astype(np.float32)


def nearest_exactly(x: Floats, centroids: Floats) -> Nearest:
    """`nearest`, with squared distances in float64."""
    parts = [x[start : start + _PART] for start in range(0, len(x), _PART)]
    found = run_all(lambda part: _offered(part, centroids), parts, available_cores())
    if not found:
        return np.empty(0, np.int32), np.empty(0)
    return np.concatenate([numbers for numbers, _ in found]), np.concatenate([distances for _, distances in found])


def _offered(x: Floats, centroids: Floats) -> Nearest:
    """`nearest_exactly` on one thread, tile after tile of centroids."""
    step = max(LANES, min(_TILE, 2**20 // x.shape[1] // LANES * LANES))
    tiles = range(0, len(centroids), step)
    shift = centroids.mean(axis=0, dtype=np.float64).astype(np.float32)
    longest = np.sqrt(max(squared_norms(centroids[first : first + step] - shift).max() for first in tiles))
    numbers, distances = np.zeros(len(x), np.int32), np.full(len(x), np.inf)
    best = np.full(len(x), -np.inf, np.float32)
    space = np.empty((min(_BLOCK, len(x)), -(-min(step, len(centroids)) // LANES) * LANES), np.float32)
    for first in tiles:
        columns, halves = _tile(centroids[first : first + step] - shift)
        products = space.reshape(-1)[: len(space) * halves.size].reshape(len(space), halves.size)
        for start in range(0, len(x), _BLOCK):
            go_on()
            block = slice(start, start + _BLOCK)
            rows = x[block] - shift
            np.matmul(rows, columns, out=products[: len(rows)])
            kernels.nearest_rows(
                products[: len(rows)],
                halves,
                _slacks(rows, float(longest)),
                x[block],
                centroids,
                first,
                best[block],
                numbers[block],
                distances[block],
            )
    return numbers, distances


def _tile(relative: Floats) -> tuple[Floats, Floats]:
    """Centroids (k, d) as columns (d, w) of a product, w a multiple of LANES, and half their |c|^2 (1, w)."""
    k, d = relative.shape
    width = -(-k // LANES) * LANES
    padded, halves = np.zeros((width, d), np.float32), np.full((1, width), np.inf, np.float32)
    padded[:k], halves[0, :k] = relative, squared_norms(relative) / 2
    return padded.T, halves


def _slacks(rows: Floats, longest: float) -> Floats:
    """How far apart the keys of equally near centroids may be: a float32 sum of d products errs by d units of 2^-24.

    2^-126 stands for what underflow takes from each product, 8 for the roundings beside the sum.
    """
    lengths = np.sqrt(squared_norms(rows))
    errors = 2.0**-24 * (lengths + longest) * longest + 2.0**-126
    return (2 * (rows.shape[1] + 8) * errors).astype(np.float32)


class Search:
    """Which centroid each row of a sample belongs to: among all of them, or among some that are likely.

    With coarse centroids (c, d), a row looks into the cells of the CELLS nearest of them: O(m sqrt(nlist) d).
    """

    def __init__(self, sample: Floats, coarse: Floats | None = None) -> None:
        self.sample = sample
        self.coarse = coarse

    def all(self, centroids: Floats) -> Nearest:
        """The nearest of all centroids, or of those in the cells that a row looks into."""
        if self.coarse is None:
            return nearest_exactly(self.sample, centroids)
        places, step = _Places(self.coarse), _VISITORS * len(self.coarse)
        cells = grouped(nearest_exactly(centroids, self.coarse)[0], len(self.coarse))
        parts = [self.sample[start : start + step] for start in range(0, len(self.sample), step)]
        found = run_all(lambda part: _visit(part, centroids, places, *cells), parts, available_cores())
        return np.concatenate([numbers for numbers, _ in found]), np.concatenate([squares for _, squares in found])

    def near(self, centroids: Floats, numbers: Numbers) -> Nearest:
        """The nearest of the NEIGHBOURS centroids around the one that a row belongs to by `numbers`, itself too."""
        starts, order = grouped(numbers, len(centroids))
        found, distances = np.empty(len(numbers), np.int32), np.empty(len(numbers))
        places = _Places(centroids)

        def look(own: Rows) -> None:
            for j, around in zip(own, places.nearest(places.points[own], NEIGHBOURS), strict=True):
                rows = order[starts[j] : starts[j + 1]]
                for part in (rows[start : start + _PART] for start in range(0, len(rows), _PART)):
                    chosen, distances[part] = _offered(self.sample[part], centroids[around])
                    found[part] = around[chosen]

        run_all(look, _few(np.arange(len(centroids))), available_cores())
        return found, distances


def _visit(x: Floats, centroids: Floats, places: _Places, starts: Rows, order: Rows) -> Nearest:
    """The nearest centroid of each row in the cells around it; the centroids of cell g are order[starts[g] : ...]."""
    count = min(CELLS, len(places.points))
    cells = [places.nearest(part - places.mean, count) for part in _few(x)]
    visitors, visits = grouped(np.concatenate(cells).ravel().astype(np.int32), len(places.points))
    numbers, distances = np.zeros(len(x), np.int32), np.full(len(x), np.inf)
    for cell in np.flatnonzero(np.diff(starts) * np.diff(visitors)):
        go_on()
        rows = visits[visitors[cell] : visitors[cell + 1]] // count
        some = order[starts[cell] : starts[cell + 1]]
        chosen, squares = _offered(x[rows], centroids[some])
        found, held = some[chosen], distances[rows]
        better = (squares < held) | ((squares == held) & (found < numbers[rows]))
        numbers[rows[better]], distances[rows[better]] = found[better], squares[better]
    lost = np.flatnonzero(np.isinf(distances))  # no centroid is in any cell that the row looks into
    if len(lost):
        numbers[lost], distances[lost] = _offered(x[lost], centroids)
    return numbers, distances


def _few(rows: NDArray[Any]) -> list[NDArray[Any]]:
    """Parts of some rows, small enough for a matrix of products with all centroids."""
    return [rows[start : start + _FEW] for start in range(0, len(rows), _FEW)]


class _Places:
    """Centroids in float64, relative to their mean, to find several that are near a point."""

    def __init__(self, centroids: Floats) -> None:
        self.mean = centroids.mean(axis=0, dtype=np.float64)
        self.points = centroids - self.mean
        self.halves = np.einsum("ij,ij->i", self.points, self.points) / 2

    def nearest(self, points: Doubles, count: int) -> Rows:
        """(n, count) numbers, ascending, of the centroids nearest to some points relative to the mean."""
        keys = self.halves - points @ self.points.T
        return np.sort(np.argpartition(keys, count - 1, axis=1)[:, :count], axis=1)


def nearest_others(centroids: Floats, some: Rows) -> Nearest:
    """The nearest other centroid of some of two or more, and its squared distance; in float64."""
    places = _Places(centroids)
    hosts = []
    for part in _few(some):
        two = places.nearest(places.points[part], 2)
        hosts.append(np.where(two[:, 0] == part, two[:, 1], two[:, 0]))
    numbers = np.concatenate(hosts)
    return numbers.astype(np.int32), ((places.points[some] - places.points[numbers]) ** 2).sum(axis=1)


def grouped(numbers: Numbers, nlist: int) -> tuple[Rows, Rows]:
    """starts (nlist + 1,) and order (m,): the rows of cluster j are order[starts[j] : starts[j + 1]], ascending."""
    starts, order = np.empty(nlist + 1, np.int64), np.empty(len(numbers), np.int64)
    kernels.group_rows(numbers, starts, order)
    return starts, order
