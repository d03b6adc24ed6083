"""Ctrl-C in the midst of every long operation: it comes soon, and the index is as it was, or as it is after."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import polarindex as pi

PROGRAM = Path(__file__).with_name("interrupted.py")
OPERATIONS = 21
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are sent to the process itself")


def struck(rows, rounds):
    """What interrupted.py says of each operation."""
    places = os.environ | {"PYTHONPATH": str(Path(pi.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(rows), str(rounds)], env=places, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == OPERATIONS
    return found


def test_ctrl_c_leaves_an_index_as_it_was_or_as_it_is_after():
    found = struck(4000, 2)
    assert sum(one["struck"] for one in found) > OPERATIONS // 2
    assert any(one["unchanged"] < one["rounds"] for one in found) and any(one["unchanged"] for one in found)


@pytest.mark.slow
def test_ctrl_c_comes_within_a_second_of_the_cores_time():
    found = struck(30_000, 6)
    assert sum(one["struck"] for one in found) > 2 * OPERATIONS
    assert {one["operation"]: one["waited"] for one in found if one["waited"] > CORES} == {}
