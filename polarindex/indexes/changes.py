"""Which rows of an opened index have changed since it was last made durable.

Law:       a row is noted before it changes; one too many costs bytes, one too few would be lost.
Not here:  what the numbers are (each index: positions, or ids); what is written of the rows (its `_saved_changes`)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_FEW = 4096  # numbers that are not worth sorting

Numbers = NDArray[np.int64]


class Changes:
    """Numbers of rows, or that everything has changed.

    everything : set where rows are coded anew or belong to other lists, so that only a new segment can tell of it
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """All that was noted is durable."""
        self.everything = False
        self._parts: list[Numbers] = []
        self._count = self._distinct = 0

    def note(self, numbers: Numbers | range) -> None:
        """Rows of these numbers, (m,) int64 or a range, are about to change."""
        if self.everything or not len(numbers):
            return
        noted = np.arange(numbers.start, numbers.stop) if isinstance(numbers, range) else numbers.copy()
        self._parts.append(noted)
        self._count += len(numbers)
        if self._count > 2 * self._distinct + _FEW:  # so that a row which changes again and again costs nothing
            self.numbers()

    def numbers(self) -> Numbers:
        """(m,) int64, ascending, each once."""
        distinct = np.unique(np.concatenate([np.empty(0, np.int64), *self._parts]))
        self._parts, self._count, self._distinct = [distinct], len(distinct), len(distinct)
        return distinct

    def note_everything(self) -> None:
        self.clear()
        self.everything = True
