"""A build takes the memory that it is given, as the system counts it, and no more; too little is said."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import polarindex as pi
from polarindex.distributed import frame, plan, work
from polarindex.distributed.build import build

CAP = 400_000_000
DIM, ROWS = 512, 220_000  # 450 MB
PROGRAM = """
import re, sys
from pathlib import Path
from polarindex.distributed.build import build
lists = {"nlist": 16} if sys.argv[4] == "ivf" else {}
build(sys.argv[1], sys.argv[2], num_shards=1, threads=1, kind=sys.argv[4], memory=int(sys.argv[3]), store=sys.argv[5],
      **lists)
print(Path("/proc/self/status").read_text())
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    """A file of more bytes than a build may have resident."""
    path = tmp_path_factory.mktemp("large") / "x.npy"
    rng = np.random.default_rng(0)
    out = np.lib.format.open_memmap(path, "w+", np.float32, (ROWS, DIM))
    for start in range(0, ROWS, 2000):
        out[start : start + 2000] = rng.standard_normal((2000, DIM), np.float32)
    assert path.stat().st_size > CAP
    return path


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(("kind", "store"), [("ivf", "none"), ("flat", "none"), ("ivf", "float32")])
def test_no_more_is_resident_than_was_given(kind, store, large, tmp_path):
    """The index with its vectors is larger than the memory too."""
    environment = os.environ | {"PYTHONPATH": str(Path(pi.__file__).parents[1])}
    command = [sys.executable, "-c", PROGRAM, str(large), str(tmp_path / "built"), str(CAP), kind, store]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    peak = 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", done.stdout)[1])
    assert peak <= CAP
    index = pi.open(tmp_path / "built" / "shard-00000", read_only=True, mmap=True)
    x = np.load(large, mmap_mode="r")
    found = index.search(x[[5, ROWS - 1]], 1, **({"nprobe": 16} if kind == "ivf" else {}))[1]
    assert found[:, 0].tolist() == [5, ROWS - 1]


def test_ranges_and_samples_are_smaller_with_less_memory(rng, tmp_path, monkeypatch):
    x = rng.standard_normal((4000, 256), np.float32)
    plans = []
    put = plan.put
    monkeypatch.setattr(plan, "put", lambda folder, noted: plans.append(noted) or put(folder, noted))
    monkeypatch.setattr(work, "_LEAST", 0)
    index = frame.empty("ivf", 256, 4, 4000, 2)
    least = next(step for step in range(0, 2**30, 2**16) if _enough(step))
    for memory in (least + 2**21, least + 2**24, 2**31):
        build(x, tmp_path / str(memory), num_shards=2, nlist=4, threads=1, memory=memory)
    assert plans[0].range_rows < plans[1].range_rows < plans[2].range_rows == work.RANGE_ROWS
    assert plans[0].sample_rows < plans[1].sample_rows < plans[2].sample_rows
    assert plans[0].sample_rows < 4000 and work.coded_bytes(index) * plans[0].range_rows < 2**21


def _enough(memory: int) -> bool:
    try:
        return work.room(memory, 1, 256, 4) >= 0
    except ValueError:
        return False


@pytest.mark.parametrize(
    ("memory", "said"),
    [
        (290_000_000, r"memory=290,000,000 bytes are too few: 12 lists of 16 dimensions and 1 threads need 293,"),
        (1, "are too few"),
    ],
)
def test_too_little_memory_is_said_with_what_is_needed(memory, said, x, tmp_path):
    with pytest.raises(ValueError, match=said) as found:
        build(x, tmp_path / "built", num_shards=2, nlist=12, threads=1, memory=memory)
    needed = int(re.search(r"need ([\d,]+)", str(found.value))[1].replace(",", ""))
    assert not (tmp_path / "built").exists()
    build(x, tmp_path / "built", num_shards=2, nlist=12, threads=1, memory=needed)


def test_too_little_memory_for_a_sample_of_all_lists_is_said(tmp_path):
    index = pi.IVFIndex(1024, nlist=10_000)
    with pytest.raises(ValueError, match=r"room for 6,\d+ rows of a sample, too few for 10,000 lists"):
        frame.most_sampled(index, 2**25)
