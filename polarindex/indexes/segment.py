"""A segment: all of an index as it was once, a folder of .npy files with checksums. Written once, never changed.

Law:       a segment that a manifest names is on the disk whole; a file is read only where its length, and on request
           every block of it, is as its manifest has it.
Not here:  what the arrays are (`Index._saved` and `_restore`); what changed since (log.py)."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash
from numpy.typing import DTypeLike, NDArray

from polarindex.errors import FormatError
from polarindex.indexes import durable, manifest
from polarindex.indexes.base import Index
from polarindex.indexes.manifest import BLOCK_BYTES, Manifest
from polarindex.memory import aligned_copy

_CHECKSUMS = "checksums.npy"


# --- writing


def replace(index: Index, folder: Path) -> Manifest:
    """Make a directory this index, durably: a new segment, then the manifest that names it, which is returned."""
    written = write(index, folder)
    put(folder, written)
    return written


def write(index: Index, folder: Path) -> Manifest:
    """Write a new segment and return the manifest that names it, which is not yet in its place."""
    name = manifest.new_name("segment")
    place = folder / name
    try:
        place.mkdir()
        saved = index._saved()
        files, checksums = {}, [np.empty(0, np.uint64)]
        for array, (shape, dtype, parts) in saved.arrays.items():
            file = f"{array}.npy"
            length, blocks = _write_checked(place / file, _header(shape, dtype), parts)
            files[file] = {"bytes": length, "checksum": digest(blocks)}
            checksums.append(blocks)
        with open(place / _CHECKSUMS, "wb") as out:
            np.save(out, np.concatenate(checksums))
            durable.sync(out)
        durable.sync_directory(place)
        durable.sync_directory(folder)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise
    return manifest.sealed(
        {
            "format": manifest.FORMAT,
            "version": manifest.WITHOUT_LOG,
            "kind": index.kind,
            "parameters": index.parameters(),
            "state": saved.state,
            "layout": _layout(index),
            "block_bytes": BLOCK_BYTES,
            "segments": [{"name": name, "rows": saved.rows, "files": files}],
        }
    )


def put(folder: Path, written: Manifest) -> None:
    """Put the manifest of a new segment in its place; where that fails the segment is removed."""
    try:
        manifest.put(folder, written)
    except BaseException:
        if not manifest.holds(folder, written):
            shutil.rmtree(folder / manifest.segment(written)["name"], ignore_errors=True)
        raise


def _layout(index: Index) -> list[dict[str, Any]]:
    """Words of each stage, for readers of the files."""
    return [{"dims": stage.map.dims, "words": stage.layout.words} for stage in index.quantizer.stages]


def _header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> dict[str, Any]:
    return {"shape": shape, "fortran_order": False, "descr": np.lib.format.dtype_to_descr(dtype)}


def _write_checked(
    path: Path, header: dict[str, Any], parts: Iterable[NDArray[Any]]
) -> tuple[int, NDArray[np.uint64]]:
    """Write a .npy file and sync it; returns its length and the checksum of every block of it."""
    blocks: list[int] = []
    pending = bytearray()
    length = 0
    with open(path, "w+b") as out:
        np.lib.format.write_array_header_1_0(out, header)
        out.seek(0)
        pending += out.read()
        for part in parts:
            data = np.ascontiguousarray(part).reshape(-1).view(np.uint8).data
            out.write(data)
            for at in range(0, len(data), BLOCK_BYTES):
                pending += data[at : at + BLOCK_BYTES]
                while len(pending) >= BLOCK_BYTES:
                    blocks.append(xxhash.xxh3_64_intdigest(pending[:BLOCK_BYTES]))
                    length += BLOCK_BYTES
                    del pending[:BLOCK_BYTES]
        if pending:
            blocks.append(xxhash.xxh3_64_intdigest(bytes(pending)))
            length += len(pending)
        durable.sync(out)
    return length, np.array(blocks, np.uint64)


# --- reading


def digest(blocks: NDArray[np.uint64]) -> str:
    """The checksum of a file's checksums."""
    return xxhash.xxh3_64_hexdigest(blocks.astype("<u8").tobytes())


def verify(folder: Path, segment: dict[str, Any]) -> None:
    """Compare every block of every file with its checksum; FormatError names the first file and block that differ."""
    stored = _read_npy(folder / _CHECKSUMS, False)
    at = 0
    for file, facts in segment["files"].items():
        path = folder / file
        count = -(-facts["bytes"] // BLOCK_BYTES)
        wanted = stored[at : at + count]
        at += count
        if len(wanted) != count or digest(wanted) != facts["checksum"]:
            raise FormatError(f"{folder / _CHECKSUMS} is damaged: its checksums of {file} do not match the manifest")
        _check_length(path, facts)
        with open(path, "rb") as data:
            for number in range(count):
                if xxhash.xxh3_64_intdigest(data.read(BLOCK_BYTES)) != int(wanted[number]):
                    raise FormatError(f"{path} is damaged: block {number} of {count} does not match its checksum")


def _check_length(path: Path, facts: dict[str, Any]) -> None:
    if not path.is_file():
        raise FormatError(f"{path} is missing")
    if path.stat().st_size != facts["bytes"]:
        raise FormatError(f"{path} is damaged: it has {path.stat().st_size} bytes, wanted {facts['bytes']}")


class Reader(NamedTuple):
    """Reads the arrays of a segment; see saved.Read."""

    folder: Path
    segment: dict[str, Any]
    mapped: bool

    def __call__(self, name: str, shape: tuple[int, ...], dtype: DTypeLike, in_memory: bool = False) -> NDArray[Any]:
        file = f"{name}.npy"
        array = _read_array(self.folder, file, self.segment, self.mapped and not in_memory)
        if array.shape != shape or array.dtype != dtype or not array.flags.c_contiguous:
            got = f"{array.dtype} {array.shape}{'' if array.flags.c_contiguous else ' in column order'}"
            raise FormatError(f"{self.folder / file} holds {got}, wanted {np.dtype(dtype)} {shape}")
        return array


def _read_array(folder: Path, file: str, segment: dict[str, Any], mmap: bool) -> NDArray[Any]:
    if file not in segment["files"]:
        raise FormatError(f"{folder} has no {file}, which this index needs")
    _check_length(folder / file, segment["files"][file])
    return _read_npy(folder / file, mmap)


def _read_npy(path: Path, mmap: bool) -> NDArray[Any]:
    if not path.is_file():
        raise FormatError(f"{path} is missing")
    try:
        mapped = np.load(path, mmap_mode="c", allow_pickle=False)  # begins on a cache line, as the format has it
        return mapped if mmap else aligned_copy(mapped)
    except Exception as error:  # NumPy's header parser lets many kinds through: SyntaxError, TokenError, ...
        raise FormatError(f"{path} is damaged: {str(error).splitlines()[0] if str(error) else error!r}") from error
