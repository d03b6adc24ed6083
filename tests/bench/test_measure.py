"""A comparison from rows to its file, with engines that need no library but this one and FAISS."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from polarindex.bench import measure as measuring
from polarindex.bench.compare import compare_codes
from polarindex.bench.data import Source, load
from polarindex.bench.engines import Missing
from polarindex.bench.measure import speed_interval
from polarindex.bench.result import empty, lines, read, without, write
from polarindex.bench.worker import Answer, Failed
from polarindex.cli import app
from polarindex.errors import FormatError

FACTS = {"quick": True, "command": "this test"}


@pytest.fixture
def vectors(tmp_path, rng):
    path = tmp_path / "vectors.npy"
    np.save(path, rng.standard_normal((600, 16), np.float32))
    return path


class Worker:
    """Stands for a process: exact answers by brute force; some die, some are not installed."""

    def __init__(self, plan, source):
        self.plan, self.data, self.turns = plan, load(source), 0

    def built(self):
        if self.plan.library == "turbovec":
            raise Missing("not installed: no turbovec")
        cost = dict.fromkeys(("train_s", "train_wall_s", "peak_bytes", "held_bytes"))
        return {"n": 540, "add_s": 1.0, "add_wall_s": 1.0, "bytes_per_vector": 8.0, "bytes_counted": "here", **cost}

    def turn(self, settings):
        self.turns += 1
        if self.plan.name == "8 bit" and self.turns == 2:
            raise Failed("the process died, exit code -9")
        ids = self.data.true[:, :10]
        return [Answer(0.5 * self.turns, ids, 0.25, ids[:5]) for _ in settings]

    def end(self):
        pass


def test_a_comparison_keeps_what_was_measured_and_says_what_was_not(vectors, tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "Worker", Worker)
    out, said = tmp_path / "codes.json", []
    write(empty() | {"runs": [{"set": "another"}]}, out)
    source = Source(str(vectors), queries=50, singles=5, metric="cosine")
    compare_codes(source, out, repeats=3, engines=("polarindex", "turbovec"), facts=FACTS, say=said.append)
    result = json.loads(out.read_text())
    assert [run["set"] for run in result["runs"]] == ["another", "vectors"]
    assert result["runs"][1]["repeats"] == 3 and result["runs"][1]["queries"] == 50
    assert {row["why"] for row in result["skipped"] if row["family"] == "turbovec"} == {"not installed: no turbovec"}
    assert any(row["engine"] == "8 bit" and "died" in row["why"] for row in result["skipped"])
    (cell,) = (cell for cell in result["cells"] if (cell["engine"], cell["mode"]) == ("1 bit", "batch"))
    assert cell["recall"] == 1.0 and 0.9 < cell["recall_low"] < 1.0 == cell["recall_high"]
    assert cell["times"] == [0.5, 1.0, 1.5] and cell["queries_per_s"] == 50
    assert said[-1] == "vectors: round 3 of 3"


def test_ctrl_c_leaves_the_rounds_before_it(vectors, tmp_path, monkeypatch):
    class Interrupted(Worker):
        def turn(self, settings):
            if self.turns == 1 and self.plan.name == "2 bit":
                raise KeyboardInterrupt
            return super().turn(settings)

    monkeypatch.setattr(measuring, "Worker", Interrupted)
    out = tmp_path / "out"
    asked = ["bench", str(vectors), "--suites", "codes", "--engines", "polarindex", "--out", str(out)]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 130 and "interrupted" in done.stderr
    result = read(out / "codes.json")
    assert result["runs"][0]["repeats"] == 1
    assert all(len(cell["times"]) == 1 for cell in result["cells"]) and result["cells"]
    assert "| polarindex | 2 bit |" in (out / "bench.md").read_text()


def test_the_interval_of_a_speed_is_the_range_of_the_rounds_and_fifteen_in_a_hundred_more():
    low, high = speed_interval({"queries_per_s": 100.0, "median": 1.0, "times": [0.8, 1.0, 1.25]})
    assert low == pytest.approx(80 * 0.85) and high == pytest.approx(125 * 1.15)


def test_nothing_is_measured_where_no_engine_has_the_name(vectors, tmp_path):
    source = Source(str(vectors), queries=50, metric="cosine")
    with pytest.raises(ValueError, match="engines must be parts of names .* got 'nobody'"):
        compare_codes(source, tmp_path / "x.json", repeats=1, engines=("nobody",), facts=FACTS, say=print)


def test_a_file_of_something_else_is_no_result_and_is_left_alone(tmp_path):
    path = tmp_path / "codes.json"
    for text in ("{", "[]", '{"format": "another"}'):
        path.write_text(text)
        with pytest.raises(FormatError, match="is no result of this program"):
            read(path)
        assert path.read_text() == text


def test_what_is_written_is_read_again_and_a_set_can_be_taken_out(tmp_path):
    result = empty() | {"cells": [{"set": "a", "recall": 0.5}, {"set": "b", "recall": 1.0}]}
    write(result, tmp_path / "x.json")
    assert read(tmp_path / "x.json") == result
    assert without(result, "a")["cells"] == [{"set": "b", "recall": 1.0}]
    assert lines(result).count("\n") > 4
