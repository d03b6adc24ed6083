"""How a GPU index codes rows: as `Coding` does, on the device where it has a kernel for the quantizer."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

from polarindex.checks import VectorSource
from polarindex.gpu.device import Device, device
from polarindex.gpu.encode import Coder, Part, coder, steps
from polarindex.indexes.coding import Centre, Coding, Columns
from polarindex.indexes.originals import pack_originals
from polarindex.quantizers.scalar import ScalarQuantizer


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
        if self.coder is None:
            yield from super().coded(source, centre)
            return
        parts = (
            Part(start, x, self.codable(x, source.name, start)) for start, x in steps(source.chunks(), source.dim)
        )
        for part, found in self.coder.coded(parts, centre.mu):
            columns = self.columns_of(self._quantizer().of_sums(found.words, found.sums))
            columns |= pack_originals(part.x, self.store, part.start)
            if not centre.frozen:
                columns["held"] = part.rows
            yield columns

    def _quantizer(self) -> ScalarQuantizer:
        if not isinstance(self.quantizer, ScalarQuantizer):
            raise TypeError(f"{self.quantizer!r} is not coded on the device")
        return self.quantizer
