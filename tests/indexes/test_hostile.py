"""Thousands of damaged indexes: see tests/mutate.py, whose rounds run here in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import polarindex as pi

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the mutations make pipes and limit memory as POSIX does")

TESTS = Path(__file__).parents[1]
kinds = pytest.mark.parametrize("kind", ["flat", "ivf"])


def passes(program, *options):
    places = os.environ | {"PYTHONPATH": str(Path(pi.__file__).parents[1])}
    command = [sys.executable, str(TESTS / program), *map(str, options)]
    done = subprocess.run(command, env=places, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("kind", ["flat", pytest.param("ivf", marks=pytest.mark.slow)])
def test_no_mutation_of_a_saved_index_does_harm(kind):
    assert "120 rounds" in passes("mutate.py", "--kind", kind, "--rounds", 120, "--cells", 1)


@kinds
@pytest.mark.slow
def test_no_mutation_of_any_quantizer_and_store_does_harm(kind):
    assert "300 rounds" in passes("mutate.py", "--kind", kind, "--rounds", 300, "--seed", 7)


@kinds
@pytest.mark.slow
def test_no_file_is_read_that_was_cut(kind):
    """At every seventh byte; the program's own cuts are at every byte."""
    assert "seed 0" in passes("mutate.py", "--kind", kind, "--truncate", "--every", 7, "--cells", 1)


@pytest.mark.soak
def test_what_hypothesis_thinks_of_does_no_harm():
    assert "examples" in passes("fuzz_load.py", "--minutes", 0.5)
