"""The index tests again, with the instruction sets of machines without AVX-512 and with none of ours.

Those between differ in the dot product alone, which kernels' tests have under each."""

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
@pytest.mark.parametrize("name", [name for name in kernels.available()[1:] if name in ("avx2", kernels.GENERIC)])
def test_index_tests_pass_under(name):
    files = [str(INDEXES / f"test_{part}.py") for part in SEARCHING]
    command = [sys.executable, "-m", "pytest", "-q", *files, "-p", "no:cacheprovider"]
    done = subprocess.run(command, env=os.environ | {"POLARINDEX_ISA": name}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
