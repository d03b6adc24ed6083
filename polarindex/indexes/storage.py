"""An index on disk: a directory of one manifest and immutable segments of plain NumPy files.

    manifest.json              format, version, kind ("flat" where it is missing, or "ivf"), parameters, state, and each
                               segment's rows and files with length and checksum; its own "checksum" is the xxh3 of
                               the rest, as JSON with sorted keys and no spaces
    segment-<random>/
        *.npy                  the arrays of the index
        checksums.npy          (blocks,) uint64: xxh3_64 of every MiB of the files above, in the manifest's order

A flat index of n rows; state: next_id, stores_ids, center_frozen, energy_removed
        codes0.npy, ...        uint32, see codes.py: lines (panels, words, 16), 0 in rows beyond n, or rows (n, words)
        scales.npy             (n, stages) float32
        centre.npy             (dim,) float32
        shifts.npy, held.npy, originals.npy, original_scales.npy, ids.npy          (n, ...) where the index has them

An inverted file; state: fitted, and if it is: next_id, wide_ids, spread (mean |x - c|^2 of what was learned from),
default (null, or the nprobe and gap that searches use; a gap of null is none). Unfitted it has no arrays, else
        centroids.npy          (nlist, dim) float32, c
        centre.npy             (dim,) float32, mu: zero without one
        sizes.npy              (nlist,) int64: rows of each list
        rows.npy               (pages, width, 16) uint32: list after list, each of ceil(size / 16) pages of 16 rows, all
                               full but its first, whose last lanes are zeros. The words of a row: code (codes.py),
                               a float32 scale a stage, the float32 shift (residuals.py), the id: its low word and,
                               with wide_ids, its high word
        originals.npy          (16 pages, dim) of the store's type, where kept: row 16 p + l is that of page p's lane l
        original_scales.npy    (16 pages,) float32, for store="int8"

Law:       a save writes a new segment, syncs it, then replaces the manifest by rename: at every moment the directory
           holds the old index or the new one. Reading executes nothing (no pickles). A directory that is not an
           index is neither read nor written. What is derived (id tables, rotated centroids) is in no file. Lists are
           written without free pages, so the order of `ids` may be another one in a loaded inverted file.
Not here:  what an index saves of itself (its `_saved` and `_restore`); incremental changes."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash
from numpy.typing import DTypeLike, NDArray

from polarindex import checks
from polarindex.errors import FormatError
from polarindex.indexes.base import Index
from polarindex.indexes.flat import FlatIndex
from polarindex.indexes.ivf import IVFIndex
from polarindex.memory import aligned_copy, require

FORMAT, VERSION = "polarindex", 1
BLOCK_BYTES = 1 << 20
_MANIFEST, _CHECKSUMS = "manifest.json", "checksums.npy"
_SEGMENT = re.compile("segment-[0-9a-f]{12}")
_KINDS: dict[str, type[FlatIndex] | type[IVFIndex]] = {kind.kind: kind for kind in (FlatIndex, IVFIndex)}


def save(index: Index, path: str | os.PathLike[str]) -> None:
    """Write `index` to the directory `path`, replacing an index that is there.

    Raises
    ------
    FormatError
        `path` is a file, or a directory with something else in it; nothing is touched.
    OSError
        The disk is full, read-only, ...; what was at `path` is as before.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_dir():
        raise FormatError(f"{target} is a file; an index is saved as a directory")
    if target.is_dir():
        if any(not _is_draft(entry.name) for entry in target.iterdir()):
            _read_manifest(target)  # refuses a directory that is not an index
        _write_into(index, target)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}"
    try:
        draft.mkdir()
        _write_into(index, draft)
        draft.rename(target)
        _sync_directory(target.parent)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def load(path: str | os.PathLike[str], mmap: bool = False, verify: bool | None = None) -> FlatIndex | IVFIndex:
    """Read an index.

    Parameters
    ----------
    path : path of a directory written by `save`
    mmap : bool
        Map the arrays instead of reading them: opens at once, pages are shared between processes, and changes stay
        in memory.
    verify : bool, optional
        Check every block against its checksum; default True unless mmap, which would read the whole file.

    Raises
    ------
    FileNotFoundError
    FormatError
        Not an index, of a newer version, or damaged; the message names the file.
    """
    source = Path(path)
    checks.flag(mmap, "mmap")
    verify = not mmap if verify is None else checks.flag(verify, "verify")
    if not source.exists():
        raise FileNotFoundError(errno.ENOENT, "no index here", str(source))
    manifest = _read_manifest(source)
    while True:
        try:
            return _load(source, manifest, mmap, verify)
        except (FormatError, FileNotFoundError):
            before, manifest = manifest, _read_manifest(source)
            if manifest == before:  # else a save replaced the index while it was read: read the new one
                raise


def _load(source: Path, manifest: dict[str, Any], mmap: bool, verify: bool) -> FlatIndex | IVFIndex:
    segment = manifest["segments"][0]
    folder = source / segment["name"]
    if not mmap:
        require(sum(facts["bytes"] for facts in segment["files"].values()), f"the arrays of {source}")
    if verify:
        _verify(folder, segment)
    try:
        index = _KINDS[_kind(manifest)](**manifest["parameters"])
        index._restore(manifest["state"], segment["rows"], _Reader(folder, segment, mmap))
    except FormatError:
        raise
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{folder} does not hold an index that this version can make: {error!r}") from error
    return index


# --- writing


def _write_into(index: Index, folder: Path) -> None:
    """A new segment, then the manifest that names it; older segments go last."""
    name = f"segment-{uuid.uuid4().hex[:12]}"
    segment = folder / name
    draft = folder / f".{_MANIFEST}.{uuid.uuid4().hex[:8]}"
    try:
        segment.mkdir()
        saved = index._saved()
        files, checksums = {}, [np.empty(0, np.uint64)]
        for array, (shape, dtype, parts) in saved.arrays.items():
            file = f"{array}.npy"
            length, blocks = _write_checked(segment / file, _header(shape, dtype), parts)
            files[file] = {"bytes": length, "checksum": _digest(blocks)}
            checksums.append(blocks)
        everything = np.concatenate(checksums)
        with open(segment / _CHECKSUMS, "wb") as out:
            np.save(out, everything)
            _sync(out)
        _sync_directory(segment)
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "kind": index.kind,
            "parameters": index.parameters(),
            "state": saved.state,
            "layout": _layout(index),
            "block_bytes": BLOCK_BYTES,
            "segments": [{"name": name, "rows": saved.rows, "files": files}],
        }
        manifest["checksum"] = _manifest_checksum(manifest)
        with open(draft, "w", encoding="utf-8") as text:
            json.dump(manifest, text, indent=1)
            _sync(text)
        os.replace(draft, folder / _MANIFEST)
    except BaseException:
        shutil.rmtree(segment, ignore_errors=True)
        draft.unlink(missing_ok=True)
        raise
    _sync_directory(folder)
    for entry in list(folder.iterdir()):
        if _is_draft(entry.name) and entry.name != name:
            shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink(missing_ok=True)


def _is_draft(name: str) -> bool:
    """Whether a save may have left an entry of this name: a segment, or a manifest that was not yet in its place."""
    return bool(_SEGMENT.fullmatch(name)) or name.startswith(f".{_MANIFEST}.")


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
        _sync(out)
    return length, np.array(blocks, np.uint64)


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_directory(folder: Path) -> None:
    """Make renames in a folder durable, where the platform lets a folder be opened."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# --- reading


def _digest(blocks: NDArray[np.uint64]) -> str:
    return xxhash.xxh3_64_hexdigest(blocks.astype("<u8").tobytes())


def _manifest_checksum(manifest: dict[str, Any]) -> str:
    rest = {key: value for key, value in manifest.items() if key != "checksum"}
    return xxhash.xxh3_64_hexdigest(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode())


def _read_manifest(folder: Path) -> dict[str, Any]:
    """The checked manifest; FormatError where the folder has none, or a foreign or damaged one."""
    path = folder / _MANIFEST
    if not path.is_file():
        raise FormatError(f"{folder} is not a polarindex index: it has no {_MANIFEST}")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (RecursionError, ValueError) as error:  # also of bad UTF-8, and of numbers of thousands of digits
        raise FormatError(f"{path} is damaged: {str(error).splitlines()[0]}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise FormatError(f"{path} is not the manifest of a polarindex index")
    if manifest.get("checksum") != _manifest_checksum(manifest):
        raise FormatError(f"{path} is damaged: its checksum does not match")
    version = manifest.get("version")
    if type(version) is not int or not 1 <= version <= VERSION:
        raise FormatError(f"{path} has format version {version}; this polarindex reads up to {VERSION}")
    try:
        _check_manifest(manifest)
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{path} does not describe an index this version can make: {error!r}") from error
    return manifest


def _kind(manifest: dict[str, Any]) -> str:
    return str(manifest.get("kind", FlatIndex.kind))  # the first manifests did not tell it


def _check_manifest(manifest: dict[str, Any]) -> None:
    """Raise some error where an entry that every kind of index has is missing or of another kind."""
    (segment,) = manifest["segments"]
    checks.choice(_kind(manifest), "kind", _KINDS)
    checks.integer(segment["rows"], "rows", low=0)
    if not _SEGMENT.fullmatch(segment["name"]) or manifest["block_bytes"] != BLOCK_BYTES:
        raise ValueError("a segment's name or the block size is not as specified")
    for facts in segment["files"].values():
        checks.integer(facts["bytes"], "bytes", low=0)
        facts["checksum"].encode()


def _verify(folder: Path, segment: dict[str, Any]) -> None:
    """Compare every block of every file with its checksum; FormatError names the first file and block that differ."""
    stored = _read_npy(folder / _CHECKSUMS, False)
    at = 0
    for file, facts in segment["files"].items():
        path = folder / file
        count = -(-facts["bytes"] // BLOCK_BYTES)
        wanted = stored[at : at + count]
        at += count
        if len(wanted) != count or _digest(wanted) != facts["checksum"]:
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


class _Reader(NamedTuple):
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
    except MemoryError:
        raise
    except Exception as error:  # NumPy's header parser lets many kinds through: SyntaxError, TokenError, ...
        raise FormatError(f"{path} is damaged: {str(error).splitlines()[0] if str(error) else error!r}") from error
