"""Haystack: a document store of a polarindex index, and its embedding retriever.

>>> from haystack import Document
>>> store = PolarDocumentStore("my-documents", embedding_dim=3)
>>> store.write_documents([Document(content="a text", embedding=[1.0, 0.0, 0.5], meta={"year": 2024})])
1
>>> retriever = PolarEmbeddingRetriever(store, filters={"field": "meta.year", "operator": ">", "value": 2000})
>>> documents = retriever.run([1.0, 0.0, 0.4])["documents"]

Law:       what Haystack says of a DocumentStore, as haystack.testing checks it. Documents without an embedding are kept
           and not retrieved. With a path, what a call has done is on the disk when it returns.
Not here:  documents and their index (documents.py); what a filter means (haystack.utils.filters)."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Callable, Iterable
from typing import Any

from polarindex.errors import MissingExtraError
from polarindex.integrations.accepted import name_of
from polarindex.integrations.documents import DocumentIndex, Hit
from polarindex.records import Record

try:
    from haystack import Document, component, default_from_dict, default_to_dict
    from haystack.document_stores.errors import DuplicateDocumentError
    from haystack.document_stores.types import DuplicatePolicy, FilterPolicy, apply_filter_policy
    from haystack.utils.filters import document_matches_filter
except ImportError as error:
    raise MissingExtraError("haystack-ai is not installed; get it with: pip install 'polarindex[haystack]'") from error

Filters = dict[str, Any] | None
_SCALING = 100  # of inner products, as in Haystack's own store


class PolarDocumentStore:
    """Documents by the similarity of their embeddings.

    Parameters
    ----------
    path : path of a directory, optional
        Where the documents are, or will be; None: in memory.
    embedding_dim : int
        Of the documents' embeddings.
    metric, bits, store : as of documents.DocumentIndex
        By default "cosine", 4 and "float16".
    return_embedding : bool
        Whether `filter_documents` gives documents their embeddings: as they are stored (store="float32": as given),
        or, with store="none", decoded from their codes.
    read_only : bool
        Only ask, also while another process writes.

    A document's score is the index's similarity for cosine and ip, and 1 / (1 + squared distance) for l2.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        embedding_dim: int = 768,
        metric: str = "cosine",
        bits: int = 4,
        store: str = "float16",
        return_embedding: bool = True,
        read_only: bool = False,
    ) -> None:
        self._arguments: dict[str, Any] = {
            "path": None if path is None else os.fspath(path),
            "embedding_dim": embedding_dim,
            "metric": metric,
            "bits": bits,
            "store": store,
            "return_embedding": return_embedding,
            "read_only": read_only,
        }
        self.documents = DocumentIndex(
            path, dim=embedding_dim, metric=metric, bits=bits, store=store, read_only=read_only
        )

    def to_dict(self) -> dict[str, Any]:
        """The constructor's arguments; documents in memory are not in it."""
        return default_to_dict(self, **self._arguments)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> PolarDocumentStore:
        return default_from_dict(cls, data)

    def close(self) -> None:
        """Let go of the directory, for another writer."""
        self.documents.close()

    # --- asking it

    def count_documents(self) -> int:
        return len(self.documents)

    def count_documents_by_filter(self, filters: dict[str, Any]) -> int:
        return len(self._matching(filters))

    def filter_documents(self, filters: Filters = None) -> list[Document]:
        """The documents that match Haystack's filters, the oldest first; all where None."""
        return [_document(hit) for hit in self._matching(filters, self._arguments["return_embedding"])]

    def embedding_retrieval(
        self,
        query_embedding: list[float],
        filters: Filters = None,
        top_k: int = 10,
        scale_score: bool = False,
        return_embedding: bool = False,
    ) -> list[Document]:
        """The documents nearest to an embedding, best first, with scores; see PolarEmbeddingRetriever."""
        accepts = _accepted(filters)
        if top_k == 0:
            return []
        hits = self.documents.search(query_embedding, top_k, accepts, name_of(filters), return_embedding)
        return [_document(hit, _score(hit.score, self._arguments["metric"], scale_score)) for hit in hits]

    # --- changing it

    def write_documents(self, documents: list[Document], policy: DuplicatePolicy = DuplicatePolicy.NONE) -> int:
        """Write documents; NONE is FAIL, which writes all or nothing. Returns how many were written.

        Raises
        ------
        DuplicateDocumentError
            A document's id is there, or comes twice, and the policy is FAIL.
        ValueError, TypeError
            What came is no list of documents, an embedding is not of `embedding_dim` numbers, or meta is not what
            JSON can hold.
        """
        documents = _checked(documents)
        with self.documents.alone():
            chosen = self._chosen(documents, policy)
            self.documents.put(
                [document.id for document in chosen],
                [document.embedding for document in chosen if document.embedding is not None],
                [document.content for document in chosen],
                [_metadata(document) for document in chosen],
                [document.embedding is not None for document in chosen],
            )
        return len(documents) if policy == DuplicatePolicy.OVERWRITE else len(chosen)

    def delete_documents(self, document_ids: list[str]) -> None:
        """Delete documents; ids that are not there are no error."""
        self.documents.delete(document_ids)

    def delete_all_documents(self, recreate_index: bool = False) -> None:
        """Delete all documents; with recreate_index the index's files are written anew, empty."""
        self.documents.clear(compact=recreate_index)

    def delete_by_filter(self, filters: dict[str, Any]) -> int:
        """Delete the documents that match; returns how many."""
        with self.documents.alone():
            return self.documents.delete([hit.record.key for hit in self._matching(filters)])

    def update_by_filter(self, filters: dict[str, Any], meta: dict[str, Any]) -> int:
        """Add fields to the meta of the documents that match, or replace them; returns how many documents."""
        with self.documents.alone():
            found = [hit.record for hit in self._matching(filters)]
            stored = [record.metadata or {} for record in found]
            metadatas = [{**one, "meta": {**one.get("meta", {}), **meta}} for one in stored]
            self.documents.update([record.key for record in found], metadatas)
        return len(found)

    # --- the same from coroutines

    async def count_documents_async(self) -> int:
        return await asyncio.to_thread(self.count_documents)

    async def count_documents_by_filter_async(self, filters: dict[str, Any]) -> int:
        return await asyncio.to_thread(self.count_documents_by_filter, filters)

    async def filter_documents_async(self, filters: Filters = None) -> list[Document]:
        return await asyncio.to_thread(self.filter_documents, filters)

    async def embedding_retrieval_async(self, query_embedding: list[float], **options: Any) -> list[Document]:
        return await asyncio.to_thread(self.embedding_retrieval, query_embedding, **options)

    async def write_documents_async(
        self, documents: list[Document], policy: DuplicatePolicy = DuplicatePolicy.NONE
    ) -> int:
        return await asyncio.to_thread(self.write_documents, documents, policy)

    async def delete_documents_async(self, document_ids: list[str]) -> None:
        await asyncio.to_thread(self.delete_documents, document_ids)

    async def delete_all_documents_async(self, recreate_index: bool = False) -> None:
        await asyncio.to_thread(self.delete_all_documents, recreate_index)

    async def delete_by_filter_async(self, filters: dict[str, Any]) -> int:
        return await asyncio.to_thread(self.delete_by_filter, filters)

    async def update_by_filter_async(self, filters: dict[str, Any], meta: dict[str, Any]) -> int:
        return await asyncio.to_thread(self.update_by_filter, filters, meta)

    # --- documents and records

    def _matching(self, filters: Filters, with_vectors: bool = False) -> list[Hit]:
        return self.documents.select(_accepted(filters), with_vectors)

    def _chosen(self, documents: list[Document], policy: DuplicatePolicy) -> list[Document]:
        """Those that a policy lets in, each id once."""
        there = {record.key for record in self.documents.get(list({document.id for document in documents}))}
        chosen: dict[str, Document] = {}
        for document in documents:
            if policy == DuplicatePolicy.OVERWRITE or (document.id not in there and document.id not in chosen):
                chosen[document.id] = document
            elif policy != DuplicatePolicy.SKIP:
                raise DuplicateDocumentError(f"ID '{document.id}' already exists.")
        return list(chosen.values())


@component
class PolarEmbeddingRetriever:
    """The documents of a PolarDocumentStore that are nearest to an embedding.

    Parameters
    ----------
    document_store : PolarDocumentStore
    filters : dict, optional
        Haystack's; how those of a run join them says filter_policy.
    top_k : int
    scale_score : bool
        Scores from 0 to 1: (1 + s) / 2 for cosine, a sigmoid of s / 100 for ip; those of l2 are so anyway.
    return_embedding : bool
        As of PolarDocumentStore.
    filter_policy : FilterPolicy
    """

    def __init__(
        self,
        document_store: PolarDocumentStore,
        filters: dict[str, Any] | None = None,
        top_k: int = 10,
        scale_score: bool = False,
        return_embedding: bool = False,
        filter_policy: str | FilterPolicy = FilterPolicy.REPLACE,
    ) -> None:
        if not isinstance(document_store, PolarDocumentStore):
            raise TypeError(f"document_store must be a PolarDocumentStore, got {type(document_store).__name__}")
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}")
        self.document_store, self.filters, self.top_k = document_store, filters, top_k
        self.scale_score, self.return_embedding = scale_score, return_embedding
        self.filter_policy = FilterPolicy.from_str(filter_policy) if isinstance(filter_policy, str) else filter_policy

    def to_dict(self) -> dict[str, Any]:
        return default_to_dict(
            self,
            document_store=self.document_store.to_dict(),
            filters=self.filters,
            top_k=self.top_k,
            scale_score=self.scale_score,
            return_embedding=self.return_embedding,
            filter_policy=self.filter_policy.value,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> PolarEmbeddingRetriever:
        arguments = dict(data["init_parameters"])
        if isinstance(arguments["document_store"], dict):
            arguments["document_store"] = PolarDocumentStore.from_dict(arguments["document_store"])
        return default_from_dict(cls, {**data, "init_parameters": arguments})

    @component.output_types(documents=list[Document])
    def run(
        self,
        query_embedding: list[float],
        filters: dict[str, Any] | None = None,
        top_k: int | None = None,
        scale_score: bool | None = None,
        return_embedding: bool | None = None,
    ) -> dict[str, list[Document]]:
        """Retrieve; what is given here counts in place of the constructor's."""
        found = self.document_store.embedding_retrieval(
            query_embedding,
            filters=apply_filter_policy(self.filter_policy, self.filters, filters),
            top_k=self.top_k if top_k is None else top_k,
            scale_score=self.scale_score if scale_score is None else scale_score,
            return_embedding=self.return_embedding if return_embedding is None else return_embedding,
        )
        return {"documents": found}

    @component.output_types(documents=list[Document])
    async def run_async(
        self,
        query_embedding: list[float],
        filters: dict[str, Any] | None = None,
        top_k: int | None = None,
        scale_score: bool | None = None,
        return_embedding: bool | None = None,
    ) -> dict[str, list[Document]]:
        return await asyncio.to_thread(self.run, query_embedding, filters, top_k, scale_score, return_embedding)


def _checked(documents: Any) -> list[Document]:
    if not isinstance(documents, Iterable) or isinstance(documents, str):
        raise ValueError(f"documents must be a list of Documents, got {type(documents).__name__}")
    documents = list(documents)
    for at, document in enumerate(documents):
        if not isinstance(document, Document):
            raise ValueError(f"documents[{at}] must be a Document, got {type(document).__name__}")
    return documents


def _metadata(document: Document) -> dict[str, Any]:
    """What a record keeps of a document beside its id, content and embedding: meta, blob and sparse embedding."""
    entries = document.to_dict(flatten=False)
    kept = {name: entries.get(name) for name in ("meta", "blob", "sparse_embedding")}
    return {name: value for name, value in kept.items() if value}


def _document(hit: Hit, score: float | None = None) -> Document:
    more = {"score": score, "embedding": None if hit.vector is None else hit.vector.tolist()}
    return Document.from_dict({**_entries(hit.record), **more})


def _entries(record: Record) -> dict[str, Any]:
    return {"id": record.key, "content": record.text, **(record.metadata or {})}


def _accepted(filters: Filters) -> Callable[[Record], bool] | None:
    """Haystack's filters as a function; None for all."""
    if not filters:
        return None
    if "operator" not in filters and "conditions" not in filters:
        raise ValueError(f"filters must have an operator, got the keys {sorted(filters)}")
    return lambda record: document_matches_filter(filters, Document.from_dict(_entries(record)))


def _score(score: float, metric: str, scaled: bool) -> float:
    if metric == "l2":
        return 1 / (1 + score)
    if not scaled:
        return score
    return (1 + score) / 2 if metric == "cosine" else 1 / (1 + math.exp(-score / _SCALING))
