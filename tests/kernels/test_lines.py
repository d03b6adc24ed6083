"""The fused scan equals the plain one bit for bit, on every instruction set that can run here."""

import itertools
import os
import subprocess
import sys
from functools import lru_cache

import numpy as np
import pytest

import polarindex as pi
from polarindex import kernels
from polarindex.indexes import flat
from polarindex.kernels import dispatch, reference
from polarindex.kernels.limits import MAX_DIMS

SETS = [name for name in kernels.available() if name != "generic"]
EVERYDAY = [name for name in SETS if name in (SETS[0], "avx2")]
NAMED = [pytest.param(name, marks=[] if name in EVERYDAY else pytest.mark.isa) for name in SETS]  # 3 s a tag to compile
needs_registers = pytest.mark.skipif(not SETS, reason="only plain loops can run here")
BITS = (1, 2, 3, 4, 8)
DIMS = (1, 3, 31, 32, 33, 70, 100, 127, 129, 513)
COUNTS = (1, 15, 16, 17, 33, 200)
ALL = np.empty(0, np.uint8)
COUNTED = np.empty(0, np.int64)


@pytest.fixture(scope="module")
def scan(lay_planes, padded_factors, empty_heaps):
    """The k best keys and ids of codes by kernels.scan_lines, or by the oracle."""

    def best_of(isa, table, codes, queries, gains, scales, shifts, names=(COUNTED, 0), allowed=ALL, k=1, oracle=False):
        nq, dims = queries.shape
        tiles, words = -(-nq // isa.rows), -(-dims // (4 if isa.planes == 8 else 32))
        padded = np.zeros((tiles * isa.rows, words * (4 if isa.planes == 8 else 32)), np.int8)
        padded[:nq, :dims] = queries
        quads = np.ascontiguousarray(padded.view(np.int32).reshape(tiles, isa.rows, -1).transpose(0, 2, 1))
        all_gains = np.concatenate([gains, np.zeros(tiles * isa.rows - nq, np.float32)])
        asked = quads, padded.sum(axis=1, dtype=np.int32), all_gains
        planes, factors = lay_planes(codes, isa.planes), padded_factors(scales, shifts)
        best = empty_heaps(tiles * isa.rows, k)
        given = isa, planes, len(codes), words, table, asked, factors, names, allowed, best
        if oracle:
            best = reference.scan_lines(*given)
        else:
            kernels.scan_lines(*given)
            kernels.sort_rows(*best)
        return best[0][:nq], best[1][:nq]

    return best_of


def cases():
    """Every size with every tail; filters, ids, k and the number of queries take turns."""
    for number, (dims, n) in enumerate(itertools.product(DIMS, COUNTS)):
        turn = number + number // 6
        yield number, dims, n, (1, 2, 9, 17)[turn % 4], (1, 3, n, n + 5)[turn // 2 % 4], turn % 2, turn // 4 % 2


def random_case(bits, table, number, dims, n, nq, k, filtered, named):
    rng = np.random.default_rng([number, bits])
    return {
        "table": table,
        "codes": rng.integers(1 if bits == 8 else 0, 2**bits, (n, dims), dtype=np.uint8),
        "queries": rng.integers(-127, 128, (nq, dims)).astype(np.int8),
        "gains": rng.random(nq, np.float32),
        "scales": rng.random(n, np.float32),
        "shifts": np.float32(1e4) * rng.standard_normal(n, np.float32),
        "names": (rng.permutation(10 * n)[:n] if named else COUNTED, int(rng.integers(0, 10**9))),
        "allowed": (rng.random(n) < 0.3).astype(np.uint8) if filtered else ALL,
        "k": k,
    }


@pytest.fixture(scope="module")
def wanted(scan, uneven_table):
    """The cases of a width, each with what the oracle finds; it is the same for every set."""

    @lru_cache
    def answered(bits):
        isa = kernels.Isa(SETS[0], 1, bits)
        given = [random_case(bits, uneven_table(bits), *case) for case in cases()]
        return [(case, scan(isa, **case, oracle=True)) for case in given]

    return answered


@needs_registers
@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", NAMED)
def test_every_width_size_and_tail_equals_the_formula(scan, wanted, name, bits, rows):
    isa = kernels.Isa(name, rows, bits)
    for given, (keys, ids) in wanted(bits):
        got_keys, got_ids = scan(isa, **given)
        np.testing.assert_array_equal(got_keys, keys)
        np.testing.assert_array_equal(got_ids, ids)


@needs_registers
@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", NAMED)
def test_each_coordinate_meets_its_own_query_byte(scan, name, bits, rows):
    """One code and one query byte are not zero at a time, so that swapped lanes cannot cancel."""
    dims = 170  # more words than are transposed at a time
    table = np.zeros(16, np.int8)
    table[2**bits - 1 << (4 - bits) if bits < 8 else 0] = 100
    codes = np.full((dims, dims), 128 if bits == 8 else 0, np.uint8)
    codes[np.arange(dims), np.arange(dims)] = 228 if bits == 8 else 2**bits - 1
    queries = np.eye(dims, dtype=np.int8)
    ones, none = np.ones(dims, np.float32), np.zeros(dims, np.float32)
    keys, ids = scan(kernels.Isa(name, rows, bits), table, codes, queries, ones, ones, none)
    assert ids[:, 0].tolist() == list(range(dims)) and (keys == 100).all()


@needs_registers
@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("sign", [-1, 1])
def test_sums_are_exact_at_the_largest_dimension(scan, name, sign, rows):
    """Every product is 127 * 127 at MAX_DIMS dimensions: nothing wraps or saturates."""
    table = np.full(16, 127 * sign, np.int8)
    codes = np.full((1, MAX_DIMS), 15, np.uint8)
    queries = np.full((1, MAX_DIMS), 127, np.int8)
    one = np.ones(1, np.float32)
    keys, _ = scan(kernels.Isa(name, rows, 4), table, codes, queries, one, one, 0 * one)
    assert keys[0, 0] == np.float32(sign * 127 * 127 * MAX_DIMS)


@needs_registers
@pytest.mark.parametrize("rows", [1, 8])
def test_vectors_in_any_order_have_the_same_best(scan, uneven_table, rng, rows):
    given = random_case(4, uneven_table(4), 0, 100, 200, 9, 20, False, True)
    given["scales"] = np.round(given["scales"])  # many equal keys
    order = rng.permutation(200)
    other = given | {name: given[name][order] for name in ("codes", "scales", "shifts")}
    other["names"] = given["names"][0][order], 0
    isa = kernels.Isa(SETS[0], rows, 4)
    for one, two in zip(scan(isa, **given), scan(isa, **other), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(("nq", "dims", "rows"), [(1, 1, 1), (3, 31, 1), (8, 32, 8), (9, 70, 8), (17, 129, 4)])
def test_queries_lie_four_coordinates_a_quad(rng, nq, dims, rows):
    levels = rng.integers(-128, 128, (nq, dims)).astype(np.int8)
    tiles, m = -(-nq // rows), -(-dims // 32) * 8
    quads, sums = np.full((tiles, m, rows), 77, np.int32), np.full(tiles * rows, 77, np.int32)
    kernels.tile_queries(levels, rows, quads, sums)
    wanted_quads, wanted_sums = reference.tile_queries(levels, rows)
    used = wanted_quads.shape[1]
    np.testing.assert_array_equal(quads[:, :used], wanted_quads)
    np.testing.assert_array_equal(sums, wanted_sums)
    assert not quads[:, used:].any()


@needs_registers
@pytest.mark.parametrize("name", NAMED)
def test_decoded_levels_are_multiplied_exactly(rng, name):
    isa = kernels.Isa(name, 8, 8)
    for n, dims, nq in itertools.product((1, 15, 16, 17, 40), (4, 12, 16, 20, 100), (1, 8, 11)):
        levels, queries = (rng.integers(-127, 128, (m, dims)).astype(np.int8) for m in (n, nq))
        tiles = -(-nq // 8)
        asked = np.empty((tiles, dims // 4, 8), np.int32), np.empty(tiles * 8, np.int32)
        kernels.tile_queries(queries, 8, *asked)
        out = np.full((tiles * 8, -(-n // 16) * 16), 77, np.int32)
        kernels.dot_lines(isa, levels.view(np.uint32), asked, out)
        np.testing.assert_array_equal(out[:, :n], reference.dot_lines(isa, levels.view(np.uint32), asked))
        np.testing.assert_array_equal(out[:nq, :n], reference.dot(levels, queries))


@needs_registers
@pytest.mark.parametrize("sets", [EVERYDAY, pytest.param(SETS, marks=pytest.mark.isa)], ids=["everyday", "all"])
@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("bits", BITS)
def test_an_index_answers_the_same_on_every_instruction_set(monkeypatch, metric, bits, sets):
    """Several blocks, removed rows, stored ids, filters, threads."""
    monkeypatch.setattr(flat, "block_rows", lambda row_bytes: 4096)
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
        for name in (*sets, "generic"):
            monkeypatch.setattr(dispatch, "_chosen", name)
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
    monkeypatch.setattr(dispatch, "_chosen", "")
    index = pi.FlatIndex(4)
    index.add([[1.0, 2, 3, 4]])
    for _ in range(2):
        with pytest.raises(ValueError, match="POLARINDEX_ISA must be one of .*'generic'.* got 'sse'"):
            index.search([1.0, 2, 3, 4])
    with pytest.raises(ValueError, match="got 'sse'"), kernels.using("sse"):
        pass


def test_the_best_set_is_chosen_and_the_variable_is_obeyed(monkeypatch):
    for name in (None, *kernels.available()):
        if name is None:
            monkeypatch.delenv("POLARINDEX_ISA", raising=False)
        else:
            monkeypatch.setenv("POLARINDEX_ISA", name)
        monkeypatch.setattr(dispatch, "_chosen", "")
        assert kernels.selected() == (name or kernels.available()[0])
        with kernels.using("generic"):
            assert kernels.selected() == "generic"
        assert kernels.selected() == (name or kernels.available()[0])


SCRIPT = """
import numpy as np, polarindex as pi
from polarindex import kernels
x = np.random.default_rng(0).standard_normal((500, 40)).astype(np.float32)
index = pi.FlatIndex(40); index.add(x)
print(",".join(kernels.available()), index.search(x[:7], 5)[1].tolist())
"""


@pytest.mark.isa
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
