"""An index on disk: a directory of one manifest and immutable segments of plain NumPy files.

    manifest.json              what the index is, and each segment's files with length and checksum; itself checksummed
    segment-<random>/*.npy     the arrays of the index, and checksums.npy, of every MiB of them

docs/file-format.md specifies every array and field.

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
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from polarindex import checks
from polarindex.errors import FormatError
from polarindex.indexes.base import Index
from polarindex.indexes.flat import FlatIndex
from polarindex.indexes.ivf import IVFIndex
from polarindex.indexes.reading import BLOCK_BYTES, CHECKSUMS, Finding, Segment, digest, findings, header, read_all
from polarindex.indexes.saved import Saved
from polarindex.indexes.turns import turn_at

FORMAT, VERSION = "polarindex", 1
_MANIFEST = "manifest.json"
_MANIFEST_BYTES = 1 << 20  # at most: as Python objects JSON may take 20 times its length
_LARGEST = 2**62  # of rows and bytes
_SEGMENT, _ARRAY = re.compile("segment-[0-9a-f]{12}"), re.compile("[a-z][a-z0-9_]*[.]npy")
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
    with turn_at(target) as made:
        if any(not _is_draft(entry.name) for entry in target.iterdir()):
            _read_manifest(target)  # refuses a directory that is not an index
        _write_into(index, target)
        if made:
            _sync_directory(target.parent)


def load(path: str | os.PathLike[str], mmap: bool = False, verify: bool | None = None) -> FlatIndex | IVFIndex:
    """Read an index.

    Parameters
    ----------
    path : path of a directory written by `save`
    mmap : bool
        Map the arrays instead of reading them: opens at once, pages are shared between processes, and changes stay
        in memory.
    verify : bool, optional
        True: compare every block with its checksum, which reads all files. False: none. Default: those of the arrays
        that are read, which is all of them unless mmap. Of an index that is mapped these are the small ones (centre,
        centroids, sizes of lists); a damaged row is then not noticed and gives wrong answers.

    Raises
    ------
    FileNotFoundError
    PermissionError
    FormatError
        Not an index, of a newer version, or damaged; the message names the file and what is wrong with it.

    Notes
    -----
    Nothing in a file is executed, links are not followed, and memory is not asked for beyond the files' size, whoever
    made them: see `reading`. A file that is mapped must not be cut short while the index is in use.
    """
    source = Path(path)
    checks.flag(mmap, "mmap")
    if verify is not None:
        checks.flag(verify, "verify")
    manifest = _manifest_at(source)
    while True:
        try:
            return _load(source, manifest, mmap, verify)
        except (FormatError, FileNotFoundError):
            before, manifest = manifest, _read_manifest(source)
            if manifest == before:  # else a save replaced the index while it was read: read the new one
                raise


def verify(path: str | os.PathLike[str]) -> list[Finding]:
    """Everything that is wrong with a saved index: none where `load` would read it and every block is as written.

    Parameters
    ----------
    path : path of a directory written by `save`

    Returns
    -------
    list of Finding : path, block (a number of a MiB, or None) and problem, a line that names both

    Raises
    ------
    FileNotFoundError
    PermissionError
    """
    source = Path(path)
    try:
        load(source, mmap=True, verify=True)
    except FormatError as error:
        try:
            segment = _manifest_at(source)["segments"][0]
        except FormatError as unread:
            return [Finding(source / _MANIFEST, None, str(unread))]
        folder = source / segment["name"]
        return [*findings(folder, segment["files"])] or [Finding(folder, None, str(error))]
    return []


def _manifest_at(source: Path) -> dict[str, Any]:
    if not source.exists():
        raise FileNotFoundError(errno.ENOENT, "no index here", str(source))
    return _read_manifest(source)


def _load(source: Path, manifest: dict[str, Any], mmap: bool, verify: bool | None) -> FlatIndex | IVFIndex:
    segment = manifest["segments"][0]
    folder = source / segment["name"]
    try:
        read = Segment(folder, segment["files"], mmap, verify)
        if "centre.npy" in segment["files"]:  # dimensions that are not there cost no time and memory of a quantizer
            read("centre", (checks.integer(manifest["parameters"]["dim"], "dim", low=1),), np.float32, in_memory=True)
        index = _KINDS[_kind(manifest)](**manifest["parameters"])
        index._restore(manifest["state"], segment["rows"], read)
        read.finish()
    except FormatError:
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise FormatError(f"{folder} does not hold an index that this version can make: {error!r}") from error
    return index


# --- writing


def _write_into(index: Index, folder: Path) -> None:
    """A new segment, then the manifest that names it; older segments go last."""
    name = f"segment-{uuid.uuid4().hex[:12]}"
    segment = folder / name
    draft = folder / f".{_MANIFEST}.{uuid.uuid4().hex[:8]}"
    written = False
    try:
        segment.mkdir()
        manifest = _described(index, name, *_write_arrays(index, segment))
        with _naming(draft), open(draft, "w", encoding="utf-8") as text:
            text.write(json.dumps(manifest, indent=1))
            _sync(text)
        written = True
        os.replace(draft, folder / _MANIFEST)
    except BaseException:
        if not written or draft.exists():  # else the manifest is in its place, and names the segment
            shutil.rmtree(segment, ignore_errors=True)
            with suppress(OSError):
                draft.unlink(missing_ok=True)
        raise
    _sync_directory(folder)
    for entry in list(folder.iterdir()):
        if _is_draft(entry.name) and entry.name != name:
            with suppress(OSError):  # the next save tries again
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


def _write_arrays(index: Index, segment: Path) -> tuple[Saved, dict[str, Any]]:
    """The files of a segment, synced; what they are, and length and checksum of each."""
    saved = index._saved()
    files, checksums = {}, [np.empty(0, np.uint64)]
    for array, (shape, dtype, parts) in saved.arrays.items():
        file = f"{array}.npy"
        with _naming(segment / file):
            length, blocks = _write_checked(segment / file, header(shape, dtype), parts)
        files[file] = {"bytes": length, "checksum": digest(blocks)}
        checksums.append(blocks)
    everything = np.concatenate(checksums)
    with _naming(segment / CHECKSUMS):
        _write_checked(segment / CHECKSUMS, header(everything.shape, everything.dtype), [everything])
    _sync_directory(segment)
    return saved, files


def _described(index: Index, name: str, saved: Saved, files: dict[str, Any]) -> dict[str, Any]:
    """The manifest of an index with one segment."""
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
    return manifest | {"checksum": _manifest_checksum(manifest)}


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Let an OSError say which path it is about: a full disk does not."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def _is_draft(name: str) -> bool:
    """Whether a save may have left an entry of this name: a segment, or a manifest that was not yet in its place."""
    return bool(_SEGMENT.fullmatch(name)) or name.startswith(f".{_MANIFEST}.")


def _layout(index: Index) -> list[dict[str, Any]]:
    """Words of each stage, for readers of the files."""
    return [{"dims": stage.map.dims, "words": stage.layout.words} for stage in index.quantizer.stages]


def _write_checked(path: Path, beginning: bytes, parts: Iterable[NDArray[Any]]) -> tuple[int, NDArray[np.uint64]]:
    """Write a .npy file and sync it; returns its length and the checksum of every block of it."""
    blocks: list[int] = []
    pending = bytearray(beginning)
    length = 0
    with open(path, "wb") as out:
        out.write(beginning)
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
        _sync(out)
    return length, np.array(blocks, np.uint64)


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_directory(folder: Path) -> None:
    """Make renames in a folder durable, where the platform lets a folder be opened."""
    if os.name == "nt":
        return
    with _naming(folder):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


# --- reading


def _manifest_checksum(manifest: dict[str, Any]) -> str:
    rest = {key: value for key, value in manifest.items() if key != "checksum"}
    return xxhash.xxh3_64_hexdigest(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode())


def _read_manifest(folder: Path) -> dict[str, Any]:
    """The checked manifest; FormatError where the folder has none, or a foreign or damaged one."""
    path = folder / _MANIFEST
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise FormatError(f"{folder} is not a polarindex index: it has no {_MANIFEST}") from None
    text = read_all(path, _MANIFEST_BYTES)
    try:
        manifest = json.loads(text.decode(), object_pairs_hook=_unrepeated, parse_constant=_no_number)
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise FormatError(f"{path} is not the manifest of a polarindex index")
        if manifest.get("checksum") != _manifest_checksum(manifest):
            raise FormatError(f"{path} is damaged: its checksum does not match")
    except FormatError:
        raise
    except (RecursionError, ValueError) as error:  # also of bad UTF-8, and of numbers of thousands of digits
        raise FormatError(f"{path} is damaged: {str(error).splitlines()[0]}") from error
    version = manifest.get("version")
    if type(version) is not int or not 1 <= version <= VERSION:
        raise FormatError(f"{path} has format version {version!r:.99}; this polarindex reads up to {VERSION}")
    try:
        _check_manifest(manifest)
    except (LookupError, TypeError, ValueError) as error:
        raise FormatError(f"{path} does not describe an index this version can make: {error!r}") from error
    return manifest


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; ValueError where it has a key twice, which readers understand differently."""
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise ValueError(f"a key is there twice among {', '.join(sorted(entries))[:99]}")
    return entries


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number in JSON")


def _kind(manifest: dict[str, Any]) -> str:
    return checks.choice(manifest.get("kind", FlatIndex.kind), "kind", _KINDS)  # the first manifests did not tell it


def _check_manifest(manifest: dict[str, Any]) -> None:
    """Raise some error where an entry that every kind of index has is missing or of another kind."""
    _kind(manifest)
    _of_type(dict, manifest["parameters"], "parameters")
    _of_type(dict, manifest["state"], "state")
    (segment,) = _of_type(list, manifest["segments"], "segments")
    _of_type(dict, segment, "segments[0]")
    checks.integer(segment["rows"], "rows", low=0, high=_LARGEST)
    if not _SEGMENT.fullmatch(_of_type(str, segment["name"], "name")) or manifest["block_bytes"] != BLOCK_BYTES:
        raise ValueError("a segment's name or the block size is not as specified")
    for file, facts in _of_type(dict, segment["files"], "files").items():
        if not _ARRAY.fullmatch(file) or file == CHECKSUMS:
            raise ValueError(f"files has {file!r:.99}, which is no name of an array's file")
        _of_type(dict, facts, file)
        checks.integer(facts["bytes"], "bytes", low=0, high=_LARGEST)
        _of_type(str, facts["checksum"], "checksum")


def _of_type(kind: type, value: Any, name: str) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{name} must be a {kind.__name__}, got a {type(value).__name__}")
    return value
