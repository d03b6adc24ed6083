"""Importing the package is cheap and has no effect."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import polarindex

ROOT = Path(polarindex.__file__).parents[1]
HEAVY = ["faiss", "h5py", "llvmlite", "matplotlib", "numba", "pyarrow", "rich", "scipy", "torch", "typer"]
EVERY_NAME = "import polarindex as pi; [getattr(pi, name) for name in pi.__all__]"
MOST_MILLISECONDS = 50


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter that compiles our modules once and keeps the bytecode, as an installed package does."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-W", "error", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=120)


@pytest.mark.parametrize("statement", ["import polarindex", EVERY_NAME])
def test_import_has_no_effect(statement):
    """Threads are counted by the system, so that those of other libraries show; NumPy's come first."""
    program = f"""
import json, os, pathlib, sys, threading
import numpy
def threads():
    tasks = pathlib.Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.exists() else threading.active_count()
before = threads(), dict(os.environ)
{statement}
after = threads(), dict(os.environ)
loaded = [name for name in {HEAVY} if name in sys.modules]
json.dump({{"loaded": loaded, "same": before == after}}, sys.stdout)
"""
    done = run("-c", program)
    assert json.loads(done.stdout) == {"loaded": [], "same": True}
    assert done.stderr == ""


@pytest.mark.parametrize("statement", ["import polarindex", EVERY_NAME])
def test_our_own_modules_import_fast(statement):
    """The sum of their own times, without what they import; the best of five, as others use this machine too."""

    def milliseconds() -> float:
        lines = run("-X", "importtime", "-c", statement).stderr.splitlines()
        ours = [match for line in lines if (match := re.match(r"import time:\s+(\d+) \|\s+\d+ \|\s+polarindex", line))]
        assert ours
        return sum(int(match[1]) for match in ours) / 1000

    assert min(milliseconds() for _ in range(5)) < MOST_MILLISECONDS


def test_a_search_loads_no_more_than_it_needs(tmp_path):
    """Numba loads SciPy where it is installed."""
    index = polarindex.FlatIndex(8)
    index.add(np.eye(8))
    index.save(tmp_path / "index")
    program = f"""
import sys
import numpy as np, polarindex
polarindex.load(sys.argv[1]).search(np.ones(8), 3)
print(sorted(set(sys.modules) & (set({HEAVY}) - {{"llvmlite", "numba", "scipy"}})))
"""
    assert run("-c", program, str(tmp_path / "index")).stdout == "[]\n"


def test_every_public_name_is_there_and_a_wrong_one_is_an_attribute_error():
    assert set(polarindex.__all__) <= set(dir(polarindex))
    for name in polarindex.__all__:
        assert getattr(polarindex, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'FlatIndx'"):
        polarindex.FlatIndx  # noqa: B018
