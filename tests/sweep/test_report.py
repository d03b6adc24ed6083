"""Tables and the picture of a sweep."""

from __future__ import annotations

from io import StringIO
from itertools import combinations

import pytest
from rich.console import Console

from polarindex.errors import MissingExtraError
from polarindex.quantizers import CELLS
from polarindex.sweep import report
from polarindex.sweep.plan import PEERS, Plan
from polarindex.sweep.results import Measurement, Results, Row, environment

BITS = (1, 2, 4, 8)


def row(dataset: str, method: str, bits: int, recall: float, note: str = "") -> Row:
    size = 98 * bits + 8
    recalls = {1: recall / 2, 10: recall}
    measurement = Measurement(size, 8 * size / 784, recalls, 4.0**-bits, 0.5**bits, 12.3456, 20.0, 0.1234, note)
    return Row(dataset, "l2", 10_000, 784, 500, method, bits, measurement)


def results(*datasets: str, methods: tuple[str, ...] = (*CELLS, *PEERS)) -> Results:
    found = Results(Plan(datasets), environment(2))
    for dataset in datasets:
        for place, method in enumerate(methods):
            found.rows += [row(dataset, method, bits, 1 - 0.5**bits / (2 + place / 10)) for bits in BITS]
    return found


def printed(found: Results, width: int = 80) -> str:
    console = Console(file=StringIO(), width=width)
    for table in report.tables(found):
        console.print(table)
    return console.file.getvalue()


def test_a_table_has_every_measured_cell_under_its_data_set():
    text = printed(results("first", "second", methods=("eden", "qjl")))
    assert text.count("eden") == text.count("qjl") == 2
    assert text.index("first: 10,000 × 784, l2, 500 queries") < text.index("second: 10,000")
    line = next(line for line in text.splitlines() if line.startswith("qjl"))
    assert line.split() == ["qjl", "1", "106", "1.08", "0.381", "0.762", "0.2500", "0.5000", "12.35", "0.123"]
    assert sum(line.split()[:1] == ["8"] for line in text.splitlines()) == 4


def test_tables_fit_a_screen_of_80_columns():
    text = printed(results("fashion-mnist-784-euclidean"))
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_best_recall_of_each_width_is_bold():
    (table,) = report.tables(results("set", methods=("qjl", "eden")))
    cells = list(table.columns[5].cells)
    assert [text.startswith("[bold]") for text in cells] == [False] * 4 + [True] * 4


def test_failures_and_notes_are_said_and_not_tabled():
    found = results("set", methods=("eden",))
    found.rows.append(Row("set", "l2", 10_000, 784, 500, "qjl", 2, None, "RuntimeError: out of luck"))
    found.rows.append(row("set", "faiss-pq", 4, 0.9, "searched otherwise"))
    assert "qjl" not in printed(found)
    assert report.remarks(found) == [
        "set, qjl 2 bit: failed, RuntimeError: out of luck",
        "set, faiss-pq 4 bit: searched otherwise",
    ]


def test_without_matplotlib_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(report, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'polarindex\[plot\]'"):
        report.plot(results("set"), tmp_path / "sweep.png")
    assert list(tmp_path.iterdir()) == []


# --- the picture


@pytest.fixture
def matplotlib():
    return pytest.importorskip("matplotlib")


def test_a_picture_is_a_png(matplotlib, tmp_path):
    report.plot(results("set"), tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.png"]


def test_a_panel_draws_every_method_at_its_measured_points(matplotlib):
    picture = report.figure(results("first", "second", methods=("eden", "faiss-pq")))
    recall, distortion = picture.axes[0], picture.axes[2]
    assert recall.get_title().startswith("first")
    (eden,) = (line for line in recall.lines if line.get_color() == report._STYLES["eden"].colour)
    assert list(eden.get_xdata()) == [98 * bits + 8 for bits in BITS]
    assert list(eden.get_ydata()) == pytest.approx([1 - 0.5**bits / 2 for bits in BITS])
    assert len(recall.lines) == 2
    assert len(distortion.lines) == 4  # with Lloyd-Max and Shannon
    shannon = distortion.lines[1]
    assert (shannon.get_xdata()[1], shannon.get_ydata()[1]) == (8, 4.0**-8)


def test_every_method_looks_different(matplotlib):
    looks = [(s.colour, s.marker, s.line, s.open) for s in report._STYLES.values()]
    assert len(set(looks)) == len(looks)
    assert set(report._STYLES) == {*CELLS, *PEERS}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_nothing_in_the_picture_overlaps(matplotlib, count):
    names = ("fashion-mnist-784-euclidean", "glove-100-angular", "sift-128-euclidean")[:count]
    picture = report.figure(results(*names))
    picture.draw_without_rendering()
    extents = [picture.legends[0], picture._suptitle, picture._supxlabel]
    boxes = [part.get_window_extent() for part in extents] + [axes.get_tightbbox() for axes in picture.axes]
    assert not [(a, b) for a, b in combinations(boxes, 2) if a.overlaps(b)]
    width, height = picture.bbox.size
    assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height for box in boxes)
    for axes in picture.axes:
        labels = [label.get_window_extent() for label in axes.get_xticklabels() if label.get_text()]
        assert len(labels) > 2
        assert not [(a, b) for a, b in combinations(labels, 2) if a.overlaps(b)]


def test_no_measured_cell_is_no_picture(matplotlib, tmp_path):
    empty = Results(Plan(("set",)), environment(None))
    with pytest.raises(ValueError, match="no plot without a measured cell"):
        report.plot(empty, tmp_path / "sweep.png")
