"""Kernels work wherever they are installed: with a disk cache, without one, and with one that breaks.

Every case is a process of its own that imports a copy of the package. Permissions do not stop root, so places are made
unwritable by putting a file where a folder would have to be; one case tries permissions where they count.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import polarindex
from polarindex import kernels
from polarindex.kernels.compile import inlined

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
loaded = [name for name in kernels._FILES if getattr(kernels, name)]
levels = np.full((1, 3), 77, np.int8)
kernel = kernels.codes_to_levels
kernel(np.array([[1, 0, 2]], np.uint8), np.array([-5, 0, 5], np.int8), levels)
print(json.dumps({
    "file": kernels.__file__, "loaded": loaded, "levels": levels.tolist(), "messages": messages,
    "folder": kernel.stats.cache_path, "hits": sum(kernel.stats.cache_hits.values()),
    "misses": sum(kernel.stats.cache_misses.values()),
}))
"""

# One kernel for the types that are named, in their order: the columns that it stored, and what was compiled.
KINDS = """
import json, sys
import numpy as np
from polarindex import kernels
from polarindex.kernels.hadamard import store_rows
columns = []
for kind in sys.argv[1:]:
    out = np.empty((1, 32), kind)
    store_rows(np.arange(512).astype(kind).reshape(32, 16), 0, out)
    columns.append(out[0].astype(int).tolist())
print(json.dumps({"file": kernels.__file__, "columns": columns, "compiled": kernels.compiled()}))
"""

# A whole life of an index, and what was logged of it.
LIFE = """
import json, logging, sys
import numpy as np
messages = []
class Keep(logging.Handler):
    def emit(self, record):
        messages.append([record.name, record.levelname, record.getMessage()])
logging.getLogger("polarindex").addHandler(Keep())
import polarindex as pi
from polarindex import kernels
x = np.random.default_rng(0).standard_normal((1100, 24)).astype(np.float32)
index = pi.FlatIndex(24)
index.add(x)
index.save(sys.argv[1])
found = pi.load(sys.argv[1]).search(x[:2], 3)[1]
print(json.dumps({
    "file": kernels.__file__, "found": found.tolist(), "messages": messages, "compiled": kernels.compiled(),
}))
"""

COMPILING = "compiling kernels for this machine, once"
needs_posix = pytest.mark.skipif(os.name != "posix", reason="Windows finds its cache folder without HOME")


@pytest.fixture
def copy(tmp_path):
    """The package in a folder of its own, without caches."""
    source = Path(polarindex.__file__).parent
    shutil.copytree(source, tmp_path / "copy" / "polarindex", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "copy"


def started(copy, program, *arguments, **environment):
    """What a program prints that imports the copy."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_CACHE")}
    settings |= {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", **environment}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], env=settings, cwd=copy, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert Path(report["file"]).is_relative_to(copy)
    return report


def run(copy, *arguments, **environment):
    report = started(copy, PROGRAM, *arguments, **environment)
    assert report["levels"] == [[0, -5, 5]]
    assert report["loaded"] == list(kernels._FILES)
    return report


def without_cache_folders(copy):
    """The environment in which no folder that Numba would cache in can exist: HOME and the rest are a file."""
    blocker = copy / "a file"
    blocker.touch()
    (copy / "polarindex" / "kernels" / "__pycache__").touch()
    return {"HOME": str(blocker), "XDG_CACHE_HOME": str(blocker), "NUMBA_CACHE_DIR": str(blocker)}


@pytest.mark.slow
def test_a_second_process_reads_the_disk_cache(copy, tmp_path):
    places = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    first, second = run(copy, **places), run(copy, **places)
    assert (first["hits"], first["misses"]) == (0, 1)
    assert (second["hits"], second["misses"]) == (1, 0)
    assert Path(second["folder"]).is_relative_to(tmp_path / "cache")
    ((logger, level, message),) = first["messages"]
    assert (logger, level) == ("polarindex", "WARNING")
    assert message.startswith(COMPILING) and "polarindex warmup" in message
    assert second["messages"] == []


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


@pytest.mark.slow
@needs_posix
def test_kernels_work_on_a_full_disk(copy, tmp_path):
    """No file may grow beyond 0 bytes: the cache folder can be made, but nothing can be written into it."""
    run(copy, "full", NUMBA_CACHE_DIR=str(tmp_path / "cache"))


@pytest.mark.parametrize("suffix", ["nbi", pytest.param("nbc", marks=pytest.mark.slow)])
def test_kernels_work_beside_a_damaged_cache(copy, tmp_path, suffix):
    """Files cut short, as a crash of the machine may leave them."""
    places = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    run(copy, **places)
    damaged = list((tmp_path / "cache").rglob(f"*codes_to_levels*.{suffix}"))
    assert damaged
    for file in damaged:
        os.truncate(file, 10)
    run(copy, **places)


def test_code_under_another_kernels_types_is_not_run(copy, tmp_path):
    """As two processes may leave it that compile one kernel for different types at the same time."""
    places = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    wanted = started(copy, KINDS, "uint32", "float32", **places)["columns"]
    assert wanted == [list(range(0, 512, 16))] * 2
    one, other = sorted((tmp_path / "cache").rglob("*store_rows*.nbc"))
    spare = tmp_path / "spare"
    for source, target in ((one, spare), (other, one), (spare, other)):
        shutil.move(source, target)
    mixed = started(copy, KINDS, "uint32", "float32", **places)
    assert mixed["columns"] == wanted
    assert mixed["compiled"].count("store_rows") == 2
    assert started(copy, KINDS, "uint32", "float32", **places)["compiled"] == []


@pytest.mark.slow
def test_processes_may_compile_at_once(copy, tmp_path):
    places = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    orders = [("uint32", "float32"), ("float32", "uint32"), ("uint32", "float32")]
    with ThreadPoolExecutor(3) as pool:
        reports = list(pool.map(lambda order: started(copy, KINDS, *order, **places), orders))
    for report in [*reports, started(copy, KINDS, *orders[0], **places)]:
        assert report["columns"] == [list(range(0, 512, 16))] * 2


@pytest.mark.slow
@needs_posix
def test_an_index_lives_where_nothing_can_be_cached(copy, tmp_path):
    report = started(copy, LIFE, str(tmp_path / "index"), **without_cache_folders(copy))
    assert [row[0] for row in report["found"]] == [0, 1]
    assert len(report["messages"]) == 1


@pytest.mark.slow
@needs_posix
def test_an_index_lives_where_nothing_can_be_written(copy, tmp_path):
    places = {"HOME": str(tmp_path / "missing"), "XDG_CACHE_HOME": str(tmp_path / "missing")}
    folders = [copy, *(path for path in copy.rglob("*") if path.is_dir()), tmp_path]
    (tmp_path / "index").mkdir()
    for folder in folders:
        folder.chmod(0o555)
    try:
        if os.access(copy, os.W_OK):
            pytest.skip("permissions do not stop root")
        report = started(copy, LIFE, str(tmp_path / "index"), **places)
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert [row[0] for row in report["found"]] == [0, 1]
    assert len(report["messages"]) == 1


def test_an_entry_is_the_kernel_and_before_a_call_its_dispatcher():
    x, out = np.arange(6, dtype=np.float32).reshape(2, 3), np.empty((2, 3), np.float32)
    wanted, norms2 = np.empty_like(out), np.empty(2)
    kernels.normalise(x + 1, wanted, norms2)
    found = np.empty(2)
    kernels.entry(kernels.normalise, x, out, found)(x + 1, out, found)
    np.testing.assert_array_equal(out, wanted)
    np.testing.assert_array_equal(found, norms2)
    never = np.empty((1, 2, 3), np.float32)  # of no type that the kernel takes
    assert kernels.entry(kernels.normalise, never, never, found) is kernels.normalise


def test_a_part_of_kernels_runs_as_python_where_python_calls_it():
    part = inlined(lambda x: [x, {"neither": x}][1])  # which no kernel could hold
    assert part(3) == {"neither": 3}
