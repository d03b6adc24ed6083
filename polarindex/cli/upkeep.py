"""polarindex tune, compact and rebalance: an index as fast and as small as it can be, where it lies."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated

import typer

from polarindex.cli import options


def tune(
    index: options.Index,
    queries: Annotated[str, typer.Argument(metavar="QUERIES", help="At least 100 vectors that are not in the index.")],
    target_recall: Annotated[float, typer.Option(help="The share of the k nearest that is to be found.")] = 0.95,
    k: Annotated[int, typer.Option("--k", "-k", help="Results a query.")] = 10,
    batch: Annotated[int, typer.Option(help="Queries a search: 1 where they come one at a time.")] = 64,
    threads: options.Threads = None,
    json: options.Json = False,
) -> None:
    """Find the fastest search of an inverted file that reaches a recall, and keep it as the index's default."""
    from polarindex.cli.labels import writing
    from polarindex.cli.rows import opened
    from polarindex.cli.screen import print_json, tell
    from polarindex.indexes.ivf import IVFIndex
    from polarindex.sweep.stacked import named

    with ExitStack() as stack:
        held, _ = stack.enter_context(writing(index))
        if not isinstance(held, IVFIndex):
            raise ValueError(f"{index} is a flat index, which reads every code: there is nothing to tune")
        rows = stack.enter_context(opened([queries]))
        rows.check_dim(held.dim, index)
        with named(rows):
            found = held.tune(rows, target_recall, k, num_threads=threads, batch=batch)
    if json:
        print_json({"path": str(index), **found._asdict()})
    else:
        gap = "" if found.gap is None else f", gap {found.gap:.4g}"
        tell(
            f"{index}: nprobe {found.nprobe}{gap}, rerank {found.rerank} find {found.recall:.3f} of the {k} nearest in "
            f"{1e6 * found.seconds_per_query:,.0f} µs of CPU time a query"
        )


def compact(index: options.Index, json: options.Json = False) -> None:
    """Write an index anew, without the log of what changed: it is then smaller, and sooner read."""
    from polarindex.cli.labels import writing
    from polarindex.cli.places import bytes_on_disk
    from polarindex.cli.screen import print_json, tell

    before = bytes_on_disk(index)
    with writing(index) as (held, _):
        held.compact()
    after = bytes_on_disk(index)
    if json:
        print_json({"path": str(index), "bytes_before": before, "bytes_on_disk": after})
    else:
        tell(f"{index}: {before / 1e6:,.1f} MB became {after / 1e6:,.1f} MB")


def rebalance(
    index: options.Index,
    nlist: Annotated[int | None, typer.Option(help="Lists; not given: as many as now.")] = None,
    threads: options.Threads = None,
    json: options.Json = False,
) -> None:
    """Learn the lists of an inverted file from the rows that it holds now. What was tuned is forgotten."""
    from polarindex.cli.labels import writing
    from polarindex.cli.screen import bar, print_json, tell
    from polarindex.indexes.ivf import IVFIndex
    from polarindex.indexes.threads import limited

    with limited(threads), writing(index) as (held, _), bar() as show:
        if not isinstance(held, IVFIndex):
            raise ValueError(f"{index} is a flat index, which has no lists to learn")
        held.rebalance(nlist=nlist, progress=lambda done, total: show(done, total, "k-means", ""))
    facts = held.info()
    if json:
        print_json({"path": str(index), **{name: facts[name] for name in ("nlist", "drift", "largest_over_mean")}})
    else:
        tell(f"{index}: {facts['nlist']:,} lists, the largest {facts['largest_over_mean']:.1f} times the mean")
