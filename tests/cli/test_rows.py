"""Rows of several files as one matrix: read by slices, in order, wherever a slice begins and ends."""

from __future__ import annotations

import numpy as np
import pytest

import polarindex as pi
from polarindex.cli.rows import passes
from polarindex.sweep.stacked import Stacked, named


@pytest.fixture
def parts(x):
    return Stacked([("a", x[:7]), ("b", x[7:8].astype(np.float16)), ("c", np.arange(16).reshape(2, 8))])


def test_slices_are_those_of_the_matrices_one_after_another(parts, x):
    whole = np.concatenate([x[:7], x[7:8].astype(np.float16).astype(np.float32), np.arange(16).reshape(2, 8)])
    assert parts.shape == (10, 8) and len(parts) == 10 and parts.counts == [7, 1, 2]
    for start in range(11):
        for stop in range(start, 12):
            found = parts[start:stop]
            assert found.dtype == np.float32 and np.array_equal(found, whole[start:stop])


def test_rows_are_taken_by_number(parts, monkeypatch):
    monkeypatch.setattr("polarindex.sweep.stacked._TAKEN", 3)
    numbers = np.array([0, 1, 5, 7, 9])
    assert np.array_equal(parts.take(numbers), parts[0:10][numbers])


def test_passes_over_the_rows_are_shown_under_their_names(parts):
    shown = []
    parts.watch(lambda *what: shown.append(what), "first", "second")
    for _ in range(3):
        for start in (0, 6):
            parts[start : start + 6]
    assert shown == [
        (done, 10, name, "rows") for name in ("first", "second", "second") for done in (6, 10)
    ]  # fmt: skip


@pytest.mark.parametrize(("kind", "n"), [("flat", 60), ("flat", 1100), ("ivf", 60)])
def test_passes_are_as_many_as_an_index_makes(rng, kind, n):
    rows, begun = Stacked([("a", rng.standard_normal((n, 8), np.float32))]), []
    index = pi.FlatIndex(8) if kind == "flat" else pi.IVFIndex(8, nlist=4).fit(rows)
    rows.watch(lambda done, total, what, unit: begun.append(what), *(wanted := passes(index, n)))
    index.add(rows)
    assert list(dict.fromkeys(begun)) == list(wanted) and begun[-1] == "coding"
    assert passes(index, 60) == (("coding",) if kind == "flat" else ("finding lists", "coding"))


def test_what_an_index_says_of_a_row_is_said_of_its_file(parts):
    for row, where in ((0, "a[0]"), (7, "b[0]"), (9, "c[1]")):
        with pytest.raises(ValueError) as found, named(parts):
            raise ValueError(f"x[{row}] is too long: its length")
        assert str(found.value) == f"{where} is too long: its length"
    with pytest.raises(ValueError, match="^ids must be unique$"), named(parts):
        raise ValueError("ids must be unique")
