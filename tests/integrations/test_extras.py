"""Without its framework an adapter names the extra to install, and the extra is there."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import polarindex as pi

PYPROJECT = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8")


def extra_of(error: pytest.ExceptionInfo[BaseException]) -> str:
    (extra,) = re.findall(r"pip install 'polarindex\[(\w+)\]'", str(error.value))
    return extra


@pytest.mark.parametrize(
    ("adapter", "package"),
    [("langchain", "langchain_core"), ("llamaindex", "llama_index"), ("haystack", "haystack"), ("sklearn", "sklearn")],
)
def test_an_adapter_names_its_extra(adapter, package, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"polarindex.integrations.{adapter}", raising=False)
    with pytest.raises(pi.MissingExtraError) as error:
        importlib.import_module(f"polarindex.integrations.{adapter}")
    assert extra_of(error) == adapter and re.search(rf"^{adapter} = \[", PYPROJECT, re.MULTILINE)


def test_from_faiss_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(pi.MissingExtraError) as error:
        pi.from_faiss(np.ones((2, 2)))
    assert extra_of(error) == "faiss"
