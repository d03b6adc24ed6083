"""Instruction sets that this machine need not have: their code is compiled and read, and what "neon" computes is run.

On ARM64 "neon" runs in its own instructions, elsewhere in the portable ones of kernels/neon.py."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from llvmlite import binding

import polarindex as pi
from polarindex import kernels
from polarindex.codes import PANEL, LineLayout
from polarindex.kernels import dispatch
from polarindex.kernels.limits import EMPTY_ID
from polarindex.kernels.neon import emits_sdot, is_arm64

ARM64 = ("aarch64-unknown-linux-gnu", "generic", "+dotprod,+neon")
AVX_VNNI = ("x86_64-unknown-linux-gnu", "x86-64", "+avx2,+avxvnni")
KNOWN = re.compile(r"NRT_|Py|_Py|numba_|mem(cpy|set|move)$|_ZN(7cpython)?10polarindex|_ZN5numba4misc9quicksort")
RIVAL = [name for name in kernels.available() if name not in ("neon", "generic")][:1]


def assembly(target, isa, rows, planes, kernel="scan_lines"):
    """Of a kernel, in lines."""
    program = Path(__file__).with_name("cross_compile.py")
    command = [sys.executable, str(program), *target, isa, str(rows), str(planes), kernel]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 3:
        pytest.skip(f"this LLVM has no such target: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


def loops(lines, wanted):
    """The innermost loops, label to branch back, that have an instruction whose text matches."""
    labels = {}
    for i, line in enumerate(lines):
        if label := re.match(r"(\.LBB\w+):", line):
            labels[label[1]] = i
    found = []
    for i, line in enumerate(lines):
        branch = re.match(r"\s+(?:b\.?\w*|cb\w+|tb\w+|j\w+)\s.*?(\.LBB\w+)$", line)
        if branch and labels[branch[1]] < i:
            found.append(range(labels[branch[1]], i + 1))
    inner = [one for one in found if not any(other.start >= one.start and other.stop < one.stop for other in found)]
    texts = [[lines[i] for i in one] for one in inner]
    return [text for text in texts if any(re.search(wanted, line) for line in text)]


def called(lines):
    return {match[1] for line in lines if (match := re.match(r"\s+(?:bl|callq?)\s+(\w+)", line))}


@pytest.mark.isa
@pytest.mark.parametrize("planes", [1, 2, 3, 4, 8])
def test_arm64_multiplies_by_sdot_and_looks_up_by_tbl(planes):
    tile, alone = assembly(ARM64, "neon", 8, planes), assembly(ARM64, "neon", 1, planes)
    (products,) = loops(tile, r"\bsdot\b")
    by_lane = [line for line in products if re.search(r"\bsdot\tv\d+\.4s, v\d+\.16b, v\d+\.4b\[\d\]", line)]
    assert len(by_lane) == 8 and len(products) <= 20, "a line meets eight queries in one sdot each"
    assert not any("[sp" in line for line in products), "nothing of the inner loop is spilled"
    assert any(re.search(r"\bsdot\b", line) for line in alone)
    for lines in (tile, alone):
        assert planes == 8 or any(re.search(r"\btbl\tv\d+\.16b", line) for line in lines)
        assert not [name for name in called(lines) if not KNOWN.match(name)]


@pytest.mark.isa
@pytest.mark.parametrize("planes", [1, 4, 8])
def test_arm64_scans_lists_by_sdot_too(planes):
    """Two pages share the loads of eight queries; a page alone has another loop, and so has one query."""
    lines = assembly(ARM64, "neon", 8, planes, "scan_lists")
    products = loops(lines, r"\bsdot\b")
    together = [loop for loop in products if sum("sdot" in line for line in loop) == 16]
    assert len(together) == 1 and len(together[0]) <= 48 and len(products) > 1
    for loop in products:
        assert not any("[sp" in line for line in loop), "nothing of the inner loops is spilled"
    assert planes == 8 or any(re.search(r"\btbl\tv\d+\.16b", line) for line in lines)
    assert not [name for name in called(lines) if not KNOWN.match(name)]


@pytest.mark.parametrize("rows", [pytest.param(1, marks=pytest.mark.isa), 8])
def test_avx_vnni_needs_no_avx512(rows):
    lines = assembly(AVX_VNNI, "avxvnni", rows, 4)
    products = [line for line in lines if "vpdpbusd" in line]
    assert len(products) >= 8
    assert all(re.search(r"\{vex\}\s+vpdpbusd\b", line) for line in products)
    assert not [line for line in lines if re.search(r"%(zmm|k[0-7]\b|ymm(1[6-9]|[23]\d))", line)]


def test_the_dot_product_is_seen_in_the_features_and_in_the_name():
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    try:
        binding.Target.from_triple(ARM64[0])
    except RuntimeError as error:
        pytest.skip(f"this LLVM has no such target: {error}")
    assert emits_sdot(*ARM64)
    assert emits_sdot("aarch64-unknown-linux-gnu", "neoverse-n1", "")
    assert emits_sdot("arm64-apple-darwin23.1.0", "apple-m1", "")
    assert not emits_sdot("aarch64-unknown-linux-gnu", "generic", "")
    assert not emits_sdot("aarch64-unknown-linux-gnu", "cortex-a72", "")
    assert not emits_sdot("aarch64-unknown-linux-gnu", "neoverse-n1", "-dotprod")


def test_neon_is_for_arm64_alone():
    arm64 = is_arm64(binding.get_process_triple())
    assert "neon" not in kernels.available() or arm64
    assert not arm64 or kernels.available() in (("neon", "generic"), ("generic",))


# --- what it computes


def lines_of(words):
    """(n, w) words of a plane, n a multiple of PANEL, as panels (p, w, PANEL)."""
    return np.ascontiguousarray(words.reshape(-1, PANEL, words.shape[1]).transpose(0, 2, 1))


def scanned(name, rows, bits, codes, table, queries, gains, factors, ids, allowed, k):
    """Keys and ids of kernels.scan_lines, given what indexes/lines.py gives it."""
    isa = kernels.Isa(name, rows, bits)
    layout = LineLayout(codes.shape[1], bits)
    first, *more = layout.planes
    held = -(-len(queries) // rows) * rows
    padded = np.zeros((held, layout.padded), np.int8)
    padded[: len(queries), : codes.shape[1]] = queries
    all_gains = np.zeros(held, np.float32)
    all_gains[: len(queries)] = gains
    quads = np.ascontiguousarray(padded.view(np.int32).reshape(held // rows, rows, -1).transpose(0, 2, 1))
    packed = layout.pack(codes)
    room = -len(packed) % PANEL
    packed = np.concatenate([packed, np.zeros((room, packed.shape[1]), np.uint32)])
    words = first.words
    planes = (
        lines_of(packed[:, :words]),
        lines_of(packed[:, words : 2 * words]) if more else np.empty((0, 0, PANEL), np.uint32),
        np.ascontiguousarray(packed[:, 2 * words :]) if len(more) > 1 else np.empty((0, 0), np.uint32),
    )
    factors = tuple(np.concatenate([part, np.full(room, np.nan, np.float32)]) for part in factors)
    best = np.full((held, k), -np.inf, np.float32), np.full((held, k), EMPTY_ID, np.int64)
    prepared = quads, padded.sum(axis=1, dtype=np.int32), all_gains
    kernels.scan_lines(isa, planes, len(codes), words, table, prepared, factors, (ids, 0), allowed, best)
    kernels.sort_rows(*best)
    return tuple(part[: len(queries)] for part in best)


def formula(levels, queries, gains, factors, ids, allowed, k):
    """The same in NumPy: the k largest keys, ties by the smaller id."""
    scales, shifts = factors
    dots = queries.astype(np.int64) @ levels.astype(np.int64).T
    every = (dots.astype(np.float32) * gains[:, None]) * scales + shifts
    keep = allowed != 0 if allowed.size else np.ones(len(ids), bool)
    keys = np.full((len(queries), k), -np.inf, np.float32)
    names = np.full((len(queries), k), EMPTY_ID, np.int64)
    for q, row in enumerate(every[:, keep]):
        order = np.lexsort((ids[keep], -row))[:k]
        keys[q, : len(order)], names[q, : len(order)] = row[order], ids[keep][order]
    return keys, names


@pytest.mark.isa
@pytest.mark.parametrize(("bits", "rows"), [*((bits, rows) for bits in (1, 2, 3, 4, 8) for rows in (1, 8)), (4, 3)])
def test_neon_equals_the_formula_and_the_best_set_here(bits, rows):
    """Every dimension that pads differently, odd counts, extremes of levels and queries."""
    shapes = [(1, 1), (15, 3), (16, 4), (17, 31), (31, 32), (33, 33), (47, 64), (63, 97), (129, 100)]
    for seed, (n, dims) in enumerate(shapes):
        rng = np.random.default_rng(seed)
        codes = rng.integers(1 if bits == 8 else 0, 2**bits, (n, dims), dtype=np.uint8)  # as avx2 wants them
        table, levels = np.zeros(16, np.int8), codes.astype(np.int64) - 128
        if bits < 8:
            table[:: 1 << (4 - bits)] = np.linspace(-127, 127, 2**bits).astype(np.int8)
            levels = table[codes << (4 - bits)]
        queries = rng.choice([-127, 127], (9, dims)) if seed % 2 else rng.integers(-127, 128, (9, dims))
        gains = rng.random(9, np.float32)
        factors = rng.random(n, np.float32), np.float32(1e4) * rng.standard_normal(n, np.float32)
        ids = rng.permutation(10 * n)[:n]
        for allowed in (np.empty(0, np.uint8), (rng.random(n) < 0.3).astype(np.uint8)):
            right = formula(levels, queries, gains, factors, ids, allowed, 7)
            for name in ("neon", *RIVAL):
                found = scanned(
                    name, rows, bits, codes, table, queries.astype(np.int8), gains, factors, ids, allowed, 7
                )
                for one, other in zip(right, found, strict=True):
                    np.testing.assert_array_equal(one, other, err_msg=f"{name}, {n} vectors, {dims} dimensions")


@pytest.mark.isa
@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_an_index_answers_as_with_plain_loops(monkeypatch, metric, bits):
    monkeypatch.setattr(dispatch, "available", lambda: ("neon", "generic"))
    for dims in (1, 5, 33, 100):
        rng = np.random.default_rng(dims)
        x, q = rng.standard_normal((777, dims)), rng.standard_normal((9, dims))
        index = pi.FlatIndex(dims, metric, bits)
        index.add(x)
        answers = []
        for name in ("neon", "generic"):
            monkeypatch.setattr(dispatch, "_chosen", name)
            answers.append(
                (*index.search(q, 12), *index.search(q[:1], 12), *index.search(q, 12, filter=np.arange(3, 777, 11)))
            )
        for one, other in zip(*answers, strict=True):
            np.testing.assert_array_equal(one, other)
