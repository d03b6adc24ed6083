"""The picture of a sweep."""

from __future__ import annotations

from itertools import combinations

import pytest

from polarindex.errors import MissingExtraError
from polarindex.sweep import picture
from polarindex.sweep.panels import GREY, STYLES
from polarindex.sweep.plan import METHODS, PEERS, Plan
from polarindex.sweep.results import Results, environment

BITS = (1, 2, 4, 8)


def test_without_matplotlib_the_extra_is_named(monkeypatch, tmp_path, make_results):
    monkeypatch.setattr(picture, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'polarindex\[plot\]'"):
        picture.plot(make_results("set"), tmp_path / "sweep.png")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def matplotlib():
    return pytest.importorskip("matplotlib")


@pytest.mark.parametrize(("name", "begins"), [("sweep.png", b"\x89PNG\r\n\x1a\n"), ("sweep.svg", b"<?xml")])
def test_a_picture_is_a_file_of_its_kind(matplotlib, tmp_path, make_results, name, begins):
    picture.plot(make_results("set"), tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(begins)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_panel_draws_every_method_at_its_measured_points(matplotlib, make_results):
    drawn = picture.figure(make_results("first", "second", methods=("eden", "faiss-pq"), lists=True))
    assert len(drawn.axes) == 6
    recall, distortion, speed = drawn.axes[0], drawn.axes[2], drawn.axes[4]
    assert recall.get_title().startswith("first")
    (eden,) = (line for line in recall.lines if line.get_color() == STYLES["eden"].colour)
    assert list(eden.get_xdata()) == [98 * bits + 8 for bits in BITS]
    assert list(eden.get_ydata()) == pytest.approx([1 - 0.5**bits / 2 for bits in BITS])
    assert len(recall.lines) == 2
    assert len(distortion.lines) == 5  # with Lloyd-Max, Shannon, and Shannon for the spectrum
    _, shannon, bound = distortion.lines[:3]
    assert (shannon.get_xdata()[1], shannon.get_ydata()[1]) == (8, 4.0**-8)
    assert (bound.get_color(), bound.get_xdata()[4], bound.get_ydata()[4]) == (GREY, 1, pytest.approx(1 / 6))
    assert len(speed.lines) == 2


def test_without_inverted_files_there_is_no_speed(matplotlib, make_results):
    assert len(picture.figure(make_results("set")).axes) == 2


def test_only_settings_that_no_other_beats_are_a_front(make_results):
    from polarindex.sweep.panels import front, panels

    (panel,) = panels(make_results("set", methods=("eden",), lists=True))
    best = front(panel.rows, 10)
    assert best
    kept = {(m.recall[10].mean, m.search_ms) for _, m in best}
    points = [(m.recall[10].mean, m.search_ms) for _, m in panel.rows]
    for recall, ms in points:
        beaten = any(other >= recall and time <= ms and (other, time) != (recall, ms) for other, time in points)
        assert beaten != ((recall, ms) in kept)


def test_every_method_looks_different():
    looks = [(s.colour, s.marker, s.line, s.open) for s in STYLES.values()]
    assert len(set(looks)) == len(looks)
    assert set(STYLES) == {*METHODS, *PEERS}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_nothing_in_the_picture_overlaps(matplotlib, count, make_results):
    names = ("fashion-mnist-784-euclidean", "glove-100-angular", "sift-128-euclidean")[:count]
    drawn = picture.figure(make_results(*names, lists=count == 2))
    drawn.draw_without_rendering()
    extents = [drawn.legends[0], drawn._suptitle, drawn._supxlabel]
    boxes = [part.get_window_extent() for part in extents] + [axes.get_tightbbox() for axes in drawn.axes]
    assert not [(a, b) for a, b in combinations(boxes, 2) if a.overlaps(b)]
    width, height = drawn.bbox.size
    assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height for box in boxes)
    for axes in drawn.axes[: 2 * count]:
        labels = [label.get_window_extent() for label in axes.get_xticklabels() if label.get_text()]
        assert len(labels) > 2
        assert not [(a, b) for a, b in combinations(labels, 2) if a.overlaps(b)]


def test_no_measured_cell_is_no_picture(matplotlib, tmp_path):
    empty = Results(Plan(("set",)), environment(None))
    with pytest.raises(ValueError, match="no plot without a measured cell"):
        picture.plot(empty, tmp_path / "sweep.png")
