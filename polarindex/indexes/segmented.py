"""How the register kernels see spectral codes in lists: of each segment its bits, where its words and levels are, and
its part of the basis.

Not here:  what a segment is worth (allocation.py); the scan (kernels/segment_lists.py)."""

from __future__ import annotations

import numpy as np

from polarindex.quantizers.spectral import Spectral

_TABLES = 8  # of 16 levels


class Segments:
    """What kernels.answer_by_segments is told of a quantizer, whose arrays the addresses are of.

    plan : (s, 7) int64: bits, first word, words of a plane, first line of levels, lines, address and size of the basis
    tables : (s, 8, 16) int8, as of kernels.dot_segment
    """

    def __init__(self, quantizer: Spectral) -> None:
        self._quantizer = quantizer
        rows, word, line = [], 0, 0
        self.tables = np.zeros((len(quantizer.stages), _TABLES, 16), np.int8)
        for stage, own, levels in zip(quantizer.stages, quantizer.maps, self.tables, strict=True):
            layout = stage.layout
            address = own.groups.__array_interface__["data"][0]
            lines = layout.padded // 4
            rows.append([layout.bits, word, layout.planes[0].words, line, lines, address, len(own.groups)])
            word, line = word + layout.words, line + lines
            if layout.bits < 8:
                levels.reshape(-1)[: max(16, len(stage.table)) : max(1, 16 // len(stage.table))] = stage.table
        self.plan = np.array(rows, np.int64)
