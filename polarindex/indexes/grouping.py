"""Groups of an inverted file's centroids, so that a query meets those of the nearest groups alone.

Law:       the centroids are in an order, and every `size` of them, in whole pages, are a group; the last may have
           fewer. A query that probes nprobe lists looks into the `looked(nprobe)` groups whose centres score best, ties
           to the smaller number. These hold nprobe lists at least; where nprobe is over an eighth of the lists, or
           nothing would be saved, they are all groups.
How many:  learned from the centroids: so many groups that of the nprobe lists nearest to a centroid nearly all (_FOUND)
           are in them, which loses .0004 of the recall or less on Fashion-MNIST and .0007 on SIFT. It differs from set
           to set: of 1,024 lists a query looks at a third on Fashion-MNIST, and would have to at four fifths on GloVe,
           where nothing is saved and there is one group.
Why equal: k-means makes groups of 3 to 70 lists, which leave half a page each empty: 40 % more pages with 1,024 lists.
           Equal ones made by halving lose as little with as many pages, or less.
Saved:     what is learned here depends on the last bits of BLAS; a file has it, so that it answers alike everywhere.
Not here:  the groups' centres and scores (coarse.py)."""

from __future__ import annotations

from math import isqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from polarindex.codes import PANEL

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Numbers = NDArray[np.int32]

_FOUND = 0.998  # the share of a centroid's nearest lists that are to be in the groups looked into
_SIDE = 64  # a group has sqrt(nlist) / _SIDE pages, and so many that its scan takes longer than its turn
# What looking into groups takes, in coordinates of a scan of all centroids (15 ps alone, 6 ps in a batch on Zen 4):
_SECOND, _TURN_ALONE, _TURN = 40_000, 1_300, 3_000  # a second scan, and a group's turn of one query
_ASKED = 512  # centroids that ask for their neighbours, fewer where there are many lists
_CELLS = 1 << 23  # their scores at most
_DEEPEST = 8  # one list in so many may be probed by groups
_SEEN = 2048  # rows of a part by which it is halved
_AXIS_STEPS, _MEAN_STEPS = 4, 8
_BLOCK = 1 << 16  # rows that are copied at a time


class Groups(NamedTuple):
    """How the lists' centroids are grouped.

    order : (nlist,) int32, the lists, group after group
    size : lists a group, a multiple of PANEL, or nlist where there is one group
    looks : (levels,) int32, the groups that a query of 2^level lists looks into, of fewer down to 2^(level - 1) + 1 too
    """

    order: Numbers
    size: int
    looks: Numbers

    @property
    def total(self) -> int:
        return -(-len(self.order) // self.size)

    @property
    def nbytes(self) -> int:
        return self.order.nbytes + self.looks.nbytes

    def looked(self, nprobe: int) -> int:
        """The groups that a query of so many lists, up to nlist, looks into."""
        return int(self.looks[(nprobe - 1).bit_length()])

    def centres(self, directions: Floats) -> Floats:
        """(total, d) float32, the means of the groups' directions."""
        starts = np.arange(0, len(self.order), self.size)
        means = [directions[self.order[at : at + self.size]].mean(axis=0, dtype=np.float64) for at in starts]
        return np.array(means, np.float32)


def checked_groups(order: Numbers, size: int, looks: Numbers) -> Groups:
    """Groups that a file tells of; ValueError where they are none."""
    nlist = len(order)
    groups = Groups(order, size, looks)
    if not 1 <= size <= nlist or (size % PANEL and size != nlist):
        raise ValueError(f"groups have {size} of {nlist} lists, wanted whole pages of {PANEL}")
    if not np.array_equal(np.sort(order), np.arange(nlist)):
        raise ValueError(f"groups.npy must hold each of {nlist} lists once")
    least = [_least(groups, level) for level in range(_levels(nlist))]
    if len(looks) != len(least) or (looks < least).any() or (looks > groups.total).any():
        wanted = f"{len(least)} numbers of {groups.total} groups that hold the lists"
        raise ValueError(f"looks must be {wanted}, got {looks.tolist()}")
    return groups


def group_size(nlist: int, d: int) -> int:
    """Lists a group, where there are several."""
    return PANEL * max(1, round(np.sqrt(nlist) / _SIDE), round(2 * _TURN / (PANEL * d)))


def one_group(nlist: int) -> Groups:
    return Groups(np.arange(nlist, dtype=np.int32), nlist, np.ones(_levels(nlist), np.int32))


def grouped(directions: Floats) -> Groups:
    """Groups of directions (nlist, d), all of them looked into; one group where more could not pay."""
    nlist, d = directions.shape
    size = group_size(nlist, d)
    if nlist <= 2 * size or not _pays(1, nlist, size, d):
        return one_group(nlist)
    whole, parts = [np.arange(nlist)], []
    while whole:
        part = whole.pop()
        if len(part) <= size:
            parts.append(part)
        else:
            whole += reversed(_halved(directions, part, size))
    order = np.concatenate(parts).astype(np.int32)
    return Groups(order, size, np.full(_levels(nlist), -(-nlist // size), np.int32))


def with_looks(groups: Groups, scores: Floats, group_scores: Floats, asked: NDArray[np.int64], d: int) -> Groups:
    """The groups with what the neighbours of some centroids, `asked` (m,), teach of how many to look into.

    scores (m, nlist) and group_scores (m, total), of the centroids as queries of d coordinates.
    """
    nlist, m = len(groups.order), len(asked)
    scores = scores.copy()
    scores[np.arange(m), asked] = -np.inf
    deepest = max(1, nlist // _DEEPEST)
    nearest = np.argpartition(-scores, deepest, axis=1)[:, :deepest]
    nearest = np.take_along_axis(nearest, np.argsort(-np.take_along_axis(scores, nearest, 1), axis=1), 1)
    of_list = np.empty(nlist, np.int64)
    of_list[groups.order] = np.arange(nlist) // groups.size
    standing = np.argsort(np.argsort(-group_scores, axis=1, kind="stable"), axis=1)
    ranks = np.take_along_axis(standing, of_list[nearest], 1)
    looks = groups.looks.copy()
    for level in range(len(looks)):
        if 1 << level > deepest:
            break
        wanted = max(_least(groups, level), 1 + int(np.quantile(ranks[:, : 1 << level], _FOUND, method="higher")))
        if _pays(wanted, nlist, groups.size, d):
            looks[level] = wanted
    looks = np.minimum.accumulate(looks[::-1])[::-1].copy()  # the fewer the lists, the fewer neighbours have taught
    learned = groups._replace(looks=looks)
    usual = isqrt(nlist)  # about what .95 of the neighbours ask for on GloVe and MiniLM
    return learned if learned.looked(usual) < groups.total else one_group(nlist)


def _pays(look: int, nlist: int, size: int, d: int) -> bool:
    """Whether to look into some groups takes less time than into all, both alone and in a batch."""
    saved = (nlist - nlist / size - look * size) * d
    return saved > max(_SECOND + look * _TURN_ALONE, look * _TURN)


def askers(nlist: int) -> NDArray[np.int64]:
    """Lists whose centroids ask for their neighbours, evenly apart."""
    count = min(nlist, _ASKED, max(64, _CELLS // nlist))
    return np.arange(count) * nlist // count


def _levels(nlist: int) -> int:
    return (nlist - 1).bit_length() + 1


def _least(groups: Groups, level: int) -> int:
    """The fewest groups that hold 2^level lists, or all there are, whichever groups they are."""
    lists = len(groups.order)
    beside_last = min(1 << level, lists) - (lists - (groups.total - 1) * groups.size)
    return 1 + max(0, -(-beside_last // groups.size))


def _halved(directions: Floats, part: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    """A part (more than `size` rows) in two, the first of whole groups: cut where two means part it, about."""
    seen = directions[part[:: -(-len(part) // _SEEN)]].astype(np.float64)
    middle = seen.mean(axis=0)
    seen -= middle
    axis = seen[np.argmax(np.einsum("ij,ij->i", seen, seen))]
    for _ in range(_AXIS_STEPS):
        axis = seen.T @ (seen @ axis)
        axis /= max(np.sqrt(axis @ axis), np.finfo(np.float64).tiny)
    above, limit = seen @ axis > 0, 0.0
    for _ in range(_MEAN_STEPS):
        if above.all() or not above.any():
            break
        one, other = seen[~above].mean(axis=0), seen[above].mean(axis=0)
        axis, limit = other - one, (other @ other - one @ one) / 2
        before, above = above, seen @ axis > limit
        if np.array_equal(before, above):
            break
    length = max(np.sqrt(axis @ axis), np.finfo(np.float64).tiny)
    above_limit = _heights(directions, part, middle, axis / length) - np.float32(limit / length)
    order = np.argsort(above_limit, kind="stable")
    groups = round(np.count_nonzero(above_limit <= 0) / size)
    cut = size * min(max(1, groups), (len(part) - 1) // size)
    return [np.sort(part[order[:cut]]), np.sort(part[order[cut:]])]


def _heights(directions: Floats, part: NDArray[np.int64], middle: Doubles, axis: Doubles) -> Floats:
    """(len(part),) float32 of a part along an axis, from a middle."""
    origin, along = middle.astype(np.float32), axis.astype(np.float32)
    blocks = [part[start : start + _BLOCK] for start in range(0, len(part), _BLOCK)]
    return np.concatenate([(directions[block] - origin) @ along for block in blocks])
