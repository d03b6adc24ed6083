"""The public door: every argument is checked here, once, and errors say what came and what was wanted.

Law:       values equal `x.astype(float32)`; a row that float32 cannot hold is an error, never a silent inf.
Why:       sets may be larger than memory, so rows are read, converted and checked a chunk at a time; float32
           memory is handed on as it is.
Not here:  other libraries' arrays (arrays.py); zero vectors, which only the cosine metric forbids (vectors.py)."""

from __future__ import annotations

import math
import numbers
from collections import Counter
from collections.abc import Iterable, Iterator
from operator import index as as_index
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polarindex.arrays import first_odd, is_real, opened, rows_of_objects

CHUNK_ROWS, CHUNK_BYTES = 4096, 2**21  # of float32: a chunk stays in a cache while it is read again
LARGEST_ID = 2**63 - 2  # 2**63 - 1 marks an empty place in a search
LARGEST_INTEGER = 2**24  # float32 holds every integer up to here, and not the next one


class VectorSource:
    """Rows of float32 behind any array: read, converted and checked when they are asked for.

    Attributes
    ----------
    name : the argument's name, for messages.
    n, dim : rows and columns.
    single : True where the caller passed one vector (dim,), which is held as one row.
    first : the number that messages give the first row.
    rows : what is behind it (arrays.Rows), unchecked.
    """

    __slots__ = ("dim", "first", "n", "name", "rows", "single")

    def __init__(self, rows: Any, name: str, single: bool = False, first: int = 0) -> None:
        self.rows = rows  # .shape (n, dim), and rows[start:stop] is an array
        self.name, self.single, self.first = name, single, first
        self.n, self.dim = rows.shape

    def chunks(
        self, rows: int | None = None, first: int = 0, stop: int | None = None, *, finite: bool = True
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield (start, (m, dim) float32 C-contiguous) with m <= rows, in order; by default what fits a cache.

        A chunk may be the caller's own memory: never write into it.

        Parameters
        ----------
        rows : of a chunk, at most
        first, stop : which rows
        finite : False where the caller looks for NaN and inf itself, and reads a chunk that has any again

        Raises
        ------
        ValueError
            A row holds NaN or inf, a float64 beyond float32's range, or an integer beyond 2**24 in magnitude.
        """
        if rows is None:
            rows = max(16, min(CHUNK_ROWS, CHUNK_BYTES // (4 * self.dim)) // 16 * 16)
        stop = self.n if stop is None else stop
        for start in range(first, stop, rows):
            raw = np.asarray(self.rows[start : min(start + rows, stop)])
            chunk = _as_float32(raw)
            if (finite or raw.dtype.kind in "iu") and not _fits(raw, chunk):
                self._reject(start, rows)
            yield start, chunk

    def array(self) -> NDArray[np.float32]:
        """All rows (n, dim) float32 C-contiguous, checked as in `chunks`; maybe the caller's own memory."""
        if _is_plain(self.rows):
            for _ in self.chunks():  # only the checks
                pass
            return self.rows
        out = np.empty((self.n, self.dim), np.float32)
        for start, chunk in self.chunks():
            out[start : start + len(chunk)] = chunk
        return out

    def _reject(self, start: int, rows: int) -> None:
        """Raise for the first bad row at or after `start`, having read the rest to count the rows like it."""
        first: tuple[int, str] | None = None
        counts: Counter[str] = Counter()
        for begin in range(start, self.n, rows):
            faults = _faults(np.asarray(self.rows[begin : begin + rows]))
            counts.update({fault: int(bad.sum()) for fault, bad in faults.items()})
            found = [(begin + int(bad.argmax()), fault) for fault, bad in faults.items() if bad.any()]
            first = first or min(found, default=None)
        if first is None:
            raise ValueError(f"{self.name} changed while it was read")
        row, fault = first
        where = self.name if self.single else f"{self.name}[{self.first + row}]"
        count = "" if self.single else f" ({'first of ' * (counts[fault] > 1)}{counts[fault]} such rows)"
        raise ValueError(f"{where} {fault}{count}")


def vectors(x: Any, name: str, dim: int | None = None, *, single: bool = False, first: int = 0) -> VectorSource:
    """Check what can be seen without reading the values, and return the rows of `x` as a `VectorSource`.

    Parameters
    ----------
    x : (n, d) real numbers: a NumPy array of any layout and any float or integer type (memory-mapped too),
        nested lists, an h5py data set (read a chunk at a time), a CPU tensor of any library, a column of lists or
        arrays of Arrow, polars or pandas, or anything with one of NumPy's, DLPack's or Arrow's protocols. bfloat16
        and narrower floats are welcome.
    name : the argument's name, for messages.
    dim : the wanted d, or None for any.
    single : whether one vector (d,) is welcome too.
    first : the number of the first row, for messages, where `x` is a part of something.

    Raises
    ------
    TypeError
        `x` does not hold real numbers, or is not in the CPU's memory.
    ValueError
        The shape is wrong.
    """
    rows = x if type(x) is np.ndarray else opened(x, name)
    if not is_real(rows.dtype):
        rows = _of_objects(x, rows, name)
    shape = rows.shape
    alone = single and len(shape) == 1
    if alone:
        rows = np.asarray(rows[:])[None]
    elif len(shape) != 2:
        wanted = "(d,) or (n, d)" if single else "(n, d)"
        raise ValueError(f"{name} must have shape {wanted}, got {shape}")
    columns = shape[-1]
    if columns == 0:
        raise ValueError(f"{name} must have at least one column, got shape {shape}")
    if dim is not None and columns != dim:
        raise ValueError(f"{name} has {columns} columns but dim={dim} is wanted")
    return VectorSource(rows, name, alone, first)


def integer(value: Any, name: str, low: int | None = None, high: int | None = None) -> int:
    """`value` as int: any integer type but bool, from low to high (both included)."""
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    try:
        number = as_index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {_shown(value)}") from None
    if (low is not None and number < low) or (high is not None and number > high):
        raise ValueError(f"{name} must be {_range(low, high)}, got {number}")
    return number


def real(value: Any, name: str, low: float | None = None, high: float | None = None) -> float:
    """`value` as a finite float from low to high (both included)."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a real number, got {_shown(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {number}")
    if (low is not None and number < low) or (high is not None and number > high):
        raise ValueError(f"{name} must be {_range(low, high)}, got {number}")
    return number


def choice(value: Any, name: str, options: Iterable[str]) -> str:
    """`value`, which must be one of `options`."""
    options = tuple(options)
    if isinstance(value, str) and value in options:
        return value
    error = ValueError if isinstance(value, str) else TypeError
    raise error(f"{name} must be one of {', '.join(map(repr, options))}; got {_shown(value)}")


def flag(value: Any, name: str) -> bool:
    """`value` as bool: True or False, not a number."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {_shown(value)}")
    return bool(value)


def id_array(ids: Any, name: str, n: int | None = None) -> NDArray[np.int64]:
    """Ids (n,) int64 C-contiguous, all >= 0; maybe the caller's own memory. `n`: the length, if fixed."""
    source = ids if type(ids) is np.ndarray else opened(ids, name)
    empty_list = source.shape == (0,) and isinstance(ids, (list, tuple))  # which NumPy takes for floats
    if source.dtype.kind not in "iu" and not empty_list:
        raise TypeError(f"{name} must hold integers, got {_kind(ids, source)}")
    if len(source.shape) != 1:
        raise ValueError(f"{name} must have shape (n,), got {source.shape}")
    array = np.asarray(source[:])
    if n is not None and len(array) != n:
        raise ValueError(f"{name} must have {n} entries, got {len(array)}")
    if array.size and (array.min() < 0 or array.max() > LARGEST_ID):
        bad = (array < 0) | (array > LARGEST_ID)
        first, count = int(bad.argmax()), int(bad.sum())
        such = f"({'first of ' * (count > 1)}{count} such ids)"
        raise ValueError(f"{name}[{first}] must be from 0 to 2**63 - 2, got {array[first]} {such}")
    return array if _is_plain(array, np.int64) else np.array(array, np.int64, order="C")


def strings(values: Any, name: str, n: int | None = None, optional: bool = False) -> list[Any]:
    """`values` as a list of str, each of which UTF-8 can hold. `n`: the length, if fixed.

    optional : None is welcome in place of a string, and in place of all of them.
    """
    if optional and values is None:
        return [None] * (n or 0)
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a sequence of strings, got {_shown(values)}")
    out: list[Any] = []
    for at, value in enumerate(values):
        if not isinstance(value, str) and not (optional and value is None):
            raise TypeError(f"{name}[{at}] must be a string{' or None' * optional}, got {_shown(value)}")
        try:
            if value is not None:
                value.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{name}[{at}] is not text that UTF-8 can hold: {error.reason}") from None
        out.append(value if value is None else str(value))
    if n is not None and len(out) != n:
        raise ValueError(f"{name} must have {n} entries, got {len(out)}")
    return out


def unique_ids(ids: NDArray[np.int64], name: str) -> None:
    """Raise ValueError for the first of ids (n,) int64 that was there before."""
    if (ids[1:] > ids[:-1]).all():
        return
    order = np.argsort(ids, kind="stable")
    repeats = order[1:][ids[order[1:]] == ids[order[:-1]]]
    if len(repeats):
        second = int(repeats.min())
        first = int((ids == ids[second]).argmax())
        raise ValueError(f"{name} must be unique, got {ids[second]} at positions {first} and {second}")


def _of_objects(x: Any, rows: Any, name: str) -> Any:
    """The rows that the objects in `rows`, as x was opened, are each; TypeError where it does not hold real numbers."""
    found = rows_of_objects(rows, name)
    if is_real(found.dtype):
        return found
    odd, hint = first_odd(rows), ""
    if odd is not None:
        hint = f"; {name}[{odd[0]}] holds {_shown(odd[1])}"
    elif rows.dtype.kind == "O" and rows.shape and hasattr(x, "astype"):
        hint = f"; pass {name}.astype('float64')"
    raise TypeError(f"{name} must hold real numbers, got {_kind(x, rows)}{hint}")


def _kind(x: Any, rows: Any) -> str:
    """What a wrong argument `x` is, for a message; `rows` is how it was opened."""
    return f"{type(x).__name__} of dtype {rows.dtype}" if rows.shape else type(x).__name__


def _is_plain(array: Any, dtype: type = np.float32) -> bool:
    """Whether kernels can take the array as it is. Not if read-only: to Numba that is another type, for which
    it would compile every kernel a second time."""
    return type(array) is np.ndarray and array.dtype == dtype and array.flags.carray


def _as_float32(rows: NDArray[Any]) -> NDArray[np.float32]:
    if _is_plain(rows):
        return rows
    with np.errstate(all="ignore"):  # what overflows is found and named by `_fits`
        return np.array(rows, np.float32, order="C")


def _fits(raw: NDArray[Any], chunk: NDArray[np.float32]) -> bool:
    """Whether chunk, the float32 form of raw, holds its values: finite, and integers exact."""
    if raw.dtype.kind not in "iu":
        return bool(np.isfinite(chunk).all())
    if raw.dtype.itemsize <= 2 or not raw.size:
        return True
    return bool(raw.max() <= LARGEST_INTEGER and raw.min() >= -LARGEST_INTEGER)


def _faults(raw: NDArray[Any]) -> dict[str, NDArray[np.bool_]]:
    """What can be wrong with rows raw (m, d), each with a mask (m,) of the rows it is true of."""
    if raw.dtype.kind in "iu":
        beyond = np.any((raw > LARGEST_INTEGER) | (raw < -LARGEST_INTEGER), axis=1)
        return {"holds an integer beyond 2**24, which float32 cannot hold exactly": beyond}
    chunk = _as_float32(raw)
    missing = np.any(~np.isfinite(raw if raw.dtype.kind == "f" else chunk), axis=1)
    return {"is not finite": missing, "overflows float32": ~missing & np.any(~np.isfinite(chunk), axis=1)}


def _range(low: float | None, high: float | None) -> str:
    if high is None:
        return f"at least {low}"
    return f"at most {high}" if low is None else f"from {low} to {high}"


def _shown(value: Any) -> str:
    """A short text of a value for a message; its type too, unless the text makes that plain."""
    if value is None or isinstance(value, (bool, str)):
        text = repr(value)
        return text if len(text) <= 60 else f"{text[:57]}..."
    if isinstance(value, numbers.Number):
        return f"{value} ({type(value).__name__})"
    return f"a {type(value).__name__}"
