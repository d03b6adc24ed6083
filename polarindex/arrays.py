"""Other libraries' arrays: anything that holds numbers, as something with a shape, a NumPy dtype and slices.

Law:       values are those that came; memory is not copied where NumPy can look at it. What would need a guess (nulls,
           rows of several lengths, objects, a device's memory) is one error that names the argument and the row.
How:       containers are known by what they offer, so none is imported before one of its arrays comes: slices
           (h5py, zarr), Arrow's lists (pyarrow, polars, anything with the C data protocol), NumPy's protocols and
           buffers (pandas, JAX, memoryview, lists), DLPack. Rows that are objects (a column of lists or arrays) are
           opened each.
Not here:  which types, shapes and values are welcome (checks.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from polarindex.errors import MissingExtraError

_HOST = (1, 3, 11, 13)  # DLPack's devices whose memory the CPU can read
_NARROW = (
    "bfloat16",
    "float8_",
    "float6_",
    "float4_",
    "int4",
    "uint4",
    "int2",
    "uint2",
)  # of ml_dtypes: exact in float32


class Rows(Protocol):
    """What `opened` returns: rows[start:stop] is an array, or something that np.asarray makes one of."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __getitem__(self, rows: slice, /) -> Any: ...


def is_real(dtype: np.dtype[Any]) -> bool:
    """Whether a type is one of real numbers, each of which is a float, or an integer, as NumPy converts it."""
    return dtype.kind in "fiu" or dtype.name.startswith(_NARROW)


def opened(x: Any, name: str) -> Rows:
    """`x` as rows, which may be of any shape and dtype; `name` is the argument's, for messages.

    Raises
    ------
    TypeError
        It holds no numbers, or is not in the CPU's memory.
    ValueError
        A row is null, or of another length than the first.
    MissingExtraError
        It offers nothing but Arrow's protocol, and pyarrow is not installed.
    """
    if isinstance(x, np.ndarray):
        if isinstance(x, np.ma.MaskedArray):
            raise TypeError(f"{name} must have all its values, got a masked array; pass {name}.filled(...)")
        return np.asarray(x)
    if hasattr(x, "detach") and hasattr(x, "device"):
        return _opened_tensor(x, name)
    if hasattr(x, "toarray"):
        raise TypeError(f"{name} must be a dense array, got {type(x).__name__}; pass {name}.toarray()")
    if hasattr(x, "__cuda_array_interface__"):
        raise TypeError(f"{name} must be in the CPU's memory, got {type(x).__name__}; copy it there first")
    if _has_arrow_lists(x):
        return _opened_arrow(x, name)
    if isinstance(getattr(x, "dtype", None), np.dtype) and hasattr(x, "shape") and hasattr(x, "__getitem__"):
        in_memory = hasattr(x, "__dlpack__") or not x.shape
        return np.asarray(x) if in_memory else x
    if hasattr(x, "__dlpack__") and not hasattr(x, "__array__"):
        return _opened_dlpack(x, name)
    return _opened_by_numpy(x, name)


def rows_of_objects(objects: Rows, name: str) -> Rows:
    """An array (n,) or (n, 1) of objects, each a row, as rows (n, d); others as they are, for their type to be refused.

    Errors are those of `opened`.
    """
    if objects.dtype.kind != "O" or len(objects.shape) not in (1, 2) or objects.shape[1:] not in ((), (1,)):
        return objects
    rows = np.asarray(objects[:]).reshape(-1)
    first = next((row for row in rows if not _is_null(row)), None)
    return objects if first is None or not hasattr(first, "__len__") or isinstance(first, str) else _Stacked(rows, name)


def first_odd(rows: Rows) -> tuple[int, Any] | None:
    """Of an array of objects: the first row that has one that is no number of NumPy's, and that object."""
    if rows.dtype.kind == "O" and len(rows.shape) in (1, 2):
        for at, row in enumerate(np.asarray(rows[:])):
            for value in np.atleast_1d(np.asarray(row, object)):
                if not is_real(np.asarray(value).dtype):
                    return at, value
    return None


# --- by slices


class _Converted:
    """A torch tensor whose type NumPy lacks (bfloat16, float8), as float32, a slice at a time."""

    dtype = np.dtype(np.float32)

    def __init__(self, tensor: Any) -> None:
        self.shape = tuple(tensor.shape)
        self._tensor = tensor

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        converted: NDArray[np.float32] = self._tensor[rows].float().numpy()
        return converted


class _ArrowLists:
    """An Arrow array, plain or chunked, of lists that have one length. No copy but of the slice asked for."""

    def __init__(self, array: Any, width: int) -> None:
        self.shape = (len(array), width)
        self.dtype = np.dtype(array.type.value_type.to_pandas_dtype())
        self._array = array

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        start, stop, _ = rows.indices(len(self._array))
        part = self._array.slice(start, stop - start)
        part = part.combine_chunks() if hasattr(part, "combine_chunks") else part
        values: NDArray[Any] = part.flatten().to_numpy(zero_copy_only=False)
        return values.reshape(stop - start, self.shape[1])


class _Stacked:
    """Rows that are objects of their own, each an array or list; all have one length, and a type they share."""

    def __init__(self, rows: NDArray[np.object_], name: str) -> None:
        self._rows = rows
        found = [_shape_and_dtype(row, f"{name}[{at}]") for at, row in enumerate(rows)]
        (width,) = found[0][0]
        for at, ((length,), _) in enumerate(found):
            if length != width:
                raise _lengths_differ(name, width, at, length)
        self.shape, dtypes = (len(rows), width), {dtype for _, dtype in found}
        # types that NumPy does not know share none: each is exact in float32
        known = {dtype if dtype.kind in "fiu" else np.dtype(np.float32) for dtype in dtypes}
        self.dtype = np.result_type(*known)

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        part = self._rows[rows]
        out = np.empty((len(part), self.shape[1]), self.dtype)
        for at, row in enumerate(part):
            out[at] = row if type(row) is np.ndarray else opened(row, "x")[:]
        return out


def _shape_and_dtype(row: Any, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Of one row; raises where it is none."""
    if _is_null(row):
        raise ValueError(f"{name} is null")
    rows = row if type(row) is np.ndarray else opened(row, name)
    if len(rows.shape) == 1 and rows.shape[0] == 0:  # which NumPy takes for floats
        return rows.shape, np.dtype(np.float32)
    if not is_real(rows.dtype):
        raise TypeError(f"{name} must hold real numbers, got {type(row).__name__} of dtype {rows.dtype}")
    if len(rows.shape) != 1:
        raise ValueError(f"{name} must be one row of numbers, got shape {rows.shape}")
    return rows.shape, rows.dtype


def _lengths_differ(name: str, first: int, row: int, length: int) -> ValueError:
    return ValueError(
        f"{name} must have rows of one length, got {first} values in {name}[0] and {length} in {name}[{row}]"
    )


def _is_null(row: Any) -> bool:
    """None, NaN, or pandas' NA and NaT, which like NaN are not equal to themselves, or do not say whether."""
    if row is None or isinstance(row, float):
        return row is None or row != row
    return type(row).__name__ in ("NAType", "NaTType")


# --- Arrow


def _has_arrow_lists(x: Any) -> bool:
    """Whether x is a column of Arrow lists, or a table that has one, or offers Arrow's protocol and no other."""
    kind = type(x)
    if not (hasattr(x, "__arrow_c_array__") or hasattr(x, "__arrow_c_stream__")):
        return False
    if hasattr(kind, "schema"):  # a dict in polars, and in pyarrow something with a list of types
        types = getattr(x.schema, "types", None) or x.schema.values()
        return any(map(_is_list, types))
    if not hasattr(x, "__array__"):
        return True
    return _is_list(x.type) if hasattr(kind, "type") else hasattr(kind, "dtype") and _is_list(x.dtype)


def _is_list(data_type: Any) -> bool:
    """Whether a type of pyarrow's or polars' is one of lists; an index of a dictionary has a value_type too."""
    nested = hasattr(data_type, "value_type") or hasattr(data_type, "inner")
    return nested and not hasattr(data_type, "index_type")


def _opened_arrow(x: Any, name: str) -> Rows:
    try:
        import pyarrow
    except ImportError as error:
        if hasattr(x, "__array__"):
            return _opened_by_numpy(x, name)  # as objects: slower
        what = f"{name} is a {type(x).__name__} that offers Arrow's protocol, which pyarrow reads"
        raise MissingExtraError(f"{what}; get it with: pip install 'polarindex[files]'") from error
    array = pyarrow.chunked_array(x) if hasattr(x, "__arrow_c_stream__") else pyarrow.array(x)
    if pyarrow.types.is_struct(array.type):
        table = pyarrow.Table.from_struct_array(array)
        lists = [field.name for field in table.schema if _is_list(field.type)]
        if len(lists) > 1:
            names = ", ".join(map(repr, lists))
            raise TypeError(f"{name} must have one column of lists, got a table of {names}; pass one of them")
        array = table.column(lists[0]) if lists else table
    if not _is_list(array.type if not isinstance(array, pyarrow.Table) else None):
        return _opened_by_numpy(array, name)
    if array.null_count:
        row = int(np.asarray(array.is_null()).argmax())
        raise ValueError(f"{name}[{row}] is null (first of {array.null_count} such rows)")
    return _ArrowLists(array, _arrow_width(array, name))


def _arrow_width(array: Any, name: str) -> int:
    """The length of every list of an Arrow array."""
    if hasattr(array.type, "list_size"):
        return int(array.type.list_size)
    from pyarrow import compute

    lengths = np.asarray(compute.list_value_length(array))
    other = np.flatnonzero(lengths != lengths[:1])
    if len(other):
        row = int(other[0])
        raise _lengths_differ(name, lengths[0], row, lengths[row])
    return int(lengths[0]) if len(lengths) else 0


# --- in memory


def _opened_tensor(x: Any, name: str) -> Rows:
    """A torch tensor as an array on the same memory, or as slices where NumPy lacks its type."""
    if str(x.device) != "cpu":
        raise TypeError(f"{name} must be in the CPU's memory, got a tensor on {x.device}; pass {name}.cpu()")
    tensor = x.detach()
    if str(tensor.dtype).startswith(("torch.bfloat16", "torch.float8_")):
        return _Converted(tensor)
    return _array_of(x, name, tensor.numpy)


def _opened_dlpack(x: Any, name: str) -> Rows:
    device, number = x.__dlpack_device__()
    if device not in _HOST:
        what = f"{type(x).__name__} on DLPack's device {int(device)}:{int(number)}"
        raise TypeError(f"{name} must be in the CPU's memory, got {what}; copy it there first")
    return _array_of(x, name, lambda: np.from_dlpack(x))


def _opened_by_numpy(x: Any, name: str) -> Rows:
    listed = isinstance(x, (list, tuple))
    if listed and len(x) and hasattr(x[0], "shape") and not isinstance(x[0], (np.ndarray, np.generic)):
        return rows_of_objects(_objects(x), name)  # tensors and the like, which NumPy would take apart
    try:
        return np.asarray(x)
    except ValueError as error:
        if "inhomogeneous" not in str(error) or not listed:
            raise ValueError(f"{name} must be an array of numbers, got {_failed(x, error)}") from None
        return _Stacked(_objects(x), name)  # which says which row it is
    except (TypeError, OverflowError, RuntimeError) as error:
        raise TypeError(f"{name} must be an array of numbers, got {_failed(x, error)}") from None


def _objects(x: Any) -> NDArray[np.object_]:
    """The items of a list (n,) as objects."""
    out = np.empty(len(x), object)
    for at, item in enumerate(x):
        out[at] = item
    return out


def _array_of(x: Any, name: str, convert: Callable[[], Any]) -> Rows:
    try:
        return np.asarray(convert())
    except (TypeError, RuntimeError, BufferError, ValueError) as error:
        raise TypeError(f"{name} must be an array of numbers, got {_failed(x, error)}") from None


def _failed(x: Any, error: Exception) -> str:
    """What a wrong argument `x` is, and in one line why it is no array."""
    return f"{type(x).__name__} ({str(error).split(chr(10), 1)[0]})"
