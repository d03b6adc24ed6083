"""The Haystack store does what haystack.testing wants of document stores, in memory and in a directory, and more."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect

import numpy as np
import pytest

pytest.importorskip("haystack")
pytest.importorskip("pytest_asyncio")  # whose marker haystack.testing uses

from haystack import Document, Pipeline
from haystack.dataclasses import ByteStream, SparseEmbedding
from haystack.document_stores.errors import DuplicateDocumentError
from haystack.document_stores.types import DuplicatePolicy, FilterPolicy
from haystack.testing.document_store import CountDocumentsByFilterTest, DocumentStoreBaseExtendedTests
from haystack.testing.document_store_async import (
    CountDocumentsAsyncTest,
    CountDocumentsByFilterAsyncTest,
    DeleteAllAsyncTest,
    DeleteByFilterAsyncTest,
    DeleteDocumentsAsyncTest,
    FilterDocumentsAsyncTest,
    UpdateByFilterAsyncTest,
    WriteDocumentsAsyncTest,
)

from polarindex.integrations.haystack import PolarDocumentStore, PolarEmbeddingRetriever


class Suite(
    DocumentStoreBaseExtendedTests,
    CountDocumentsByFilterTest,
    CountDocumentsAsyncTest,
    CountDocumentsByFilterAsyncTest,
    DeleteAllAsyncTest,
    DeleteByFilterAsyncTest,
    DeleteDocumentsAsyncTest,
    FilterDocumentsAsyncTest,
    UpdateByFilterAsyncTest,
    WriteDocumentsAsyncTest,
):
    @staticmethod
    def assert_documents_are_equal(received, expected):
        """Embeddings are kept as float32; all else is as it was. Documents without one come after the others."""
        in_order = [sorted(map(rounded, some), key=lambda document: document.id) for some in (received, expected)]
        assert in_order[0] == in_order[1]

    def test_write_documents(self, document_store):
        """Without a policy a document that is there is an error."""
        document = Document(content="test doc")
        assert document_store.write_documents([document]) == 1
        with pytest.raises(DuplicateDocumentError):
            document_store.write_documents([document])

    @pytest.mark.asyncio
    async def test_write_documents_async(self, document_store):
        document = Document(content="test doc")
        assert await document_store.write_documents_async([document]) == 1
        with pytest.raises(DuplicateDocumentError):
            await document_store.write_documents_async([document])


def rounded(document):
    embedding = None if document.embedding is None else np.float32(document.embedding).tolist()
    return dataclasses.replace(document, embedding=embedding)


class TestInMemory(Suite):
    @pytest.fixture
    def document_store(self):
        return PolarDocumentStore(store="float32")


class TestInADirectory(Suite):
    @pytest.fixture
    def document_store(self, tmp_path):
        store = PolarDocumentStore(tmp_path / "documents", store="float32")
        yield store
        store.close()


del Suite  # which is none of its own


def documents():
    directions = np.eye(3)
    return [
        Document(id=name, content=name, meta={"axis": at}, embedding=directions[at].tolist())
        for at, name in enumerate("xyz")
    ]


@pytest.fixture
def store():
    store = PolarDocumentStore(embedding_dim=3)
    store.write_documents([*documents(), Document(id="plain", content="no embedding")])
    return store


def names(found):
    return [document.content for document in found]


def test_the_nearest_come_first_with_their_scores(store):
    found = store.embedding_retrieval([1.0, 0.5, 0.0], top_k=10)
    assert names(found) == ["x", "y", "z"]
    np.testing.assert_allclose([document.score for document in found], [0.894, 0.447, 0], atol=2e-3)
    assert found[0].embedding is None and found[0].meta == {"axis": 0}
    scaled = store.embedding_retrieval([1.0, 0.5, 0.0], scale_score=True, return_embedding=True)
    np.testing.assert_allclose([document.score for document in scaled], [0.947, 0.724, 0.5], atol=2e-3)
    assert scaled[0].embedding == [1.0, 0.0, 0.0]
    only = store.embedding_retrieval([1.0, 0, 0], {"field": "meta.axis", "operator": ">", "value": 0})
    assert names(only) == ["y", "z"]
    with pytest.raises(ValueError, match="filters must have an operator"):
        store.embedding_retrieval([1.0, 0, 0], {"axis": 0})


@pytest.mark.parametrize(("metric", "scores"), [("ip", [2.0, 0.0, 0.0]), ("l2", [0.5, 1 / 6, 1 / 6])])
def test_scores_of_other_metrics(metric, scores):
    store = PolarDocumentStore(embedding_dim=3, metric=metric)
    store.write_documents(documents())
    found = store.embedding_retrieval([2.0, 0.0, 0.0])
    np.testing.assert_allclose([document.score for document in found], scores, atol=2e-3)
    assert all(0 <= document.score <= 1 for document in store.embedding_retrieval([2.0, 0, 0], scale_score=True))


def test_all_of_a_document_comes_back(store):
    whole = Document(
        id="whole",
        content="é\x00",
        blob=ByteStream(b"\x00\xff", meta={"a": 1}, mime_type="image/png"),
        meta={"nested": {"list": [1, None, "x"]}},
        embedding=[0.5, 0.25, 1.0],
        sparse_embedding=SparseEmbedding([1, 5], [0.5, 2.0]),
    )
    store.write_documents([whole])
    (found,) = store.filter_documents({"field": "id", "operator": "==", "value": "whole"})
    assert found == whole


def test_a_document_gets_and_loses_its_embedding(tmp_path):
    with_embedding = Document(id="a", content="with", embedding=[1.0, 0.0, 0.0])
    without = Document(id="a", content="without")
    for path in (None, tmp_path / "documents"):
        store = PolarDocumentStore(path, embedding_dim=3)
        for document in (without, with_embedding, without, with_embedding):
            store.write_documents([document], DuplicatePolicy.OVERWRITE)
            assert names(store.filter_documents()) == [document.content] and store.count_documents() == 1
            assert len(store.embedding_retrieval([1.0, 0, 0])) == (document is with_embedding)
        store.write_documents([Document(id="b", content="waits")])
        store.close()
    again = PolarDocumentStore(path, embedding_dim=3)
    assert names(again.filter_documents()) == ["with", "waits"]


def test_a_batch_with_an_id_twice(store):
    first, second = Document(id="n", content="first"), Document(id="n", content="second")
    with pytest.raises(DuplicateDocumentError):
        store.write_documents([first, second])
    assert store.count_documents() == 4
    assert store.write_documents([first, second], DuplicatePolicy.SKIP) == 1
    assert store.write_documents([first, second], DuplicatePolicy.OVERWRITE) == 2
    assert names(store.filter_documents({"field": "id", "operator": "==", "value": "n"})) == ["second"]


def test_an_embedding_of_another_dimension_is_refused_and_nothing_written(store):
    with pytest.raises(ValueError, match="vectors has 2 columns but dim=3 is wanted"):
        store.write_documents([Document(content="a", embedding=[1.0, 2.0])])
    assert store.count_documents() == 4


def test_a_bad_document_among_others_leaves_all_unwritten(store):
    good = [Document(content="a", embedding=[1.0, 2.0, 3.0]), Document(content="b")]
    for bad in (
        Document(content="c", meta={"x": object()}),
        Document(content="c", meta={"x": object()}, embedding=[1.0, 2.0, 3.0]),
        Document(content="c", embedding=[1.0, float("nan"), 3.0]),
    ):
        with pytest.raises((TypeError, ValueError)):
            store.write_documents([*good, bad])
        assert store.count_documents() == 4 and len(store.embedding_retrieval([1.0, 2.0, 3.0])) == 3


def test_store_and_retriever_survive_serialization_in_a_pipeline(tmp_path):
    store = PolarDocumentStore(tmp_path / "documents", embedding_dim=3, metric="ip")
    store.write_documents(documents())
    pipeline = Pipeline()
    filters = {"field": "meta.axis", "operator": "<", "value": 2}
    retriever = PolarEmbeddingRetriever(store, filters, top_k=1, filter_policy=FilterPolicy.MERGE)
    pipeline.add_component("retriever", retriever)
    assert names(pipeline.run({"retriever": {"query_embedding": [0.1, 0.2, 3.0]}})["retriever"]["documents"]) == ["y"]
    text = pipeline.dumps()
    store.close()
    trusted = "allowed_modules" in inspect.signature(Pipeline.loads).parameters  # from Haystack 3 on
    again = Pipeline.loads(text, **({"allowed_modules": [PolarDocumentStore.__module__]} if trusted else {}))
    more = {"field": "content", "operator": "!=", "value": "y"}
    found = again.run({"retriever": {"query_embedding": [0.1, 0.2, 3.0], "filters": more, "top_k": 5}})
    assert names(found["retriever"]["documents"]) == ["x"]
    assert again.get_component("retriever").to_dict() == retriever.to_dict()
    again.get_component("retriever").document_store.close()


def test_a_retriever_runs_in_coroutines_and_checks_its_arguments(store):
    retriever = PolarEmbeddingRetriever(store, top_k=2)
    assert names(asyncio.run(retriever.run_async([0.0, 1.0, 0.5]))["documents"]) == ["y", "z"]
    assert retriever.run([0.0, 1.0, 0.5], top_k=0) == {"documents": []}
    with pytest.raises(ValueError, match="top_k must be at least 1, got 0"):
        PolarEmbeddingRetriever(store, top_k=0)
    with pytest.raises(TypeError, match="document_store must be a PolarDocumentStore, got dict"):
        PolarEmbeddingRetriever({})
