"""How many bits each segment of principal axes is worth: reverse water-filling, in whole words.

Law:       of all ways to cut the axes into segments whose widths do not rise, that of least weighted error which takes
           no more bytes, scales and a tail's length included, than plain codes of the same bits. Exact, by dynamic
           programming over blocks of 32 axes, which are a word of a plane.
Short:     a scale takes 12 bits in place of 16, and a shift, which then shares words with scales, 8 in place of 32.
Error:     a coded segment of m axes with energy E adds m w (E / m) D(b) / (1 - D(b)), one that is left out 2.5 times
           m w (E / m). The weights w are the energy an axis has to the power of .6. Bits for the least error of
           reconstruction would weigh all axes alike; but errors matter as far as the difference of a query and a row
           that may be its neighbour lies along them, and differences of neighbours have a flatter spectrum than rows,
           though not a flat one. What is left out is not independent of that difference, as coding errors are. Of
           exponents of 1/4 to .7 and 1 to 3 times what is left out, on Fashion-MNIST, SIFT, MiniLM and GloVe in 40
           sizes, codes and kinds of index, these found most, or less by .003 at most, and on SIFT at 3 bits by .007;
           an exponent of 1/4 and what is left out once lost up to .05. Whether a basis is worth its product is judged
           with what is left out once: of rows without structure, too, what few bits leave out pays.
Trellis:   rings of 1 to 4 bits beside scalar codes of 5 to 8.
Source:    reverse water-filling: Cover & Thomas, section 10.3.3; widths by segment: SAQ, arXiv:2509.12086."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from polarindex.codebooks import integer_codebook, normal_codebook, trellis_codebook
from polarindex.codes import LineLayout, RingLayout

Doubles = NDArray[np.float64]

BLOCK = 32  # axes
MOST_BITS = 8
RING_BITS = 4  # up to which a segment's code may be a trellis'
SCALE_BITS, SHORT_SCALE_BITS = 16, 12  # what a segment's scale takes
SHORT_SHIFT_BITS = 8  # and a shift that shares words with such scales
_HALF = 16  # bits: what rows are whole numbers of
_TAIL = 1  # half words that the length of all that is behind the first segments takes, in rows of at least
_TAIL_FROM = 32  # half words: of shorter ones it would be more than 3 %, and a scan could leave out little
_PLAIN_SCALE = 2  # and a plain code's scale, or its scale and shift in one word
WEIGHT = 0.6  # the exponent of an axis's energy
LEFT_OUT = 2.5  # times its energy: the error of an axis without bits
_HEAD_SHARE = 0.65  # of what is coded: bounds then leave 1-2 % of the rows, on Fashion-MNIST, SIFT and MiniLM at 4 bits


class Segment(NamedTuple):
    """`dims` axes, the next after those of the segment before, coded with `bits` each."""

    dims: int
    bits: int


class Allocation(NamedTuple):
    """Segments, the first with the most bits; axes after the last are left out.

    error : the weighted error that is predicted, as plain_error's: what is left out counts once
    """

    segments: tuple[Segment, ...]
    error: float

    def shares(self, energies: Doubles) -> list[float]:
        """Of axes of these energies, which sum to 1, what each segment has, and last what is in none."""
        ends = np.cumsum([0, *(segment.dims for segment in self.segments)])
        coded = [min(1.0, float(energies[a:b].sum())) for a, b in zip(ends[:-1], ends[1:], strict=True)]
        return [*coded, max(0.0, 1 - sum(coded))]


def is_ring(code: str, bits: int) -> bool:
    """Whether a segment of this width is a trellis' ring in codes of this name, and not coordinates each for itself."""
    return code == "trellis" and bits <= RING_BITS


@lru_cache(maxsize=32)
def inner_error(bits: int, code: str = "eden") -> float:
    """The relative squared error D / (1 - D) of unbiased estimates from integer levels; 1 without any bits.

    A trellis' D is that of long rings. Of 32 coordinates at 1 bit D / (1 - D) is a tenth more, for the seam has a say
    in all of them; all other rings, of whole blocks, have up to 7 % less.
    """
    if bits == 0:
        return 1.0
    ring = is_ring(code, bits)
    distortion = (trellis_codebook(bits) if ring else integer_codebook(normal_codebook(bits))).distortion
    return distortion / (1 - distortion)


def half_words(dim: int, bits: float, code: str = "eden") -> int:
    """What a plain code of `dim` coordinates with its scale takes, in units of 16 bits; of a trellis of more than
    RING_BITS, which there is not, what it would take."""
    if is_ring(code, 1):
        words: float = math.ceil(dim * bits / 32)
    else:
        words = LineLayout(dim, 8).words if bits == MOST_BITS else bits * -(-dim // BLOCK)
    return int(2 * words) + _PLAIN_SCALE


def tail_half_words(dim: int, bits: float, code: str = "eden") -> int:
    """What a row's length behind its first segments takes; 0: it is not stored."""
    return _TAIL if half_words(dim, bits, code) >= _TAIL_FROM else 0


def head_of(dim: int, bits: float, coded: Sequence[float], code: str = "eden") -> int:
    """How many segments, of given shares of energy, are scanned of all rows; all where no tail's length is stored."""
    if not tail_half_words(dim, bits, code):
        return len(coded)
    sums = np.cumsum(coded)
    return 1 + int((sums < _HEAD_SHARE * sums[-1]).sum())


def plain_error(energies: Doubles, bits: int, code: str = "eden") -> float:
    """The error of a plain code, which a random rotation spreads over all axes alike."""
    blocks = _Blocks(energies, code)
    return float((blocks.weights * blocks.dims).sum() / blocks.dims.sum() * energies.sum() * inner_error(bits, code))


def allocate(
    energies: Doubles, bits: float, in_lists: bool = False, code: str = "eden", short: bool = False
) -> Allocation:
    """The best segments for axes of these energies (dim,), most first, at `bits` a coordinate.

    in_lists : whether codes and scales together are whole words of 32 bits, and no tail's length is stored
    code : "eden" or "trellis"
    short : whether scales and the shift are short
    O(dim / 32) steps for each pair of widths and each unit, of 16 bits or 4, that there is to spend.
    """
    unit = 4 if short else _HALF
    scale = (SHORT_SCALE_BITS if short else SCALE_BITS) // unit
    blocks, budget = _Blocks(energies, code, unit), half_words(len(energies), bits, code)
    budget -= budget % 2 if in_lists else tail_half_words(len(energies), bits, code)
    budget = budget * (_HALF // unit) - (SHORT_SHIFT_BITS // unit if short else 0)
    widths = range(MOST_BITS + 1)
    least = np.full((len(widths), budget + 1), np.inf)  # [width of the last block, units spent so far]
    least[MOST_BITS, 0] = 0.0  # nothing is coded yet, so that any width may follow
    before: list[NDArray[np.int8]] = []
    for j in range(len(blocks.dims)):
        after = np.full_like(least, np.inf)
        choice = np.zeros(least.shape, np.int8)
        for bits_here in widths:
            error = blocks.error(j, bits_here)
            for bits_before in widths[bits_here:]:
                opens = bits_here > 0 and (j == 0 or bits_before != bits_here)
                cost = blocks.cost(j, bits_here) + scale * opens
                if cost > budget:
                    continue
                offered = least[bits_before, : budget + 1 - cost] + error
                held = after[bits_here, cost:]
                better = offered < held
                held[better] = offered[better]
                choice[bits_here, cost:][better] = bits_before
        before.append(choice)
        least = after
    last, spent = np.unravel_index(int(least.argmin()), least.shape)
    widths_found, width, at = [], int(last), int(spent)
    for j in range(len(blocks.dims) - 1, -1, -1):
        widths_found.append(width)
        earlier = int(before[j][width, at])
        at -= blocks.cost(j, width) + scale * (width > 0 and (j == 0 or earlier != width))
        width = earlier
    chosen = widths_found[::-1]
    return Allocation(_segments(blocks.dims, chosen), sum(blocks.predicted(j, width) for j, width in enumerate(chosen)))


class _Blocks:
    """Axes, BLOCK at a time: how many each has, the energy of each, and the weight of an axis in it."""

    def __init__(self, energies: Doubles, code: str, unit: int = _HALF) -> None:
        self._code, self._unit = code, unit
        starts = np.arange(0, len(energies), BLOCK)
        self.dims = np.minimum(BLOCK, len(energies) - starts)
        self.energies = np.add.reduceat(energies, starts)
        self.weights = (self.energies / self.dims) ** WEIGHT

    def predicted(self, j: int, bits: int) -> float:
        """The error of block j."""
        return float(self.weights[j] * self.energies[j] * inner_error(bits, self._code))

    def error(self, j: int, bits: int) -> float:
        """The same, as widths are chosen by it."""
        return self.predicted(j, bits) * (1 if bits else LEFT_OUT)

    def cost(self, j: int, bits: int) -> int:
        """Units of block j's codes."""
        if bits == 0:
            return 0
        layout = RingLayout if is_ring(self._code, bits) else LineLayout
        return 32 // self._unit * layout(int(self.dims[j]), bits).words


def _segments(dims: NDArray[np.int64], widths: list[int]) -> tuple[Segment, ...]:
    """Neighbouring blocks of one width together, without those that have none."""
    return tuple(
        Segment(int(sum(size for size, own in zip(dims, widths, strict=True) if own == width)), width)
        for width in sorted(set(widths), reverse=True)
        if width
    )
