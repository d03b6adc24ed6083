"""Other libraries' arrays: every container of the same numbers gives the same rows, and what is not one says why."""

from __future__ import annotations

import array
import re
import sys

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.testing import assert_array_equal

from polarindex import MissingExtraError, checks
from polarindex.arrays import opened


def says(error: type[Exception], message: str):
    """The block raises exactly this error with exactly this one line."""
    return pytest.raises(error, match=f"^{re.escape(message)}\\Z")


def assert_reads_as(x, expected: np.ndarray, *, single: bool = False) -> None:
    """`x` is taken as the float32 matrix `expected`, through chunks and at once."""
    source = checks.vectors(x, "x", expected.shape[1], single=single)
    assert source.n == len(expected)
    assert_array_equal(np.concatenate([chunk for _, chunk in source.chunks(3)]), expected)
    assert_array_equal(source.array(), expected)


# --- things that only offer a protocol


class Offers:
    """An object with some of an array's attributes, and no others."""

    def __init__(self, x, *names):
        self._x, self._names = x, names

    def __getattr__(self, name):
        if name.startswith("__array") and name in self._names:
            return getattr(self._x, name)
        raise AttributeError(name)


class OffersArray:
    def __init__(self, x):
        self._x = x

    def __array__(self, dtype=None, copy=None):
        return self._x


class OffersDlpack:
    def __init__(self, x, device=None):
        self._x, self._device = x, device

    def __dlpack__(self, **options):
        return self._x.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._device or self._x.__dlpack_device__()


class OffersSlices:
    """Like pandas' Series or a zarr array: what it gives for a slice is its own kind."""

    def __init__(self, x):
        self._x, self.shape, self.dtype = x, x.shape, x.dtype

    def __getitem__(self, rows):
        return OffersSlices(self._x[rows])

    def __array__(self, dtype=None, copy=None):
        return self._x


class OffersArrow:
    """Like a data frame of a library that nobody here knows."""

    def __init__(self, x, *kinds):
        for kind in kinds:
            setattr(self, f"__arrow_c_{kind}__", getattr(x, f"__arrow_c_{kind}__"))


CONTAINERS = {
    "ndarray": lambda x: x,
    "Fortran order": np.asfortranarray,
    "strided": lambda x: np.repeat(x, 2, axis=0)[::2],
    "big-endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "memoryview": memoryview,
    "nested list": lambda x: x.tolist(),
    "list of arrays": list,
    "tuple of lists": lambda x: tuple(x.tolist()),
    "list of array.array": lambda x: [array.array("d", row) for row in x.astype(np.float64)],
    "objects of arrays": lambda x: objects(list(x)),
    "objects of lists": lambda x: objects(x.tolist()),
    "objects of tuples in a column": lambda x: objects([tuple(row) for row in x.tolist()])[:, None],
    "__array_interface__": lambda x: Offers(x, "__array_interface__"),
    "__array__": OffersArray,
    "__dlpack__": OffersDlpack,
    "slices": OffersSlices,
}


def objects(rows) -> np.ndarray:
    out = np.empty(len(rows), object)
    for at, row in enumerate(rows):
        out[at] = row
    return out


def arrow_containers():
    arrow = pytest.importorskip("pyarrow")

    def fixed(x):
        return arrow.FixedSizeListArray.from_arrays(arrow.array(x.ravel()), x.shape[1])

    def ragged(x):
        return fixed(x).cast(arrow.list_(fixed(x).type.value_type))

    return {
        "fixed-size lists": fixed,
        "lists": ragged,
        "large lists": lambda x: ragged(x).cast(arrow.large_list(fixed(x).type.value_type)),
        "sliced lists": lambda x: arrow.concat_arrays([ragged(x[:1]), ragged(x), ragged(x[:2])])[1 : 1 + len(x)],
        "chunks": lambda x: arrow.chunked_array([fixed(x[:1]), fixed(x[1:1]), fixed(x[1:])]),
        "chunks of lists": lambda x: arrow.chunked_array([ragged(x[:1]), ragged(x[1:])]),
        "RecordBatch": lambda x: arrow.record_batch({"v": fixed(x), "name": ["a"] * len(x)}),
        "Table": lambda x: arrow.table({"name": ["a"] * len(x), "v": ragged(x)}),
        "Table of columns": lambda x: arrow.table({f"c{at}": column for at, column in enumerate(x.T)}),
        "__arrow_c_array__": lambda x: OffersArrow(ragged(x), "array"),
        "__arrow_c_stream__": lambda x: OffersArrow(arrow.chunked_array([fixed(x)]), "stream"),
        "__arrow_c_stream__ of a table": lambda x: OffersArrow(arrow.table({"v": fixed(x)}), "stream"),
        "objects of Arrow arrays": lambda x: objects([arrow.array(row) for row in x]),
    }


def polars_containers():
    polars = pytest.importorskip("polars")
    return {
        "List": lambda x: polars.Series("v", x.tolist(), polars.List(polars.Float64)),
        "Array": lambda x: polars.Series("v", x),
        "DataFrame of one List": lambda x: polars.DataFrame({"v": x.tolist(), "name": ["a"] * len(x)}),
        "DataFrame of columns": lambda x: polars.DataFrame(x),
    }


def pandas_containers():
    pandas = pytest.importorskip("pandas")
    return {
        "Series of lists": lambda x: pandas.Series(x.tolist(), index=range(5, 5 + len(x))),
        "Series of arrays": lambda x: pandas.Series(list(x)),
        "DataFrame of one column of arrays": lambda x: pandas.DataFrame({"v": list(x)}),
        "DataFrame of columns": lambda x: pandas.DataFrame(x),
    }


def torch_containers():
    torch = pytest.importorskip("torch")
    return {
        "tensor": torch.tensor,
        "tensor with a gradient": lambda x: torch.tensor(x.astype(np.float64)).requires_grad_(),
        "tensor transposed": lambda x: torch.tensor(x).T.contiguous().T,
        "list of tensors": lambda x: [torch.tensor(row) for row in x],
        "list of tensors with gradients": lambda x: [torch.tensor(row).float().requires_grad_() for row in x],
        "tensor by DLPack": lambda x: OffersDlpack(torch.tensor(x)),
    }


MATRICES = st.sampled_from([np.float16, np.float32, np.float64, np.int8, np.uint8, np.int64]).flatmap(
    lambda dtype: npst.arrays(
        dtype,
        npst.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=6),
        elements=st.integers(0, 100).map(dtype) | st.sampled_from([dtype(1) / dtype(2), dtype(3)]).map(dtype),
    )
)


@pytest.mark.parametrize(
    "containers",
    [lambda: CONTAINERS, arrow_containers, polars_containers, pandas_containers, torch_containers],
    ids=["NumPy", "Arrow", "polars", "pandas", "torch"],
)
def test_every_container_of_the_same_values_gives_the_same_rows(containers):
    made = containers()

    @given(MATRICES)
    def check(x):
        before, expected = x.copy(), x.astype(np.float32)
        for name, contain in made.items():
            rows = checks.vectors(contain(x), "x", x.shape[1]).array()
            assert rows.dtype == np.float32 and np.array_equal(rows, expected), name
        assert_array_equal(x, before)

    check()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32", "uint8"])
def test_an_h5py_data_set_and_a_memory_map_are_read_by_slices(tmp_path, rng, dtype):
    x = (10 * rng.standard_normal((50, 4))).astype(dtype)
    x = np.abs(x)
    np.save(tmp_path / "x.npy", x)
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file["x"] = x
        lists = file.create_dataset("lists", 50, h5py.vlen_dtype(np.dtype(dtype)))
        for at, row in enumerate(x):
            lists[at] = row
    assert_reads_as(np.load(tmp_path / "x.npy", mmap_mode="r"), x.astype(np.float32))
    with h5py.File(tmp_path / "x.hdf5") as file:
        assert isinstance(opened(file["x"], "x"), h5py.Dataset)
        assert_reads_as(file["x"], x.astype(np.float32))
        assert_reads_as(file["lists"], x.astype(np.float32))


# --- no copies where NumPy can look


def test_memory_is_looked_at_where_it_is(rng):
    x = rng.standard_normal((4, 3), np.float32)
    for container in (memoryview(x), OffersArray(x), OffersDlpack(x), Offers(x, "__array_interface__")):
        assert np.shares_memory(opened(container, "x"), x)
    torch = pytest.importorskip("torch")
    tensor = torch.tensor(x)
    assert np.shares_memory(opened(tensor, "x"), tensor.numpy())
    arrow = pytest.importorskip("pyarrow")
    lists = arrow.FixedSizeListArray.from_arrays(arrow.array(x.ravel()), 3)
    values = lists.flatten().to_numpy()
    for column in (lists, OffersArrow(lists, "array"), lists.cast(arrow.list_(arrow.float32()))):
        assert np.shares_memory(opened(column, "x")[0:4], values)


# --- types that NumPy lacks


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float8_e5m2", "int4", "uint4"])
def test_types_of_ml_dtypes_are_exact(name):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = np.array([[0, 1, 2], [3, 4, 5], [1, 6, 7]]).astype(getattr(ml_dtypes, name))
    assert_reads_as(x, np.array([[0, 1, 2], [3, 4, 5], [1, 6, 7]], np.float32))
    assert_reads_as(list(x), x.astype(np.float32))
    assert_reads_as(x[0], x[:1].astype(np.float32), single=True)
    if name not in ("int4", "uint4"):
        x[2, 1] = np.nan
        with says(ValueError, "x[2] is not finite (1 such rows)"):
            checks.vectors(x, "x").array()


def test_tensors_of_every_type_are_exact():
    torch = pytest.importorskip("torch")
    x = torch.arange(12, dtype=torch.float32).reshape(4, 3)
    expected = np.arange(12, dtype=np.float32).reshape(4, 3)
    for name in ("float32", "float64", "float16", "bfloat16", "float8_e4m3fn", "int8", "uint8", "int64"):
        assert_reads_as(x.to(getattr(torch, name)), expected)
    assert_reads_as(x.to(torch.bfloat16).requires_grad_(), expected)
    assert_reads_as(list(x.to(torch.bfloat16)), expected)
    assert_reads_as(x[0].to(torch.bfloat16), expected[:1], single=True)
    assert_array_equal(checks.id_array(torch.arange(3), "ids"), np.arange(3))
    with pytest.raises(TypeError, match="^x must hold real numbers, got Tensor of dtype complex64"):
        checks.vectors(x.to(torch.complex64), "x")
    with pytest.raises(TypeError, match="^x must be an array of numbers, got Tensor .can't convert Sparse"):
        checks.vectors(x.to_sparse(), "x")


class FakeTensor:
    """What is used of a torch tensor, for devices that are not here."""

    def __init__(self, x, dtype="torch.float32", device="cpu"):
        self._x, self.dtype, self.device, self.shape = x, dtype, device, x.shape

    def detach(self):
        return self

    def numpy(self):
        raise TypeError(f"Got unsupported ScalarType {self.dtype}\nand a second line")


def test_a_tensor_elsewhere_or_of_a_packed_type_is_refused():
    x = np.ones((4, 3), np.float32)
    with says(TypeError, "x must be in the CPU's memory, got a tensor on cuda:0; pass x.cpu()"):
        checks.vectors(FakeTensor(x, device="cuda:0"), "x")
    wanted = "x must be an array of numbers, got FakeTensor (Got unsupported ScalarType torch.float4_e2m1fn_x2)"
    with says(TypeError, wanted):
        checks.vectors(FakeTensor(x, "torch.float4_e2m1fn_x2"), "x")
    elsewhere = OffersDlpack(x, (2, 1))
    message = "x must be in the CPU's memory, got OffersDlpack on DLPack's device 2:1; copy it there first"
    with says(TypeError, message):
        checks.vectors(elsewhere, "x")


def test_dlpack_of_a_type_that_numpy_lacks_says_so():
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match="^x must be an array of numbers, got OffersDlpack"):
        checks.vectors(OffersDlpack(torch.ones((2, 3), dtype=torch.bfloat16)), "x")


# --- nulls, rows of several lengths, objects


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ([[1, 2], [3]], ValueError, "x must have rows of one length, got 2 values in x[0] and 1 in x[1]"),
        ([[1, 2], []], ValueError, "x must have rows of one length, got 2 values in x[0] and 0 in x[1]"),
        ([[1, 2], None], ValueError, "x[1] is null"),
        ([[1, 2], float("nan")], ValueError, "x[1] is null"),
        ([[1, 2], 3], ValueError, "x[1] must be one row of numbers, got shape ()"),
        ([[1, 2], [[3], [4]]], ValueError, "x[1] must be one row of numbers, got shape (2, 1)"),
        ([[1, 2], "ab"], TypeError, "x[1] must hold real numbers, got str of dtype <U2"),
        ([[1, 2], ["a", "b", "c"]], TypeError, "x[1] must hold real numbers, got list of dtype <U1"),
        ([[1, 2], [1j, 2, 3]], TypeError, "x[1] must hold real numbers, got list of dtype complex128"),
        ([[1, 2], [None, 2, 3]], TypeError, "x[1] must hold real numbers, got list of dtype object"),
    ],
)
def test_the_row_that_is_none_is_named_in_lists_and_columns(rows, error, message):
    for x in (rows, objects(rows), objects(rows)[:, None]):
        with says(error, message):
            checks.vectors(x, "x").array()
    pandas = pytest.importorskip("pandas")
    with says(error, message):
        checks.vectors(pandas.Series(rows), "x").array()


def test_nulls_of_pandas_are_nulls():
    pandas = pytest.importorskip("pandas")
    with says(ValueError, "x[1] is null"):
        checks.vectors(pandas.Series([[1.0], pandas.NA, pandas.NaT], dtype=object), "x")
    with says(TypeError, "x must hold real numbers, got Series of dtype object; x[0] holds None"):
        checks.vectors(pandas.Series([None, None], dtype=object), "x")
    nullable = pandas.DataFrame({"a": [1.5, 2.5]}).convert_dtypes()
    with says(TypeError, "x must hold real numbers, got DataFrame of dtype object; pass x.astype('float64')"):
        checks.vectors(nullable.assign(b=nullable["a"]), "x")
    nullable.loc[1, "a"] = pandas.NA
    with pytest.raises((TypeError, ValueError), match=r"x\[1\]|pass x.astype"):
        checks.vectors(nullable.assign(b=nullable["a"]), "x")


def test_nulls_and_lengths_in_arrow_columns_are_named():
    arrow = pytest.importorskip("pyarrow")
    for kind in (arrow.list_(arrow.float32(), 2), arrow.list_(arrow.float32()), arrow.large_list(arrow.int32())):
        with says(ValueError, "x[1] is null (first of 2 such rows)"):
            checks.vectors(arrow.array([[1, 2], None, None], kind), "x")
        with says(ValueError, "x[1] is null (first of 1 such rows)"):
            checks.vectors(arrow.chunked_array([arrow.array([[1, 2]], kind), arrow.array([None], kind)]), "x")
    with says(ValueError, "x[1] is not finite (1 such rows)"):
        checks.vectors(arrow.array([[1.0, 2.0], [None, 1.0]], arrow.list_(arrow.float32())), "x").array()
    with says(ValueError, "x must have rows of one length, got 2 values in x[0] and 3 in x[2]"):
        checks.vectors(arrow.array([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0, 3.0]]), "x")
    with pytest.raises(TypeError, match="^x must hold real numbers, got FixedSizeListArray of dtype bool"):
        checks.vectors(arrow.array([[True, False]], arrow.list_(arrow.bool_(), 2)), "x")
    with pytest.raises(TypeError, match="^x must hold real numbers, got ListArray of dtype object"):
        checks.vectors(arrow.array([["a"], ["b"]]), "x")
    two = arrow.table({"a": [[1.0]], "b": [[2.0]]})
    with says(TypeError, "x must have one column of lists, got a table of 'a', 'b'; pass one of them"):
        checks.vectors(two, "x")
    assert_array_equal(checks.id_array(arrow.array([3, 5]), "ids"), [3, 5])
    with pytest.raises(TypeError, match="^ids must hold integers, got Int64Array of dtype float64"):
        checks.id_array(arrow.array([3, None]), "ids")


def test_nulls_and_lengths_in_polars_columns_are_named():
    polars = pytest.importorskip("polars")
    pytest.importorskip("pyarrow")
    with says(ValueError, "x[1] is null (first of 1 such rows)"):
        checks.vectors(polars.Series([[1.0, 2.0], None]), "x")
    with says(ValueError, "x must have rows of one length, got 2 values in x[0] and 1 in x[1]"):
        checks.vectors(polars.Series([[1.0, 2.0], [3.0]]), "x")
    assert_array_equal(checks.id_array(polars.Series([3, 5]), "ids"), [3, 5])


def test_without_pyarrow_polars_columns_are_read_and_a_bare_protocol_names_the_extra(monkeypatch):
    polars, arrow = pytest.importorskip("polars"), pytest.importorskip("pyarrow")
    bare = OffersArrow(arrow.array([[1.0, 2.0]]), "array")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    assert_reads_as(polars.Series(x.tolist()), x)
    assert_reads_as(polars.Series(x), x)
    with pytest.raises(MissingExtraError, match=r"^x is a OffersArrow .* pip install 'polarindex\[files\]'"):
        checks.vectors(bare, "x")


def test_ids_are_taken_from_any_container():
    ids = np.array([3, 5])
    for container in (
        memoryview(ids),
        array.array("q", [3, 5]),
        OffersArray(ids),
        OffersDlpack(ids),
        OffersSlices(ids),
    ):
        assert_array_equal(checks.id_array(container, "ids"), ids)
    with says(TypeError, "ids must hold integers, got ndarray of dtype object"):
        checks.id_array(np.array([3, 5], object), "ids")
