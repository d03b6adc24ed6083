"""polarindex build: files of vectors become an index."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polarindex.cli import options

if TYPE_CHECKING:
    from polarindex.cli.labels import Labels
    from polarindex.indexes.flat import FlatIndex
    from polarindex.indexes.ivf import IVFIndex
    from polarindex.sweep.stacked import Show, Stacked

_CODES = "plain, or spectral: principal axes are learned and --bits may be any number from 0.25 to 8."
_FACTORS = "Bits of each row's scale and shift beside its code: 32, or 16 for 4 bytes a vector less."
_STORE = "Keep the vectors for exact re-ranking: none, float32, float16, int8."
_SHARDS = "Make a sharded index of so many directories, in little memory; a build that was cut off goes on."
_MEMORY = "With shards: what each process may take, such as 600MB or 4GiB; not given: 2GiB."
_of_shards = partial(typer.Option, rich_help_panel="Shards")
_TRAIN = "Learn centre and lists from so many rows, chosen at random; not given: all, from which lists take a sample."


def build(
    files: options.Files,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="INDEX", help="The directory to make.")],
    metric: Annotated[str, typer.Option(help="l2, ip or cosine.", autocompletion=options.metrics)] = "l2",
    bits: Annotated[float, typer.Option(help="Code bits a coordinate, 1 to 8.")] = 4,
    codes: Annotated[str, typer.Option(help=_CODES, autocompletion=options.codes)] = "plain",
    quantizer: Annotated[str, typer.Option(help="How rows are coded.", autocompletion=options.quantizers)] = "eden",
    index: Annotated[
        str, typer.Option("--index", help="flat (every code is read) or ivf.", autocompletion=options.kinds)
    ] = "flat",
    nlist: Annotated[int | None, typer.Option(help="Lists of an ivf; not given: by the number of rows.")] = None,
    store: Annotated[str, typer.Option(help=_STORE, autocompletion=options.stores)] = "none",
    spill: Annotated[float | None, typer.Option(help="Of an ivf: share of rows that lie in two lists.")] = None,
    factor_bits: Annotated[int, typer.Option("--factor-bits", help=_FACTORS)] = 32,
    ids: options.Ids = None,
    keys: options.Keys = None,
    text: options.Text = None,
    metadata: options.Metadata = "",
    train: Annotated[int | None, typer.Option(metavar="ROWS", help=_TRAIN)] = None,
    threads: options.Threads = None,
    seed: Annotated[int, typer.Option(help="Of the rotation, k-means and samples.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an index that is there.")] = False,
    shards: Annotated[int | None, _of_shards("--shards", metavar="N", help=_SHARDS)] = None,
    memory: Annotated[str | None, _of_shards("--memory", metavar="BYTES", help=_MEMORY)] = None,
    processes: Annotated[int | None, _of_shards("--processes", help="Processes that code; not given: one.")] = None,
    engine: Annotated[
        str | None, _of_shards("--engine", help="local, or ray: on a cluster.", autocompletion=options.engines)
    ] = None,
    json: options.Json = False,
) -> None:
    """Make an index from files of vectors.

    Rows are read and coded a chunk at a time. The directory appears when it is whole: after an error or Ctrl-C there is
    what was there before. With --shards it is a directory of several indexes, built in little memory: what an error or
    Ctrl-C leaves there is gone on with when the same command is given again. A COLUMN is one of the file's (Parquet,
    Arrow, .npz, HDF5), or a file of its own (.npy, or .txt with one a line).
    """
    from polarindex.cli.labels import Labels
    from polarindex.cli.places import built_beside, bytes_on_disk
    from polarindex.cli.rows import opened
    from polarindex.cli.screen import bar, print_json, remark, tell
    from polarindex.indexes.threads import limited

    if bits == int(bits):
        bits = int(bits)
    elif codes == "plain":
        raise ValueError(f"--bits {bits:g} is of spectral codes; give --codes spectral too, or a whole number")
    if shards is not None:
        from polarindex.cli import shards as sharded

        texts = {"--keys": keys, "--text": text, "--metadata": metadata or None}
        sharded.refuse({**texts, "--train": train, "--spill": spill, "--overwrite": overwrite or None})
        parameters = {"metric": metric, "bits": bits, "quantizer": quantizer, "store": store, "seed": seed}
        parameters |= {"codes": codes, "factor_bits": factor_bits}
        wanted = {**parameters, "kind": index, "nlist": nlist, "num_shards": shards}
        sharded.build(files, out, wanted, ids, memory, processes, threads, engine, json)
        return
    for name, value in (("--memory", memory), ("--processes", processes), ("--engine", engine)):
        if value is not None:
            raise ValueError(f"{name} is of an index in shards; give --shards too, or leave it out")
    with limited(threads), opened(files) as rows:
        how = {"metric": metric, "bits": bits, "quantizer": quantizer, "seed": seed, "store": store, "codes": codes}
        how["factor_bits"] = factor_bits
        made = _empty(rows.shape[1], index, nlist, spill, how)
        if train is not None and train < 1:
            raise ValueError(f"--train must be at least 1, got {train}")
        labels = Labels(files, rows, ids, keys, text, metadata)
        try:
            with built_beside(out, overwrite) as draft, bar() as show:
                _write(made, draft, rows, labels, train, show)
        except KeyboardInterrupt:
            remark(f"interrupted: {out} is as it was")
            raise
    size = bytes_on_disk(out)
    if json:
        facts = {"bytes_per_vector": made.bytes_per_vector, "bytes_on_disk": size, "keys": labels.keyed}
        print_json({"path": str(out), "kind": made.kind, "n": len(made), **made.parameters(), **facts})
    else:
        tell(f"{out}: {made!r}, {made.bytes_per_vector:,.4g} bytes a vector, {size / 1e6:,.1f} MB")
    _advise(made)


def _empty(
    dim: int, kind: str, nlist: int | None, spill: float | None, how: dict[str, Any]
) -> FlatIndex | IVFIndex:
    """The index, as it is asked for; errors name what cannot be."""
    from polarindex import checks
    from polarindex.indexes.flat import FlatIndex
    from polarindex.indexes.ivf import IVFIndex

    checks.choice(kind, "--index", options.kinds())
    if kind == "ivf":
        return IVFIndex(dim, nlist="auto" if nlist is None else nlist, spill=spill or 0.0, **how)
    for name, value in (("--nlist", nlist), ("--spill", spill)):
        if value is not None:
            raise ValueError(f"{name} is of an inverted file; give --index ivf too, or leave it out")
    return FlatIndex(dim, **how)


def _write(
    index: FlatIndex | IVFIndex, folder: Path, rows: Stacked, labels: Labels, train: int | None, show: Show
) -> None:
    """Fill an index, and make a directory of it and its records."""
    import os

    import numpy as np

    from polarindex.cli.rows import passes
    from polarindex.indexes import durable
    from polarindex.records import FILE, Records
    from polarindex.sweep.stacked import named

    with named(rows):
        _learn(index, rows, train, show)
        if labels.keyed:  # before the long part, as a key may come twice
            ids = np.arange(len(rows)) if labels.ids is None else labels.ids
            with Records(folder.with_name(FILE)) as records:
                labels.record(records, ids, str(folder), show)
        rows.watch(show, *passes(index, len(rows)))
        index.add(rows, labels.ids)
    show(len(rows), len(rows), "writing", "")
    index.save(folder)
    if labels.keyed:
        os.replace(folder.with_name(FILE), folder / FILE)
        durable.sync_directory(folder)


def _learn(index: FlatIndex | IVFIndex, rows: Stacked, train: int | None, show: Show) -> None:
    """Fit an inverted file, and a flat index to `train` rows at random: else it learns its centre when it is filled."""
    import numpy as np

    from polarindex.indexes.flat import FlatIndex

    n = len(rows)
    if isinstance(index, FlatIndex) and train is None:
        return
    rows.watch(show, "sampling")
    sample: Any = rows
    if train is not None and train < n:
        sample = rows.take(np.sort(np.random.default_rng(index.seed).choice(n, train, replace=False)))
    if isinstance(index, FlatIndex):
        index.fit(sample, n)
    else:
        index.fit(sample, n, lambda done, total: show(done, total, "k-means", ""))


def _advise(index: FlatIndex | IVFIndex) -> None:
    from polarindex.cli.advice import of_kind
    from polarindex.cli.screen import remark

    for line in of_kind(index.info()):
        remark(f"note: {line}")
