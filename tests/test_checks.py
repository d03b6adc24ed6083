"""The public door: values are float32's, memory is not copied or changed, errors are one exact line."""

from __future__ import annotations

import re
import tracemalloc
from fractions import Fraction

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.testing import assert_array_equal

from polarindex import checks

FLOATS = ["float16", "float32", "float64", "longdouble", ">f4", ">f8"]
INTEGERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", ">i4"]


def says(error: type[Exception], message: str):
    """The block raises exactly this error with exactly this one line."""
    return pytest.raises(error, match=f"^{re.escape(message)}\\Z")


def rows_of(source: checks.VectorSource, rows: int = 3) -> np.ndarray:
    """All chunks joined, each checked for what kernels need."""
    parts, expected = [], 0
    for start, chunk in source.chunks(rows):
        assert start == expected and 1 <= len(chunk) <= rows
        assert type(chunk) is np.ndarray and chunk.dtype == np.dtype("=f4") and chunk.flags.carray
        parts.append(chunk)
        expected += len(chunk)
    assert expected == source.n
    return np.concatenate(parts) if parts else np.empty((0, source.dim), np.float32)


def assert_reads_as(x, expected: np.ndarray, *, single: bool = False) -> None:
    """`x` is taken as the float32 matrix `expected`, through chunks and at once."""
    source = checks.vectors(x, "x", expected.shape[1], single=single)
    assert (source.name, source.n, source.dim) == ("x", *expected.shape)
    assert_array_equal(rows_of(source), expected)
    whole = source.array()
    assert whole.dtype == np.dtype("=f4") and whole.flags.carray
    assert_array_equal(whole, expected)


# --- what is taken ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS + INTEGERS)
@pytest.mark.parametrize(
    "layout",
    [
        lambda x: x,
        lambda x: np.asfortranarray(x),
        lambda x: np.repeat(np.repeat(x, 2, axis=0), 3, axis=1)[::2, ::3],
        lambda x: np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1],
        lambda x: np.ascontiguousarray(x.T).T,
        lambda x: np.broadcast_to(x[:1], x.shape),
        lambda x: x.view(np.matrix),
        lambda x: np.frombuffer(b"." + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape),
    ],
    ids=["C", "Fortran", "strided", "reversed", "transposed", "broadcast", "matrix", "unaligned"],
)
def test_every_number_type_and_layout(dtype, layout, rng):
    x = layout(rng.integers(0, 100, (11, 5)).astype(dtype))
    before = x.copy()
    x.flags.writeable = False
    assert_reads_as(x, np.asarray(x).astype(np.float32))
    assert_array_equal(x, before)


def test_lists_tuples_and_arrays_in_lists():
    assert_reads_as([[1, 2], [3, 4.5]], np.array([[1, 2], [3, 4.5]], np.float32))
    assert_reads_as(((1, 2), (3, 4)), np.array([[1, 2], [3, 4]], np.float32))
    assert_reads_as([np.ones(3, np.float16), np.zeros(3)], np.array([[1, 1, 1], [0, 0, 0]], np.float32))


@pytest.mark.parametrize(
    "query", [np.arange(4.0), [0, 1, 2, 3], np.arange(8, dtype=np.float32)[::2] / 2, range(4)], ids=str
)
def test_one_vector_is_one_row_where_it_is_welcome(query):
    assert_reads_as(query, np.array([[0, 1, 2, 3]], np.float32), single=True)
    assert checks.vectors(query, "q", single=True).single
    assert not checks.vectors([query], "q", single=True).single


def test_no_rows_are_welcome():
    for x in (np.empty((0, 4)), np.empty((0, 4), np.float32), np.empty((0, 4), np.int64)):
        assert_reads_as(x, np.empty((0, 4), np.float32))


def test_float32_memory_is_passed_on_and_a_chunk_is_a_view(rng):
    x = rng.standard_normal((10, 4), np.float32)
    source = checks.vectors(x, "x")
    assert source.array() is x
    assert all(np.shares_memory(chunk, x) for _, chunk in source.chunks(4))
    assert np.shares_memory(checks.vectors(x[0], "q", single=True).array(), x)


def test_a_memory_mapped_file_is_read_by_chunks(tmp_path, rng):
    x = rng.standard_normal((5000, 64), np.float32)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    tracemalloc.start()
    try:
        for start, chunk in checks.vectors(mapped, "x").chunks(500):
            assert_array_equal(chunk, x[start : start + 500])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < x.nbytes / 2
    assert_reads_as(mapped, x)


class Recorder:
    """A sliceable thing like a data set in a file, which notes what it was asked for."""

    def __init__(self, array):
        self._array, self.shape, self.dtype, self.asked = array, array.shape, array.dtype, []

    def __getitem__(self, rows):
        self.asked.append((rows.start, rows.stop))
        return self._array[rows]

    def __array__(self, *_, **__):
        raise AssertionError("read whole")


def test_an_h5py_data_set_is_read_by_chunks(tmp_path, rng):
    x = rng.standard_normal((5000, 64))
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file["x"] = x
        file["half"] = x[:20].astype(np.float16)
        file["bytes"] = np.arange(40, dtype=np.uint8).reshape(10, 4)
        file["flags"] = np.ones((3, 4), bool)
    with h5py.File(tmp_path / "x.hdf5") as file:
        tracemalloc.start()
        try:
            for start, chunk in checks.vectors(file["x"], "x", 64).chunks(500):
                assert_array_equal(chunk, x[start : start + 500].astype(np.float32))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < x.nbytes / 2
        assert_reads_as(file["half"], x[:20].astype(np.float16).astype(np.float32))
        assert_reads_as(file["bytes"], np.arange(40, dtype=np.float32).reshape(10, 4))
        with says(TypeError, "x must hold real numbers, got Dataset of dtype bool"):
            checks.vectors(file["flags"], "x")


def test_a_sliceable_source_is_asked_only_for_the_slices():
    recorder = Recorder(np.arange(20.0).reshape(10, 2))
    source = checks.vectors(recorder, "x")
    assert recorder.asked == []
    assert_array_equal(rows_of(source, 4), recorder._array)
    assert recorder.asked == [(0, 4), (4, 8), (8, 10)]


def test_chunks_of_some_rows_are_numbered_as_of_all():
    source = checks.vectors(np.arange(40.0).reshape(20, 2), "x")
    found = list(source.chunks(4, 3, 13))
    assert [start for start, _ in found] == [3, 7, 11]
    assert_array_equal(np.concatenate([x for _, x in found]), np.arange(40.0).reshape(20, 2)[3:13])


def test_who_looks_for_nan_itself_gets_it_and_integers_are_checked_still():
    x = np.zeros((5, 2), np.float32)
    x[3, 1] = np.nan
    source = checks.vectors(x, "x")
    assert_array_equal(np.concatenate([part for _, part in source.chunks(2, finite=False)]), x)
    with says(ValueError, "x[3] is not finite (1 such rows)"):
        list(source.chunks(2, 2))
    with says(ValueError, "x[1] holds an integer beyond 2**24, which float32 cannot hold exactly (1 such rows)"):
        list(checks.vectors(np.array([[1], [2**24 + 1]]), "x").chunks(finite=False))


# --- properties ------------------------------------------------------------------------------------------------


def matrices(dtype):
    """(n, d) arrays of the type, of any values it has, in C or Fortran order."""
    arrays = npst.arrays(dtype, npst.array_shapes(min_dims=2, max_dims=2, max_side=9))
    return arrays | arrays.map(np.asfortranarray) | arrays.map(lambda x: x[::-1, ::-1])


@given(st.sampled_from([np.float16, np.float32, np.float64, np.int8, np.uint16, np.int64]).flatmap(matrices), st.data())
def test_values_are_numpys_in_chunks_of_any_size_or_a_row_is_named(x, data):
    rows = data.draw(st.integers(1, 10))
    before = x.copy()
    with np.errstate(over="ignore"):
        expected = x.astype(np.float32)
    whole_numbers = x.dtype.kind in "iu"
    bad = (np.abs(x.astype(np.float64)) > 2**24 if whole_numbers else ~np.isfinite(expected)).any(axis=1)
    if bad.any():
        with pytest.raises(ValueError, match=rf"^x\[{bad.argmax()}\] "):
            rows_of(checks.vectors(x, "x"), rows)
    else:
        assert_array_equal(rows_of(checks.vectors(x, "x"), rows), expected)
    assert_array_equal(x, before)


# --- what is refused -------------------------------------------------------------------------------------------


class OnGpu:
    __cuda_array_interface__ = {}


class Sparse:
    shape, dtype = (3, 4), np.dtype(np.float32)

    def toarray(self):
        raise AssertionError("made dense")


class Broken:
    def __array__(self, *_, **__):
        raise RuntimeError("first line\nsecond line")


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (None, TypeError, "x must hold real numbers, got NoneType"),
        ("text", TypeError, "x must hold real numbers, got str"),
        ({"a": 1}, TypeError, "x must hold real numbers, got dict"),
        ([["a", "b"]], TypeError, "x must hold real numbers, got list of dtype <U1"),
        ([[1, None]], TypeError, "x must hold real numbers, got list of dtype object; x[0] holds None"),
        ([[1], [2**70]], TypeError, f"x must hold real numbers, got list of dtype object; x[1] holds {2**70} (int)"),
        ([[True, False]], TypeError, "x must hold real numbers, got list of dtype bool"),
        (
            np.ones((2, 3), object),
            TypeError,
            "x must hold real numbers, got ndarray of dtype object; pass x.astype('float64')",
        ),
        (np.ones((2, 3), complex), TypeError, "x must hold real numbers, got ndarray of dtype complex128"),
        (np.ones((2, 3), bool), TypeError, "x must hold real numbers, got ndarray of dtype bool"),
        (np.ones((2, 3), "M8[s]"), TypeError, "x must hold real numbers, got ndarray of dtype datetime64[s]"),
        (np.ones((2, 3), "m8[s]"), TypeError, "x must hold real numbers, got ndarray of dtype timedelta64[s]"),
        (np.zeros((2, 3), "S2"), TypeError, "x must hold real numbers, got ndarray of dtype |S2"),
        (np.zeros(2, "V8"), TypeError, "x must hold real numbers, got ndarray of dtype |V8"),
        (np.ma.array([[1.0]]), TypeError, "x must have all its values, got a masked array; pass x.filled(...)"),
        (OnGpu(), TypeError, "x must be in the CPU's memory, got OnGpu; copy it there first"),
        (Sparse(), TypeError, "x must be a dense array, got Sparse; pass x.toarray()"),
        (Broken(), TypeError, "x must be an array of numbers, got Broken (first line)"),
        ([[1, 2], [3]], ValueError, "x must have rows of one length, got 2 values in x[0] and 1 in x[1]"),
        (3.0, ValueError, "x must have shape (n, d), got ()"),
        ([], ValueError, "x must have shape (n, d), got (0,)"),
        (np.ones(4), ValueError, "x must have shape (n, d), got (4,)"),
        (np.ones((2, 3, 4)), ValueError, "x must have shape (n, d), got (2, 3, 4)"),
        (np.ones((2, 0)), ValueError, "x must have at least one column, got shape (2, 0)"),
        (np.ones((2, 3)), ValueError, "x has 3 columns but dim=4 is wanted"),
    ],
    ids=lambda value: None,
)
def test_wrong_arguments_are_refused_before_a_value_is_read(x, error, message):
    with says(error, message):
        checks.vectors(x, "x", 4)


@pytest.mark.parametrize(
    ("q", "message"),
    [
        (1.0, "q must have shape (d,) or (n, d), got ()"),
        (np.ones((1, 2, 4)), "q must have shape (d,) or (n, d), got (1, 2, 4)"),
        ([], "q must have at least one column, got shape (0,)"),
        (np.ones(3), "q has 3 columns but dim=4 is wanted"),
    ],
)
def test_wrong_query_shapes(q, message):
    with says(ValueError, message):
        checks.vectors(q, "q", 4, single=True)


def test_scipy_sparse_matrices_are_refused():
    sparse = pytest.importorskip("scipy.sparse")
    with says(TypeError, "x must be a dense array, got csr_matrix; pass x.toarray()"):
        checks.vectors(sparse.csr_matrix(np.eye(3)), "x")


@pytest.mark.parametrize("rows", [1, 2, 3, 100])
@pytest.mark.parametrize(
    ("dtype", "bad", "fault"),
    [
        (np.float16, np.nan, "is not finite"),
        (np.float32, np.inf, "is not finite"),
        (np.float32, np.nan, "is not finite"),
        (np.float64, -np.inf, "is not finite"),
        (np.float64, 1e39, "overflows float32"),
        (np.float64, -3.5e38, "overflows float32"),
        (np.int32, 2**24 + 1, "holds an integer beyond 2**24, which float32 cannot hold exactly"),
        (np.int64, -(2**24) - 1, "holds an integer beyond 2**24, which float32 cannot hold exactly"),
        (np.int64, -(2**63), "holds an integer beyond 2**24, which float32 cannot hold exactly"),
        (np.uint32, 2**32 - 1, "holds an integer beyond 2**24, which float32 cannot hold exactly"),
        (np.uint64, 2**64 - 1, "holds an integer beyond 2**24, which float32 cannot hold exactly"),
    ],
)
def test_the_first_bad_row_is_named_and_those_like_it_counted(dtype, bad, fault, rows):
    x = np.ones((9, 3), dtype)
    x[4, 1] = bad
    with says(ValueError, f"x[4] {fault} (1 such rows)"):
        rows_of(checks.vectors(x, "x"), rows)
    x[[7, 8], 2] = x[4, 0] = bad
    for call in (lambda: rows_of(checks.vectors(x, "x"), rows), lambda: checks.vectors(x, "x").array()):
        with says(ValueError, f"x[4] {fault} (first of 3 such rows)"):
            call()
    with says(ValueError, f"q {fault}"):
        checks.vectors(x[4], "q", single=True).array()


def test_rows_before_the_bad_one_come_out():
    x = np.ones((6, 2), np.float32)
    x[5] = np.nan
    chunks = checks.vectors(x, "x").chunks(2)
    assert [next(chunks)[0], next(chunks)[0]] == [0, 2]
    with says(ValueError, "x[5] is not finite (1 such rows)"):
        next(chunks)


def test_unlike_faults_are_counted_apart():
    x = np.ones((5, 2))
    x[1], x[2], x[4] = 1e300, np.nan, 1e300
    with says(ValueError, "x[1] overflows float32 (first of 2 such rows)"):
        checks.vectors(x, "x").array()


def test_the_largest_values_pass():
    most = float(np.finfo(np.float32).max)
    assert_reads_as(np.array([[most, -most]]), np.array([[most, -most]], np.float32))
    assert_reads_as(np.array([[2**24, -(2**24)]]), np.array([[2**24, -(2**24)]], np.float32))
    assert_reads_as(np.array([[2**24]], np.uint64), np.array([[2**24]], np.float32))
    assert_reads_as(np.array([[1e-300]]), np.zeros((1, 1), np.float32))


def test_numpys_own_error_settings_change_nothing():
    with np.errstate(all="raise"):
        assert_reads_as(np.array([[1e-300, 1.0]]), np.array([[0, 1]], np.float32))
        with says(ValueError, "x[0] overflows float32 (1 such rows)"):
            checks.vectors([[1e39]], "x").array()


# --- single values ---------------------------------------------------------------------------------------------


def test_integers():
    for value in (3, np.int8(3), np.uint64(3), np.array(3)):
        assert checks.integer(value, "k", low=1, high=3) == 3
        assert type(checks.integer(value, "k")) is int
    for value, shown in [
        (True, "True"),
        (np.True_, repr(np.True_)),
        (2.0, "2.0 (float)"),
        (np.float32(2), "2.0 (float32)"),
        ("2", "'2'"),
        (None, "None"),
        ([2], "a list"),
    ]:
        with says(TypeError, f"k must be an integer, got {shown}"):
            checks.integer(value, "k")
    with says(ValueError, "k must be at least 1, got 0"):
        checks.integer(0, "k", low=1)
    with says(ValueError, "k must be at most 4, got 5"):
        checks.integer(5, "k", high=4)
    with says(ValueError, "bits must be from 1 to 8, got 9"):
        checks.integer(np.int64(9), "bits", low=1, high=8)


def test_real_numbers():
    for value in (2, 2.0, np.float16(2), np.int32(2), Fraction(2)):
        assert checks.real(value, "radius", low=2, high=2.0) == 2.0
        assert type(checks.real(value, "radius")) is float
    for value, shown in [(True, "True"), ("2", "'2'"), (None, "None"), (2j, "2j (complex)"), ([2.0], "a list")]:
        with says(TypeError, f"radius must be a real number, got {shown}"):
            checks.real(value, "radius")
    for value, shown in [(np.nan, "nan"), (-np.inf, "-inf"), (10**400, "inf")]:
        with says(ValueError, f"radius must be finite, got {shown}"):
            checks.real(value, "radius")
    with says(ValueError, "radius must be at least 0, got -1.5"):
        checks.real(-1.5, "radius", low=0)


def test_choices():
    options = ("l2", "ip", "cosine")
    assert checks.choice("ip", "metric", options) == "ip"
    assert checks.choice("ip", "metric", iter(options)) == "ip"
    with says(ValueError, "metric must be one of 'l2', 'ip', 'cosine'; got 'l1'"):
        checks.choice("l1", "metric", options)
    with says(TypeError, "metric must be one of 'l2', 'ip', 'cosine'; got 3 (int)"):
        checks.choice(3, "metric", options)
    with says(TypeError, "metric must be one of 'l2', 'ip', 'cosine'; got a list"):
        checks.choice(["l2"], "metric", options)
    with says(ValueError, f"metric must be one of 'l2'; got '{'x' * 56}..."):
        checks.choice("x" * 500, "metric", ["l2"])


def test_flags():
    assert checks.flag(True, "center") is True
    assert checks.flag(np.False_, "center") is False
    for value, shown in [(1, "1 (int)"), ("yes", "'yes'"), (None, "None"), (np.ones(2, bool), "a ndarray")]:
        with says(TypeError, f"center must be True or False, got {shown}"):
            checks.flag(value, "center")


def test_strings():
    assert checks.strings(["a", np.str_("b")], "keys") == ["a", "b"]
    assert type(checks.strings(iter([np.str_("b")]), "keys", 1)[0]) is str
    assert checks.strings(None, "texts", 2, optional=True) == [None, None]
    assert checks.strings(["", None, "\x00"], "texts", optional=True) == ["", None, "\x00"]
    for value, shown in [("ab", "'ab'"), (b"ab", "a bytes"), (3, "3 (int)"), (None, "None")]:
        with says(TypeError, f"keys must be a sequence of strings, got {shown}"):
            checks.strings(value, "keys")
    with says(TypeError, "keys[1] must be a string, got None"):
        checks.strings(["a", None], "keys")
    with says(TypeError, "texts[0] must be a string or None, got 1 (int)"):
        checks.strings([1], "texts", optional=True)
    with says(ValueError, "keys must have 2 entries, got 1"):
        checks.strings(["a"], "keys", 2)
    with says(ValueError, "keys[0] is not text that UTF-8 can hold: surrogates not allowed"):
        checks.strings(["\ud800"], "keys")


# --- ids -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", INTEGERS)
def test_ids_of_every_integer_type(dtype):
    given_ids = np.arange(12, dtype=dtype)[::-2]
    given_ids.flags.writeable = False
    ids = checks.id_array(given_ids, "ids", 6)
    assert ids.dtype == np.dtype("=i8") and ids.flags.carray
    assert_array_equal(ids, [11, 9, 7, 5, 3, 1])


def test_ids_from_other_containers():
    own = np.arange(3)
    assert np.shares_memory(checks.id_array(own, "ids"), own)
    assert_array_equal(checks.id_array([0, 2**63 - 2], "ids"), [0, 2**63 - 2])
    assert_array_equal(checks.id_array(range(3), "ids"), own)
    for empty in ([], (), np.empty(0, np.int32)):
        assert checks.id_array(empty, "ids", 0).dtype == np.int64


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        (None, TypeError, "ids must hold integers, got NoneType"),
        ("abc", TypeError, "ids must hold integers, got str"),
        ([1.0], TypeError, "ids must hold integers, got list of dtype float64"),
        ([True], TypeError, "ids must hold integers, got list of dtype bool"),
        (["1"], TypeError, "ids must hold integers, got list of dtype <U1"),
        ([2**70], TypeError, "ids must hold integers, got list of dtype object"),
        (np.empty(0), TypeError, "ids must hold integers, got ndarray of dtype float64"),
        (3, ValueError, "ids must have shape (n,), got ()"),
        ([[1, 2]], ValueError, "ids must have shape (n,), got (1, 2)"),
        ([1, 2, 3], ValueError, "ids must have 2 entries, got 3"),
        ([1, -1], ValueError, "ids[1] must be from 0 to 2**63 - 2, got -1 (1 such ids)"),
        ([2**63 - 1, 1], ValueError, f"ids[0] must be from 0 to 2**63 - 2, got {2**63 - 1} (1 such ids)"),
        ([-1, -2], ValueError, "ids[0] must be from 0 to 2**63 - 2, got -1 (first of 2 such ids)"),
        (
            np.array([1, 2**63], np.uint64),
            ValueError,
            f"ids[1] must be from 0 to 2**63 - 2, got {2**63} (1 such ids)",
        ),
    ],
)
def test_wrong_ids(ids, error, message):
    with says(error, message):
        checks.id_array(ids, "ids", 2)


def test_the_first_repeated_id_is_named():
    for ids in ([], [4], [1, 2, 3], [3, 1, 2]):
        checks.unique_ids(np.array(ids, np.int64), "ids")
    with says(ValueError, "ids must be unique, got 7 at positions 1 and 3"):
        checks.unique_ids(np.array([9, 7, 5, 7, 5, 9, 7]), "ids")


@given(st.lists(st.integers(0, 20), max_size=12))
def test_ids_are_unique_exactly_if_a_set_of_them_is_as_long(ids):
    array = np.array(ids, np.int64)
    if len(set(ids)) == len(ids):
        checks.unique_ids(array, "ids")
        return
    second = next(i for i, value in enumerate(ids) if value in ids[:i])
    with says(ValueError, f"ids must be unique, got {ids[second]} at positions {ids.index(ids[second])} and {second}"):
        checks.unique_ids(array, "ids")
