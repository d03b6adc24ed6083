"""Layouts hold what their formula says, and Codes behave like an array of rows."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from polarindex.codes import Codes, LineLayout, Part, Plane, StreamLayout, parts

SIZES = (0, 1, 15, 16, 17, 31, 33)


@pytest.mark.parametrize("bits", range(1, 9))
def test_a_code_comes_back_at_every_dim_and_size(bits):
    rng = np.random.default_rng(bits)
    for dims in (*range(1, 71), 127, 784):
        layout = LineLayout(dims, bits)
        n = SIZES[dims % len(SIZES)]
        codes = rng.integers(0, 2**bits, (n, dims), dtype=np.uint8)
        words = layout.pack(codes)
        unpacked = layout.unpack(words)
        assert words.shape == (n, layout.words) and words.dtype == np.uint32
        assert unpacked.shape == (n, layout.padded) and unpacked.dtype == np.uint8
        assert_array_equal(unpacked[:, :dims], codes)
        assert not unpacked[:, dims:].any()


@pytest.mark.parametrize("bits", range(1, 9))
def test_words_are_the_bits_of_the_module_docstring(bits):
    """Bit 8 t + s of word g of a plane is that of coordinate 32 g + 4 s + t; at 8 bits, a byte a coordinate."""
    dims = 70
    codes = np.random.default_rng(bits).integers(0, 2**bits, (5, dims), dtype=np.uint8)
    words = LineLayout(dims, bits).pack(codes)
    if bits == 8:
        assert_array_equal(words.view(np.uint8)[:, :dims], codes)
        return
    for j in range(dims):
        g, rest = divmod(j, 32)
        s, t = divmod(rest, 4)
        for p in range(bits):
            bit = words[:, 3 * p + g] >> np.uint32(8 * t + s) & 1
            assert_array_equal(bit, codes[:, j] >> (bits - 1 - p) & 1)


@pytest.mark.parametrize("bits", range(1, 9))
def test_a_row_costs_what_its_bits_say(bits):
    """Each plane is padded to whole words on its own: never more than 31 bits a plane, none where 32 divides dims."""
    for dims in (*range(1, 71), 784):
        layout = LineLayout(dims, bits)
        assert [plane.width for plane in layout.planes] == ([8] if bits == 8 else [1] * bits)
        assert 0 <= 32 * layout.words - bits * dims <= 31 * len(layout.planes)
        assert layout.padded >= dims and layout.padded % 4 == 0
    assert LineLayout(96, bits).words == 3 * bits


def test_planes_are_stacked_with_the_most_significant_first():
    assert LineLayout(64, 3).planes == (Plane(1, 2, 0, 2), Plane(1, 1, 2, 2), Plane(1, 0, 4, 2))
    assert LineLayout(33, 1).planes == (Plane(1, 0, 0, 2),)
    assert LineLayout(33, 8).planes == (Plane(8, 0, 0, 9),)


@pytest.mark.parametrize("bits", range(2, 8))
@pytest.mark.parametrize("kept", [1, 2])
def test_the_first_planes_are_the_code_of_its_top_bits(bits, kept):
    """A prefix of planes is a coarser code: that of `kept` bits of code >> the rest."""
    codes = np.random.default_rng(bits).integers(0, 2**bits, (5, 70), dtype=np.uint8)
    coarse = LineLayout(70, kept)
    words = LineLayout(70, bits).pack(codes)[:, : coarse.words]
    assert_array_equal(words, coarse.pack(codes >> (bits - kept)))


@pytest.mark.parametrize("bits", range(1, 9))
def test_unpack_reads_strided_rows(bits):
    """One stage's words cut out of rows that hold two stages."""
    codes = np.random.default_rng(bits).integers(0, 2**bits, (20, 40), dtype=np.uint8)
    layout = LineLayout(40, bits)
    words = layout.pack(codes)
    wide = np.full((20, layout.words + 3), 0xDEADBEEF, np.uint32)
    wide[:, 2 : 2 + layout.words] = words
    assert_array_equal(layout.unpack(wide[:, 2 : 2 + layout.words]), layout.unpack(words))


@pytest.mark.parametrize("widths", [(1,), (16,), (4, 2, 2, 2), (0, 3, 0), (16, 16, 1), (5,) * 13, (7,) * 32])
@pytest.mark.parametrize("n", SIZES)
def test_a_stream_comes_back(widths, n):
    layout = StreamLayout(widths)
    codes = np.random.default_rng(n).integers(0, 2 ** np.array(widths), (n, len(widths))).astype(np.uint16)
    words = layout.pack(codes)
    assert layout.words == -(-sum(widths) // 32) == words.shape[1]
    assert_array_equal(layout.unpack(words), codes)


@pytest.mark.parametrize("bits", range(1, 9))
def test_an_index_keeps_two_planes_as_lines_and_the_others_as_rows(bits):
    plane = 18 if bits == 8 else 3
    lined = [Part(0, plane, True), Part(3, 3, True)][: 1 if bits == 8 else bits]
    rest = [Part(6, 3 * (bits - 2), False)] if 2 < bits < 8 else []
    assert parts([LineLayout(70, bits)]) == (*lined, *rest)


def test_an_index_keeps_streams_and_several_stages_as_rows():
    stream, lines = StreamLayout((5,) * 13), LineLayout(70, 2)
    assert parts([stream]) == (Part(0, 3, False),)
    assert parts([lines, LineLayout(70, 1)]) == (Part(0, 9, False),)


def test_layouts_with_equal_attributes_are_equal():
    assert LineLayout(10, 4) == LineLayout(10, 4) != LineLayout(10, 3)
    assert hash(StreamLayout((1, 2))) == hash(StreamLayout((1, 2)))


# --- Codes


@pytest.fixture
def codes():
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 256, (10, 8), dtype=np.uint8)
    return Codes(rows, rng.normal(size=(10, 2)).astype(np.float32), 16, "EDEN(dim=16)")


def assert_same(a, b):
    assert_array_equal(a.rows, b.rows)
    assert_array_equal(a.factors, b.factors)
    assert (a.dim, a.quantizer) == (b.dim, b.quantizer)


@pytest.mark.parametrize(
    "key", [slice(2, 7), slice(None, None, -1), slice(0, 0), np.arange(10) % 3 == 0, np.array([7, 7, 0]), [1, 2]]
)
def test_codes_are_indexed_like_an_array_of_rows(codes, key):
    assert_same(codes[key], Codes(codes.rows[key], codes.factors[key], 16, codes.quantizer))


@pytest.mark.parametrize("key", [0, -1, np.int64(3)])
def test_an_integer_index_is_refused(codes, key):
    with pytest.raises(TypeError, match=f"got the integer {key}$"):
        codes[key]


def test_slices_concatenate_to_the_whole(codes):
    assert_same(Codes.concatenate([codes[:0], codes[:3], codes[3:]]), codes)
    assert_same(Codes.concatenate(list(codes)), codes)
    assert len(codes) == 10 and len(codes[:0]) == 0


def test_codes_of_different_quantizers_do_not_mix(codes):
    other = Codes(codes.rows, codes.factors, 16, "DRIVE(dim=16)")
    with pytest.raises(ValueError, match=r"EDEN\(dim=16\) and DRIVE\(dim=16\)"):
        Codes.concatenate([codes, other])
    with pytest.raises(ValueError, match="at least one"):
        Codes.concatenate([])


def test_sizes_count_codes_and_factors(codes):
    assert codes.bytes_per_vector == 8 + 4 * 2
    assert codes.nbytes == 10 * 16 == codes.rows.nbytes + codes.factors.nbytes
    assert codes.bits_per_dim == 8.0
    assert codes[:0].nbytes == 0
    assert "n=10" in repr(codes) and "bits_per_dim=8.000" in repr(codes)


@pytest.mark.parametrize("key", [slice(None), slice(1, 9, 2), slice(0, 0), slice(None, None, -1)])
def test_words_are_the_bytes_of_the_rows(codes, key):
    words = codes[key].words
    assert words.dtype == np.uint32 and words.flags.c_contiguous
    assert_array_equal(words.view(np.uint8), codes.rows[key])


def test_codes_survive_pickle_and_copy(codes):
    assert_same(pickle.loads(pickle.dumps(codes)), codes)
    assert_same(copy.deepcopy(codes), codes)
