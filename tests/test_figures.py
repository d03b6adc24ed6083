"""The figures of "How it works" show what the code gives, and its pages quote what the figures hold."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
KEPT: dict[str, Any] = json.loads((DOCS / "figures" / "figures.json").read_text("utf-8"))
QUICK = ("polar", "radius", "scales", "rotation")  # the others take seconds
DATA = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in KEPT]
PICTURES = [name if name == "polar" else pytest.param(name, marks=pytest.mark.slow) for name in KEPT]


@pytest.fixture(scope="module")
def make() -> ModuleType:
    """docs/figures/make.py, which imports its neighbours as a program does."""
    pytest.importorskip("matplotlib")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DOCS / "figures"))
        for name in ("data", "drawing", "tables", "make"):
            patch.delitem(sys.modules, name, raising=False)
        import make

        yield make
        for name in ("data", "drawing", "tables", "make"):
            sys.modules.pop(name, None)


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for key in sorted(value) for number in numbers(value[key])]
    if isinstance(value, list):
        return [number for item in value for number in numbers(item)]
    return [np.nan if value is None else float(value)]


def shape(value: Any) -> Any:
    """Without numbers: keys, and lengths of lists."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    return [shape(item) for item in value] if isinstance(value, list) else None


@pytest.mark.parametrize("name", DATA)
def test_the_data_of_a_figure_are_what_the_code_gives(make, name):
    """But for the last digits, which depend on BLAS, and a count or two at the edges of a histogram."""
    got, kept = make.rounded(make.FIGURES[name]()), KEPT[name]
    assert shape(got) == shape(kept)
    np.testing.assert_allclose(numbers(got), numbers(kept), rtol=5e-3, atol=5e-3)


def test_pictures_and_tables_show_the_data(make):
    assert set(KEPT) == set(make.FIGURES)
    assert make.stale(KEPT) == []


def test_other_data_are_noticed(make):
    other = json.loads(json.dumps(KEPT))
    other["bounds"]["law"][0] += 0.01
    assert make.stale(other) == ["images/how-bounds.svg", "how/bounds.md", "how/codes.md"]


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_drawn_alike_twice_and_asks_no_network(make, name):
    from drawing import drawn

    text = drawn(name, KEPT[name])
    assert text == drawn(name, KEPT[name])
    assert "currentColor" in text and "#010203" not in text
    assert not re.search(r"""(href|src)=["'](?!#)|@import|url\((?!#)""", text)
