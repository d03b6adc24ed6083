"""Which of an index's rows a device has, where there are several: stripes of rows in turn.

    position  0 .. S-1   S .. 2S-1   2S .. 3S-1   ...        S = STRIPE
    device    0          1           0            ...        of two

Law:       a row's number on its device grows with its position, so ties of positions are broken alike.
Why:       devices stay equally full while an index grows or shrinks, and no row goes to another device, as it would
           have to if each had one range."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

STRIPE = 1 << 14  # rows: 256 tiles, enough for a copy at full speed

Positions = NDArray[np.int64]


class Share(NamedTuple):
    """Every `of`-th stripe, from stripe `number` on."""

    number: int = 0
    of: int = 1

    def count(self, n: int) -> int:
        """How many of n rows it has."""
        whole, rest = divmod(n, STRIPE * self.of)
        return whole * STRIPE + min(max(rest - self.number * STRIPE, 0), STRIPE)

    def rows(self, positions: Positions) -> Positions:
        """The device's row numbers of those positions that it has, in their order."""
        stripes = positions // STRIPE
        mine = stripes % self.of == self.number
        return stripes[mine] // self.of * STRIPE + positions[mine] % STRIPE

    def positions(self, rows: Positions) -> Positions:
        """The positions of row numbers of the device."""
        return (rows // STRIPE * self.of + self.number) * STRIPE + rows % STRIPE

    def ranges(self, start: int, stop: int) -> list[tuple[int, int, int]]:
        """(row, position, count) of the stretches of [start, stop), row numbers of the device."""
        if self.of == 1:
            return [(start, start, stop - start)] if start < stop else []
        edges = [start, *range((start // STRIPE + 1) * STRIPE, stop, STRIPE), stop]
        pairs = zip(edges, edges[1:], strict=False)
        return [(a, int(self.positions(np.array(a))), b - a) for a, b in pairs if a < b]

    def of_mask(self, mask: NDArray[np.uint8], n: int) -> NDArray[np.uint8]:
        """Of a mask over positions, the rows that the device has of n."""
        if self.of == 1:
            return mask[:n]
        return np.concatenate([mask[at : at + count] for _, at, count in self.ranges(0, self.count(n))])
