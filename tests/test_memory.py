"""Arrays begin on a cache line, whatever their shape and type, and so do those of loaded indexes."""

import numpy as np
import pytest

import polarindex as pi
from polarindex.indexes import flat
from polarindex.memory import LINE, aligned_copy, aligned_zeros

SHAPES = [(), (0,), (1,), (7,), (64,), (3, 0, 5), (5, 3), (2, 3, 16)]
DTYPES = [np.uint8, np.int8, np.uint32, np.float32, np.float64, np.int64]


def on_a_line(array):
    return array.size == 0 or array.ctypes.data % LINE == 0  # NumPy moves no pointer for an empty slice


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_zeros_begin_on_a_cache_line(shape, dtype):
    kept = []  # so that each has memory of its own
    for _ in range(8):
        array = aligned_zeros(shape, dtype)
        assert array.shape == shape and array.dtype == dtype and array.flags.c_contiguous and array.flags.writeable
        assert on_a_line(array) and not array.any()
        kept.append(array)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_copy_begins_on_a_cache_line_and_is_its_own(rng, shape, dtype):
    source = rng.integers(0, 100, (*shape, 2)).astype(dtype)[..., 0]  # not contiguous
    before = source.copy()
    copy = aligned_copy(source)
    np.testing.assert_array_equal(copy, before)
    assert copy.dtype == dtype and copy.flags.c_contiguous and on_a_line(copy)
    copy += np.ones((), dtype)
    np.testing.assert_array_equal(source, before)


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_codes_of_a_loaded_index_begin_on_a_cache_line(tmp_path, monkeypatch, rng, bits):
    monkeypatch.setattr(flat, "block_rows", lambda row_bytes: 1024)
    index = pi.FlatIndex(70, bits=bits)
    index.add(rng.standard_normal((3000, 70), np.float32))
    index.save(tmp_path / "index")
    for loaded in (pi.load(tmp_path / "index"), index):
        for block in loaded._arena.blocks:
            assert len(loaded._arena.blocks) == 3
            for name, array in block.items():
                assert on_a_line(array) or not name.startswith("codes"), name
