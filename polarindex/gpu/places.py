"""How the device rotates a row: its lanes, its passes, and where each coordinate lies between them.

    read        where a round reads, in any order: the coordinates that lanes write in one access are a block, and each
                has the place in it that its colour says
    between     what one pass leaves for the next, a slot free after every 2^Q0: source/encode.cu knows where
Law:       coordinates that are read in one access, or written in one, have different colours, and so different banks.
           Blocks and accesses are the two sides of a graph whose edges are the coordinates; a node has no more edges
           than an access has lanes, and by Koenig's theorem so many colours suffice.
Why:       a round's order is random: with coordinates in their own order, 32 lanes would find 3.5 of each other in
           the fullest of 32 banks, and wait for them.
Tables:    16 bits a coordinate: the slot, and in the highest bit whether its sign is flipped when it is written. They
           come eight by eight, as the kernel loads them.
Not here:  the order and the signs (rotations.py)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from polarindex.gpu.shapes import Card
from polarindex.rotations import HadamardRotation

ROUNDS = 3
WARP = 32
FLIPPED = 1 << 15
SLOT = FLIPPED - 1
# Levels of the transform in each pass, by log2 of its size: 32 coordinates in a lane's registers, where they suffice
PASSES = [(0,), (1,), (2,), (3,), (4,), (5,), (3, 3), (4, 3), (4, 4), (5, 4), (5, 5), (5, 6), (6, 6), (5, 4, 4)]
_PAIRED = range(64, 2048)  # coordinates of rows of which a lane has two: what it knows of places serves both
_WARPS = 24  # rows of lanes that a multiprocessor has registers for, at 32 coordinates each
_KEPT_WARPS = 16  # where they are kept to the end, without spilling: 229 against 208 million rows of 1,024 a second
_BOOK_BYTES = 4096  # beside the rows of a block: thresholds and levels of 8 bits

Places = NDArray[np.uint16]
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Form:
    """How the rows of `dim` coordinates are laid over a warp.

    side : rows whose coordinates lie side by side, and that a lane has together
    most : bytes of shared memory for the rows of a block of several warps
    """

    dim: int
    side: int
    most: int = 72 << 10

    @staticmethod
    def of(dim: int, card: Card) -> Form:
        """The one that is used."""
        return Form(dim, 2 if dim in _PAIRED else 1, min(Form.most, card.shared - _BOOK_BYTES))

    def fits(self, card: Card) -> bool:
        return self.shared + _BOOK_BYTES <= card.shared

    @property
    def size(self) -> int:
        return 1 << (self.dim.bit_length() - 1)

    @property
    def windows(self) -> tuple[int, ...]:
        """Where they begin."""
        return (0,) if self.size == self.dim else (0, self.dim - self.size)

    @property
    def passes(self) -> tuple[int, ...]:
        return PASSES[self.size.bit_length() - 1]

    @property
    def kept(self) -> bool:
        """Whether rows are quantized from the registers of the last pass, which then has every 32nd coordinate."""
        return len(self.windows) == 1 and self.lanes == WARP and self.passes[:-1] == (5,)

    @property
    def lanes(self) -> int:
        """Of a row."""
        return min(WARP, self.size >> self.passes[0])

    @property
    def rows(self) -> int:
        """Of a warp."""
        return WARP // self.lanes * self.side

    @property
    def wave(self) -> int:
        """Lanes of a row that read or write at a time."""
        return min(self.lanes, WARP // self.side)

    @property
    def coded(self) -> int:
        return -(-self.dim // WARP) * WARP

    @property
    def stride(self) -> int:
        """Slots of a row: rows of a warp begin as many banks apart as a row has lanes."""
        group = 1 << self.passes[0]
        used = self.coded + -(-self.dim // group) * (group + 1)
        return used + (self.lanes - used) % WARP

    @property
    def warp_bytes(self) -> int:
        return 4 * self.stride * self.rows

    @property
    def warps(self) -> int:
        """Of a block."""
        return next((count for count in (4, 2) if count * self.warp_bytes <= self.most), 1)

    @property
    def shared(self) -> int:
        """Bytes of a block."""
        return self.warps * self.warp_bytes

    def blocks(self, card: Card) -> int:
        """Of a multiprocessor."""
        room = card.shared // (self.shared + 2048)
        most = _KEPT_WARPS if self.kept and self.side > 1 else _WARPS
        return max(1, min(room, most // self.side // self.warps))

    def macros(self, card: Card, bits: int) -> dict[str, int]:
        passes = dict(zip(("Q0", "Q1", "Q2"), (*self.passes, 0, 0), strict=False))
        return {
            "D": self.dim,
            "P": self.size,
            "WINDOWS": len(self.windows),
            "ROUNDS": ROUNDS,
            "CODE": bits,
            "R": WARP // self.lanes,
            "V": self.side,
            "KEPT": int(self.kept),
            "WARPS": self.warps,
            "BLOCKS": self.blocks(card),
            **passes,
        }

    # --- coordinates, as the kernel's lanes have them

    @cached_property
    def own(self) -> Numbers:
        """A lane's coordinate of 32: the byte and bit of it in a word are the lane's number."""
        lane = np.arange(WARP)
        return (lane & 7) << 2 | lane >> 3

    def spread(self, c: Numbers) -> Numbers:
        """Where coordinate c of a line, or of a group, lies in it."""
        return (c & ~31) | (c & 3) << 3 | (c >> 2 & 7) if self.lanes == WARP else c

    def between(self, j: Numbers) -> Numbers:
        """Where the passes exchange coordinate j."""
        group = 1 << self.passes[0]
        return self.coded + (j >> self.passes[0]) * (group + 1) + self.spread(j & (group - 1))

    def blocks_of(self, j: Numbers) -> Numbers:
        """The block of coordinate j."""
        return (j >> 5) * (WARP // self.wave) + self.spread(j & 31) // self.wave

    def groups(self, number: int, first: int) -> Numbers:
        """Coordinates (groups, 2^levels) of a pass by its number, in a window that begins at `first`."""
        before, levels = sum(self.passes[:number]), self.passes[number]
        u = np.arange(self.size >> levels)
        if number and self.lanes == WARP:
            u = (u & ~31) | self.own[u & 31]
        low = (u & ((1 << before) - 1)) | u >> before << before + levels
        return first + low[:, None] + (np.arange(1 << levels) << before)


class Tables(NamedTuple):
    """What source/encode.cu calls Map, but the norm; uint16, in the order in which the kernel loads them."""

    start: Places
    reads: Places
    tails: Places
    writes: Places


def tables(form: Form, rotation: HadamardRotation) -> Tables:
    """The tables of a rotation of ROUNDS rounds."""
    order, _, _, _, _ = rotation.plan
    flips = rotation.flips < 0
    slots = np.array([_coloured(form, mine) for mine in order])  # by round and coordinate read
    there = np.empty_like(slots)  # with the sign that the round gives it
    for round, mine in enumerate(order):
        there[round, mine] = slots[round, mine] | np.where(flips[round, 0], FLIPPED, 0)
    lines = np.arange(form.coded).reshape(-1, WARP)[:, form.own]
    first = form.groups(0, 0)
    reads = [_eights(slots[round][mine[first]]) for round, mine in enumerate(order)]
    tails = [slots[round][mine[form.size :]] for round, mine in enumerate(order)]
    writes = []
    for round in range(len(order)):
        for window, begin in enumerate(form.windows):
            j = form.groups(len(form.passes) - 1, begin)
            after = there[round + 1][j] if round + 1 < len(order) else (j & ~31) | form.spread(j & 31)
            if window + 1 < len(form.windows):
                shared = form.between(j) | np.where(flips[round, 1][j], FLIPPED, 0)
                after = np.where(j < form.windows[1], after, shared)
            writes.append(_eights(after))
    padded = np.zeros(form.coded, np.int64)
    padded[: form.dim] = there[0]
    start = _eights(padded[lines].T)
    return Tables(*(np.concatenate(part).astype(np.uint16) for part in ([start], reads, tails, writes)))


def _eights(places: Numbers) -> Numbers:
    """Places (groups, count) of a group's registers as the kernel loads them: eight of every group, then the next."""
    groups, count = places.shape
    padded = np.zeros((groups, -(-count // 8) * 8), np.int64)
    padded[:, :count] = places
    return padded.reshape(groups, -1, 8).swapaxes(0, 1).reshape(-1)


def accesses(form: Form, order: Numbers) -> Numbers:
    """(dim,) which access reads coordinate j, where a round reads in an order."""
    first = form.groups(0, 0)
    groups, count = first.shape
    found = np.empty(form.dim, np.int64)
    u, i = np.arange(groups)[:, None], np.arange(count)
    waves = groups // form.wave
    found[order[first]] = i * waves + u // form.wave
    rest = np.arange(form.dim - form.size)
    found[order[form.size :]] = count * waves + rest // form.wave
    return found


def _coloured(form: Form, order: Numbers) -> Numbers:
    """(dim,) the slot of coordinate j for a round that reads in an order: its block's, by its colour."""
    blocks, reads = form.blocks_of(np.arange(form.dim)), accesses(form, order)
    return blocks * form.wave + coloured(blocks, reads, form.wave)


def coloured(left: Numbers, right: Numbers, colours: int) -> Numbers:
    """A colour for every edge (left, right), no two alike at a node; no node has more edges than there are colours."""
    ends = left.tolist(), right.tolist()
    at = [[[_NONE] * colours for _ in range(max(side, default=-1) + 1)] for side in ends]  # the edge of a node's colour
    of = [_NONE] * len(left)
    for edge in range(len(of)):
        nodes = [at[side][ends[side][edge]] for side in (0, 1)]
        mine, other = (node.index(_NONE) for node in nodes)
        for turned in _path(at, ends, nodes[1][mine], mine, other):
            _put(at, ends, of, turned, mine + other - of[turned])
        _put(at, ends, of, edge, mine)
    return np.array(of, np.int64)


_NONE = -1
_Nodes = list[list[list[int]]]
_Ends = tuple[list[int], list[int]]


def _path(at: _Nodes, ends: _Ends, edge: int, colour: int, other: int) -> list[int]:
    """The edges from one of a right node's on whose colours are `colour` and `other` by turns."""
    path, side = [], 1
    while edge != _NONE:
        path.append(edge)
        side, colour, other = 1 - side, other, colour
        edge = at[side][ends[side][edge]][colour]
    return path


def _put(at: _Nodes, ends: _Ends, of: list[int], edge: int, colour: int) -> None:
    """Give an edge a colour, and what it had to nobody, unless that is already another's."""
    for side in (0, 1):
        node = at[side][ends[side][edge]]
        if of[edge] != _NONE and node[of[edge]] == edge:
            node[of[edge]] = _NONE
        node[colour] = edge
    of[edge] = colour
