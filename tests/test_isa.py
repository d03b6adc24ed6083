"""The index tests again, in a process that is told to use none of our instruction sets: indexes then search in steps.

Searches in registers have tests of their own, one a kind of index, under every set that can run here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from polarindex import kernels

INDEXES = Path(__file__).parent / "indexes"
# What searches by kernels of its own: files, locks, plans and memory are the same whatever their set is.
SEARCHING = "flat ivf ivf_spill first_planes ranges coarse probing filters".split()


@pytest.mark.isa
@pytest.mark.skipif(kernels.available()[0] == kernels.GENERIC, reason="they ran so already")
def test_index_tests_pass_with_plain_loops():
    files = [str(INDEXES / f"test_{part}.py") for part in SEARCHING]
    command = [sys.executable, "-m", "pytest", "-q", *files, "-p", "no:cacheprovider"]
    plain = os.environ | {"POLARINDEX_ISA": kernels.GENERIC}
    done = subprocess.run(command, env=plain, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
