"""How results of queries are printed and written.

    table    for the eye: on a terminal the first queries, in a pipe all
    jsonl    {"query": 0, "ids": [...], "distances": [...]}, with "keys", and "texts" and "metadata" if recorded
    csv      query, rank, id, distance, and key and text
    npz      ids (nq, k) int64, distances (nq, k) float32, and keys (nq, k)
    npy      ids (nq, k) int64

Law:       where there are fewer than k rows, arrays have id -1 (and the worst distance, and key ""); other formats have
           fewer results. A file is whole or is not there. Numbers are written so that the same float32 is read."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polarindex import checks
from polarindex.cli.screen import out, remark
from polarindex.records import Record
from polarindex.sweep.cache import written_whole

FORMATS = ("table", "jsonl", "csv", "npz", "npy")
_STDOUT = "-"
_SHOWN = 10  # queries in a table on a terminal
_TOGETHER = 256  # queries whose columns are aligned elsewhere


class Answers(NamedTuple):
    """Results of some queries: what each query is called, ids and distances (m, k), and the records of the ids."""

    names: list[Any]
    ids: NDArray[np.int64]
    distances: NDArray[np.float32]
    records: dict[int, Record] | None

    def lines(self) -> Iterator[dict[str, Any]]:
        """For each query what JSON says of it."""
        for name, ids, distances in zip(self.names, self.ids, self.distances, strict=True):
            there = ids >= 0
            line: dict[str, Any] = {"query": name, "ids": ids[there].tolist(), "distances": _shortest(distances[there])}
            if self.records is not None:
                rows = [self.records[id] for id in line["ids"]]
                line["keys"] = [row.key for row in rows]
                if any(row.text is not None for row in rows):
                    line["texts"] = [row.text for row in rows]
                if any(row.metadata is not None for row in rows):
                    line["metadata"] = [row.metadata for row in rows]
            yield line


def chosen_format(format: str | None, target: str | None, json_lines: bool) -> str:
    """The format that is asked for, or that a file's name says."""
    if format is not None:
        checks.choice(format, "--format", FORMATS)
    if json_lines and format not in (None, "jsonl"):
        raise ValueError(f"--json and --format {format} are two formats; give one of them")
    if target is None:
        return "jsonl" if json_lines else format or "table"
    if json_lines:
        format = "jsonl"
    ending = Path(target).suffix[1:].lower()
    wanted = format or ("npz" if target == _STDOUT else ending)
    if wanted not in FORMATS or wanted == "table":
        raise ValueError(f"--out writes .npz, .npy, .csv and .jsonl, got {target!r}; or say which with --format")
    return wanted


def write(answers: Iterator[Answers], format: str, target: str | None) -> None:
    """Print the answers as something else than a table, or write them into a file."""
    if target is None or target == _STDOUT:
        _write(answers, format, sys.stdout)
        return
    place = Path(target).expanduser()
    with written_whole(place) as draft:
        if format in ("npz", "npy"):
            draft.write_bytes(_arrays(answers, format))
        else:
            with open(draft, "w", encoding="utf-8", newline="") as file:
                _write(answers, format, file)
    remark(f"written to {place}")


def _write(answers: Iterator[Answers], format: str, file: IO[str]) -> None:
    if format in ("npz", "npy"):
        file.flush()
        data = memoryview(_arrays(answers, format))
        while data:  # without a buffer, as Python has it by PYTHONUNBUFFERED, a write may write a part
            data = data[sys.stdout.buffer.write(data) :]
    elif format == "jsonl":
        for line in _lines(answers):
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    else:
        _write_csv(answers, file)


def _lines(answers: Iterator[Answers]) -> Iterator[dict[str, Any]]:
    for some in answers:
        yield from some.lines()


def _arrays(answers: Iterator[Answers], format: str) -> bytes:
    """A .npz or .npy file."""
    parts = list(answers)
    ids = np.concatenate([part.ids for part in parts])
    file = BytesIO()
    if format == "npy":
        np.save(file, ids)
        return file.getvalue()
    arrays: dict[str, NDArray[Any]] = {"ids": ids, "distances": np.concatenate([part.distances for part in parts])}
    if parts[0].records is not None:
        known = {id: record.key for part in parts for id, record in (part.records or {}).items()}
        arrays["keys"] = np.array([known.get(id, "") for id in ids.ravel().tolist()], np.str_).reshape(ids.shape)
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def _write_csv(answers: Iterator[Answers], file: IO[str]) -> None:
    table = csv.writer(file, lineterminator="\n")
    for number, some in enumerate(answers):
        keyed = some.records is not None
        if number == 0:
            table.writerow(["query", "rank", "id", "distance", *(["key", "text"] if keyed else [])])
        for line in some.lines():
            nothing = [None] * len(line["ids"])
            columns = [line["ids"], line["distances"]]
            columns += [line["keys"], line.get("texts", nothing)] if keyed else []
            for rank, values in enumerate(zip(*columns, strict=True), 1):
                table.writerow([line["query"], rank, *values])


def print_table(answers: Iterator[Answers], queries: int, metric: str) -> None:
    """Print a table of the answers; on a terminal those of the first queries, with a remark on the others."""
    console, lines = out(), _lines(answers)
    if not console.is_terminal:  # where rich, which sees all rows before it prints one, would take its time
        _print_rows(lines, metric)
        return
    from rich.table import Table
    from rich.text import Text

    shown = list(islice(lines, _SHOWN))
    columns = _columns(shown, metric)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in columns:
        right = name not in ("key", "text")
        table.add_column(name, justify="right" if right else "left", no_wrap=name != "key", overflow="ellipsis")
    for line in shown:
        for row in _rows(line, columns):
            table.add_row(*map(Text, row))
    console.print(table)
    if len(shown) < queries:
        remark(f"and those of {queries - len(shown):,} queries more: --json or --out FILE has all")


def _print_rows(lines: Iterator[dict[str, Any]], metric: str) -> None:
    """Print all answers in columns, some queries at a time."""
    columns: list[str] = []
    while some := list(islice(lines, _TOGETHER)):
        rows = [] if columns else [_columns(some, metric)]
        columns = columns or rows[0]
        rows += [row for line in some for row in _rows(line, columns)]
        widths = [max(len(row[at]) for row in rows) for at in range(len(columns))]
        for row in rows:
            cells = (
                cell.ljust(width) if name in ("key", "text") else cell.rjust(width)
                for name, cell, width in zip(columns, row, widths, strict=True)
            )
            sys.stdout.write("  ".join(cells).rstrip() + "\n")


def _columns(lines: list[dict[str, Any]], metric: str) -> list[str]:
    names = ["query", "rank", "id", *(["key"] if any("keys" in line for line in lines) else [])]
    names.append("distance" if metric == "l2" else "similarity")
    return [*names, *(["text"] if any("texts" in line for line in lines) else [])]


def _rows(line: dict[str, Any], columns: list[str]) -> Iterator[list[str]]:
    """The rows of a table for one query."""
    for rank, (id, distance) in enumerate(zip(line["ids"], line["distances"], strict=True)):
        row = [str(line["query"]), str(rank + 1), str(id)]
        row += [line["keys"][rank]] if "key" in columns else []
        row.append(f"{distance:.6g}")
        if "text" in columns:
            text = line["texts"][rank] if "texts" in line else None
            row.append(" ".join((text or "").split()))
        yield row


def _shortest(values: NDArray[np.float32]) -> list[float]:
    """Numbers with as few digits as tell a float32 from its neighbours."""
    return [float(str(value)) for value in values]
