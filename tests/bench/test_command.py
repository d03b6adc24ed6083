"""`polarindex bench`, as it is called."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from polarindex.cli import app


def called(*arguments: object):
    return CliRunner().invoke(app, ["bench", *map(str, arguments)])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("no-such-file.npy",), "no-such-file.npy"),
        (("glove-sample", "--suites", "graphs"), "suites must be codes, lists or both"),
        (("glove-sample", "--suites", ","), "suites must be codes, lists or both"),
        (("glove-sample", "--engines", "nobody"), "engines must be parts of names"),
        (("glove-sample", "--metric", "l2"), "metric must be 'cosine'"),
        (("glove-sample", "--repeats", 0), "repeats"),
    ],
)
def test_a_wrong_argument_is_one_line_and_leaves_no_folder(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = called(*arguments)
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and said in line
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_codes_of_a_sample_are_compared_in_processes_of_their_own(tmp_path):
    asked = ("glove-sample", "--suites", "codes", "--engines", "polarindex;FAISS EDEN", "--quick", "--out", tmp_path)
    done = called(*asked, "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)["codes.json"]
    assert result == json.loads((tmp_path / "codes.json").read_text())
    assert {row["family"] for row in result["builds"]} == {"polarindex", "FAISS EDEN"}
    recalls = {(row["family"], row["engine"]): row["recall"] for row in result["cells"] if row["mode"] == "batch"}
    assert recalls["polarindex", "1 bit"] < recalls["polarindex", "4 bit"] > 0.9
    assert "| polarindex | 4 bit |" in (tmp_path / "bench.md").read_text()
