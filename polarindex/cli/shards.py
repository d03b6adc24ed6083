"""polarindex build --shards: files of vectors become a sharded index, out of core."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polarindex.cli.labels import Labels
from polarindex.cli.places import bytes_on_disk
from polarindex.cli.rows import STDIN
from polarindex.cli.screen import bar, print_json, remark, tell
from polarindex.distributed import build as building
from polarindex.distributed.source import given, opened_files
from polarindex.indexes import manifest

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
_BYTES = re.compile(r"(\d+(?:[.]\d+)?)\s*([kmg]i?)?b?", re.IGNORECASE)


def refuse(options: Mapping[str, Any]) -> None:
    """ValueError for what a sharded index does not have, where it is given."""
    for name, value in options.items():
        if value is not None:
            raise ValueError(f"{name} is not for an index in shards; leave out --shards, or it")


def build(
    files: Sequence[str],
    out: Path,
    wanted: dict[str, Any],
    ids: str | None,
    memory: str | None,
    processes: int | None,
    threads: int | None,
    engine: str | None,
    json: bool,
) -> None:
    """Build, with a bar, and tell what was built."""
    if STDIN in files:
        raise ValueError("stdin can be read once, and a build in shards reads on where it was cut off; give a file")
    options = {
        **wanted,
        "nlist": "auto" if wanted["nlist"] is None else wanted["nlist"],
        "memory": building.MEMORY if memory is None else bytes_of(memory),
        "ids": None if ids is None else _numbers(files, ids),
        "processes": processes,
        "threads": threads,
        "engine": engine or "local",
    }
    try:
        with bar() as show:
            there = building.build(
                list(files),
                out,
                progress=lambda done, total, what: show(done, total, what, "" if what == "k-means" else "rows"),
                **options,
            )
    except KeyboardInterrupt:
        remark(f"interrupted: {out} has what is built so far; give the same command again to go on")
        raise
    size = bytes_on_disk(out)
    n = sum(manifest.segment(manifest.read(out / name))["rows"] for name in there.shards)
    if json:
        facts = {"num_shards": there.num_shards, "bytes_on_disk": size}
        print_json({"path": str(out), "kind": there.kind, "n": n, **there.parameters, **facts})
    else:
        tell(f"{out}: {there.num_shards} shards, {n:,} vectors, {size / 1e6:,.1f} MB")


def bytes_of(text: str) -> int:
    """How many bytes a text such as 600MB or 4GiB says."""
    found = _BYTES.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"--memory must be a number of bytes such as 600MB or 4GiB, got {text!r}")
    return int(float(found[1]) * _UNITS[(found[2] or "").lower()])


def _numbers(files: Sequence[str], column: str) -> Any:
    """The ids of a column of whole numbers."""
    names = given(list(files)).files or ()
    labels = Labels(names, opened_files(names), column, None, None, "")
    if labels.keyed:
        raise ValueError("--ids must be whole numbers for an index in shards, which has no keys")
    return labels.ids
