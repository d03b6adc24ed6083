"""What tests of the command line share: the command, in this process and in one of its own, and small vectors."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import typer.testing
from typer.main import get_command
from typer.testing import CliRunner

from polarindex.cli import app
from polarindex.kernels.compile import expect_compilation

COMMAND = [sys.executable, "-m", "polarindex"]


class Done:
    """What a command left: exit code, and stdout and stderr as text."""

    def __init__(self, code: int, stdout: str, stderr: str) -> None:
        self.code, self.out, self.err = code, stdout, stderr

    @property
    def json(self):
        return json.loads(self.out)

    @property
    def lines(self):
        """Lines of JSON."""
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture(scope="session")
def invoke():
    """Run a command, a list of words, in this process: the result has exit_code, stdout, stderr and exception."""
    expect_compilation()  # nothing is said of it, on a new machine either
    with pytest.MonkeyPatch.context() as patch:  # to make the command once: it takes longer than most commands do
        patch.setattr(typer.testing, "_get_command", cache(get_command), raising=False)
        yield lambda words, stdin=None: CliRunner().invoke(app, words, input=stdin)


@pytest.fixture
def call(invoke):
    """Run a command in this process; it must succeed unless `code` says otherwise."""

    def run(*arguments: object, code: int = 0, stdin: bytes | None = None) -> Done:
        done = invoke([str(argument) for argument in arguments], stdin)
        assert done.exit_code == code, done.output
        return Done(done.exit_code, done.stdout, done.stderr)

    return run


@pytest.fixture
def process():
    """Run a command in a process of its own; stdin and stdout are bytes."""

    def run(*arguments: object, **options) -> subprocess.CompletedProcess:
        return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, timeout=120, **options)

    return run


@pytest.fixture
def x(rng) -> np.ndarray:
    return rng.standard_normal((60, 8), np.float32)


@pytest.fixture
def file(x, tmp_path) -> Path:
    """The vectors in a file."""
    np.save(tmp_path / "x.npy", x)
    return tmp_path / "x.npy"


@pytest.fixture
def table(x, tmp_path) -> Path:
    """The vectors in a Parquet file, with columns beside them."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {
        "embedding": arrow.FixedSizeListArray.from_arrays(arrow.array(x.ravel()), 8),
        "number": np.arange(100, 160),
        "name": [f"doc-{i}" for i in range(60)],
        "title": [None if i == 3 else f"Title {i}" for i in range(60)],
        "year": [None if i == 3 else 2000 + i for i in range(60)],
        "tags": [["a", "b"]] * 60,
    }
    parquet.write_table(arrow.table(columns), tmp_path / "x.parquet", row_group_size=25)
    return tmp_path / "x.parquet"
