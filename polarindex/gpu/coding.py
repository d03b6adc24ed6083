"""How a GPU index codes rows: as `Coding` does, on the device where it has a kernel for the quantizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import Any, TypeVar

import numpy as np

from polarindex.checks import VectorSource
from polarindex.gpu.device import Device, DeviceRows, device
from polarindex.gpu.encode import Coder, Floats, Part, coder, whole
from polarindex.indexes.coding import Centre, Coding, Columns
from polarindex.indexes.originals import pack_originals
from polarindex.indexes.threads import available_cores, run_all
from polarindex.kernels.limits import LONGEST
from polarindex.quantizers.scalar import ScalarQuantizer

_SHORT = 0.99 * LONGEST
T = TypeVar("T")


class GpuCoding(Coding):
    """A Coding whose rows are coded on the GPU of a number; `host()` is the one it was made of."""

    def __init__(self, coding: Coding, number: int) -> None:
        self.__dict__.update(coding.__dict__)
        self.number = number

    def host(self) -> Coding:
        """The same, on the host."""
        other = Coding.__new__(Coding)
        other.__dict__.update({name: value for name, value in self.__getstate__().items() if name != "number"})
        return other

    def __getstate__(self) -> dict[str, Any]:
        """Without what lies on the device."""
        return {name: value for name, value in self.__dict__.items() if name not in ("coder", "_others")}

    @cached_property
    def coder(self) -> Coder | None:
        """None where rows are coded on the host."""
        return coder(device(self.number), self.quantizer)

    def coder_on(self, other: Device) -> Coder | None:
        """The same for another GPU, whose tables are its own."""
        if other.number == self.number:
            return self.coder
        if other.number not in self._others:
            self._others[other.number] = coder(other, self.quantizer)
        return self._others[other.number]

    @cached_property
    def _others(self) -> dict[int, Coder | None]:
        return {}

    def coded(self, source: VectorSource, centre: Centre) -> Iterator[Columns]:
        """As of Coding. What makes a row bad makes its |r|^2 so, which the device has: only then are rows looked at."""
        coder = self.coder
        if coder is None:
            yield from super().coded(source, centre)
            return
        shift = float(np.linalg.norm(centre.mu.astype(np.float64)))
        for part, found in coder.coded(self._parts(source, coder.step), centre.mu):
            if not np.sqrt(found.sums[0].max()) + shift < _SHORT:
                for start, x in source.chunks(None, part.start, part.stop):
                    self.codable(x, source.name, start)
            columns = self.columns_of(self._quantizer().of_sums(found.words, found.sums), centre, part.start)
            if self.store != "none":
                columns |= pack_originals(part.given(), self.store, part.start)
            if not centre.frozen:
                columns["held"] = whole(part.pieces)
            yield columns

    def _parts(self, source: VectorSource, step: int) -> Iterator[Part]:
        """Rows as they are coded, `step` at a time: cosine's of unit length, which are made here; others unread."""
        for first in range(0, source.n, step):
            stop = min(first + step, source.n)
            if isinstance(source.rows, DeviceRows) and self.metric != "cosine":
                mine = slice(first, stop)
                yield Part(first, stop, [source.rows.array[mine]], partial(source.rows.__getitem__, mine))
                continue
            rows, unread = (None, False) if self.metric == "cosine" else (step, True)
            chunks = list(source.chunks(rows, first, stop, finite=not unread))
            given = [x for _, x in chunks]
            pieces = given if unread else _each(lambda part: self.codable(part[1], source.name, part[0]), chunks)
            yield Part(first, stop, pieces, partial(whole, given))

    def _quantizer(self) -> ScalarQuantizer:
        if not isinstance(self.quantizer, ScalarQuantizer):
            raise TypeError(f"{self.quantizer!r} is not coded on the device")
        return self.quantizer


def _each(task: Callable[[T], Floats], items: list[T]) -> list[Floats]:
    """[task(item) for item in items] by all cores; the error is that of the first item with one."""

    def tried(item: T) -> Floats | Exception:
        try:
            return task(item)
        except Exception as error:
            return error

    found: list[Floats] = []
    for result in run_all(tried, items, available_cores()):
        if isinstance(result, Exception):
            raise result
        found.append(result)
    return found
