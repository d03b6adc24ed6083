"""The sets that tables are published of, what is tried on each, and how programs are told where their files are."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from polarindex.bench.data import QUERIES, Source
from polarindex.bench.lists import FEW, MANY, SOAR, SOME, SPILLS, Grid

GRIDS = {
    "fashion-mnist-784-euclidean": Grid((256, 512), (256, 512, 1024), FEW, (0.75, 1.0), ("PQ392x4fs", "PQ196x4fs")),
    "minilm-384-angular": Grid(
        (256, 512), (512, 1024), SOME, (1.25, 1.5), ("PQ192x4fs", "PQ192x4fsr"), SOAR, spills=SPILLS
    ),
    "glove-wink-100-angular": Grid(
        (512, 1024), (1024, 2048), MANY, (1.25, 1.5), ("PQ50x4fs", "PQ50x4fsr"), SOAR, large=True, spills=SPILLS
    ),
    "sift-photos-128-euclidean": Grid(
        (1024, 2048),
        (1024, 2048),
        SOME,
        (0.75, 1.0),
        ("PQ64x4fs", "PQ32x4fs"),
        links=(16,),
        construction=100,
        large=True,
        spills=SPILLS,
    ),
}
_QUICK_GRID = {"lists": (64, 128), "ours": (64,), "probes": (1, 2, 4, 8, 16, 32)}  # for as many rows as below
_QUICK_ROWS, _QUICK_QUERIES, _QUICK_SINGLES = 10_000, 500, 100


def in_order(result: dict[str, Any]) -> dict[str, Any]:
    """A result with its runs in the order of the sets, whichever was measured last."""
    places = {name: place for place, name in enumerate(GRIDS)}
    return result | {"runs": sorted(result["runs"], key=lambda run: places.get(run["set"], len(places)))}


def grid(name: str, quick: bool) -> Grid:
    """What is tried on a set; a quick run has few lists."""
    return GRIDS[name]._replace(**_QUICK_GRID) if quick else GRIDS[name]


def parser(about: str | None, repeats: int, queries: int = QUERIES, singles: int = QUERIES) -> argparse.ArgumentParser:
    """What is measured, and how often."""
    found = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--data", type=Path, nargs="+", default=[Path()], help="folders with the sets' HDF5 files")
    found.add_argument("--sets", default="", help="parts of names of sets, with commas between")
    found.add_argument("--engines", default="", help="parts of names of families or engines, with semicolons between")
    found.add_argument("--quick", action="store_true", help="few rows and settings, to see that it runs")
    found.add_argument("--repeats", type=int, default=repeats)
    found.add_argument("--queries", type=int, default=queries, help="the first so many are asked")
    found.add_argument("--singles", type=int, default=singles, help="queries that are asked one by one, too")
    found.add_argument("--out", type=Path)
    return found


def parsed(found: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments; those that make no sense end the program."""
    options = found.parse_args()
    if min(options.repeats, options.queries, options.singles) < 1:
        found.error("--repeats, --queries and --singles must be 1 or more")
    return options


def engines(options: argparse.Namespace) -> tuple[str, ...]:
    return tuple(part for part in options.engines.split(";") if part)


def files(options: argparse.Namespace) -> Iterator[Path]:
    """The files of the sets asked for, where they are."""
    wanted = [name for name in GRIDS if not options.sets or any(part in name for part in options.sets.split(","))]
    if not wanted:
        raise SystemExit(f"--sets must name some of {', '.join(GRIDS)}; got {options.sets!r}")
    for name in wanted:
        path = next((found for folder in options.data if (found := folder / f"{name}.hdf5").is_file()), None)
        if path is None:
            print(f"{name}: no such file in {', '.join(map(str, options.data))}; left out")
            continue
        yield path


def sources(options: argparse.Namespace) -> Iterator[Source]:
    """The sets asked for, and how much of them is used."""
    rows, queries = (_QUICK_ROWS, min(options.queries, _QUICK_QUERIES)) if options.quick else (None, options.queries)
    singles = min(options.singles, _QUICK_SINGLES if options.quick else queries)
    for path in files(options):
        yield Source(str(path), rows, queries, singles)


def asked(options: argparse.Namespace) -> dict[str, Any]:
    """What the comparisons of polarindex.bench.compare are told of a run."""
    say: Callable[[str], None] = lambda line: print(line, flush=True)  # noqa: E731
    facts = {"quick": options.quick, "command": command(options)}
    return {"repeats": options.repeats, "engines": engines(options), "facts": facts, "say": say}


def command(options: argparse.Namespace) -> str:
    """What was called, without the folders of this machine."""
    parts = [f"python -m benchmarks.{Path(sys.argv[0]).stem} --data FOLDER", *["--quick"] * options.quick]
    parts += [f"--{name} '{getattr(options, name)}'" for name in ("sets", "engines") if getattr(options, name)]
    parts += [f"--{name} {getattr(options, name)}" for name in ("repeats", "queries", "singles")]
    return " ".join(parts)
