"""What a build reads: names become files, what is read once is written down, and another source is known as one."""

from __future__ import annotations

import os

import numpy as np
import pytest

from polarindex.distributed import source as sources
from polarindex.distributed.source import fingerprint, given, opened, written_down
from polarindex.errors import FormatError, MissingDatasetError


def quiet(*progress) -> None:
    pass


def test_names_are_absolute_and_keep_their_parts(x, tmp_path, monkeypatch):
    np.savez(tmp_path / "x.npz", train=x, test=x[:3])
    np.save(tmp_path / "b.npy", x)
    np.save(tmp_path / "a.npy", x)
    monkeypatch.chdir(tmp_path)
    assert given("x.npz::test").files == (f"{tmp_path / 'x.npz'}::test",)
    assert given(tmp_path / "a.npy").files == (str(tmp_path / "a.npy"),)
    folder = given(".").files
    assert folder == tuple(str(tmp_path / name) for name in ("a.npy", "b.npy", "x.npz"))
    assert given(["b.npy", "x.npz::train"]).files == (str(tmp_path / "b.npy"), f"{tmp_path / 'x.npz'}::train")


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(MissingDatasetError, match="no file"):
        given(tmp_path / "none.npy")
    with pytest.raises(FormatError, match="has no file of vectors in it"):
        given(tmp_path)
    with pytest.raises(TypeError, match="source must hold real numbers"):
        given({"a": 1})


def test_files_and_matrices_are_read_where_they_lie(x, tmp_path):
    np.save(tmp_path / "x.npy", x)
    rows, files = opened(given(tmp_path / "x.npy"), tmp_path, False, quiet)
    assert files == (str(tmp_path / "x.npy"),) and np.array_equal(rows[3:9], x[3:9])
    rows, files = opened(given(x), tmp_path, False, quiet)
    assert files is None and np.shares_memory(rows[3:9], x)
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.npy"]


@pytest.mark.parametrize("kind", ["matrix", "chunks"])
def test_what_others_cannot_read_is_written_down(kind, x, tmp_path):
    what = x.astype(np.float64) if kind == "matrix" else iter([x[:1], x[1:700].astype(np.float16), x[700:]])
    rows, files = written_down(given(what), tmp_path, quiet)
    wanted = x if kind == "matrix" else np.concatenate([x[:1], x[1:700].astype(np.float16), x[700:]])
    assert files == (str(tmp_path / sources.SPOOL),)
    assert np.array_equal(rows[0 : len(rows)], wanted)
    assert np.array_equal(np.load(tmp_path / sources.SPOOL), wanted)  # as others read it too
    assert [entry.name for entry in tmp_path.iterdir()] == [sources.SPOOL]


def test_chunks_are_asked_for_again_unless_their_build_was_begun(x, tmp_path):
    assert np.array_equal(opened(given(iter([x])), tmp_path, False, quiet)[0][0:1000], x)
    assert np.array_equal(opened(given(iter([x + 1])), tmp_path, True, quiet)[0][0:1000], x)
    assert np.array_equal(opened(given(iter([x + 1])), tmp_path, False, quiet)[0][0:1000], x + 1)


def test_a_matrix_is_known_by_its_rows_and_files_by_their_state(x, tmp_path):
    def of(what) -> dict:
        looked = given(what)
        return fingerprint(looked, opened(looked, tmp_path, False, quiet)[0])

    assert of(x) == of(x.copy()) == of(x.astype(np.float64))
    other = x.copy()
    other[-1, 0] += 1
    assert of(other) != of(x) and of(x[:-1]) != of(x)
    np.save(tmp_path / "x.npy", x)
    before = of(tmp_path / "x.npy")
    assert of(str(tmp_path / "x.npy")) == before != of(x)
    os.utime(tmp_path / "x.npy", (1, 1))
    assert of(tmp_path / "x.npy") != before
