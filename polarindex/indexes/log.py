"""A log: what changed since a segment was written, a record for every sync, appended and never changed.

    record     a header of 24 bytes: b"polarlog", then the bytes of the text and of the arrays, uint64 little-endian
               the text: JSON in UTF-8, {"rows": n, "state": {...}, "arrays": {name: bytes, ...}}
               the arrays: .npy files (version 1.0) one after the other

Law:       the manifest says how long the log is and what all its bytes sum up to, so a record is there or it is not.
           What lies beyond that length is a torn record, ignored here and cut off by the next. Files are read without
           trust (reading.py): before anything is allocated its length is compared with what is there, and the bytes
           that are taken are those that were checked, though they are read a second time.
Not here:  what a record means (`Index._saved_changes` and `_restore_changes`)."""

from __future__ import annotations

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
from polarindex.indexes import durable, manifest, reading
from polarindex.indexes.reading import Finding
from polarindex.indexes.saved import Saved
from polarindex.memory import aligned_copy

_HEADER, _MAGIC = struct.Struct("<8sQQ"), b"polarlog"
_MOST_TEXT = 1 << 16  # bytes: states are hundreds
_CHUNK = 1 << 20

Sums = list[int]  # of every _CHUNK of what was checked


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
    with durable.naming(path), _opened(path, log.bytes) as out:
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


def _opened(path: Path, wanted: int) -> IO[bytes]:
    """A log of at least so many bytes, to be written; a new one for none, in place of what a failed sync has left."""
    if not wanted:
        path.unlink(missing_ok=True)
        return open(path, "xb")
    out = reading.open_for_change(path)
    there = os.fstat(out.fileno()).st_size
    if there < wanted:
        out.close()
        raise FormatError(f"{path} is damaged: it has {there} bytes, wanted {wanted}")
    return out


def _encoded(saved: Saved) -> list[bytes | memoryview]:
    """The parts of a record, the arrays' own memory among them."""
    parts: list[bytes | memoryview] = []
    lengths = {}
    for name, (shape, dtype, (array,)) in saved.arrays.items():
        parts += reading.header(shape, dtype), np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        lengths[name] = len(parts[-2]) + len(parts[-1])
    told = {"rows": saved.rows, "state": saved.state, "arrays": lengths}
    text = json.dumps(told, separators=(",", ":")).encode()
    return [_HEADER.pack(_MAGIC, len(text), sum(lengths.values())), text, *parts]


# --- reading


class Record:
    """What one sync wrote: as `Saved`, but its arrays are read by calling it (saved.Read).

    where : for messages
    """

    mapped = False

    def __init__(self, where: str, rows: int, state: dict[str, Any], arrays: dict[str, memoryview]) -> None:
        self.where, self.rows, self.state = where, rows, state
        self._arrays, self._unread = arrays, set(arrays)

    def __call__(self, name: str, shape: tuple[int, ...], dtype: DTypeLike, in_memory: bool = False) -> NDArray[Any]:
        wanted, where = reading.header(shape, np.dtype(dtype)), f"{self.where}, {name}"
        data = self._arrays.get(name)
        if data is None:
            raise FormatError(f"{self.where} has no {name}, which this index needs")
        self._unread.discard(name)
        start = reading.header_length(bytes(data[: 1 << 16]), where, wanted)
        count = math.prod(shape)
        if len(data) != start + count * np.dtype(dtype).itemsize:
            raise FormatError(f"{where} has {len(data)} bytes, which is not what {reading.shown(wanted)} takes")
        return aligned_copy(np.frombuffer(data, dtype, count, start).reshape(shape))

    def check_all_read(self) -> None:
        """FormatError where there is an array that nobody asked for: the record is of another index."""
        for name in sorted(self._unread):
            raise FormatError(f"{self.where} has {name}, which this index has no use for")


def checked(folder: Path, entry: dict[str, Any], held: Log) -> tuple[Log, Sums]:
    """The log that a manifest's entry tells of, of which `held` is the beginning; and what `records` needs.

    FormatError where the bytes after it are not those that were written.
    """
    path, digest, missing = folder / entry["name"], held.digest.copy(), entry["bytes"] - held.bytes
    sums = []
    with reading.open_regular(path) as file:
        file.seek(held.bytes)
        while missing > 0:
            part = file.read(min(_CHUNK, missing))
            if not part:
                raise FormatError(f"{path} is damaged: {missing} of its {entry['bytes']} bytes are missing")
            digest.update(part)
            sums.append(xxhash.xxh3_64_intdigest(part))
            missing -= len(part)
    log = Log(entry["name"], entry["bytes"], entry["records"], digest)
    if missing or log.entry["checksum"] != entry["checksum"]:
        raise FormatError(f"{path} is damaged: its checksum does not match the manifest")
    return log, sums


def findings(folder: Path, entry: dict[str, Any]) -> Iterator[Finding]:
    """What is wrong with the bytes of a log, and with how they are put together."""
    held = empty()._replace(name=entry["name"])
    try:
        log, sums = checked(folder, entry, held)
        for _ in records(folder, held, log, sums):
            pass
    except FormatError as error:
        yield Finding(folder / entry["name"], None, str(error))


def records(folder: Path, held: Log, log: Log, sums: Sums) -> Iterator[Record]:
    """The records of a checked log that come after those of `held`; FormatError where one is not as specified."""
    path, at = folder / log.name, held.bytes
    with reading.open_regular(path) as file:
        file.seek(at)
        source = _Again(file, path, log.bytes - at, sums)
        for number in range(held.records, log.records):
            where = f"{path}, record {number}"
            try:
                record, length = _decoded(source, log.bytes - at, where)
            except FormatError:
                raise
            except (LookupError, RecursionError, TypeError, ValueError, struct.error) as error:
                raise FormatError(f"{where} is damaged: {str(error).splitlines()[0]}") from error
            at += length
            yield record
    if at != log.bytes:
        raise FormatError(f"{path} is damaged: its {log.records} records take {at} bytes of {log.bytes}")


class _Again:
    """Reads so many bytes of a file that were checked before, if they are still the same."""

    def __init__(self, file: IO[bytes], path: Path, available: int, sums: Sums) -> None:
        self._file, self._path, self._available, self._sums = file, path, available, iter(sums)
        self._ready = bytearray()

    def read(self, count: int) -> bytearray:
        """The next `count` bytes, no more than there are left."""
        while len(self._ready) < count:
            part = self._file.read(min(_CHUNK, self._available))
            if xxhash.xxh3_64_intdigest(part) != next(self._sums, None):
                raise FormatError(f"{self._path} changed while it was read")
            self._available -= len(part)
            self._ready += part
        taken = self._ready[:count]
        del self._ready[:count]
        return taken


def _decoded(source: _Again, available: int, where: str) -> tuple[Record, int]:
    """The record that begins here, and its length, which is no more than what is available."""
    magic, text_bytes, array_bytes = _HEADER.unpack(source.read(min(_HEADER.size, available)))
    length = _HEADER.size + text_bytes + array_bytes
    if magic != _MAGIC or text_bytes > _MOST_TEXT or length > available:
        raise ValueError(f"a header of {magic!r}, {text_bytes} and {array_bytes} bytes, where {available} are left")
    told = reading.of_type(dict, reading.parsed(bytes(source.read(text_bytes))), "the text")
    rows = checks.integer(told["rows"], "rows", low=0, high=reading.LARGEST)
    state = reading.of_type(dict, told["state"], "state")
    lengths = reading.of_type(dict, told["arrays"], "arrays")
    if sum(checks.integer(size, name, low=0) for name, size in lengths.items()) != array_bytes:
        raise ValueError(f"arrays of {sum(lengths.values())} bytes, wanted {array_bytes}")
    content, arrays, at = memoryview(source.read(array_bytes)), {}, 0
    for name, size in lengths.items():
        arrays[name] = content[at : at + size]
        at += size
    return Record(where, rows, state, arrays), length
