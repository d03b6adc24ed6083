"""Kernels work wherever they are installed: with a disk cache, without one, and with one that breaks.

Every case is a process of its own that imports a copy of the package. Permissions do not stop root, so places are made
unwritable by putting a file where a folder would have to be.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import polarindex
from polarindex import kernels

# Loads all kernels, runs one, and reports what was logged and what Numba's cache did.
PROGRAM = """
import json, logging, sys
import numpy as np
messages = []
class Keep(logging.Handler):
    def emit(self, record):
        messages.append([record.name, record.levelname, record.getMessage()])
logging.getLogger("polarindex").addHandler(Keep())
if "full" in sys.argv:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
from polarindex import kernels
loaded = [getattr(kernels, name).__name__ for name in kernels._FILES]
levels = np.full((1, 3), 77, np.int8)
kernel = kernels.codes_to_levels
kernel(np.array([[1, 0, 2]], np.uint8), np.array([-5, 0, 5], np.int8), levels)
print(json.dumps({
    "file": kernels.__file__, "loaded": loaded, "levels": levels.tolist(), "messages": messages,
    "folder": kernel.stats.cache_path, "hits": sum(kernel.stats.cache_hits.values()),
    "misses": sum(kernel.stats.cache_misses.values()),
}))
"""

needs_posix = pytest.mark.skipif(os.name != "posix", reason="Windows finds its cache folder without HOME")


@pytest.fixture
def copy(tmp_path):
    """The package in a folder of its own, without caches."""
    source = Path(polarindex.__file__).parent
    shutil.copytree(source, tmp_path / "copy" / "polarindex", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "copy"


def run(copy, *arguments, **environment):
    settings = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_CACHE")}
    settings |= {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", **environment}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], env=settings, cwd=copy, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert Path(report["file"]).is_relative_to(copy)
    assert report["levels"] == [[0, -5, 5]]
    assert report["loaded"] == list(kernels._FILES)
    return report


def without_cache_folders(copy):
    """The environment in which no folder that Numba would cache in can exist: HOME and the rest are a file."""
    blocker = copy / "a file"
    blocker.touch()
    (copy / "polarindex" / "kernels" / "__pycache__").touch()
    return {"HOME": str(blocker), "XDG_CACHE_HOME": str(blocker), "NUMBA_CACHE_DIR": str(blocker)}


def test_a_second_process_reads_the_disk_cache(copy, tmp_path):
    places = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    first, second = run(copy, **places), run(copy, **places)
    assert (first["hits"], first["misses"]) == (0, 1)
    assert (second["hits"], second["misses"]) == (1, 0)
    assert Path(second["folder"]).is_relative_to(tmp_path / "cache")
    assert first["messages"] == second["messages"] == []


def test_an_edited_kernel_file_is_compiled_anew(copy, tmp_path):
    places = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    run(copy, **places)
    file = copy / "polarindex" / "kernels" / "pack.py"
    file.write_text(file.read_text(encoding="utf-8") + "\n# edited\n", encoding="utf-8")
    assert run(copy, **places)["hits"] == 0


@needs_posix
def test_kernels_work_where_nothing_can_be_cached(copy):
    report = run(copy, **without_cache_folders(copy))
    assert report["folder"] is None and report["hits"] == 0
    assert report["messages"]
    for logger, level, message in report["messages"]:
        assert (logger, level) == ("polarindex", "WARNING")
        assert "compiled anew in this process" in message and "\n" not in message


@needs_posix
def test_one_line_says_that_nothing_can_be_cached(copy):
    assert len(run(copy, **without_cache_folders(copy))["messages"]) == 1


@needs_posix
def test_kernels_work_on_a_full_disk(copy, tmp_path):
    """No file may grow beyond 0 bytes: the cache folder can be made, but nothing can be written into it."""
    run(copy, "full", NUMBA_CACHE_DIR=str(tmp_path / "cache"))


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
def test_kernels_work_beside_a_damaged_cache(copy, tmp_path, suffix):
    """Files cut short, as a crash of the machine may leave them."""
    places = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    run(copy, **places)
    damaged = list((tmp_path / "cache").rglob(f"*codes_to_levels*.{suffix}"))
    assert damaged
    for file in damaged:
        os.truncate(file, 10)
    run(copy, **places)
