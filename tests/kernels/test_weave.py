"""Planes become lines of levels: byte 4 v + t of line 8 g + s is vector v, coordinate 32 g + 4 s + t."""

import numba
import numpy as np
import pytest

from polarindex import kernels
from polarindex.kernels import reference
from polarindex.kernels.simd import keep, on_line, start
from polarindex.kernels.weave import load_table, transpose4, weave_panel

SETS = [name for name in kernels.available() if name != "generic"]
pytestmark = pytest.mark.skipif(not SETS, reason="only plain loops can run here")


@numba.njit(error_model="numpy")
def woven(isa, planes, p, count, table, out):
    """Levels of panel p, as the full scan makes them."""
    rows, levels = np.empty(128 + 16, np.uint32), np.empty(out.size + 16, np.uint32)
    codes = start(planes[0]), start(planes[1]), start(planes[2])
    lines = on_line(levels)
    weave_panel(isa, codes, p, count, load_table(isa, start(table)), on_line(rows), lines)
    for i in range(out.size):
        out[i] = lines[i]
    keep(rows)
    keep(levels)


# one to three planes are four with zeros among them; the scans' own tests run every set at every width
@pytest.mark.parametrize(("name", "bits"), [*[(name, 4) for name in SETS], *[(name, 8) for name in SETS[:1]]])
def test_levels_lie_as_dot_instructions_take_them(lay_planes, uneven_table, rng, name, bits):
    isa, table = kernels.Isa(name, 8, bits), uneven_table(bits)
    for dims in (1, 31, 32, 33, 100, 127, 128, 129, 160):
        codes = rng.integers(1 if bits == 8 else 0, 2**bits, (35, dims), dtype=np.uint8)
        planes, words = lay_planes(codes, bits), -(-dims // (4 if bits == 8 else 32))
        lines = words if bits == 8 else 8 * words
        wanted = reference._levels(isa, planes, 48, words, table)
        for p in range(3):
            out = np.full(16 * lines, 0xDEADBEEF, np.uint32)
            woven(isa, planes, p, words, table, out)
            levels = out.view(np.uint8).reshape(lines, 16, 4).transpose(1, 0, 2).reshape(16, -1)
            levels = (levels - np.uint8(isa.bias)).view(np.int8)
            np.testing.assert_array_equal(levels, wanted[16 * p : 16 * p + 16])


@numba.njit
def transposed(words, first, stride, out, line):
    transpose4(start(words), first, stride, start(out), line)


def test_four_words_of_sixteen_rows_become_four_lines(rng):
    for stride in (4, 5, 17):
        for first, line in ((0, 0), (1, 64), (stride, 3)):
            words = rng.integers(0, 2**32, 17 * stride + 16, dtype=np.uint32)
            out = np.full(160, 0xDEADBEEF, np.uint32)
            wanted = out.copy()
            for v in range(16):
                for i in range(4):
                    wanted[line + 16 * i + v] = words[first + v * stride + i]
            transposed(words, first, stride, out, line)
            np.testing.assert_array_equal(out, wanted)
