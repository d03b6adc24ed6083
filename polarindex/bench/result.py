"""The file of a comparison: which sets, what building cost, what every setting did, and what was left out.

Law:       one JSON with a row a line; it is whole whenever it is there.
Not here:  how rows are measured (measure.py) and shown (tables.py, picture.py)."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from polarindex.bench.engines import ENGINES
from polarindex.errors import FormatError
from polarindex.sweep.cache import written_whole
from polarindex.sweep.results import environment

FORMAT = "polarindex-frontier-1"
LISTS = ("runs", "builds", "cells", "skipped")
MISSING = "not installed"

Result = dict[str, Any]


def empty() -> Result:
    return {"format": FORMAT, **{name: [] for name in LISTS}}


def read(path: Path) -> Result:
    """What the file holds; an empty result where there is none.

    Raises FormatError where it is something else.
    """
    if not path.exists():
        return empty()
    try:
        result: Result = json.loads(path.read_text(encoding="utf-8"))
        found = result.get("format")
    except (ValueError, AttributeError):
        found = None
    if found != FORMAT:
        raise FormatError(f"{path} is no result of this program (format {found!r}, not {FORMAT!r}): move it away")
    return result


def write(result: Result, path: Path) -> None:
    with written_whole(path) as temporary:
        temporary.write_text(lines(result), encoding="utf-8")


def lines(result: Result) -> str:
    """JSON with a row a line."""
    head = json.dumps({key: value for key, value in result.items() if not isinstance(value, list)}, indent=1)
    lists = [
        f' "{key}": [\n' + ",\n".join("  " + json.dumps(row) for row in value) + "\n ]"
        for key, value in result.items()
        if isinstance(value, list)
    ]
    return ",\n".join([head.removesuffix("\n}"), *lists]) + "\n}\n"


def without(result: Result, name: str) -> Result:
    """The result with no row of a set."""
    return result | {key: [row for row in result[key] if row["set"] != name] for key in LISTS}


def rounded(value: Any) -> Any:
    """Floats to five digits, also in lists; anything else as it is."""
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def machine(packages: tuple[str, ...] = ()) -> dict[str, Any]:
    """Processor, cores, caches, threads (one), date, and versions: of these packages, too."""
    facts = environment(threads=1)
    for package in packages:
        try:
            facts["versions"].setdefault(package.removesuffix("-cpu"), version(package))
        except PackageNotFoundError:
            facts["versions"][package.removesuffix("-cpu")] = MISSING
    return facts | {"caches": _caches(), "date": datetime.now(timezone.utc).isoformat(timespec="minutes")}


def machine_and_engines() -> dict[str, Any]:
    """`machine` with the version of every library that is compared."""
    return machine(("llvmlite", *dict.fromkeys(engine.package for engine in ENGINES.values())))


def _caches() -> dict[str, str]:
    """Sizes of the first core's caches, by name; empty where the system does not list them as Linux does."""
    found = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        found[f"L{level}" + {"Data": "d", "Instruction": "i"}.get(kind, "")] = size
    return found
