"""The manifest of a saved index: which of a directory's files are the index, and that they are as they were written.

Law:       a directory is what its manifest says, which is replaced whole; everything else in it is a remain of a crash
           (`sweep` removes it), the writer's lock, or foreign (then nothing is read or written). No name in a manifest
           leads out of the directory.
Not here:  what the files hold (segment.py, log.py); how they are opened (reading.py)."""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import xxhash

from polarindex import checks
from polarindex.errors import FormatError
from polarindex.indexes import durable
from polarindex.indexes.flat import FlatIndex
from polarindex.indexes.ivf import IVFIndex
from polarindex.indexes.lock import LOCK_FILES
from polarindex.indexes.reading import BLOCK_BYTES, CHECKSUMS, LARGEST, of_type, parsed, read_all

FORMAT, VERSION = "polarindex", 2
WITHOUT_LOG = 1  # the version of a manifest that names no log
MANIFEST = "manifest.json"
SHARDED, BUILDING = "sharded.json", "building"  # of directories of several indexes: see distributed/layout.py
UNFINISHED = (
    "a sharded index whose build is not done: give the same build again, and it goes on where it was; or remove the "
    "directory"
)
_MOST_BYTES = 1 << 20  # of a manifest: as Python objects JSON may take 20 times its length
KINDS: dict[str, type[FlatIndex] | type[IVFIndex]] = {kind.kind: kind for kind in (FlatIndex, IVFIndex)}
_SEGMENT, _LOG = re.compile("segment-[0-9a-f]{12}"), re.compile("log-[0-9a-f]{12}")
_ARRAY = re.compile("[a-z][a-z0-9_]*[.]npy")

Manifest = dict[str, Any]


def new_name(what: str) -> str:
    """A name for a "segment" or a "log" that no other has."""
    return f"{what}-{uuid.uuid4().hex[:12]}"


def sealed(entries: Manifest) -> Manifest:
    """A manifest of these entries, with the checksum of what they are now."""
    rest = {key: value for key, value in entries.items() if key != "checksum"}
    return {**rest, "checksum": checksum(rest)}


def checksum(manifest: Manifest) -> str:
    """What a manifest's "checksum" has to be."""
    rest = {key: value for key, value in manifest.items() if key != "checksum"}
    return xxhash.xxh3_64_hexdigest(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode())


def put(folder: Path, manifest: Manifest) -> None:
    """Make a directory the index of this manifest, durably."""
    durable.replace(folder / MANIFEST, json.dumps(manifest, indent=1))


def holds(folder: Path, manifest: Manifest) -> bool:
    """Whether the directory is the index of this manifest: what became of a `put` that failed."""
    try:
        return bool(read(folder)["checksum"] == manifest["checksum"])
    except FormatError:  # there is none; or it is damaged, and then not the one that was to be put there
        return False


def read(folder: Path) -> Manifest:
    """The checked manifest; FormatError where the folder has none, or a foreign or damaged one."""
    path = folder / MANIFEST
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise FormatError(f"{folder} is not a polarindex index: it has no {MANIFEST}{_sharded(folder)}") from None
    manifest = read_sealed(path, FORMAT, "a polarindex index")
    version = manifest.get("version")
    if type(version) is not int or not 1 <= version <= VERSION:
        raise FormatError(f"{path} has format version {version!r:.99}; this polarindex reads up to {VERSION}")
    try:
        _check(manifest)
    except (LookupError, TypeError, ValueError) as error:
        raise FormatError(f"{path} does not describe an index this version can make: {error!r}") from error
    return manifest


def _sharded(folder: Path) -> str:
    """What to do with a directory of several indexes, for messages."""
    if (folder / SHARDED).is_file():
        return "; it is a sharded index, which polarindex.distributed.ShardedIndex.open serves"
    if (folder / BUILDING).is_dir():
        return f"; it is {UNFINISHED}"
    return ""


def read_sealed(path: Path, format: str, what: str) -> Manifest:
    """The entries of a file of this format that `sealed` made; FormatError where it is foreign or damaged."""
    text = read_all(path, _MOST_BYTES)
    try:
        entries = parsed(text)
        if not isinstance(entries, dict) or entries.get("format") != format:
            raise FormatError(f"{path} is not the manifest of {what}")
        if entries.get("checksum") != checksum(entries):
            raise FormatError(f"{path} is damaged: its checksum does not match")
    except FormatError:
        raise
    except (RecursionError, ValueError) as error:  # also of bad UTF-8, and of numbers of thousands of digits
        raise FormatError(f"{path} is damaged: {str(error).splitlines()[0]}") from error
    return dict(entries)


def kind(manifest: Manifest) -> str:
    return checks.choice(manifest.get("kind", FlatIndex.kind), "kind", KINDS)  # the first manifests did not tell it


def segment(manifest: Manifest) -> dict[str, Any]:
    """Name, rows and files of the segment."""
    entry: dict[str, Any] = manifest["segments"][0]
    return entry


def segment_bytes(manifest: Manifest) -> int:
    return sum(facts["bytes"] for facts in segment(manifest)["files"].values())


def _check(manifest: Manifest) -> None:
    """Raise some error where an entry that every kind of index has is missing or of another kind."""
    kind(manifest)
    of_type(dict, manifest["parameters"], "parameters")
    of_type(dict, manifest["state"], "state")
    (entry,) = of_type(list, manifest["segments"], "segments")
    of_type(dict, entry, "segments[0]")
    checks.integer(entry["rows"], "rows", low=0, high=LARGEST)
    if not _SEGMENT.fullmatch(of_type(str, entry["name"], "name")) or manifest["block_bytes"] != BLOCK_BYTES:
        raise ValueError("a segment's name or the block size is not as specified")
    for file, facts in of_type(dict, entry["files"], "files").items():
        if not _ARRAY.fullmatch(file) or file == CHECKSUMS:
            raise ValueError(f"files has {file!r:.99}, which is no name of an array's file")
        of_type(dict, facts, file)
        checks.integer(facts["bytes"], "bytes", low=0, high=LARGEST)
        of_type(str, facts["checksum"], "checksum")
    if ("log" in manifest) is (manifest["version"] == WITHOUT_LOG):
        raise ValueError("there is a log in version 2, and none in version 1")
    if "log" in manifest:
        _check_log(of_type(dict, manifest["log"], "log"))


def _check_log(log: dict[str, Any]) -> None:
    if not _LOG.fullmatch(of_type(str, log["name"], "name")):
        raise ValueError("a log's name is not as specified")
    for fact in ("bytes", "records"):
        checks.integer(log[fact], fact, low=1, high=LARGEST)
    of_type(str, log["checksum"], "checksum")


# --- the directory around it


def is_foreign(folder: Path) -> bool:
    """Whether there is something in a directory that no index, nor a crash while one was written, has left there."""
    return any(not _is_ours(entry.name) and entry.name not in LOCK_FILES for entry in folder.iterdir())


def sweep(folder: Path, manifest: Manifest) -> None:
    """Remove what crashes have left, and what this manifest has replaced. Only the one writer may."""
    kept = {segment(manifest)["name"], manifest.get("log", {}).get("name")}
    for entry in list(folder.iterdir()):
        if not _is_ours(entry.name) or entry.name in kept:
            continue
        with suppress(OSError):  # where a reader's open file cannot be removed, the next writer does it
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


def _is_ours(name: str) -> bool:
    """Whether an entry is a segment, a log, or a manifest that was not yet in its place."""
    known = _SEGMENT.fullmatch(name) or _LOG.fullmatch(name)
    return bool(known) or name.startswith(durable.draft_prefix(MANIFEST))
