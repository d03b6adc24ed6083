"""The files of a saved index, read without trust: they may be damaged, or made to do harm.

Law:       only a regular file in the index's own directory is opened: no link is followed, and nothing that blocks or
           acts when it is opened (pipes, devices). The header of an array must be, but for its padding, the one that
           NumPy writes for the shape and type wanted, and the file as long as these say: so no header is evaluated,
           and nothing in a file asks for more memory than the file has bytes.
           Blocks are checked in the memory that is then used, not in an earlier reading of the file.
           Of two equal keys in JSON readers take different ones, so there are none.
Not here:  the manifest's entries (manifest.py) and a log's records (log.py), which are read by these functions; what an
           array's values may be (each index's `_restore`)."""

from __future__ import annotations

import io
import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash
from numpy.typing import DTypeLike, NDArray

from polarindex.errors import FormatError
from polarindex.memory import LINE, aligned_zeros, require

BLOCK_BYTES = 1 << 20
CHECKSUMS = "checksums.npy"
LARGEST = 2**62  # of rows and bytes that a file may tell of
_BEGINNING = 1 << 16  # of a file: more than the longest header of NumPy's first version
_SHOWN = 120  # characters of a header in a message

Facts = Mapping[str, Mapping[str, Any]]  # file name -> its "bytes" and "checksum", as the manifest has them
Sums = NDArray[np.uint64]


class Finding(NamedTuple):
    """What is wrong with a saved index, in one place.

    path : the file
    block : which MiB of it, from 0; None where it is the file as a whole
    problem : a line that names both
    """

    path: Path
    block: int | None
    problem: str

    def __str__(self) -> str:
        return self.problem


class Segment:
    """The arrays of one segment, as `saved.Read`.

    folder : of the segment
    facts : its files, as the manifest has them
    mmap : whether arrays are mapped copy-on-write, but for those that are asked for `in_memory`
    verify : bool, optional
        True: compare all blocks with their checksums; False: none; None: those that are read, not those that are
        mapped.
    """

    def __init__(self, folder: Path, facts: Facts, mmap: bool, verify: bool | None) -> None:
        check_folder(folder)
        self._folder, self._facts, self._mmap, self._verify = folder, facts, mmap, verify
        self._unread = set(facts)
        self._sums = None if verify is False else stored_sums(folder, facts)

    def check_all_read(self) -> None:
        """FormatError where there is a file that nobody asked for: the manifest is of another index."""
        for file in sorted(self._unread):
            raise FormatError(f"{self._folder} has {file}, which this index has no use for")

    @property
    def mapped(self) -> bool:
        """Whether reading all of an array is worth avoiding: `verify` reads all there is."""
        return self._mmap and not self._verify

    def __call__(self, name: str, shape: tuple[int, ...], dtype: DTypeLike, in_memory: bool = False) -> NDArray[Any]:
        file = f"{name}.npy"
        if file not in self._facts:
            raise FormatError(f"{self._folder} has no {file}, which this index needs")
        path, nbytes = self._folder / file, self._facts[file]["bytes"]
        wanted = header(shape, np.dtype(dtype))
        sums = None if self._sums is None else self._sums[file]
        if sums is not None:
            check_sums(self._folder, file, self._facts[file], sums)
        self._unread.discard(file)
        with open_regular(path) as data:
            check_length(data, path, nbytes)
            start = check_header(data, path, wanted)
            if nbytes != start + math.prod(shape) * np.dtype(dtype).itemsize:
                raise FormatError(f"{path} is damaged: it has {nbytes} bytes, which is not what {shown(wanted)} takes")
            if in_memory or not self._mmap:
                require(nbytes, f"the bytes of {path}")
                room = aligned_zeros((nbytes,), np.uint8)
                _refuse(_bad_blocks(data, path, nbytes, sums, room))
                return room[start:].view(dtype).reshape(shape)
            if self._verify:
                _refuse(_bad_blocks(data, path, nbytes, sums))
            if nbytes == start:  # nothing can be mapped
                return aligned_zeros(shape, dtype)
            return np.memmap(data, dtype, "c", start, shape)


def findings(folder: Path, facts: Facts) -> Iterator[Finding]:
    """Everything that is wrong with the bytes of a segment."""
    try:
        check_folder(folder)
    except FormatError as error:
        yield Finding(folder, None, str(error))
        return
    stored: dict[str, Sums] = {}
    try:
        stored = stored_sums(folder, facts)
    except FormatError as error:
        yield Finding(folder / CHECKSUMS, None, str(error))
    for file, entry in facts.items():
        path, sums = folder / file, stored.get(file)
        if sums is not None:
            try:
                check_sums(folder, file, entry, sums)
            except FormatError as error:
                yield Finding(folder / CHECKSUMS, None, str(error))
                sums = None  # there is nothing to compare with
        try:
            with open_regular(path) as data:
                check_length(data, path, entry["bytes"])
                yield from _bad_blocks(data, path, entry["bytes"], sums)
        except FormatError as error:
            yield Finding(path, None, str(error))


# --- opening


def check_folder(folder: Path) -> None:
    """FormatError where `folder` is missing, a link, or no folder."""
    mode = _mode(folder)
    if not stat.S_ISDIR(mode):
        raise FormatError(f"{folder} is {_kind(mode)}, wanted a directory")


def open_regular(path: Path) -> io.BufferedReader:
    """Open a file for reading; FormatError where it is missing, a link, or no regular file.

    Raises OSError where it may not be read.
    """
    return open(path, "rb", opener=lambda *_: _opened(path, os.O_RDONLY))


def open_for_change(path: Path) -> io.BufferedRandom:
    """As `open_regular`, to read and overwrite what is there."""
    return open(path, "r+b", opener=lambda *_: _opened(path, os.O_RDWR))


def check_regular(path: Path) -> None:
    """FormatError where `path` is missing, a link, or no regular file."""
    _check_kind(path, _mode(path))


def _opened(path: Path, access: int) -> int:
    check_regular(path)
    # what was looked at may be another thing by now
    flags = access | sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
    handle = os.open(path, flags)
    try:
        _check_kind(path, os.fstat(handle).st_mode)
    except BaseException:
        os.close(handle)
        raise
    return handle


def read_all(path: Path, most: int) -> bytes:
    """The bytes of a file that has at most so many; FormatError otherwise, and as of `open_regular`."""
    with open_regular(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise FormatError(f"{path} has more than {most:,} bytes, the most that this version reads of such a file")
    return data


def _mode(path: Path) -> int:
    try:
        return os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise FormatError(f"{path} is missing") from None


def _check_kind(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise FormatError(f"{path} is {_kind(mode)}, wanted a regular file")


def _kind(mode: int) -> str:
    if stat.S_ISLNK(mode):
        return "a symbolic link, which may lead out of the index (copy what it leads to here: cp -RL)"
    if stat.S_ISDIR(mode):
        return "a directory"
    return "a file" if stat.S_ISREG(mode) else "a pipe, a socket or a device"


# --- JSON


def parsed(text: bytes) -> Any:
    """What a text in JSON says; ValueError or RecursionError where it is none, or has a key twice or NaN."""
    return json.loads(text.decode(), object_pairs_hook=_unrepeated, parse_constant=_no_number)


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise ValueError(f"a key is there twice among {', '.join(sorted(entries))[:99]}")
    return entries


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number in JSON")


def of_type(kind: type, value: Any, name: str) -> Any:
    """The value, if it is of just this type; else TypeError."""
    if type(value) is not kind:
        raise TypeError(f"{name} must be a {kind.__name__}, got a {type(value).__name__}")
    return value


# --- arrays


def header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    """How a .npy file of such an array begins: rows one after the other, and what follows at a multiple of 64 bytes."""
    out = io.BytesIO()
    about = {"shape": shape, "fortran_order": False, "descr": np.lib.format.dtype_to_descr(dtype)}
    np.lib.format.write_array_header_1_0(out, about)
    return out.getvalue()


def shown(beginning: bytes) -> str:
    """What a header says, for messages."""
    text = beginning[_PREFIX:].decode("latin-1").strip()
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


_MAGIC = np.lib.format.magic(1, 0)
_PREFIX = len(_MAGIC) + 2  # and the length of the text that follows, little-endian


def check_header(data: io.BufferedReader, path: Path, wanted: bytes) -> int:
    """Where the array begins in a file that is at its start; FormatError where it is another than wanted."""
    beginning = data.read(_BEGINNING)
    data.seek(0)
    return header_length(beginning, str(path), wanted)


def header_length(beginning: bytes, where: str, wanted: bytes) -> int:
    """The length of the header that some bytes begin with; FormatError where it is another than wanted."""
    length = _PREFIX + int.from_bytes(beginning[len(_MAGIC) : _PREFIX], "little")
    if not beginning.startswith(_MAGIC) or length > len(beginning) or length % LINE:
        raise FormatError(f"{where} is damaged: it does not begin as a .npy file of version 1.0 does")
    found = beginning[:length]
    if not found.endswith(b"\n") or found[_PREFIX:].rstrip() != wanted[_PREFIX:].rstrip():
        raise FormatError(f"{where} holds {ascii(shown(found))[1:-1]}, wanted {shown(wanted)}")
    return length


def check_length(data: io.BufferedReader, path: Path, nbytes: int) -> None:
    """FormatError where a file has another length."""
    found = os.fstat(data.fileno()).st_size
    if found != nbytes:
        raise FormatError(f"{path} is damaged: it has {found} bytes, wanted {nbytes}")


# --- checksums


def digest(sums: Sums) -> str:
    """The checksum of checksums, as the manifest has it."""
    return xxhash.xxh3_64_hexdigest(sums.astype("<u8").tobytes())


def stored_sums(folder: Path, facts: Facts) -> dict[str, Sums]:
    """What a segment says the checksums of every file's blocks are; `check_sums` tells whether to believe it."""
    counts = {file: -(-entry["bytes"] // BLOCK_BYTES) for file, entry in facts.items()}
    path, shape = folder / CHECKSUMS, (sum(counts.values()),)
    wanted = header(shape, np.dtype(np.uint64))
    with open_regular(path) as data:
        start = check_header(data, path, wanted)
        check_length(data, path, start + 8 * shape[0])
        data.seek(start)
        everything = np.frombuffer(data.read(8 * shape[0]), np.uint64)
    if everything.shape != shape:
        raise FormatError(f"{path} became shorter while it was read")
    ends = np.cumsum([0, *counts.values()])
    return {file: everything[start:end] for file, start, end in zip(counts, ends, ends[1:], strict=False)}


def check_sums(folder: Path, file: str, entry: Mapping[str, Any], sums: Sums) -> None:
    """FormatError where the checksums of a file's blocks are not those that the manifest was written with."""
    if digest(sums) != entry["checksum"]:
        raise FormatError(f"{folder / CHECKSUMS} is damaged: its checksums of {file} do not match the manifest")


def _bad_blocks(
    data: io.BufferedReader, path: Path, nbytes: int, sums: Sums | None, room: NDArray[np.uint8] | None = None
) -> Iterator[Finding]:
    """Read a file, into `room` (nbytes,) where that is given, and tell of the blocks that differ from their checksums.

    Without `sums` the file is only read.
    """
    count = -(-nbytes // BLOCK_BYTES)
    one = aligned_zeros((min(nbytes, BLOCK_BYTES),), np.uint8) if room is None else room
    data.seek(0)
    for number in range(count):
        start = number * BLOCK_BYTES
        size = min(BLOCK_BYTES, nbytes - start)
        block = one[:size] if room is None else room[start : start + size]
        if data.readinto(block.data) != size:
            yield Finding(path, number, f"{path} became shorter while it was read")
            return
        if sums is not None and xxhash.xxh3_64_intdigest(block.data) != int(sums[number]):
            problem = f"{path} is damaged: block {number} of {count} does not match its checksum"
            yield Finding(path, number, problem)


def _refuse(found: Iterator[Finding]) -> None:
    """FormatError with the first finding, if any."""
    for finding in found:
        raise FormatError(finding.problem)
