"""Rows of several files as one matrix: read by slices, in order, wherever a slice begins and ends."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from polarindex.sweep.stacked import Stacked, named


@pytest.fixture
def x(rng):
    return rng.standard_normal((60, 8), np.float32)


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


def test_what_an_index_says_of_a_row_is_said_of_its_file(parts):
    for row, where in ((0, "a[0]"), (7, "b[0]"), (9, "c[1]")):
        with pytest.raises(ValueError) as found, named(parts):
            raise ValueError(f"x[{row}] is too long: its length")
        assert str(found.value) == f"{where} is too long: its length"
    with pytest.raises(ValueError, match="^ids must be unique$"), named(parts):
        raise ValueError("ids must be unique")


def test_watching_ends(parts):
    shown = []
    parts.watch(lambda *what: shown.append(what), "reading")
    parts[4:6]
    parts.watch(None)
    parts[0:6]
    assert shown == [(6, 10, "reading", "rows")]


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="reads /proc")
@pytest.mark.parametrize("mode", ["r", "c"])
def test_a_mapped_file_is_given_back_as_it_is_read_unless_it_may_have_been_changed(mode, tmp_path):
    np.save(tmp_path / "x.npy", np.ones((4096, 1024), np.float32))
    mapped = np.load(tmp_path / "x.npy", mmap_mode=mode)
    if mode == "c":
        mapped[0] = 7
    rows = Stacked([("x", mapped)])
    for start in range(0, 4096, 512):
        rows[start : start + 512]
    assert rows[0:1].max() == (7 if mode == "c" else 1)
    resident = resident_bytes(tmp_path / "x.npy")
    assert resident < 2**20 if mode == "r" else resident > 2**23


def resident_bytes(path: Path) -> int:
    """Of a file that is mapped into this process."""
    text = Path("/proc/self/smaps").read_text()
    found = re.search(re.escape(str(path)) + r"\n(?:.*\n)*?Rss:\s+(\d+) kB", text)
    return 1024 * int(found[1])
