"""The lists of rows: the nearest centroid's, and for rows near a border a second one (SOAR).

Law:       a row's second list is the one of least |x - c|^2 + WEIGHT <r, x - c>^2 / |r|^2, r = x - c1 its residual in
           its own list; sums in float64 over row and centroids as given, ties to the smaller number. It lies there too
           where |x - c2|^2 <= limit |x - c1|^2. Both depend on the row and the centroids alone.
Why:       a query misses a row's list where r points away from it. The loss asks for a second residual that does not
           point the same way, so what hides the row in one list seldom hides it in the other.
Source:    SOAR, Sun et al. 2023, arXiv:2404.00774; WEIGHT is the paper's lambda. Of .75, 1.5 and 3 none reads the
           fewest rows for every share, set and recall; 1.5 is within 11 % of the best of them (GloVe-100, MiniLM).
Not here:  where the second codes lie (copies.py); the nearest centroid (assign.py)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from polarindex import kernels
from polarindex.indexes.assign import LANES, nearest, nearest_exactly
from polarindex.indexes.threads import available_cores, run_all
from polarindex.vectors import squared_norms

WEIGHT = 1.5
SAMPLE = 4096  # rows by which the limit is chosen
NOWHERE = -1  # the second list of a row that has none

_BLOCK = 256  # rows whose products with a tile are made at once: 2 MB, and as much for their lists
_TILE = 2048  # centroids, fewer where they are over 4 MB
_PART = 8192  # rows that are one thread's task
_FARTHEST = 2.0**40  # times the longest centroid: a longer residual's products say nothing

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Numbers = NDArray[np.int32]


class Homes(NamedTuple):
    """The lists of rows.

    first : (n,) int32
    second : (n,) int32, NOWHERE for a row that lies in one list; None in an index without second lists
    """

    first: Numbers
    second: Numbers | None


def homes(x: Floats, centroids: Floats, limit: float | None) -> Homes:
    """The lists of rows x (n, d); limit None for no second ones, infinite for one for every row."""
    if limit is None:
        return Homes(nearest(x, centroids)[0], None)
    first, squares = nearest_exactly(np.ascontiguousarray(x), np.ascontiguousarray(centroids))
    second, others = second_nearest(x, centroids, first)
    near = (others <= limit * squares) if np.isfinite(limit) else np.ones(len(x), bool)
    return Homes(first, np.where(near, second, np.int32(NOWHERE)))


def learned_limit(sample: Floats, centroids: Floats, share: float) -> float:
    """The limit that so large a share of the sample's rows (m, d) is within."""
    if share == 1:
        return np.inf
    rows = np.ascontiguousarray(sample[:: -(-len(sample) // SAMPLE)])
    first, squares = nearest_exactly(rows, np.ascontiguousarray(centroids))
    others = second_nearest(rows, centroids, first)[1]
    apart = np.divide(others, squares, out=np.full(len(rows), np.inf), where=squares > 0)
    found = float(np.sort(apart)[max(1, round(share * len(rows))) - 1])
    return found if np.isfinite(found) else float(np.finfo(np.float64).max)


def second_nearest(x: Floats, centroids: Floats, own: Numbers) -> tuple[Numbers, Doubles]:
    """The second list (n,) int32 of rows whose own are given, and |x - c|^2 (n,); NOWHERE and inf for a single list."""
    numbers, distances = np.full(len(x), NOWHERE, np.int32), np.full(len(x), np.inf)
    if len(centroids) == 1:
        return numbers, distances
    centroids, order = np.ascontiguousarray(centroids), np.argsort(own, kind="stable")
    parts = [order[start : start + _PART] for start in range(0, len(x), _PART)]

    def look(part: NDArray[np.int64]) -> None:
        numbers[part], distances[part] = _offered(x[part], centroids, own[part])

    run_all(look, parts, available_cores())
    return numbers, distances


def _offered(x: Floats, centroids: Floats, own: Numbers) -> tuple[Numbers, Doubles]:
    """`second_nearest` on one thread, tile after tile of centroids; rows of one list best come together."""
    n, d = x.shape
    step = max(LANES, min(_TILE, 2**20 // d // LANES * LANES))
    shift = centroids.mean(axis=0, dtype=np.float64).astype(np.float32)
    longest = max(
        float(np.sqrt(squared_norms(centroids[at : at + step] - shift).max())) for at in range(0, len(centroids), step)
    )
    down = -int(np.frexp(longest)[1])  # to lengths of at most 1, so that no square overflows
    best, losses = np.full(n, -np.inf, np.float32), np.full(n, np.inf)
    numbers, distances = np.full(n, NOWHERE, np.int32), np.full(n, np.inf)
    blocks = [slice(start, min(start + _BLOCK, n)) for start in range(0, n, _BLOCK)]
    rows = [_Block(x[block], centroids, own[block], shift, down) for block in blocks]
    space = np.empty((2, min(_BLOCK, n) * (min(step, len(centroids)) + LANES)), np.float32)
    for first in range(0, len(centroids), step):
        tile = np.ldexp(centroids[first : first + step] - shift, down)
        width = -(-len(tile) // LANES) * LANES
        columns, squares = np.zeros((width, d), np.float32), np.full((1, width), np.inf, np.float32)
        columns[: len(tile)], squares[0, : len(tile)] = tile, squared_norms(tile)
        for block, part in zip(blocks, rows, strict=True):
            along, across = (
                np.matmul(side, columns.T, out=room[: len(side) * width].reshape(-1, width))
                for side, room in zip((part.directions, part.centres), space, strict=True)
            )
            part.leave_out_own(across, first)
            kernels.second_rows(
                (along, across, part.of, squares),
                part.frames,
                part.slacks,
                x[block],
                centroids,
                own[block],
                first,
                WEIGHT,
                (best[block], numbers[block], losses[block], distances[block]),
            )
    return numbers, distances


class _Block:
    """What proposals need of some rows, in a frame where centroids are `shift`ed and scaled by 2^down.

    A float32 sum of d products errs by d units of 2^-24 of the product of lengths, which are 1 at most but for the
    residual's. A loss has 2 errors of <c, c'> and 12 + 10 |r| of <r, c> / |r|; 2 more and 8 roundings stand for what
    is beside the sums, and 2^-126 a product for underflow.
    """

    def __init__(self, x: Floats, centroids: Floats, own: Numbers, shift: Floats, down: int) -> None:
        lists, self.of = np.unique(own, return_inverse=True)
        self._lists = lists
        self.centres = np.ldexp(centroids[lists] - shift, down)
        residuals = np.ldexp((x - centroids[own]).astype(np.float64), down)
        lengths = np.sqrt(np.einsum("ij,ij->i", residuals, residuals))
        far = lengths > _FARTHEST
        lengths = np.where(far, _FARTHEST, lengths)
        scales = np.divide(1, lengths, out=np.zeros(len(x)), where=(lengths > 0) & ~far)
        self.directions = (residuals * scales[:, None]).astype(np.float32)
        mine = self.centres[self.of]
        along = np.einsum("ij,ij->i", self.directions, mine, dtype=np.float64)
        self.frames = np.stack([lengths, along, squared_norms(mine)]).astype(np.float32)
        errors = 16 * (2.0**-24 * (1 + lengths) + 2.0**-126)
        self.slacks = np.where(far, np.inf, 2 * (x.shape[1] + 8) * errors).astype(np.float32)

    def leave_out_own(self, across: Floats, first: int) -> None:
        """Of products (m, w) of the rows' own lists' centroids with those from `first` on: -inf for one with itself."""
        here = (self._lists >= first) & (self._lists < first + across.shape[1])
        across[np.flatnonzero(here), self._lists[here] - first] = -np.inf
