"""An index written from runs is the index that rows were added to, byte for byte."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import polarindex as pi
from polarindex import checks
from polarindex.indexes import segment, streamed
from polarindex.indexes.streamed import saved_rows

DIM = 16


class Run:
    """Coded rows in memory."""

    def __init__(self, columns: dict[str, np.ndarray]) -> None:
        self.n, self._columns = len(columns["ids"]), columns

    def __call__(self, name: str, start: int, stop: int) -> np.ndarray:
        return self._columns[name][start:stop]


def run_of(frame, x, ids) -> Run:
    parts = list(frame._coded_parts(checks.vectors(x, "x")))
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} | {"ids": ids}
    if "lists" in columns:
        order = np.argsort(columns["lists"], kind="stable")
        columns = {name: values[order] for name, values in columns.items()}
    return Run(columns)


def files(path: Path) -> tuple[dict, dict[str, bytes]]:
    entries = json.loads((path / "manifest.json").read_text())
    (entry,) = entries["segments"]
    return entries["state"], {file.name: file.read_bytes() for file in (path / entry["name"]).iterdir()}


def frame_of(kind: str, x, **parameters):
    if kind == "flat":
        return pi.FlatIndex(DIM, **parameters).fit(x)
    return pi.IVFIndex(DIM, nlist=12, **parameters).fit(x)


def check_streamed(frame, x, ids, cuts, folder: Path, memory: int = 1) -> None:
    """Write rows as runs that are cut so, and by adding them: the same files."""
    runs = [run_of(frame, x[a:b], ids[a:b]) for a, b in zip([0, *cuts], [*cuts, len(x)], strict=True) if a < b]
    (folder / "streamed").mkdir()
    segment.replace(frame, folder / "streamed", saved_rows(frame, runs, memory))
    index = frame.empty_like() if frame.kind == "ivf" else frame.__copy__()
    index.add(x, ids)
    index.save(folder / "added")
    assert files(folder / "streamed") == files(folder / "added")
    assert pi.verify(folder / "streamed") == []


@pytest.fixture
def few_rows_at_a_time(monkeypatch):
    monkeypatch.setattr(streamed, "_LEAST", 32)
    monkeypatch.setattr(streamed, "_READ", 19)


@pytest.mark.parametrize("store", ["none", "float32", "float16", "int8"])
@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_a_file_from_runs_is_that_of_an_index_with_the_rows(kind, metric, store, rng, tmp_path, few_rows_at_a_time):
    x = rng.standard_normal((500, DIM), np.float32)
    x[100:250] = x[0]  # one list is longer than what is put in place at a time
    check_streamed(frame_of(kind, x, metric=metric, store=store), x, np.arange(500), [3, 160, 161, 400], tmp_path)


@pytest.mark.parametrize(
    "parameters",
    [{"bits": 1}, {"bits": 8}, {"quantizer": "turboquant-prod"}, {"quantizer": "polarquant"}, {"center": False}],
)
@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_codes_of_every_layout_are_written(kind, parameters, rng, tmp_path, few_rows_at_a_time):
    x = rng.standard_normal((150, DIM), np.float32)
    check_streamed(frame_of(kind, x, metric="ip", **parameters), x, np.arange(150), [70], tmp_path)


def test_the_words_of_first_planes_are_written(rng, tmp_path):
    x = rng.standard_normal((150, DIM), np.float32)
    check_streamed(frame_of("ivf", x, scan_bits=2), x, np.arange(150), [70], tmp_path)


@pytest.mark.parametrize("kind", ["flat", "ivf"])
@pytest.mark.parametrize("ids", ["shuffled", "large", "border"])
def test_ids_are_written_as_they_are(kind, ids, rng, tmp_path):
    x = rng.standard_normal((100, DIM), np.float32)
    given = {"shuffled": rng.permutation(100), "large": rng.permutation(100) + 2**40, "border": np.arange(100) + 2**32}
    check_streamed(frame_of(kind, x), x, given[ids] - (100 if ids == "border" else 0), [50], tmp_path)


@pytest.mark.parametrize("kind", ["flat", "ivf"])
@pytest.mark.parametrize("n", [0, 1, 15, 16, 17])
def test_few_rows_or_none_are_written(kind, n, rng, tmp_path):
    x = rng.standard_normal((100, DIM), np.float32)
    check_streamed(frame_of(kind, x), x[:n], np.arange(n), [n // 2], tmp_path)


@settings(max_examples=30)
@given(
    lists=st.lists(st.integers(0, 11), max_size=150),
    cuts=st.lists(st.integers(0, 150), max_size=4),
    least=st.sampled_from([16, 48, 4096]),
)
def test_however_lists_and_runs_are_cut_the_file_is_the_same(lists, cuts, least, tmp_path_factory):
    """Rows lie on the centroids, so they are of the lists that are drawn."""
    frame = frame_of("ivf", np.random.default_rng(0).standard_normal((200, DIM), np.float32))
    x = frame.centroids[np.array(lists, np.int64)].reshape(-1, DIM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streamed, "_LEAST", least)
        cuts = sorted(min(cut, len(x)) for cut in cuts)
        check_streamed(frame, x, np.arange(len(x)), cuts, tmp_path_factory.mktemp("streamed"))


def test_rows_in_two_lists_are_refused(rng):
    x = rng.standard_normal((100, DIM), np.float32)
    frame = pi.IVFIndex(DIM, nlist=4, spill=0.5, store="int8").fit(x)
    with pytest.raises(ValueError, match="spill=0.5: rows of two lists are coded as they are added"):
        frame._coded_parts(checks.vectors(x, "x"))
