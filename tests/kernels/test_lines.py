"""The fused scan equals the plain one bit for bit, on every instruction set that can run here."""

import os
import subprocess
import sys

import numpy as np
import pytest

import polarindex as pi
from polarindex import kernels
from polarindex.codes import LineLayout, panels_of
from polarindex.kernels import reference
from polarindex.kernels.limits import EMPTY_ID, MAX_DIMS

SETS = [name for name in kernels.available() if name != "generic"]
pytestmark = pytest.mark.skipif(not SETS, reason="only plain loops can run here")


def arguments(name, rows, bits, codes, table, queries, gains, scales, shifts, ids, allowed, k):
    """What kernels.scan_lines wants, laid out as indexes/lines.py does."""
    isa = kernels.Isa(name, rows)
    layout = LineLayout(codes.shape[1], bits)
    panels = panels_of(layout.pack(codes))
    last = layout.planes[-1]
    nq, n = len(queries), len(codes)
    held = -(-nq // rows) * rows
    padded = np.zeros((held, last.words * (32 // last.width)), np.int8)
    padded[:nq, : codes.shape[1]] = queries
    quads = np.ascontiguousarray(padded.view(np.int32).reshape(held // rows, rows, -1).transpose(0, 2, 1))
    all_gains = np.zeros(held, np.float32)
    all_gains[:nq] = gains
    room = 16 * len(panels)
    factors = tuple(np.concatenate([part, np.full(room - n, np.nan, np.float32)]) for part in (scales, shifts))
    best = np.full((held, k), -np.inf, np.float32), np.full((held, k), EMPTY_ID, np.int64)
    planes = layout.words - last.words, last.width, last.words
    prepared = quads, padded.sum(axis=1, dtype=np.int32), all_gains
    return isa, (rows, isa.lanes, n), panels, planes, table, prepared, factors, ids, allowed, best


def scanned(given):
    best = tuple(part.copy() for part in given[-1])
    kernels.scan_lines(*given[:-1], best)
    kernels.sort_rows(*best)
    return best


def table_of(bits):
    """A table (16,) of uneven levels, extremes among them; 8 bits need none."""
    if bits == 8:
        return np.zeros(16, np.int8)
    levels = np.sort(np.random.default_rng(bits).permutation(np.arange(-126, 127))[: 2**bits])
    levels[0], levels[-1] = -127, 127
    table = np.zeros(16, np.int8)
    table[: 2**bits] = levels
    return table


@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("name", SETS)
def test_every_width_and_tail_equals_the_formula(name, bits, rows):
    table = table_of(bits)
    for seed, (n, dims, nq) in enumerate(
        [(1, 1, 1), (15, 3, 2), (16, 4, 8), (17, 31, 9), (31, 32, 1), (33, 33, 7), (200, 100, 17), (300, 129, 3)]
    ):
        rng = np.random.default_rng(seed)
        codes = rng.integers(1 if bits == 8 else 0, 2**bits, (n, dims), dtype=np.uint8)
        queries = rng.integers(-127, 128, (nq, dims)).astype(np.int8)
        gains, scales = rng.random(nq, np.float32), rng.random(n, np.float32)
        shifts = np.float32(1e4) * rng.standard_normal(n, np.float32)
        ids = rng.permutation(10 * n)[:n]
        for allowed in (np.empty(0, np.uint8), (rng.random(n) < 0.3).astype(np.uint8)):
            given = arguments(name, rows, bits, codes, table, queries, gains, scales, shifts, ids, allowed, min(n, 10))
            for one, other in zip(reference.scan_lines(*given), scanned(given), strict=True):
                np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("name", SETS)
def test_each_coordinate_meets_its_own_query_byte(name, bits):
    """One code and one query byte are not zero at a time, so that swapped lanes cannot cancel."""
    dims = 70
    table, levels = np.zeros(16, np.int8), np.zeros(2**bits, np.int64)
    if bits == 8:
        levels = np.arange(-128, 128)
    else:
        table[2**bits - 1] = levels[-1] = 100
    top, middle = 2**bits - 1, 128 if bits == 8 else 0
    codes = np.full((dims, dims), middle, np.uint8)
    codes[np.arange(dims), np.arange(dims)] = top
    queries = np.eye(dims, dtype=np.int8)
    ones, none = np.ones(dims, np.float32), np.zeros(dims, np.float32)
    given = arguments(
        name, 8, bits, codes, table, queries, ones, ones, none, np.arange(dims), np.empty(0, np.uint8), 1
    )
    keys, ids = (part[:dims] for part in scanned(given))
    assert ids[:, 0].tolist() == list(range(dims)) and (keys == levels[-1]).all()


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("sign", [-1, 1])
def test_sums_are_exact_at_the_largest_dimension(name, sign):
    """Every product is 127 * 127 at MAX_DIMS dimensions: nothing wraps or saturates."""
    table = np.full(16, 127 * sign, np.int8)
    codes = np.full((1, MAX_DIMS), 15, np.uint8)
    queries = np.full((1, MAX_DIMS), 127, np.int8)
    one = np.ones(1, np.float32)
    keys, _ = scanned(
        arguments(name, 1, 4, codes, table, queries, one, one, 0 * one, np.arange(1), np.empty(0, np.uint8), 1)
    )
    assert keys[0, 0] == np.float32(sign * 127 * 127 * MAX_DIMS)


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_an_index_answers_the_same_on_every_instruction_set(monkeypatch, metric, bits):
    """20,000 rows: more than one block, removed rows, stored ids, filters, threads."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20_000, 40)).astype(np.float32)
    q = rng.standard_normal((33, 40)).astype(np.float32)
    index = pi.FlatIndex(40, metric, bits, center=metric != "ip")
    index.add(x)
    answers = []
    for changed in (False, True):
        if changed:
            index.remove(rng.permutation(20_000)[:1000])
        found = []
        for name in (*SETS, "generic"):
            monkeypatch.setenv("POLARINDEX_ISA", name)
            for threads in (1, 3):
                found.append(
                    (
                        *index.search(q, 12, num_threads=threads),
                        *index.search(q[:1], 12, num_threads=threads),
                        *index.search(q, 12, filter=np.arange(3, 20_000, 11), num_threads=threads),
                    )
                )
        answers.append(found)
    for found in answers:
        for other in found[1:]:
            for one, two in zip(found[0], other, strict=True):
                np.testing.assert_array_equal(one, two)
    assert (answers[0][0][1] != answers[1][0][1]).any()


def test_a_wrong_instruction_set_names_the_right_ones(monkeypatch):
    monkeypatch.setenv("POLARINDEX_ISA", "sse")
    index = pi.FlatIndex(4)
    index.add([[1.0, 2, 3, 4]])
    with pytest.raises(ValueError, match="POLARINDEX_ISA must be one of .*'generic'.* got 'sse'"):
        index.search([1.0, 2, 3, 4])


def test_the_best_set_is_chosen_and_the_variable_is_obeyed(monkeypatch):
    monkeypatch.delenv("POLARINDEX_ISA", raising=False)
    assert kernels.selected() == kernels.available()[0]
    for name in kernels.available():
        monkeypatch.setenv("POLARINDEX_ISA", name)
        assert kernels.selected() == name


SCRIPT = """
import numpy as np, polarindex as pi
from polarindex import kernels
x = np.random.default_rng(0).standard_normal((500, 40)).astype(np.float32)
index = pi.FlatIndex(40); index.add(x)
print(",".join(kernels.available()), index.search(x[:7], 5)[1].tolist())
"""


@pytest.mark.parametrize(
    ("target", "sets"),
    [
        ({"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}, "generic"),
        ({"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2"}, "avx2,generic"),
    ],
)
@pytest.mark.skipif("avx2" not in SETS, reason="names x86 processors")
def test_a_process_told_to_use_less_uses_less_and_answers_the_same(target, sets, tmp_path):
    """Asking the CPU and not the compiler would abort the process here."""
    environment = {name: value for name, value in os.environ.items() if name != "POLARINDEX_ISA"}
    environment |= target | {"NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == sets
    x = np.random.default_rng(0).standard_normal((500, 40)).astype(np.float32)
    index = pi.FlatIndex(40)
    index.add(x)
    assert done.stdout.split(" ", 1)[1].strip() == str(index.search(x[:7], 5)[1].tolist())
