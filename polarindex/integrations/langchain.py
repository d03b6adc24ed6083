"""LangChain: a VectorStore of a polarindex index.

>>> from langchain_core.embeddings import DeterministicFakeEmbedding
>>> store = PolarVectorStore(DeterministicFakeEmbedding(size=64), path="my-documents")
>>> ids = store.add_texts(["a text", "another one"], [{"year": 2024}, {"year": 2025}])
>>> documents = store.similarity_search("a text", k=1, filter={"year": {"$gte": 2024}})

Law:       what LangChain says of a VectorStore, as langchain_tests checks it. Adding under an id that is there replaces
           the document. With a path, what a call has done is on the disk when it returns.
Not here:  documents and their index (documents.py); filters that are dicts (conditions.py)."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from polarindex.errors import MissingExtraError
from polarindex.integrations.accepted import name_of
from polarindex.integrations.conditions import condition
from polarindex.integrations.documents import DocumentIndex, Hit
from polarindex.records import Record

try:
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.runnables.config import run_in_executor
    from langchain_core.vectorstores import VectorStore
    from langchain_core.vectorstores.utils import maximal_marginal_relevance
except ImportError as error:
    raise MissingExtraError(
        "langchain-core is not installed; get it with: pip install 'polarindex[langchain]'"
    ) from error

if TYPE_CHECKING:
    from typing_extensions import Self

Filter = dict[str, Any] | Callable[[Document], bool]


class PolarVectorStore(VectorStore):
    """Documents by the similarity of their embeddings.

    Parameters
    ----------
    embedding : Embeddings
    path : path of a directory, optional
        Where the documents are, or will be; None: in memory.
    relevance_score_fn : callable, optional
        From the score of a search to a relevance from 0 to 1; by default that of vectors of unit length.
    **options
        `dim`, `metric`, `bits`, `store`, `index` and `read_only`, as of documents.DocumentIndex: by default
        metric="cosine", bits=4 and store="float16".

    Scores are the index's: similarities (cosine, ip; larger is nearer) or squared distances (l2).
    """

    def __init__(
        self,
        embedding: Embeddings,
        path: str | os.PathLike[str] | None = None,
        *,
        relevance_score_fn: Callable[[float], float] | None = None,
        **options: Any,
    ) -> None:
        self.documents = DocumentIndex(path, **options)
        self._embedding, self._relevance = embedding, relevance_score_fn

    @property
    def embeddings(self) -> Embeddings:
        return self._embedding

    # --- changing it

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Embed texts and add them, or replace those whose ids are there. Returns the ids, new ones where None."""
        texts = list(texts)
        return self._put(texts, self._embedding.embed_documents(texts), metadatas, ids)

    async def aadd_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        texts = list(texts)
        vectors = await self._embedding.aembed_documents(texts)
        return await run_in_executor(None, self._put, texts, vectors, metadatas, ids)

    def _put(
        self,
        texts: list[str],
        vectors: list[list[float]],
        metadatas: list[dict[str, Any]] | None,
        ids: Sequence[str | None] | None,
    ) -> list[str]:
        for name, values in (("metadatas", metadatas), ("ids", ids)):
            if values and len(values) != len(texts):
                raise ValueError(f"{name} must have {len(texts)} entries, as there are texts, got {len(values)}")
        keys = [key or str(uuid.uuid4()) for key in ids or [None] * len(texts)]
        last = {key: at for at, key in enumerate(keys)}  # of an id that is given twice the last text counts
        chosen = list(last.values())
        metadatas = metadatas or [{}] * len(texts)
        if texts:
            columns: tuple[list[Any], ...] = vectors, texts, metadatas
            self.documents.put(list(last), *([column[at] for at in chosen] for column in columns))
        return keys

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """Delete documents; ids that are not there are no error. None deletes all."""
        if ids is None:
            self.documents.clear()
        else:
            self.documents.delete(ids)
        return True

    # --- asking it

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        return [_document(record) for record in self.documents.get(ids)]

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """The k documents most similar to a text; `filter`: a dict as of conditions.py, or a function of a Document."""
        return self.similarity_search_by_vector(self._embedding.embed_query(query), k, **kwargs)

    async def asimilarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        return await self.asimilarity_search_by_vector(await self._embedding.aembed_query(query), k, **kwargs)

    def similarity_search_by_vector(self, embedding: list[float], k: int = 4, **kwargs: Any) -> list[Document]:
        return [document for document, _ in self.similarity_search_with_score_by_vector(embedding, k, **kwargs)]

    def similarity_search_with_score(self, query: str, k: int = 4, **kwargs: Any) -> list[tuple[Document, float]]:
        return self.similarity_search_with_score_by_vector(self._embedding.embed_query(query), k, **kwargs)

    async def asimilarity_search_with_score(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        vector = await self._embedding.aembed_query(query)
        return await run_in_executor(None, self.similarity_search_with_score_by_vector, vector, k, **kwargs)

    def similarity_search_with_score_by_vector(
        self, embedding: list[float], k: int = 4, *, filter: Filter | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        return [(_document(hit.record), hit.score) for hit in self._hits(embedding, k, filter)]

    def max_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        vector = self._embedding.embed_query(query)
        return self.max_marginal_relevance_search_by_vector(vector, k, fetch_k, lambda_mult, **kwargs)

    async def amax_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        vector = await self._embedding.aembed_query(query)
        return await self.amax_marginal_relevance_search_by_vector(vector, k, fetch_k, lambda_mult, **kwargs)

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        *,
        filter: Filter | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """k of the fetch_k most similar documents, each near to the query and far from those before it."""
        hits = self._hits(embedding, fetch_k, filter, with_vectors=True)
        if not hits:
            return []
        vectors = [hit.vector for hit in hits]
        chosen = maximal_marginal_relevance(np.asarray(embedding, np.float32), vectors, lambda_mult, k)
        return [_document(hits[at].record) for at in chosen]

    def _hits(self, embedding: list[float], k: int, filter: Filter | None, with_vectors: bool = False) -> list[Hit]:
        accepts = None if filter is None else _accepted(filter)
        return self.documents.search(embedding, k, accepts, name_of(filter), with_vectors)

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        if self._relevance is not None:
            return self._relevance
        index = self.documents.index
        return _of_distance if index is not None and index.metric == "l2" else _of_similarity

    # --- made of texts, on the disk

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> Self:
        """A store of these texts; `kwargs` are the constructor's."""
        store = cls(embedding, **kwargs)
        store.add_texts(texts, metadatas, ids=ids)
        return store

    @classmethod
    async def afrom_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> Self:
        store = cls(embedding, **kwargs)
        await store.aadd_texts(texts, metadatas, ids=ids)
        return store

    def save_local(self, folder_path: str | os.PathLike[str]) -> None:
        """Write a store to a directory, in place of one that is there. One with a path has nothing to save there."""
        self.documents.save(folder_path)

    @classmethod
    def load_local(cls, folder_path: str | os.PathLike[str], embeddings: Embeddings, **kwargs: Any) -> Self:
        """A store that stays with its directory, as the constructor's `path`; FileNotFoundError where there is none."""
        if not os.path.isdir(folder_path):
            raise FileNotFoundError(2, "no documents here", str(folder_path))
        return cls(embeddings, folder_path, **kwargs)

    def close(self) -> None:
        """Let go of the directory, for another writer."""
        self.documents.close()


def _accepted(filter: Filter) -> Callable[[Record], bool]:
    if callable(filter):
        return lambda record: filter(_document(record))
    satisfied = condition(filter)
    return lambda record: satisfied(record.metadata or {})


def _document(record: Record) -> Document:
    return Document(id=record.key, page_content=record.text or "", metadata=record.metadata or {})


def _of_similarity(score: float) -> float:
    return min(1.0, max(0.0, score))


def _of_distance(score: float) -> float:
    """The cosine of unit vectors, from their squared distance."""
    return _of_similarity(1.0 - score / 2)
