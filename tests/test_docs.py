"""The pages of docs/ are true: their Python and their commands run as written and print what they say they print.

In a page, blocks marked `python` run one after the other and share names; a `text` block after one is what it prints; a
`console` block has commands after `$` and what they print. An HTML comment before a block says otherwise:
`not run: why`, or `in a new process`."""

from __future__ import annotations

import contextlib
import doctest
import io
import itertools
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.testing import CliRunner

import polarindex
from polarindex.cli import app

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = {str(path.relative_to(DOCS)): path for path in sorted(DOCS.rglob("*.md"))}
BLOCK = re.compile(r"(?:<!-- ([^\n]*?) -->\n)?^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NOT_RUN = re.compile(r"not run: .{20,}")  # a reason, not a word
ELSEWHERE = {  # pages and tests that run them
    "cli.md": "cli/test_guide.py",
    "coming-from.md": "test_coming_from.py",
    "integrations.md": "integrations/test_page.py",
    "scale.md": "distributed/test_page.py",
}
NEEDS = {"quickstart.md": "pyarrow", "examples.md": "matplotlib"}
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class Block(NamedTuple):
    remark: str
    language: str
    text: str
    prints: str | None  # of Python


def blocks(page: str) -> list[Block]:
    text = PAGES[page].read_text(encoding="utf-8")
    found = list(BLOCK.finditer(text))
    made = []
    for one, after in itertools.zip_longest(found, found[1:]):
        follows = after is not None and after[2] == "text" and not text[one.end() : after.start()].strip()
        made.append(Block(one[1] or "", one[2], one[3], after[3] if after and follows else None))
    return made


def runs(block: Block) -> bool:
    return block.language in ("python", "console") and not block.remark.startswith("not run")


RUNNING = [page for page in PAGES if page not in ELSEWHERE and any(runs(block) for block in blocks(page))]


def same(wanted: str, got: str) -> None:
    assert doctest.OutputChecker().check_output(wanted, got, FLAGS), f"wanted:\n{wanted}\ngot:\n{got}"


def run_python(block: Block, names: dict[str, object]) -> None:
    if block.remark == "in a new process":
        done = subprocess.run([sys.executable, "-c", block.text], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        printed = done.stdout
    else:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(block.text, "block", "exec"), names)
        printed = out.getvalue()
    same(block.prints or "", printed)


def commands(block: Block) -> Iterator[tuple[str, str]]:
    """Each command of a console block and what it is to print."""
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, prints = part.partition("\n")
        yield command, prints


def run_console(block: Block) -> None:
    for command, prints in commands(block):
        name, *arguments = shlex.split(command)
        assert name in ("polarindex", "python"), f"{command!r} is not run here"
        same(prints, run_program(arguments) if name == "python" else run_command(arguments))


def run_command(arguments: list[str]) -> str:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, f"polarindex {arguments}\n{done.output}\n{done.exception!r}"
    return done.output


def run_program(arguments: list[str]) -> str:
    """One of examples/, in this process."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as out:
        patch.setattr(sys, "argv", arguments)
        runpy.run_path(str(ROOT / arguments[0]), run_name="__main__")
    return out.getvalue()


@pytest.mark.parametrize("page", RUNNING)
def test_the_blocks_of_a_page_run_and_print_what_it_says(page, tmp_path, monkeypatch):
    if page in NEEDS:
        pytest.importorskip(NEEDS[page])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    names: dict[str, object] = {"__name__": "page"}
    for block in filter(runs, blocks(page)):
        if block.language == "python":
            run_python(block, names)
        else:
            run_console(block)


def test_pages_with_code_are_run():
    assert [test for page, test in ELSEWHERE.items() if page not in (ROOT / "tests" / test).read_text("utf-8")] == []
    assert {"index.md", "quickstart.md", "guide/choosing.md", "guide/filters.md", "guide/updates.md"} <= {*RUNNING}


@pytest.mark.parametrize("page", [page for page in PAGES if page not in ELSEWHERE])
def test_a_block_that_is_not_run_says_why(page):
    quiet = [block for block in blocks(page) if block.language in ("python", "console") and not runs(block)]
    assert [block.text for block in quiet if not NOT_RUN.fullmatch(block.remark)] == []


@pytest.mark.parametrize("page", PAGES)
def test_a_list_and_a_table_begin_after_an_empty_line(page):
    """Markdown of the site wants it, that of repositories does not."""
    begins = re.compile(r"([*-]|\d+\.) |\| ")
    text = re.sub(r"^```.*?^```$", "", PAGES[page].read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    paragraphs = [part.splitlines() for part in re.split(r"\n\s*\n", text.strip())]
    late = [
        line
        for first, *others in paragraphs
        if not begins.match(first) and not first.startswith("<!--")
        for line in others
        if begins.match(line)
    ]
    assert late == []


@pytest.mark.parametrize("page", PAGES)
def test_nothing_is_lost_between_angle_brackets_or_out_of_a_list(page):
    """A site takes `<q, x>` for a tag, and two spaces after an empty line for the end of a list."""
    text = PAGES[page].read_text(encoding="utf-8")
    text = re.sub(r"^```.*?^```$|<!--.*?-->|^ {4}.*?$", "", text, flags=re.DOTALL | re.MULTILINE)
    prose = re.sub(r"`[^`]*`|\$[^$]*\$", "", text)
    assert re.findall(r"<[a-zA-Z/][^\n]*", prose) == []
    assert re.findall(r"\n\n {1,3}\S[^\n]*", text) == []


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_that_are_there(page):
    text = PAGES[page].read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if not re.match(r"[a-z]+:", target):
            assert (PAGES[page].parent / target).exists(), target


def test_a_wrong_output_is_noticed(tmp_path):
    with pytest.raises(AssertionError, match="wanted"):
        run_python(Block("", "python", "print(1 + 1)\n", "3\n"), {})
    with pytest.raises(AssertionError, match="wanted"):
        run_python(Block("", "python", "print(1 + 1)\n", None), {})


PUBLIC = sorted({"polarindex", *(f"polarindex.{home}" for home in polarindex._HOMES.values())})
WITH_EXAMPLES = [name for name in PUBLIC if ">>> " in Path(find_spec(name).origin).read_text(encoding="utf-8")]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_of_docstrings_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    failed, tried = doctest.testmod(import_module(name), optionflags=FLAGS)
    assert tried > 0 and failed == 0
