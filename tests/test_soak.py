"""Everything at once for twenty seconds: see soak.py, which runs for longer by argument."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import polarindex as pi

PROGRAM = Path(__file__).with_name("soak.py")


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_an_index_that_many_threads_change_ends_as_one_made_at_once(kind):
    places = os.environ | {"PYTHONPATH": str(Path(pi.__file__).parents[1])}
    command = [sys.executable, str(PROGRAM), "--kind", kind, "--seconds", "12"]
    done = subprocess.run(command, env=places, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    wanted = "additions", "updates", "upserts", "removals", "searches", "saves", "copies", "syncs"
    assert all(told[name] for name in wanted)
