"""LlamaIndex: a vector store of a polarindex index, which keeps the nodes too.

>>> from llama_index.core import StorageContext, VectorStoreIndex
>>> store = PolarVectorStore("my-nodes")
>>> index = VectorStoreIndex(nodes, storage_context=StorageContext.from_defaults(vector_store=store))

Law:       what LlamaIndex says of a BasePydanticVectorStore: every filter operator, filters in filters, modes DEFAULT
           and MMR. A node under an id that is there replaces it. With a path, what a call has done is on the disk
           when it returns.
Not here:  documents and their index (documents.py)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from polarindex.errors import MissingExtraError
from polarindex.integrations.accepted import name_of
from polarindex.integrations.documents import DocumentIndex, Hit
from polarindex.records import Record

try:
    from llama_index.core.bridge.pydantic import PrivateAttr
    from llama_index.core.indices.query.embedding_utils import get_top_k_mmr_embeddings
    from llama_index.core.schema import BaseNode, MetadataMode
    from llama_index.core.vector_stores.types import (
        DEFAULT_PERSIST_DIR,
        DEFAULT_PERSIST_FNAME,
        BasePydanticVectorStore,
        FilterCondition,
        MetadataFilters,
        VectorStoreQuery,
        VectorStoreQueryMode,
        VectorStoreQueryResult,
    )
    from llama_index.core.vector_stores.utils import (
        build_metadata_filter_fn,
        metadata_dict_to_node,
        node_to_metadata_dict,
    )
except ImportError as error:
    what = "llama-index-core is not installed; get it with: pip install 'polarindex[llamaindex]'"
    raise MissingExtraError(what) from error

if TYPE_CHECKING:
    from typing_extensions import Self

_PREFETCH = 4  # candidates a result for MMR, as in LlamaIndex's own store
Metadata = Mapping[str, Any]


class PolarVectorStore(BasePydanticVectorStore):
    """Nodes by the similarity of their embeddings.

    Parameters
    ----------
    path : path of a directory, optional
        Where the nodes are, or will be; None: in memory.
    **options
        `dim`, `metric`, `bits`, `store`, `index` and `read_only`, as of documents.DocumentIndex: by default
        metric="cosine", bits=4 and store="float16".

    A result's similarity is the index's for cosine and ip, and 1 / (1 + squared distance) for l2.
    """

    stores_text: bool = True
    _documents: DocumentIndex = PrivateAttr()

    def __init__(self, path: str | os.PathLike[str] | None = None, **options: Any) -> None:
        super().__init__(stores_text=True)
        self._documents = DocumentIndex(path, **options)

    @classmethod
    def class_name(cls) -> str:
        return "PolarVectorStore"

    @property
    def client(self) -> DocumentIndex:
        """The nodes and their index."""
        return self._documents

    def close(self) -> None:
        """Let go of the directory, for another writer."""
        self._documents.close()

    # --- changing it

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Add nodes with embeddings, or replace those whose ids are there. Returns the ids."""
        last = {node.node_id: node for node in nodes}
        if last:
            self._documents.put(
                list(last),
                [node.get_embedding() for node in last.values()],
                [node.get_content(metadata_mode=MetadataMode.NONE) for node in last.values()],
                [node_to_metadata_dict(node, remove_text=True) for node in last.values()],
            )
        return [node.node_id for node in nodes]

    async def async_add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        return await asyncio.to_thread(self.add, nodes, **kwargs)

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Delete the nodes that were made of a document."""
        self._delete(lambda record: (record.metadata or {}).get("ref_doc_id") == ref_doc_id)

    async def adelete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        await asyncio.to_thread(self.delete, ref_doc_id, **delete_kwargs)

    def delete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """Delete the nodes that have one of the ids, where given, and satisfy the filters, where given."""
        if node_ids is None and filters is None:
            raise ValueError("delete_nodes needs node_ids or filters; clear() deletes all nodes")
        self._delete(_accepted(node_ids, None, filters))

    async def adelete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        await asyncio.to_thread(self.delete_nodes, node_ids, filters, **delete_kwargs)

    def clear(self) -> None:
        """Delete all nodes."""
        self._documents.clear()

    async def aclear(self) -> None:
        await asyncio.to_thread(self.clear)

    def _delete(self, accepts: Callable[[Record], bool]) -> None:
        with self._documents.alone():
            self._documents.delete([hit.record.key for hit in self._documents.select(accepts)])

    # --- asking it

    def get_nodes(self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None) -> list[BaseNode]:
        """The nodes that have one of the ids, in their order, and satisfy the filters; all where neither is given."""
        accepts = _accepted(None, None, filters)
        if node_ids is None:
            return [_node(hit.record) for hit in self._documents.select(accepts)]
        return [_node(record) for record in self._documents.get(node_ids) if accepts(record)]

    async def aget_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        return await asyncio.to_thread(self.get_nodes, node_ids, filters)

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """The nodes nearest to a query's embedding, of those that its ids, doc_ids and filters leave."""
        if query.query_embedding is None:
            raise ValueError("query must have a query_embedding")
        if query.mode not in (VectorStoreQueryMode.DEFAULT, VectorStoreQueryMode.MMR):
            raise ValueError(f"query has mode {query.mode.value!r}; this store has the modes 'default' and 'mmr'")
        # an index of LlamaIndex asks with empty node_ids where it means all
        restricted = query.node_ids or query.doc_ids or query.filters
        accepts = _accepted(query.node_ids or None, query.doc_ids or None, query.filters) if restricted else None
        many = query.mode == VectorStoreQueryMode.MMR
        k = query.similarity_top_k * (_PREFETCH if many else 1)
        filters = None if query.filters is None else query.filters.model_dump(mode="json")
        name = name_of(query.node_ids, query.doc_ids, filters)
        hits = self._documents.search(query.query_embedding, k, accepts, name, with_vectors=many)
        if many and hits:
            hits = self._diverse(hits, query, kwargs.get("mmr_threshold", query.mmr_threshold))
        metric = self._documents.index.metric if self._documents.index is not None else "cosine"
        return VectorStoreQueryResult(
            nodes=[_node(hit.record) for hit in hits],
            similarities=[1 / (1 + hit.score) if metric == "l2" else hit.score for hit in hits],
            ids=[hit.record.key for hit in hits],
        )

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        return await asyncio.to_thread(self.query, query, **kwargs)

    def _diverse(self, hits: list[Hit], query: VectorStoreQuery, threshold: float | None) -> list[Hit]:
        _, chosen = get_top_k_mmr_embeddings(
            query.query_embedding,
            [hit.vector for hit in hits],
            similarity_top_k=query.similarity_top_k,
            embedding_ids=list(range(len(hits))),
            mmr_threshold=threshold,
        )
        return [hits[at] for at in chosen]

    # --- on the disk

    def persist(self, persist_path: str, fs: Any = None) -> None:
        """Write the nodes to a directory of this name, in place of nodes that are there.

        A store with this path has nothing to do: all is there already.
        """
        _check_local(fs)
        self._documents.save(persist_path)

    @classmethod
    def from_persist_path(cls, persist_path: str, fs: Any = None, **options: Any) -> Self:
        """A store that stays with its directory, as the constructor's `path`; FileNotFoundError where there is none."""
        _check_local(fs)
        if not os.path.isdir(persist_path):
            raise FileNotFoundError(2, "no nodes here", str(persist_path))
        return cls(persist_path, **options)

    @classmethod
    def from_persist_dir(
        cls, persist_dir: str = DEFAULT_PERSIST_DIR, namespace: str = "default", fs: Any = None, **options: Any
    ) -> Self:
        """What a StorageContext has persisted in a directory, under a namespace."""
        path = os.path.join(persist_dir, f"{namespace}__{DEFAULT_PERSIST_FNAME}")
        return cls.from_persist_path(path, fs, **options)


def _node(record: Record) -> BaseNode:
    return metadata_dict_to_node(dict(record.metadata or {}), text=record.text)


def _accepted(
    node_ids: Sequence[str] | None, doc_ids: Sequence[str] | None, filters: MetadataFilters | None
) -> Callable[[Record], bool]:
    """What a record must be: of one of the nodes, and of one of the documents, and as the filters want its metadata."""
    nodes = None if node_ids is None else set(node_ids)
    documents = None if doc_ids is None else set(doc_ids)
    satisfied = _satisfied(filters)

    def accepts(record: Record) -> bool:
        metadata = record.metadata or {}
        return (
            (nodes is None or record.key in nodes)
            and (documents is None or metadata.get("ref_doc_id") in documents)
            and satisfied(metadata)
        )

    return accepts


def _satisfied(filters: MetadataFilters | None) -> Callable[[Metadata], bool]:
    """Filters as a function of metadata; LlamaIndex's own judges each filter, but takes none within another."""
    if filters is None or not filters.filters:
        return lambda metadata: True
    parts: list[Callable[[Any], bool]] = [
        _satisfied(part)
        if isinstance(part, MetadataFilters)
        else build_metadata_filter_fn(lambda metadata: metadata, MetadataFilters(filters=[part]))
        for part in filters.filters
    ]
    how = filters.condition or FilterCondition.AND
    if how == FilterCondition.AND:
        return lambda metadata: all(part(metadata) for part in parts)
    wanted = how == FilterCondition.OR  # else NOT: none of them
    return lambda metadata: any(part(metadata) for part in parts) is wanted


def _check_local(fs: Any) -> None:
    if fs is not None and "file" not in ([fs.protocol] if isinstance(fs.protocol, str) else fs.protocol):
        raise ValueError(f"nodes are persisted on local disks only, got a file system of protocol {fs.protocol!r}")
