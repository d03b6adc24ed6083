"""Every line of docs/coming-from.md runs, and where both sides search, they find the same."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

PAGE = Path(__file__).resolve().parents[1] / "docs" / "coming-from.md"
PACKAGES = {"FAISS": "faiss", "ScaNN": "scann", "scikit-learn": "sklearn", "NumPy": "numpy"}  # others by their names


def tables() -> dict[str, list[tuple[str, str, str]]]:
    """Rows of the table of each section: what, their code, our code."""
    found: dict[str, list[tuple[str, str, str]]] = {}
    for section in PAGE.read_text(encoding="utf-8").split("\n## ")[1:]:
        name, text = section.split("\n", 1)
        lines = [line for line in text.splitlines() if line.startswith("|")][2:]
        found[name] = [tuple(cell.strip().strip("`") for cell in line[1:-1].split("|")) for line in lines]
    return found


TABLES = tables()


@pytest.fixture
def given() -> dict[str, object]:
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((2000, 5)) @ rng.standard_normal((5, 32)) + 0.1).astype(np.float32)  # as embeddings are
    q = x[:20] + 0.1 * rng.standard_normal((20, 32)).astype(np.float32)
    return {"np": np, "x": x, "q": q, "ids": rng.permutation(9000)[:2000].astype(np.int64), "d": 32, "k": 10}


def agreement(theirs: object, ours: object) -> float:
    """The share of neighbours that are the same."""
    pairs = list(zip(np.asarray(theirs).tolist(), np.asarray(ours).tolist(), strict=True))
    return float(np.mean([len(set(a) & set(b)) / max(1, len(a)) for a, b in pairs]))


def test_the_page_has_its_sections():
    assert list(TABLES) == ["FAISS", "hnswlib", "usearch", "turbovec", "ScaNN", "scikit-learn", "NumPy"]
    assert sum(len(rows) for rows in TABLES.values()) > 45


@pytest.mark.parametrize("name", TABLES)
def test_our_lines_run(name, given, tmp_path, monkeypatch):
    if name == "scikit-learn":
        pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    for _, _, ours in TABLES[name]:
        exec(ours, given)
    assert "D" in given and "I" in given


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the others
def test_their_lines_run_and_find_what_ours_find(name, given, tmp_path, monkeypatch):
    pytest.importorskip(PACKAGES.get(name, name))
    if name == "FAISS":
        pytest.importorskip("faiss").omp_set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    theirs, ours = dict(given), dict(given)
    compared = 0
    for what, their_code, our_code in TABLES[name]:
        exec(their_code, theirs)
        exec(our_code, ours)
        if re.search(r"\bI(, D)? = ", their_code) and "radius" not in what:
            least = 0.7 if name == "turbovec" or "lists" in what else 0.9
            assert agreement(theirs["I"], ours["I"]) > least, what
            compared += 1
    assert compared >= 1
