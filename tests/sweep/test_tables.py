"""Tables of a sweep."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

from rich.console import Console

from polarindex.sweep.tables import grids, markdown, remarks, rich_table


def printed(found, width: int = 80) -> str:
    console = Console(file=StringIO(), width=width)
    for grid in grids(found):
        console.print(rich_table(grid))
    return console.file.getvalue()


def test_a_table_has_every_measured_cell_under_its_data_set(make_results):
    text = printed(make_results("first", "second", methods=("eden", "qjl")))
    assert text.count("eden") == text.count("qjl") == 2
    assert text.index("first: 10,000 × 784, l2, 500 queries") < text.index("second: 10,000")
    line = next(line for line in text.splitlines() if line.startswith("qjl"))
    assert line.split() == ["qjl", "1", "106", "1.08", "0.381", "0.762", "0.2500", "0.5000", "12.35", "0.123"]
    assert sum(line.split()[:1] == ["8"] for line in text.splitlines()) == 4


def test_inverted_files_have_a_table_of_their_own(make_results):
    flat, lists = grids(make_results("set", methods=("eden",), lists=True))
    assert len(flat.rows) == 4
    assert lists.title == "set: 10,000 × 784, l2, 500 queries; 64 lists"
    assert lists.rows[1] == ("eden", "1", "none", "114", "8", "0", "0.305", "0.609", "12.35", "0.015")
    assert len(lists.rows) == 4 * 3


def test_tables_fit_a_screen_of_80_columns(make_results):
    text = printed(make_results("fashion-mnist-784-euclidean", lists=True))
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_best_recall_of_each_width_is_bold(make_results):
    (grid,) = grids(make_results("set", methods=("qjl", "eden")))
    assert [row[5].startswith("**") for row in grid.rows] == [False] * 4 + [True] * 4
    assert [text.startswith("[bold]0.") for text in rich_table(grid).columns[5].cells] == [False] * 4 + [True] * 4


def test_markdown_is_one_line_a_row(make_results):
    (grid,) = grids(make_results("set", methods=("eden",)))
    title, blank, header, rule, *lines = markdown(grid).splitlines()
    assert (title, blank) == ("**set: 10,000 × 784, l2, 500 queries**", "")
    assert header == "| method | bits | bytes | bits/dim | R1 @1 | R10 @10 | vNMSE | theory | build s | ms/query |"
    assert rule.count("---") == len(grid.header)
    assert [line.count("|") for line in lines] == [11] * 4


def test_failures_and_notes_are_said_and_not_tabled(make_results, make_cell):
    found = make_results("set", methods=("eden",))
    found.rows.append(replace(make_cell("set", "qjl", 2, 0.5), result=None, error="RuntimeError: out of luck"))
    found.rows.append(make_cell("set", "faiss-pq", 4, 0.9, note="searched otherwise"))
    found.rows += [make_cell("set", "eden", 4, 0.9, nprobe, note="slow") for nprobe in (2, 2)]
    assert "qjl" not in printed(found)
    assert remarks(found) == [
        "set, qjl 2 bit: failed, RuntimeError: out of luck",
        "set, faiss-pq 4 bit: searched otherwise",
        "set, eden 4 bit, 2 of 64 lists: slow",
    ]
