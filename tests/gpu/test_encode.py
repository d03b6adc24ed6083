"""The text of the coding kernel, run by 32 threads of the CPU in place of a warp, is the CPU's kernel to the bit.

It needs a C++ compiler, not a card.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from polarindex.gpu.places import Form, tables
from polarindex.gpu.shapes import Card
from polarindex.gpu.source import _text
from polarindex.kernels import reference
from polarindex.quantizers import make_quantizer

if shutil.which("g++") is None:
    pytest.skip("there is no g++", allow_module_level=True)

CARD = Card((9, 0), 132, 232_448)
RUNS = """
extern "C" void run_encode(int blocks, const float* x, int n, const float* mu, Map map, Book book, double root,
                           uint32_t* words, double* sums) {
  run(blocks, [&] { encode_rows(x, n, mu, map, book, root, words, sums); });
}
extern "C" void run_queries(int blocks, const float* q, int n, const float* mu, Map map, float factor, int width,
                            int8_t* levels, float* gains) {
  run(blocks, [&] { prepare_queries(q, n, mu, map, factor, width, levels, gains); });
}
"""


class Map(ctypes.Structure):
    _fields_ = [*((name, ctypes.c_void_p) for name in ("start", "reads", "tails", "writes")), ("norm", ctypes.c_float)]


class Book(ctypes.Structure):
    _fields_ = [("thresholds", ctypes.c_void_p), ("levels", ctypes.c_void_p)]


def compiled(form, bits, folder):
    macros = form.macros(CARD, bits) | {"WARPS": 1}
    text = "".join(f"#define {name} {value}\n" for name, value in macros.items())
    text += f'#include "{Path(__file__).parent / "one_warp.h"}"\n'
    text += _text("encode.cu").replace("extern __shared__", "extern") + RUNS
    (folder / "encode.cpp").write_text(text)
    command = ["g++", "-std=c++20", "-O1", "-w", "-ffp-contract=off", "-shared", "-fPIC", "-pthread"]
    done = subprocess.run(
        [*command, str(folder / "encode.cpp"), "-o", str(folder / "encode.so")], capture_output=True, text=True
    )
    if "barrier: No such file" in done.stderr or "unrecognized command-line option" in done.stderr:
        pytest.skip("g++ has no C++20")
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(folder / "encode.so"))


def at(array):
    return ctypes.c_void_p(array.ctypes.data)


QUICK = [(17, 4, 1), (100, 8, 2), (384, 3, 2), (1024, 4, 2), (1536, 4, 1)]
MORE = [(1, 1, 1), (2, 8, 1), (63, 3, 1), (64, 1, 2), (128, 5, 2), (300, 6, 1), (512, 4, 2), (768, 7, 2), (960, 4, 2)]
MORE += [(1024, bits, side) for bits in (1, 2, 8) for side in (1, 2)]
MORE += [(1536, 3, 2), (2047, 4, 2), (2048, 4, 1), (3072, 4, 1), (4096, 2, 1), (5000, 4, 1), (8192, 8, 1)]


@pytest.mark.parametrize(
    ("dim", "bits", "side"), [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE)]
)
def test_the_kernels_text_codes_rows_and_queries_as_the_reference(dim, bits, side, rng, tmp_path):
    form, quantizer = Form(dim, side), make_quantizer("eden", dim, bits)
    rotation, n = quantizer.stage.map, 5
    library = compiled(form, bits, tmp_path)
    x = (rng.standard_normal((n, dim)) * np.exp(rng.standard_normal((n, 1)))).astype(np.float32)
    mu = rng.standard_normal(dim).astype(np.float32)
    x[1], x[2] = mu, mu + np.float32(1e-30)
    made = [np.append(table, np.zeros(8, np.uint16)) for table in tables(form, rotation)]
    map_ = Map(*(table.ctypes.data for table in made), rotation.plan[4])

    multiples, thresholds, levels = (np.ascontiguousarray(values) for values in quantizer.integer_book[:3])
    book = Book(thresholds.ctypes.data, levels.ctypes.data)
    words, sums = np.full((n, quantizer.words), 0xDEADBEEF, np.uint32), np.full((4, n), np.nan)
    root = ctypes.c_double(np.sqrt(dim))
    library.run_encode(2, at(x), n, at(mu), map_, book, root, at(words), at(sums))
    wanted_words, wanted_sums = reference.encode(x, mu, rotation.plan, (bits, multiples, thresholds, levels))
    assert_array_equal(words, wanted_words)
    assert_array_equal(sums, wanted_sums)

    width, factor = dim + 5, np.float32(2 / 127)
    found, gains = np.zeros((n, width), np.int8), np.zeros(n, np.float32)
    blocks = -(-n // form.rows)
    library.run_queries(blocks, at(x), n, at(mu), map_, ctypes.c_float(factor), width, at(found), at(gains))
    y = reference.rotate(x - mu, *rotation.plan)
    peaks = np.abs(y).max(axis=1)
    steps = np.divide(127.0, peaks, out=np.zeros(n), where=peaks > 0, dtype=np.float64)
    assert_array_equal(found[:, :dim], np.rint(y.astype(np.float64) * steps[:, None]))
    assert_array_equal(gains, peaks * factor)
    assert not found[:, dim:].any()
