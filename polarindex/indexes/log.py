"""A log: what changed since a segment was written, a record for every sync, appended and never changed.

    record     a header of 24 bytes: b"polarlog", then the bytes of the text and of the arrays, uint64 little-endian
               the text: JSON in UTF-8, {"rows": n, "state": {...}, "arrays": [names]}
               the arrays: .npy files (version 1.0) one after the other

Law:       the manifest says how long the log is and what all its bytes sum up to, so a record is there or it is not.
           What lies beyond that length is a torn record, ignored here and cut off by the next. Before anything is
           allocated its length is compared with what is there.
Not here:  what a record means (`Index._saved_changes` and `_restore_changes`)."""

from __future__ import annotations

import io
import json
import math
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import xxhash
from numpy.typing import DTypeLike, NDArray

from polarindex import checks
from polarindex.errors import FormatError
from polarindex.indexes import durable, manifest
from polarindex.indexes.saved import Saved
from polarindex.memory import aligned_copy

_HEADER, _MAGIC = struct.Struct("<8sQQ"), b"polarlog"
_MOST_TEXT = 1 << 16  # bytes: states are hundreds
_MOST_NPY_HEADER = 1 << 14
_CHUNK = 1 << 20


class Log(NamedTuple):
    """The part of a log that is durable.

    digest : the running checksum of its bytes, never updated in place
    """

    name: str
    bytes: int
    records: int
    digest: Any

    @property
    def entry(self) -> dict[str, Any]:
        """What the manifest has of it."""
        checksum = self.digest.hexdigest()
        return {"name": self.name, "bytes": self.bytes, "records": self.records, "checksum": checksum}


def empty() -> Log:
    """A new log, of which no file is made before the first record."""
    return Log(manifest.new_name("log"), 0, 0, xxhash.xxh3_64())


# --- writing


def append(folder: Path, log: Log, saved: Saved) -> Log:
    """The log with one record more, on the disk; it counts once the manifest has its length.

    Raises
    ------
    FormatError
        The file is shorter than it was.
    OSError
        The log is as before, but for bytes beyond its length.
    """
    parts = _encoded(saved)
    digest = log.digest.copy()
    for part in parts:
        digest.update(part)
    path = folder / log.name
    with open(path, "r+b" if log.bytes else "wb") as out:
        there = os.fstat(out.fileno()).st_size
        if there < log.bytes:
            raise FormatError(f"{path} is damaged: it has {there} bytes, wanted {log.bytes}")
        try:
            out.truncate(log.bytes)
            out.seek(log.bytes)
            out.writelines(parts)
            durable.sync(out)
        except BaseException:
            with suppress(OSError):  # room again, where the disk was full; else the next record does it
                os.truncate(path, log.bytes)
            raise
    if not log.bytes:
        durable.sync_directory(folder)
    return Log(log.name, log.bytes + sum(map(len, parts)), log.records + 1, digest)


def _encoded(saved: Saved) -> list[bytes | memoryview]:
    """The parts of a record, the arrays' own memory among them."""
    arrays: list[bytes | memoryview] = []
    for saved_array in saved.arrays.values():
        (part,) = saved_array.parts
        array, head = np.ascontiguousarray(part), io.BytesIO()
        np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(array))
        arrays += head.getvalue(), array.reshape(-1).view(np.uint8).data
    told = {"rows": saved.rows, "state": saved.state, "arrays": list(saved.arrays)}
    text = json.dumps(told, separators=(",", ":")).encode()
    return [_HEADER.pack(_MAGIC, len(text), sum(map(len, arrays))), text, *arrays]


# --- reading


class Record(NamedTuple):
    """What one sync wrote: as `Saved`, but its arrays are read by calling it (saved.Read).

    where : for messages
    """

    where: str
    rows: int
    state: dict[str, Any]
    arrays: dict[str, NDArray[Any]]

    @property
    def mapped(self) -> bool:
        return False

    def __call__(self, name: str, shape: tuple[int, ...], dtype: DTypeLike, in_memory: bool = False) -> NDArray[Any]:
        array = self.arrays.get(name)
        if array is None or array.shape != shape or array.dtype != dtype:
            got = "nothing" if array is None else f"{array.dtype} {array.shape}"
            raise FormatError(f"{self.where} holds {got} as {name}, wanted {np.dtype(dtype)} {shape}")
        return aligned_copy(array)


def checked(folder: Path, entry: dict[str, Any], held: Log) -> Log:
    """The log that a manifest's entry tells of, of which `held` is the beginning.

    FormatError where the bytes after it are not those that were written.
    """
    path, digest, missing = folder / entry["name"], held.digest.copy(), entry["bytes"] - held.bytes
    if not path.is_file():
        raise FormatError(f"{path} is missing")
    with open(path, "rb") as file:
        file.seek(held.bytes)
        while missing:
            part = file.read(min(_CHUNK, missing))
            if not part:
                raise FormatError(f"{path} is damaged: {missing} of its {entry['bytes']} bytes are missing")
            digest.update(part)
            missing -= len(part)
    log = Log(entry["name"], entry["bytes"], entry["records"], digest)
    if log.entry["checksum"] != entry["checksum"]:
        raise FormatError(f"{path} is damaged: its checksum does not match the manifest")
    return log


def records(folder: Path, held: Log, log: Log) -> Iterator[Record]:
    """The records of a checked log that come after those of `held`; FormatError where one is not as specified."""
    path, at = folder / log.name, held.bytes
    with open(path, "rb") as file:
        file.seek(at)
        for number in range(held.records, log.records):
            where = f"{path}, record {number}"
            try:
                record, length = _decoded(file, log.bytes - at, where)
            except FormatError:
                raise
            except Exception as error:  # NumPy's header parser lets many kinds through: SyntaxError, TokenError, ...
                raise FormatError(f"{where} is damaged: {error!r}") from error
            at += length
            yield record
    if at != log.bytes:
        raise FormatError(f"{path} is damaged: its {log.records} records take {at} bytes of {log.bytes}")


def _decoded(file: IO[bytes], available: int, where: str) -> tuple[Record, int]:
    """The record that begins here, and its length, which is no more than what is available."""
    magic, text_bytes, array_bytes = _HEADER.unpack(file.read(min(_HEADER.size, available)))
    length = _HEADER.size + text_bytes + array_bytes
    if magic != _MAGIC or text_bytes > _MOST_TEXT or length > available:
        raise ValueError(f"a header of {magic!r}, {text_bytes} and {array_bytes} bytes, where {available} are left")
    told = json.loads(file.read(text_bytes))
    names = told["arrays"]
    rows = checks.integer(told["rows"], "rows", low=0)
    content, at, arrays = file.read(array_bytes), 0, {}
    for name in names:
        arrays[name], at = _array(content, at)
    if at != len(content) or len(content) != array_bytes or not isinstance(told["state"], dict):
        raise ValueError(f"its arrays take {at} bytes, wanted {array_bytes}")
    return Record(where, rows, told["state"], arrays), length


def _array(content: bytes, at: int) -> tuple[NDArray[Any], int]:
    """The array whose .npy file begins at a byte, a view, and where it ends."""
    head = io.BytesIO(content[at : at + _MOST_NPY_HEADER])
    if np.lib.format.read_magic(head) != (1, 0):
        raise ValueError("an array is of another version of NumPy's format")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(head)
    begin = at + head.tell()
    size = math.prod(shape) * dtype.itemsize
    if fortran_order or dtype.hasobject or min(shape, default=0) < 0 or not 0 <= size <= len(content) - begin:
        raise ValueError(f"an array of {dtype} {shape}, where {len(content) - begin} bytes are left")
    return np.frombuffer(content, dtype, math.prod(shape), begin).reshape(shape), begin + size
