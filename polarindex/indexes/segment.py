"""Writing a segment: all of an index as it was once, a folder of .npy files with checksums, never changed again.

Law:       a segment that a manifest names is on the disk whole. One that none came to name is removed.
Not here:  reading it (reading.py); what the arrays are (`Index._saved` and `_restore`); what changed since (log.py)."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from polarindex.indexes import durable, manifest
from polarindex.indexes.base import Index
from polarindex.indexes.manifest import Manifest
from polarindex.indexes.reading import BLOCK_BYTES, CHECKSUMS, digest, header
from polarindex.indexes.saved import Saved


def replace(index: Index, folder: Path, saved: Saved | None = None) -> Manifest:
    """Make a directory this index, durably: a new segment, then the manifest that names it, which is returned.

    saved : what the index would be with other rows than its own, which are written in their place
    """
    written = write(index, folder, saved)
    put(folder, written)
    return written


def write(index: Index, folder: Path, saved: Saved | None = None) -> Manifest:
    """Write a new segment and return the manifest that names it, which is not yet in its place; `saved` as above."""
    name = manifest.new_name("segment")
    place = folder / name
    try:
        place.mkdir()
        saved = saved or index._saved()
        files = _write_arrays(saved, place)
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
            "parameters": index._saved_parameters(),
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


def _write_arrays(saved: Saved, place: Path) -> dict[str, Any]:
    """The files of a segment, synced; length and checksum of each."""
    files, checksums = {}, [np.empty(0, np.uint64)]
    for array, (shape, dtype, parts) in saved.arrays.items():
        file = f"{array}.npy"
        length, blocks = _write_checked(place / file, header(shape, dtype), parts)
        files[file] = {"bytes": length, "checksum": digest(blocks)}
        checksums.append(blocks)
    everything = np.concatenate(checksums)
    _write_checked(place / CHECKSUMS, header(everything.shape, everything.dtype), [everything])
    return files


def _layout(index: Index) -> list[dict[str, Any]]:
    """Words of each stage, for readers of the files."""
    return [{"dims": stage.map.dims, "words": stage.layout.words} for stage in index.quantizer.stages]


def _write_checked(path: Path, beginning: bytes, parts: Iterable[NDArray[Any]]) -> tuple[int, NDArray[np.uint64]]:
    """Write a .npy file and sync it; returns its length and the checksum of every block of it."""
    blocks: list[int] = []
    pending = bytearray(beginning)
    length = 0
    with durable.naming(path), open(path, "xb") as out:
        out.write(beginning)
        for part in parts:
            data = np.ascontiguousarray(part).reshape(-1).view(np.uint8).data
            for at in range(0, len(data), BLOCK_BYTES):  # Ctrl-C comes between writes
                out.write(data[at : at + BLOCK_BYTES])
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
