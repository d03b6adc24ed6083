"""Layouts hold what the dot-line formula says, and Codes behave like an array of rows."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from polarindex.codes import PANEL, Codes, LineLayout, Plane, StreamLayout, panels_of

SIZES = (0, 1, 15, 16, 17, 31, 33)


@pytest.mark.parametrize("bits", range(1, 9))
def test_a_code_comes_back_from_panels_at_every_dim_and_size(bits):
    rng = np.random.default_rng(bits)
    for dims in (*range(1, 71), 127, 784):
        layout = LineLayout(dims, bits)
        n = SIZES[dims % len(SIZES)]
        codes = rng.integers(0, 2**bits, (n, dims), dtype=np.uint8)
        words = layout.pack(codes)
        unpacked = layout.unpack(panels_of(words))
        assert words.shape == (n, layout.words) and words.dtype == np.uint32
        assert unpacked.shape == (-(-n // PANEL) * PANEL, layout.padded) and unpacked.dtype == np.uint8
        assert_array_equal(unpacked[:n, :dims], codes)
        assert not unpacked[n:].any() and not unpacked[:, dims:].any()


@pytest.mark.parametrize("bits", range(1, 9))
def test_a_row_costs_what_its_bits_say(bits):
    """Each plane is padded to whole words on its own: never more than 31 bits a plane, none where 32 divides dims."""
    for dims in (*range(1, 71), 784):
        layout = LineLayout(dims, bits)
        assert [plane.width for plane in layout.planes] == [w for w in (1, 2, 4, 8) if bits & w]
        assert sum(plane.width for plane in layout.planes) == bits
        assert 0 <= 32 * layout.words - bits * dims <= 31 * len(layout.planes)
        assert layout.padded >= dims and layout.padded % 4 == 0
    assert LineLayout(96, bits).words == 3 * bits


def test_planes_are_stacked_with_the_most_significant_first():
    assert LineLayout(64, 7).planes == (Plane(1, 6, 0, 2), Plane(2, 4, 2, 4), Plane(4, 0, 6, 8))
    assert LineLayout(33, 3).planes == (Plane(1, 2, 0, 2), Plane(2, 0, 2, 3))


@pytest.mark.parametrize("bits", [3, 5, 6, 7])
def test_the_first_plane_is_the_code_of_its_top_bits(bits):
    """A prefix of planes is a coarser code: that of `width` bits of code >> the rest."""
    codes = np.random.default_rng(bits).integers(0, 2**bits, (5, 70), dtype=np.uint8)
    top = LineLayout(70, bits).planes[0]
    words = LineLayout(70, bits).pack(codes)[:, : top.words]
    assert_array_equal(words, LineLayout(70, top.width).pack(codes >> top.shift))


@pytest.mark.parametrize("bits", range(1, 9))
def test_unpack_reads_strided_panels(bits):
    """One stage's words cut out of panels that hold two stages."""
    codes = np.random.default_rng(bits).integers(0, 2**bits, (20, 40), dtype=np.uint8)
    layout = LineLayout(40, bits)
    panels = panels_of(layout.pack(codes))
    wide = np.full((2, layout.words + 3, PANEL), 0xDEADBEEF, np.uint32)
    wide[:, 2 : 2 + layout.words] = panels
    assert_array_equal(layout.unpack(wide[:, 2 : 2 + layout.words]), layout.unpack(panels))


@pytest.mark.parametrize("widths", [(1,), (16,), (4, 2, 2, 2), (0, 3, 0), (16, 16, 1), (5,) * 13, (7,) * 32])
@pytest.mark.parametrize("n", SIZES)
def test_a_stream_comes_back_from_panels(widths, n):
    layout = StreamLayout(widths)
    codes = np.random.default_rng(n).integers(0, 2 ** np.array(widths), (n, len(widths))).astype(np.uint16)
    words = layout.pack(codes)
    unpacked = layout.unpack(panels_of(words))
    assert layout.words == -(-sum(widths) // 32) == words.shape[1]
    assert_array_equal(unpacked[:n], codes)
    assert not unpacked[n:].any()


def test_panels_hold_word_g_of_vector_v_side_by_side():
    words = np.arange(17 * 3, dtype=np.uint32).reshape(17, 3)
    panels = panels_of(words)
    assert panels.shape == (2, 3, 16)
    for i in range(17):
        assert_array_equal(panels[i // 16, :, i % 16], words[i])
    assert not panels[1, :, 1:].any()


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
