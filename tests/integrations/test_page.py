"""The Python of docs/integrations.md runs as written."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "integrations.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_block_of_langchain():
    embeddings = pytest.importorskip("langchain_core.embeddings")
    names = {"embedding": embeddings.DeterministicFakeEmbedding(size=8)}
    exec(BLOCKS[0], names)
    assert [
        document.id for document in names["store"].__class__(names["embedding"], "my-documents").get_by_ids(["a", "b"])
    ] == ["b"]


def test_the_block_of_llamaindex():
    core = pytest.importorskip("llama_index.core")
    nodes = [core.schema.TextNode(text=f"text {at}") for at in range(3)]
    names = {"embedding": core.MockEmbedding(embed_dim=4), "nodes": nodes}
    exec(BLOCKS[1], names)
    assert len(type(names["store"])("my-nodes", read_only=True).get_nodes()) == 3


def test_the_block_of_haystack():
    pytest.importorskip("haystack")
    names: dict[str, object] = {}
    exec(BLOCKS[2], names)
    assert [document.content for document in names["found"]] == ["one text"]


def test_the_block_of_sklearn(rng):
    pytest.importorskip("sklearn")
    names = {"x": rng.standard_normal((100, 6)), "np": np}
    exec(BLOCKS[3], names)
    assert names["distances"].shape == (5, 10) and names["graph"].nnz == 1000 and len(names["labels"]) == 100


def test_each_framework_has_one_block():
    assert len(BLOCKS) == 4
