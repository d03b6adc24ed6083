"""The README's Python runs as written, block after block, and its tables and those of docs/ are the results'."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import polarindex

ROOT = Path(__file__).resolve().parents[1]
RECALL = sorted((ROOT / "benchmarks" / "results").glob("*/*/recall-*.json"))


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 4
    names: dict[str, object] = {}
    exec(blocks[0], names)
    assert len(names["index"]) == 9_999
    assert names["similarities"].shape == (10,) and (names["ids"] % 2 == 0).all()
    exec(blocks[1], names)
    assert names["similarities"].shape == (5, 10) and len(names["graph"].indptr) == 10_001
    assert names["best"].recall >= 0.94
    exec(blocks[2], names)
    assert len(names["index"]) == len(polarindex.load("my-index")) == 10_099
    exec(blocks[3], names)
    assert names["scores"].shape == (5, 10_000)


def test_the_tables_of_the_pages_are_those_of_the_results():
    command = [sys.executable, "-m", "benchmarks.report", "--check"]
    assert subprocess.run(command, cwd=ROOT).returncode == 0


@pytest.mark.parametrize("path", RECALL, ids=lambda path: path.stem)
def test_recall_tables_have_the_bytes_that_an_index_takes_today(path):
    result = json.loads(path.read_text())
    data = result["dataset"]
    rows = [row for row in result["rows"] if row["method"] == "EDEN"]
    assert {row["bits"] for row in rows} >= {1, 2, 3, 4}
    for row in rows:
        index = polarindex.FlatIndex(data["dim"], data["metric"], row["bits"])
        assert row["bytes_per_vector"] == index.bytes_per_vector
