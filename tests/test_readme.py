"""The README's Python runs as written, block after block, and its tables and those of docs/ are the results'."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
    assert names["scores"].shape == (5, 10_000)
    assert len(names["index"]) == 9_999
    assert names["similarities"].shape == (10,) and (names["ids"] % 2 == 0).all()


def test_the_tables_of_the_pages_are_those_of_the_results():
    command = [sys.executable, str(ROOT / "benchmarks" / "readme_tables.py"), "--check"]
    assert subprocess.run(command).returncode == 0
