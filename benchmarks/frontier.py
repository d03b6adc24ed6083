"""Recall against queries a second: polarindex's inverted file and, at their best, FAISS, rabitqlib, ScaNN and hnswlib.

    python benchmarks/frontier.py --data FOLDER ... [--sets NAME,...] [--engines TEXT,...] [--quick] [--repeats 5]
                                  [--out FILE.json]
    python benchmarks/frontier.py --tables-only

Writes benchmarks/results/frontier.json, the tables of docs/benchmarks.md and docs/images/frontier-*.png. A set that is
measured again replaces its rows and leaves the others. If only some engines are measured, or --quick, all of it goes to
benchmarks/results/frontier-partial.json and beside it. One thread, CPU time, medians; docs/benchmarks.md says how.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from frontier_data import QUERIES, SETS, Source, load, recall
from frontier_engines import ENGINES, Missing
from frontier_grid import Plan, plans
from frontier_worker import Answer, Failed, Worker, available
from kernels import ONE_THREAD, RESULTS, written
from timing import machine, rounded

from polarindex.sweep.cache import written_whole

FORMAT = "polarindex-frontier-1"
QUICK_ROWS, QUICK_QUERIES, QUICK_SINGLES = 10_000, 500, 100
BUILDING = 4  # times the float32 rows: what loading and building may need
LISTS = ("runs", "builds", "cells", "skipped")

Result = dict[str, Any]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, repeats=5, queries=QUERIES, singles=QUERIES)
    parser.add_argument("--tables-only", action="store_true", help="measure nothing; tables and pictures of --out")
    return checked(parser)


def add_arguments(parser: argparse.ArgumentParser, repeats: int, queries: int, singles: int) -> None:
    """What is measured, and how often."""
    parser.add_argument("--data", type=Path, nargs="+", default=[Path()], help="folders with the sets' HDF5 files")
    parser.add_argument("--sets", default="", help="parts of names of sets, with commas between")
    parser.add_argument("--engines", default="", help="parts of names of families or engines, with semicolons between")
    parser.add_argument("--quick", action="store_true", help="few rows and settings, to see that it runs")
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--queries", type=int, default=queries, help="the first so many are asked")
    parser.add_argument("--singles", type=int, default=singles, help="queries that are asked one by one, too")
    parser.add_argument("--out", type=Path)


def checked(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The parsed arguments."""
    options = parser.parse_args()
    if min(options.repeats, options.queries, options.singles) < 1:
        parser.error("--repeats, --queries and --singles must be 1 or more")
    return options


def main() -> None:
    options = arguments()
    whole = not (options.quick or options.engines)
    out = options.out or RESULTS / ("frontier.json" if whole else "frontier-partial.json")
    if not options.tables_only:
        os.environ.update(dict.fromkeys(ONE_THREAD, "1"))  # the children's libraries read them when they are imported
        result = kept(out) if whole else empty()
        for source in sources(options):
            result = without(result, source.name)
            chosen = [plan for plan in plans(source.name, options.quick) if named(plan, options.engines)]
            measure(source, chosen, options, result, out)
        print(f"wrote {out}")
    publish(out)


def sources(options: argparse.Namespace) -> Iterator[Source]:
    """The sets asked for, where they are."""
    wanted = [name for name in SETS if not options.sets or any(part in name for part in options.sets.split(","))]
    if not wanted:
        raise SystemExit(f"--sets must name some of {', '.join(SETS)}; got {options.sets!r}")
    rows, queries = (QUICK_ROWS, min(options.queries, QUICK_QUERIES)) if options.quick else (None, options.queries)
    singles = min(options.singles, QUICK_SINGLES if options.quick else queries)
    for name in wanted:
        path = next((found for folder in options.data if (found := folder / f"{name}.hdf5").is_file()), None)
        if path is None:
            print(f"{name}: no such file in {', '.join(map(str, options.data))}; left out")
            continue
        yield Source(path, rows, queries, singles)


# --- measuring


def measure(source: Source, chosen: list[Plan], options: argparse.Namespace, result: Result, out: Path) -> None:
    """All engines of one set: built one after the other, then asked in turn; the file is whole after every round."""
    data = load(source)
    true, (n, dim), metric = data.true, data.x.shape, data.metric
    del data
    run = {
        "set": source.name, "n": n, "dim": dim, "metric": metric, "queries": source.queries, "singles": source.singles,
        "repeats": 0, "quick": options.quick, "command": command(options), "environment": environment(),
    }  # fmt: skip
    result["runs"].append(run)
    workers: list[Worker] = []
    try:
        missing: dict[str, str] = {}  # library -> what its first engine said
        for plan in chosen:
            if plan.library in missing:
                skip(plan, source.name, missing[plan.library], result)
                continue
            left = available()
            if left is not None and left < BUILDING * 4 * n * dim:
                skip(plan, source.name, f"only {left / 1e9:.1f} GB of memory are left beside the others", result)
                continue
            workers.append(Worker(plan, source))
            try:
                note(plan, source.name, workers[-1].built(), result)
            except (Missing, Failed) as error:
                if isinstance(error, Missing):
                    missing[plan.library] = str(error)
                skip(plan, source.name, str(error), result)
                workers.pop().end()
        answers: dict[Plan, list[list[Answer]]] = {worker.plan: [] for worker in workers}
        for repeat in range(options.repeats):
            for worker in list(workers):
                try:
                    answers[worker.plan].append(worker.turn(list(worker.plan.settings)))
                except Failed as error:
                    skip(worker.plan, source.name, str(error), result)
                    workers.remove(worker)
                    worker.end()
            run["repeats"] = repeat + 1
            cells = [cell for plan, found in answers.items() if found for cell in measured(plan, source, found, true)]
            others = [cell for cell in result["cells"] if cell["set"] != source.name]
            with written_whole(out) as path:
                path.write_text(written(result | {"cells": others + cells}))
            print(f"{source.name}: round {repeat + 1} of {options.repeats}", flush=True)
        result["cells"] = others + cells
        for cell in cells:
            setting = " ".join(f"{name} {value}" for name, value in cell["setting"].items())
            head = f"{cell['family']:20} {cell['engine']:32} {cell['mode']:6} {setting:48}"
            print(f"{head} {cell['recall']:.4f} {cell['queries_per_s']:10,.0f}/s")
    finally:  # also after Ctrl-C
        for worker in workers:
            worker.end()


def note(plan: Plan, name: str, built: dict[str, Any], result: Result) -> None:
    """What building an engine cost."""
    cost = {key: rounded(value) for key, value in built.items()}
    result["builds"].append({"set": name, "family": plan.family, "engine": plan.name, **cost})
    seconds = built["add_s"] + (built["train_s"] or 0)
    size = f"{built['bytes_per_vector']:.0f} bytes a vector {built['bytes_counted']}"
    print(f"{name}: {plan.family}, {plan.name}: built in {seconds:.1f} CPU s, {size}", flush=True)


def skip(plan: Plan, name: str, why: str, result: Result) -> None:
    result["skipped"].append({"set": name, "family": plan.family, "engine": plan.name, "why": why})
    print(f"{name}: {plan.family}, {plan.name}: skipped: {why}", flush=True)


def measured(plan: Plan, source: Source, turns: list[list[Answer]], true: Any) -> Iterator[Result]:
    """A cell a setting and mode: recall, every time, and the median's queries a second."""
    for at, setting in enumerate(plan.settings):
        found = [turn[at] for turn in turns]
        for mode, queries, ids, times in (
            ("batch", source.queries, found[0].many_ids, [answer.many_s for answer in found]),
            ("single", source.singles, found[0].singles_ids, [answer.singles_s for answer in found]),
        ):
            median = statistics.median(times)
            yield {
                "set": source.name, "family": plan.family, "engine": plan.name, "mode": mode, "setting": setting,
                "recall": round(recall(ids, true), 5), "unit": "CPU s", "median": rounded(median),
                "queries_per_s": rounded(queries / median), "times": rounded(times),
            }  # fmt: skip


def named(plan: Plan, engines: str) -> bool:
    parts = [part.lower() for part in engines.split(";") if part]
    return not parts or any(part in f"{plan.library} {plan.family} {plan.name}".lower() for part in parts)


# --- the file


def empty() -> Result:
    return {"format": FORMAT, **{name: [] for name in LISTS}}


def kept(out: Path) -> Result:
    """What the file holds already."""
    if not out.exists():
        return empty()
    result: Result = json.loads(out.read_text())
    if result.get("format") != FORMAT:
        raise SystemExit(f"{out} has format {result.get('format')!r}, not {FORMAT!r}: move it away or name another")
    return result


def without(result: Result, name: str) -> Result:
    """The result with no row of a set."""
    return result | {key: [row for row in result[key] if row["set"] != name] for key in LISTS}


def environment() -> dict[str, Any]:
    """The machine, and the versions of every library that is asked."""
    facts = machine()
    for package in dict.fromkeys(engine.package for engine in ENGINES.values()):
        name = package.removesuffix("-cpu")
        try:
            facts["versions"].setdefault(name, version(package))
        except PackageNotFoundError:
            facts["versions"][name] = "not installed"
    return facts


def command(options: argparse.Namespace) -> str:
    """What was called, without the folders of this machine."""
    program = Path(sys.argv[0]).name
    parts = [f"python benchmarks/{program} --data FOLDER", *["--quick"] * options.quick]
    parts += [f"--{name} '{getattr(options, name)}'" for name in ("sets", "engines") if getattr(options, name)]
    parts += [f"--{name} {getattr(options, name)}" for name in ("repeats", "queries", "singles")]
    return " ".join(parts)


def publish(out: Path) -> None:
    """Tables and pictures: of frontier.json in docs/, of any other file on the screen and beside it."""
    import frontier_plot
    import frontier_tables
    import readme_tables

    result = kept(out)
    if out.resolve() == (RESULTS / "frontier.json").resolve():
        frontier_plot.plot(result, frontier_tables.IMAGES)
        readme_tables.write()
    else:
        print("\n".join(frontier_tables.block(result)))
        frontier_plot.plot(result, out.parent)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("stopped; what was written is whole") from None
