"""The command in a shell: pipes, a reader that goes away, completion, and help that is quick."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import numpy as np
import pytest

import polarindex as pi

COMMAND = [sys.executable, "-m", "polarindex"]


def as_npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_arrays_go_through_pipes_from_vectors_to_neighbours(process, x, tmp_path):
    built = process("build", "-", "-o", tmp_path / "index", input=as_npy(x))
    assert built.returncode == 0, built.stderr
    assert b"n=60" in built.stdout
    found = process("query", tmp_path / "index", "-", "-k", "3", "--out", "-", input=as_npy(x[:5]))
    with np.load(io.BytesIO(found.stdout)) as arrays:
        assert np.array_equal(arrays["ids"], pi.load(tmp_path / "index").search(x[:5], 3)[1])


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of POSIX")
@pytest.mark.parametrize("format", ["npz", "jsonl"])
def test_a_reader_that_goes_away_is_no_error(rng, tmp_path, format):
    """Of arrays it reads the beginning; of a line so short that it is written when the command ends, nothing."""
    x = rng.standard_normal((3000, 8), np.float32)
    index = pi.FlatIndex(8)
    index.add(x)
    index.save(tmp_path / "index")
    np.save(tmp_path / "x.npy", x[:1] if format == "jsonl" else x)
    command = [*COMMAND, "query", tmp_path / "index", tmp_path / "x.npy", "--format", format, "--out", "-"]
    command = command if format == "npz" else command[:-2]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    assert format == "jsonl" or running.stdout.read(10)
    running.stdout.close()
    said = [line for line in running.stderr.read().splitlines() if not line.startswith(b"compiling kernels")]
    assert (said, running.wait(60)) == ([], 141)
    running.stderr.close()


@pytest.mark.parametrize(
    ("typed", "proposed"),
    [("polarindex qu", "query"), ("polarindex build --metric c", "cosine"), ("polarindex build --store i", "int8")],
)
def test_the_shell_completes_commands_and_values(call, monkeypatch, typed, proposed):
    for name, value in (("_POLARINDEX_COMPLETE", "complete_bash"), ("COMP_WORDS", typed)):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split()) - 1))
    assert call().out.split() == [proposed]


def test_help_tells_the_exit_codes_and_how_to_complete(call):
    text = " ".join(call("--help").out.split())
    assert "Exit codes: 0 fine; 1 what was checked is bad" in text and "130 Ctrl-C" in text
    assert "--install-completion" in text
