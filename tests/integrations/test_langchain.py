"""The LangChain store does what langchain_tests wants of every store, in memory and in a directory, and more."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

pytest.importorskip("langchain_core")
pytest.importorskip("langchain_tests")

from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_tests.integration_tests import VectorStoreIntegrationTests

import polarindex as pi
from polarindex.integrations.langchain import PolarVectorStore


class TestInMemory(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self):
        return PolarVectorStore(self.get_embeddings())


class TestInADirectory(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, tmp_path):
        store = PolarVectorStore(self.get_embeddings(), tmp_path / "documents")
        yield store
        store.close()


class Angles(Embeddings):
    """A text is a number of degrees, and its embedding the direction. Async calls are counted."""

    asynchronous = 0

    def embed_query(self, text):
        angle = np.radians(float(text))
        return [float(np.cos(angle)), float(np.sin(angle))]

    def embed_documents(self, texts):
        return [self.embed_query(text) for text in texts]

    async def aembed_query(self, text):
        self.asynchronous += 1
        return self.embed_query(text)

    async def aembed_documents(self, texts):
        self.asynchronous += 1
        return self.embed_documents(texts)


@pytest.fixture
def store():
    store = PolarVectorStore(Angles())
    texts = ["0", "10", "20", "90", "180"]
    store.add_texts(texts, [{"angle": int(text), "even": int(text) % 20 == 0} for text in texts], ids=texts)
    return store


def found(documents):
    return [document.page_content for document in documents]


def test_the_nearest_come_first_with_their_similarities(store):
    results = store.similarity_search_with_score("1", k=3)
    assert found(document for document, _ in results) == ["0", "10", "20"]
    np.testing.assert_allclose([score for _, score in results], np.cos(np.radians([1, 9, 19])), atol=1e-3)
    assert found(store.similarity_search("89", k=1)) == ["90"]
    assert found(store.similarity_search_by_vector([-1.0, 0.0], k=1)) == ["180"]
    assert len(store.similarity_search("1", k=100)) == 5
    assert store.similarity_search("1", k=1)[0] == Document(
        id="0", page_content="0", metadata={"angle": 0, "even": True}
    )


@pytest.mark.parametrize(
    ("filter", "expected"),
    [
        ({"angle": 10}, ["10"]),
        ({"angle": {"$eq": 10}}, ["10"]),
        ({"angle": {"$gt": 10, "$lt": 180}}, ["20", "90"]),
        ({"$and": [{"even": True}, {"angle": {"$lte": 20}}]}, ["0", "20"]),
        ({"$or": [{"angle": {"$in": [10, 90]}}, {"angle": 180}]}, ["10", "90", "180"]),
        ({"$not": {"even": True}}, ["10", "90"]),
        ({"other": 1}, []),
        (lambda document: document.metadata["angle"] > 15, ["20", "90", "180"]),
        (lambda document: document.page_content.startswith("1"), ["10", "180"]),
    ],
)
def test_filters_are_dicts_or_functions(store, filter, expected):
    assert found(store.similarity_search("0", k=10, filter=filter)) == expected
    assert found(store.max_marginal_relevance_search("0", k=10, filter=filter, lambda_mult=1.0)) == expected
    retriever = store.as_retriever(search_kwargs={"k": 10, "filter": filter})
    assert found(retriever.invoke("0")) == expected


def test_marginal_relevance_prefers_what_is_unlike_the_others(store):
    assert found(store.max_marginal_relevance_search("0", k=2, fetch_k=5, lambda_mult=0.1)) == ["0", "180"]
    assert found(store.max_marginal_relevance_search("0", k=2, fetch_k=5, lambda_mult=1.0)) == ["0", "10"]
    assert PolarVectorStore(Angles()).max_marginal_relevance_search("0") == []


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_relevance_is_the_cosine_of_unit_vectors(metric):
    store = PolarVectorStore.from_texts(["0", "60", "180"], Angles(), metric=metric)
    results = store.similarity_search_with_relevance_scores("0", k=3)
    assert found(document for document, _ in results) == ["0", "60", "180"]
    np.testing.assert_allclose([score for _, score in results], [1, 0.5, 0], atol=2e-3)
    assert found(store.similarity_search("0", k=3)) == ["0", "60", "180"]
    own = PolarVectorStore.from_texts(["0"], Angles(), relevance_score_fn=lambda score: 0.25)
    assert own.similarity_search_with_relevance_scores("0")[0][1] == 0.25


def test_an_id_that_is_there_or_given_twice_has_the_last_text(store):
    store.add_texts(["170", "5"], ids=["0", "0"])
    assert len(store.documents) == 5
    assert store.get_by_ids(["0"]) == [Document(id="0", page_content="5", metadata={})]
    assert found(store.similarity_search("0", k=2)) == ["5", "10"]
    store.add_documents([Document(page_content="3", id="0"), Document(page_content="4")])
    assert found(store.similarity_search("0", k=2)) == ["3", "4"]
    assert store.delete() and len(store.documents) == 0 and store.similarity_search("0") == []


def test_numbers_of_texts_and_ids_must_agree(store):
    with pytest.raises(ValueError, match="ids must have 2 entries, as there are texts, got 1"):
        store.add_texts(["1", "2"], ids=["a"])
    with pytest.raises(ValueError, match="metadatas must have 1 entries, as there are texts, got 2"):
        store.add_texts(["1"], [{}, {}])
    with pytest.raises(TypeError, match="metadatas\\[0\\] must be what JSON can hold"):
        store.add_texts(["1"], [{"x": object()}])
    assert len(store.documents) == 5 and store.add_texts([]) == []


def test_what_was_saved_is_loaded_and_stays_with_its_directory(store, tmp_path):
    store.save_local(tmp_path / "saved")
    with pytest.raises(FileNotFoundError):
        PolarVectorStore.load_local(tmp_path / "missing", Angles())
    loaded = PolarVectorStore.load_local(tmp_path / "saved", Angles())
    assert found(loaded.similarity_search("80", k=2)) == ["90", "20"]
    loaded.add_texts(["85"], ids=["new"])
    loaded.delete(["90"])
    with pytest.raises(pi.LockedError):
        PolarVectorStore.load_local(tmp_path / "saved", Angles())
    loaded.close()
    again = PolarVectorStore(Angles(), tmp_path / "saved", read_only=True)
    assert found(again.similarity_search("80", k=2)) == ["85", "20"]
    with pytest.raises(ValueError, match="metric='l2' is not that of the index"):
        PolarVectorStore(Angles(), tmp_path / "saved", metric="l2", read_only=True)


def test_embeddings_are_awaited_where_they_can_be():
    async def run():
        store = await PolarVectorStore.afrom_texts(["0", "10", "90"], Angles(), [{"a": 1}, {"a": 2}, {"a": 3}])
        assert found(await store.asimilarity_search("1", k=1)) == ["0"]
        assert found(await store.amax_marginal_relevance_search("1", k=1)) == ["0"]
        ((document, score),) = await store.asimilarity_search_with_score("88", k=1, filter={"a": {"$gte": 2}})
        assert document.page_content == "90" and score > 0.99
        return store.embeddings.asynchronous

    assert asyncio.run(run()) == 4


def test_an_index_of_ones_own_is_used():
    embedding = DeterministicFakeEmbedding(size=16)
    index = pi.FlatIndex(16, metric="ip", bits=4, store="float16")
    store = PolarVectorStore(embedding, index=index)
    store.add_texts(["a", "b"])
    assert store.documents.index is index and found(store.similarity_search("a", k=1)) == ["a"]
    with pytest.raises(ValueError, match="index must be empty, got one of 2 vectors"):
        PolarVectorStore(embedding, index=index)
