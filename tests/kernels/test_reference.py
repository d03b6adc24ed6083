"""The oracle is complete, needs NumPy only, and agrees with examples worked by hand."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import numpy as np
from numpy.testing import assert_array_equal

from polarindex import kernels
from polarindex.kernels import reference

NO_FORMULA = ("compile", "dispatch", "simd", "costs", "pages")  # the last is tested against lists of rows
# Of the formulas of its parts: test_search.py, indexes/test_halves.py for those that divide a search, and
# indexes/test_spectral_lists.py
COMPOSED = {"answer", "answer_by_planes", "answer_by_segments", "asked_lists", "candidates_of"}


def test_every_kernel_has_a_reference_of_the_same_name():
    public = {name for name, value in vars(reference).items() if inspect.isfunction(value) and name[0] != "_"}
    assert public == {name for name, file in kernels._FILES.items() if file not in NO_FORMULA} - COMPOSED


def test_the_reference_imports_only_numpy():
    modules = set()
    for node in ast.walk(ast.parse(Path(reference.__file__).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add(node.module)
    assert {module.split(".")[0] for module in modules} <= {"__future__", "typing", "numpy"}


def test_a_width_4_line_lies_as_drawn():
    """Byte 4 v + t of a line: low nibble coordinate 8 g + t, high nibble coordinate 8 g + 4 + t."""
    codes = np.arange(16, dtype=np.uint8)[None, :]
    rows = reference.pack_plane(codes, 0, 4, 0, np.zeros((1, 2), np.uint32))
    assert rows.view(np.uint8).tolist() == [[0x40, 0x51, 0x62, 0x73, 0xC8, 0xD9, 0xEA, 0xFB]]


def test_a_stream_lies_as_drawn():
    """5, 6 and 1 in widths 3, 4 and 2: bits 101, 0110, 10 from the lowest, that is 0b01_0110_101."""
    words = reference.pack_fields(np.array([[5, 6, 1]], np.uint16), np.array([3, 4, 2]))
    assert words.tolist() == [[0b01_0110_101]]


def test_hadamard_of_four_is_as_written():
    """H_4 / 2 of (1, 2, 3, 4) = (10, -2, -4, 0) / 2."""
    order, signs = np.arange(4)[None, :], np.ones((1, 1, 4), np.float32)
    x = np.array([[1, 2, 3, 4]], np.float32)
    y = reference.rotate(x, order, signs, np.array([0]), 4, np.float32(0.5))
    assert_array_equal(y, [[5, -1, -2, 0]])
