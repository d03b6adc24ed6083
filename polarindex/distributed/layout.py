"""A sharded index on disk: a manifest that names a frame and shards, each an ordinary index directory.

    sharded.json        what the index is, and which of the folders beside it are its own; itself checksummed
    frame/              the index without rows: parameters, centroids and centre that all shards share
    shard-00000/ ...    the rows, by id (routing.py); each is read alone by polarindex.load and open
    building/           what a build that is not done has so far (plan.py); then there is no sharded.json

docs/file-format.md specifies the fields.

Law:       sharded.json is put in its place when all that it names is durable, and replaced whole. Without it there is
           no sharded index: where a build was begun there, the error says how to go on.
Not here:  what is in the folders (indexes/storage.py); how a build goes on (build.py)."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polarindex import checks
from polarindex.checks import LARGEST_ID
from polarindex.distributed.routing import MOST_SHARDS, ROUTING
from polarindex.errors import FormatError
from polarindex.indexes import durable, manifest
from polarindex.indexes.manifest import BUILDING, SHARDED, UNFINISHED
from polarindex.indexes.reading import of_type

FORMAT, VERSION = "polarindex-sharded", 1
FRAME = "frame"
_FOLDER = re.compile("(frame|shard-[0-9]{5})(-[0-9a-f]{12})?")


@dataclass(frozen=True)
class Layout:
    """What sharded.json says.

    kind : "flat" or "ivf"
    parameters : the constructor's arguments, nlist as it was chosen
    frame : the folder of the index without rows
    shards : the folders of the shards, in the order that routing numbers them
    next_id : 1 + the largest id ever used
    """

    kind: str
    parameters: dict[str, Any]
    shards: tuple[str, ...]
    next_id: int
    frame: str = FRAME

    @property
    def num_shards(self) -> int:
        return len(self.shards)


def shard_name(number: int) -> str:
    """The folder of a shard, as a build names it."""
    return f"shard-{number:05}"


def put(folder: Path, layout: Layout) -> None:
    """Make a directory the sharded index of this layout, durably; the folders that it names are there and whole."""
    entries = {
        "format": FORMAT,
        "version": VERSION,
        "kind": layout.kind,
        "parameters": layout.parameters,
        "num_shards": layout.num_shards,
        "routing": ROUTING,
        "frame": layout.frame,
        "shards": list(layout.shards),
        "next_id": layout.next_id,
    }
    durable.replace(folder / SHARDED, json.dumps(manifest.sealed(entries), indent=1))


def read(folder: Path) -> Layout:
    """The checked layout.

    Raises
    ------
    FormatError
        It is no sharded index, one that was not built to the end, of a newer version, or damaged.
    """
    if not os.path.lexists(folder / SHARDED):
        if os.path.lexists(folder / BUILDING):
            raise FormatError(f"{folder} is {UNFINISHED}")
        raise FormatError(f"{folder} is not a sharded polarindex index: it has no {SHARDED}")
    path = folder / SHARDED
    entries = manifest.read_sealed(path, FORMAT, "a sharded polarindex index")
    version = entries.get("version")
    if type(version) is not int or version != VERSION:
        raise FormatError(f"{path} has format version {version!r:.99}; this polarindex reads {VERSION}")
    try:
        return _checked(entries)
    except (LookupError, TypeError, ValueError) as error:
        raise FormatError(f"{path} does not describe a sharded index this version can read: {error!r}") from error


def sweep(folder: Path, layout: Layout) -> None:
    """Remove the folders of shards that the layout does not name: another number of shards took their place, or did not
    come to. Whoever calls holds the index's locks.
    """
    for entry in list(folder.iterdir()):
        if _FOLDER.fullmatch(entry.name) and entry.name not in (layout.frame, *layout.shards):
            shutil.rmtree(entry, ignore_errors=True)


def _checked(entries: dict[str, Any]) -> Layout:
    shards = of_type(list, entries["shards"], "shards")
    count = checks.integer(entries["num_shards"], "num_shards", low=1, high=MOST_SHARDS)
    frame = of_type(str, entries["frame"], "frame")
    for name in (frame, *shards):
        if not _FOLDER.fullmatch(of_type(str, name, "a folder's name")):
            raise ValueError(f"{name!r:.99} is no name of a shard's folder")
    if len(shards) != count or len({frame, *shards}) != count + 1:
        raise ValueError(f"shards must be {count} different folders")
    if entries["routing"] != ROUTING:
        raise ValueError(f"routing is {entries['routing']!r:.99}, wanted {ROUTING!r}")
    next_id = checks.integer(entries["next_id"], "next_id", low=0, high=LARGEST_ID + 1)
    parameters = of_type(dict, entries["parameters"], "parameters")
    return Layout(manifest.kind(entries), parameters, tuple(shards), next_id, frame)
