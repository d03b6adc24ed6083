"""The Python of docs/scale.md runs as written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray and its processes warn of much that is not ours
PAGE = Path(__file__).resolve().parents[2] / "docs" / "scale.md"


def test_the_blocks_of_the_page_run(ray, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    for block in blocks:
        exec(compile(block, "block", "exec"), names)
    assert len(blocks) == 2
