"""Arguments and options that several commands have in common, and what the shell proposes for their values."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer


def metrics() -> list[str]:
    return ["l2", "ip", "cosine"]


def kinds() -> list[str]:
    return ["flat", "ivf"]


def engines() -> list[str]:
    return ["local", "ray"]


def stores() -> list[str]:
    return ["none", "float32", "float16", "int8"]


def codes() -> list[str]:
    return ["plain", "spectral"]


def quantizers() -> list[str]:
    from polarindex.quantizers import CELLS

    return list(CELLS)


_of_rows = partial(typer.Option, rich_help_panel="Names of the rows")

Index = Annotated[Path, typer.Argument(metavar="INDEX", help="The directory of an index.")]
Files = Annotated[
    list[str],
    typer.Argument(metavar="FILE", help="Vectors: .npy, .parquet, .h5, ...; FILE::PART; - is a .npy on stdin."),
]
Ids = Annotated[str | None, _of_rows("--ids", metavar="COLUMN", help="A column of whole numbers, or of keys.")]
Keys = Annotated[str | None, _of_rows("--keys", metavar="COLUMN", help="A column of strings.")]
Text = Annotated[str | None, _of_rows("--text", metavar="COLUMN", help="With keys: a text to show for each row.")]
Metadata = Annotated[str, _of_rows("--metadata", metavar="COLUMNS", help="With keys: columns, between commas.")]
Threads = Annotated[int | None, typer.Option("--threads", help="Cores to use; not given: all.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
