"""docs/cli.md is true: its commands run, one after another, and print what the page says."""

from __future__ import annotations

import doctest
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "cli.md"


def steps(text: str) -> list[tuple[str, str]]:
    """Every command of the console blocks, with the output below it."""
    found: list[tuple[str, str]] = []
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        for command in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            first, _, output = command.partition("\n")
            found.append((first, output))
    return found


@pytest.fixture
def shell(call, tmp_path, monkeypatch):
    """Run a line as a shell does: in this process where it is one command of polarindex. What it prints."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bin").mkdir()
    for name, arguments in (("polarindex", "-m polarindex "), ("python", "")):
        (tmp_path / "bin" / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments}"$@"\n')
        (tmp_path / "bin" / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"}

    def run(line: str, output: str) -> str:
        if line.startswith("polarindex ") and not {"|", ">"} & set(line):
            done = call(*shlex.split(line)[1:], code=2 if output.startswith("error:") else 0)
            return done.out + done.err
        done = subprocess.run(line, shell=True, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell")
def test_the_guide_does_what_it_says(shell):
    pytest.importorskip("pyarrow")
    text = GUIDE.read_text(encoding="utf-8")
    (python,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(python, {})
    alike = doctest.OutputChecker()
    for line, wanted in steps(text):
        found = shell(line, wanted)
        same = alike.check_output(wanted, found, doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        assert same, f"$ {line}\n{found}\nthe page has:\n{wanted}"


def test_the_guide_names_every_command(call):
    text = GUIDE.read_text(encoding="utf-8")
    commands = re.findall(r"^│ ([a-z]+) ", call("--help").out, re.MULTILINE)
    assert len(commands) > 10
    assert [name for name in commands if f"`{name}" not in text and f", {name}`" not in text] == []


def test_the_guides_blocks_are_found():
    assert steps("```console\n$ a b\nout\nmore\n$ c\n```\nand\n```console\n$ d\n```") == [
        ("a b", "out\nmore\n"), ("c", ""), ("d", "")
    ]  # fmt: skip
    assert len(steps(GUIDE.read_text(encoding="utf-8"))) > 20
