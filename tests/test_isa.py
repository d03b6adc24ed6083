"""The index tests again, each instruction set that can run here in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from polarindex import kernels

TESTS = Path(__file__).parent


@pytest.mark.isa
@pytest.mark.parametrize("name", kernels.available())
def test_index_tests_pass_under(name):
    command = [sys.executable, "-m", "pytest", "-q", str(TESTS / "indexes"), "-p", "no:cacheprovider"]
    done = subprocess.run(command, env=os.environ | {"POLARINDEX_ISA": name}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
