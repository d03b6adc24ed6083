"""What a sweep leaves in its folder."""

from __future__ import annotations

import csv

import pytest

from polarindex.sweep import page, picture
from polarindex.sweep.report import write_report
from polarindex.sweep.results import Row


def test_everything_is_written(make_results, tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("plotly")
    written, missing = write_report(make_results("set", lists=True), tmp_path)
    assert sorted(written) == ["sweep.csv", "sweep.html", "sweep.md", "sweep.png", "sweep.svg"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(written)
    assert missing == []
    text = (tmp_path / "sweep.md").read_text()
    assert "![recall and distortion](sweep.png)" in text
    assert text.count("| eden |") == 4 + 4 * 3


def test_the_csv_has_every_number_of_every_row(make_results, tmp_path):
    found = make_results("set", methods=("eden",), lists=True)
    write_report(found, tmp_path)
    with open(tmp_path / "sweep.csv", newline="") as file:
        table = list(csv.DictReader(file))
    flat = [{key: "" if value is None else str(value) for key, value in row.flat().items()} for row in found.rows]
    assert table == flat


def test_a_flat_row_is_the_row_again(make_results, make_cell):
    for row in make_results("set", lists=True).rows:
        assert Row.from_flat(row.flat()) == row
    assert Row.from_flat(make_cell("set", "eden", 1, 0.5).flat() | {"when": "now"}) == make_cell("set", "eden", 1, 0.5)


def test_what_cannot_be_made_is_said_and_an_older_one_is_gone(make_results, tmp_path, monkeypatch):
    for name in ("sweep.png", "sweep.html", "sweep.md"):
        (tmp_path / name).write_text("old")
    monkeypatch.setattr(picture, "find_spec", lambda name: None)

    def missing(name: str):
        raise ImportError(name)

    monkeypatch.setattr(page, "import_module", missing)
    written, said = write_report(make_results("set"), tmp_path)
    assert written == ["sweep.csv", "sweep.md"]
    assert sorted(path.name for path in tmp_path.iterdir()) == written
    assert [line.split(";")[0] for line in said] == ["no plot without matplotlib", "no page without plotly"]
    assert "sweep.png" not in (tmp_path / "sweep.md").read_text()
