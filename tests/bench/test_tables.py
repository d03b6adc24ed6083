"""Tables of a comparison, and the page with all of them."""

from __future__ import annotations

from polarindex.bench import report
from polarindex.bench.tables import codes, sets, speeds, standing
from polarindex.sweep.tables import markdown, rich_table

RUN = {
    "set": "some-set", "n": 1000, "dim": 8, "metric": "l2", "queries": 100, "singles": 50, "repeats": 3, "quick": False,
    "command": "python ...",
    "environment": {
        "cpu": "a CPU", "cores": 2, "threads": 1, "caches": {}, "versions": {"faiss": "1.0"}, "date": "2030-01-01",
    },
}  # fmt: skip
BUILD = {
    "set": "some-set", "family": "hnswlib", "engine": "M=16", "train_s": None, "train_wall_s": None, "add_s": 2.0,
    "add_wall_s": 2.5, "peak_bytes": 3e6, "held_bytes": None, "bytes_per_vector": 1234.5, "bytes_counted": "serialized",
}  # fmt: skip


def cell(family: str, recall: float, speed: float, mode: str = "batch", name: str = "some-set") -> dict[str, object]:
    return {
        "set": name, "family": family, "engine": "E", "mode": mode, "setting": {"nprobe": 1}, "recall": recall,
        "recall_low": recall - 0.01, "recall_high": recall + 0.01, "queries_per_s": speed, "median": 100 / speed,
        "times": [90 / speed, 100 / speed, 120 / speed],
    }  # fmt: skip


def result(*cells: dict[str, object], skipped: tuple[dict[str, object], ...] = ()) -> dict[str, object]:
    return {"runs": [RUN], "builds": [BUILD], "cells": list(cells), "skipped": list(skipped)}


def row(grid, first: str) -> list[str]:
    (found,) = [row for row in grid.rows if row[0] == first]
    return list(found[1:])


def test_a_table_has_speeds_of_families_and_ratios_to_the_best_others():
    cells = [
        cell("hnswlib", 0.85, 400), cell("hnswlib", 0.96, 100), cell("polarindex", 0.90, 800),
        cell("polarindex", 0.95, 340), cell("FAISS PQ fast scan", 0.90, 200), cell("FAISS PQ fast scan", 0.80, 999),
        cell("polarindex FlatIndex", 0.99, 9999), cell("hnswlib", 0.999, 1, name="another"),
    ]  # fmt: skip
    grid = speeds(result(*cells, cell("hnswlib", 0.95, 7, "single")), RUN)
    assert row(grid, "polarindex") == ["800", "340", "-", "-", "-", "-", "E; nprobe 1"]
    assert row(grid, "hnswlib") == ["213", "113", "-", "≥ 7", "7", "-", "E; nprobe 1"]
    assert row(grid, "FAISS PQ fast scan") == ["200", "-", "-", "-", "-", "-", "-"]
    assert row(grid, "polarindex to the best peer") == ["3.76× (hnswlib)", "3.00× (hnswlib)", "-", "-", "-", "-", ""]
    assert row(grid, "polarindex to the best FAISS")[:2] == ["4.00× (FAISS PQ fast scan)", "-"]


def test_a_page_that_compares_has_a_row_of_ratios_a_set():
    found = result(cell("hnswlib", 0.96, 100), cell("polarindex", 0.96, 300), cell("polarindex", 0.96, 50, "single"))
    assert row(standing(found), "some-set") == ["3.00× (hnswlib)", "3.00× (hnswlib)", "-", "-", "-", "-"]


def test_the_table_for_a_screen_has_the_same_numbers_in_fewer_letters():
    found = result(cell("hnswlib", 0.96, 100), cell("polarindex", 0.96, 300))
    grid = speeds(found, RUN, short=True)
    assert row(grid, "polarindex") == ["≥ 300", "≥ 300", "-", "-", "-", "-"]
    assert row(grid, "polarindex to the best peer") == ["3.00×", "3.00×", "-", "-", "-", "-"]
    assert len(grid.header) == 7 == len(rich_table(grid).columns)


def test_codes_stand_by_family_with_intervals_and_the_best_of_a_width_is_bold():
    built = {"bytes_per_vector": 50.0, "train_s": 1.0, "add_s": 0.5}
    pairs = [("turbovec", 0.9), ("polarindex", 0.91)]
    cells = [cell(family, recall, 1000, mode) for family, recall in pairs for mode in ("batch", "single")]
    found = result(*cells) | {"builds": [BUILD | built | {"family": family, "engine": "E"} for family, _ in pairs]}
    grid = codes(found, RUN)
    assert [line[0] for line in grid.rows] == ["polarindex", "turbovec"]
    assert row(grid, "polarindex")[1:] == ["50", "**0.910**", "0.900-0.920", *["1,000 (708-1,278)"] * 2, "1.5"]
    assert row(grid, "turbovec")[2] == "0.900"
    assert "| polarindex | E | 50 | **0.910** |" in markdown(grid)


def test_a_page_has_everything_and_says_what_was_not_measured(tmp_path):
    why = [{"set": "some-set", "family": "ScaNN", "engine": e, "why": "not installed: no scann"} for e in "AB"]
    why.append({"set": "some-set", "family": "hnswlib", "engine": "M=32", "why": "died"})
    why.append({"set": "some-set", "family": "turbovec", "engine": "all", "why": "it has no distances"})
    found = result(cell("hnswlib", 0.9, 10), skipped=tuple(why))
    written, missing = report.write_report({report.LISTS: found, report.CODES: result()}, tmp_path)
    assert written == ["bench.md", "frontier-some-set.png"] and not missing
    assert (tmp_path / "frontier-some-set.png").read_bytes()[:4] == b"\x89PNG"
    text = (tmp_path / "bench.md").read_text()
    assert "some-set, 1,000 × 8, l2" in text
    assert (
        "Not measured: ScaNN (2 engines): not installed: no scann; hnswlib (M=32): died; "
        "turbovec: it has no distances." in text
    )
    assert "![some-set: recall and queries a second](frontier-some-set.png)" in text
    assert "| hnswlib | M=16 | 2 |  | 2.5 | 3 |  | 1,234 (serialized) |" in text
    assert text.endswith("50 one by one, `python ...`.\n")


def test_a_set_with_a_second_run_of_one_engine_is_one_set_with_two_footers():
    again = RUN | {"only": "usearch", "repeats": 2}
    found = result() | {"runs": [RUN, again]}
    assert sets(found) == [RUN]
    footers = [line for line in report.list_lines(found, None) if "Medians of" in line]
    assert len(footers) == 2 and footers[1].startswith("usearch: a CPU")
