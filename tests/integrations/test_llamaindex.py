"""The LlamaIndex store: nodes come back whole, operators and modes do what LlamaIndex says, on disk as in memory."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

pytest.importorskip("llama_index.core")

import fsspec  # comes with llama_index
from llama_index.core import MockEmbedding, StorageContext, VectorStoreIndex, load_index_from_storage
from llama_index.core.schema import ImageNode, IndexNode, NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
)

import polarindex as pi
from polarindex.integrations.llamaindex import PolarVectorStore


def direction(degrees):
    angle = np.radians(degrees)
    return [float(np.cos(angle)), float(np.sin(angle))]


def node(degrees, document="doc-1", **metadata):
    return TextNode(
        id_=str(degrees),
        text=f"text {degrees}",
        embedding=direction(degrees),
        metadata=metadata,
        relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=document)},
    )


def nodes():
    return [
        node(0, year=2020, tags=["a", "b"], title="The Fox", empty=[]),
        node(10, year=2021, tags=["b"], title="the dog", empty=""),
        node(20, "doc-2", year=2022, tags=["a", "c"], title="A fox, a dog"),
        node(90, "doc-2", year=2023, title="Bird", empty="no"),
    ]


@pytest.fixture(params=["memory", "directory"])
def store(request, tmp_path):
    store = PolarVectorStore(None if request.param == "memory" else tmp_path / "nodes")
    assert store.add(nodes()) == ["0", "10", "20", "90"]
    yield store
    store.close()


def asked(store, degrees=1, k=10, **query):
    return store.query(VectorStoreQuery(query_embedding=direction(degrees), similarity_top_k=k, **query))


def test_the_nearest_come_first_with_similarities_and_whole_nodes(store):
    result = asked(store, k=2)
    assert result.ids == ["0", "10"]
    np.testing.assert_allclose(result.similarities, np.cos(np.radians([1, 9])), atol=1e-3)
    (first, _) = result.nodes
    wanted = nodes()[0]
    wanted.embedding = None
    assert first == wanted and first.ref_doc_id == "doc-1" and first.get_content() == "text 0"
    assert asked(store, k=100).ids == ["0", "10", "20", "90"]
    assert asked(PolarVectorStore()).ids == []


def test_nodes_of_every_kind_come_back_as_they_were():
    store = PolarVectorStore()
    given = [
        ImageNode(id_="image", text="an image", image_url="http://x/y.png", embedding=[1.0, 0.0]),
        IndexNode(id_="index", text="of another", index_id="other", embedding=[0.0, 1.0]),
        TextNode(id_="text", text="é\x00 ü", embedding=[1.0, 1.0], metadata={"nested": {"x": [1, None]}}),
    ]
    store.add(given)
    found = store.get_nodes(["text", "image", "missing", "index"])
    assert [type(n) for n in found] == [TextNode, ImageNode, IndexNode]
    by_id = {n.node_id: n for n in found}
    for wanted in given:
        assert by_id[wanted.node_id].get_content() == wanted.get_content()
        assert by_id[wanted.node_id].metadata == wanted.metadata
    assert by_id["image"].image_url == "http://x/y.png" and by_id["index"].index_id == "other"


Op, How = FilterOperator, FilterCondition


def only(key, operator, value=None):
    return MetadataFilter(key=key, operator=operator, value=value)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ([only("year", Op.EQ, 2021)], ["10"]),
        ([only("year", Op.NE, 2021)], ["0", "20", "90"]),
        ([only("year", Op.GT, 2021)], ["20", "90"]),
        ([only("year", Op.GTE, 2021)], ["10", "20", "90"]),
        ([only("year", Op.LT, 2021)], ["0"]),
        ([only("year", Op.LTE, 2021)], ["0", "10"]),
        ([only("year", Op.IN, [2020, 2023])], ["0", "90"]),
        ([only("year", Op.NIN, [2020, 2023])], ["10", "20"]),
        ([only("tags", Op.CONTAINS, "a")], ["0", "20"]),
        ([only("tags", Op.ANY, ["b", "c"])], ["0", "10", "20"]),
        ([only("tags", Op.ALL, ["a", "b"])], ["0"]),
        ([only("title", Op.TEXT_MATCH, "fox")], ["20"]),
        ([only("title", Op.TEXT_MATCH_INSENSITIVE, "FOX")], ["0", "20"]),
        ([only("empty", Op.IS_EMPTY)], ["0", "10", "20"]),
        ([only("tags", Op.NIN, ["x"])], ["0", "10", "20", "90"]),
        ([only("year", Op.GT, 2020), only("year", Op.LT, 2023)], ["10", "20"]),
        ([], ["0", "10", "20", "90"]),
    ],
    ids=lambda value: value[0].operator.name if value and isinstance(value[0], MetadataFilter) else "",
)
def test_every_operator(store, filters, expected):
    wanted = MetadataFilters(filters=filters)
    assert asked(store, filters=wanted).ids == expected
    assert [n.node_id for n in store.get_nodes(filters=wanted)] == expected


def test_conditions_join_filters_and_filters_in_filters(store):
    parts = [only("year", Op.EQ, 2020), only("title", Op.EQ, "Bird")]
    inner = MetadataFilters(filters=parts, condition=How.OR)
    assert asked(store, filters=inner).ids == ["0", "90"]
    assert asked(store, filters=MetadataFilters(filters=parts, condition=How.NOT)).ids == ["10", "20"]
    assert asked(store, filters=MetadataFilters(filters=[inner, only("year", Op.GT, 2020)])).ids == ["90"]
    outer = MetadataFilters(filters=[inner, only("year", Op.EQ, 2021)], condition=How.NOT)
    assert asked(store, filters=outer).ids == ["20"]


def test_a_query_is_restricted_to_nodes_and_documents(store):
    assert asked(store, node_ids=["20", "90", "missing"]).ids == ["20", "90"]
    assert asked(store, node_ids=[], doc_ids=[]).ids == ["0", "10", "20", "90"]
    assert asked(store, doc_ids=["doc-2"]).ids == ["20", "90"]
    assert asked(store, doc_ids=["doc-1"], node_ids=["10", "20"]).ids == ["10"]


def test_modes(store):
    assert asked(store, k=2, mode=VectorStoreQueryMode.MMR, mmr_threshold=0.2).ids == ["0", "90"]
    assert asked(store, k=2, mode=VectorStoreQueryMode.MMR, mmr_threshold=1.0).ids == ["0", "10"]
    query = VectorStoreQuery(query_embedding=direction(1), similarity_top_k=2, mode=VectorStoreQueryMode.MMR)
    assert store.query(query, mmr_threshold=0.2).ids == ["0", "90"]
    with pytest.raises(ValueError, match="query has mode 'hybrid'; this store has the modes 'default' and 'mmr'"):
        asked(store, mode=VectorStoreQueryMode.HYBRID)
    with pytest.raises(ValueError, match="query must have a query_embedding"):
        store.query(VectorStoreQuery())


def test_squared_distances_become_similarities():
    store = PolarVectorStore(metric="l2")
    store.add(nodes())
    np.testing.assert_allclose(asked(store, 0, 4).similarities[-1], 1 / 3, atol=2e-3)


def test_a_node_under_an_id_that_is_there_replaces_it(store):
    other = node(80, year=1)
    other.id_ = "0"
    store.add([node(85), other])
    assert asked(store, 81, k=2).ids == ["0", "85"] and len(store.client) == 5
    assert store.get_nodes(["0"])[0].metadata == {"year": 1}
    twice = node(5)
    twice.id_ = "85"
    assert store.add([node(85), twice]) == ["85", "85"] and len(store.client) == 5


def test_deleting(store):
    store.delete("doc-2")
    assert asked(store).ids == ["0", "10"]
    store.delete("missing")
    store.delete_nodes(["0", "missing"])
    assert asked(store).ids == ["10"]
    store.add(nodes())
    store.delete_nodes(filters=MetadataFilters(filters=[only("year", Op.GT, 2021)]))
    assert asked(store).ids == ["0", "10"]
    store.delete_nodes(["0", "10"], MetadataFilters(filters=[only("year", Op.EQ, 2021)]))
    assert asked(store).ids == ["0"]
    with pytest.raises(ValueError, match="needs node_ids or filters"):
        store.delete_nodes()
    store.clear()
    assert asked(store).ids == [] and store.get_nodes() == []


def test_coroutines_do_the_same(store):
    async def run():
        assert await store.async_add([node(45)]) == ["45"]
        query = VectorStoreQuery(query_embedding=direction(44), similarity_top_k=1)
        assert (await store.aquery(query)).ids == ["45"]
        assert [n.node_id for n in await store.aget_nodes(["45"])] == ["45"]
        await store.adelete_nodes(["45"])
        await store.adelete("doc-2")
        assert len(store.client) == 2
        await store.aclear()
        assert len(store.client) == 0

    asyncio.run(run())


def test_a_node_without_an_embedding_is_an_error_and_nothing_is_added(store):
    with pytest.raises(ValueError, match="embedding not set"):
        store.add([node(45), TextNode(text="no embedding")])
    assert len(store.client) == 4


def test_an_index_of_llamaindex_is_kept_and_loaded_again(tmp_path):
    embedding = MockEmbedding(embed_dim=4)
    texts = [TextNode(id_=f"n{at}", text=f"text {at}") for at in range(3)]
    context = StorageContext.from_defaults(vector_store=PolarVectorStore())
    index = VectorStoreIndex(texts, storage_context=context, embed_model=embedding)
    assert {found.node.node_id for found in index.as_retriever(similarity_top_k=3).retrieve("x")} == {"n0", "n1", "n2"}
    for _ in range(2):  # the second time in place of the first
        context.persist(tmp_path / "storage")
    store = PolarVectorStore.from_persist_dir(str(tmp_path / "storage"))
    again = StorageContext.from_defaults(vector_store=store, persist_dir=str(tmp_path / "storage"))
    loaded = load_index_from_storage(again, embed_model=embedding)
    assert {found.text for found in loaded.as_retriever(similarity_top_k=3).retrieve("x")} == {
        "text 0",
        "text 1",
        "text 2",
    }
    loaded.delete_nodes(["n1"])
    with pytest.raises(pi.LockedError):
        context.persist(tmp_path / "storage")
    store.close()
    only_reads = PolarVectorStore(tmp_path / "storage" / "default__vector_store.json", read_only=True)
    assert {n.node_id for n in only_reads.get_nodes()} == {"n0", "n2"}


def test_where_nodes_cannot_be_persisted_it_is_said(tmp_path, store):
    with pytest.raises(FileNotFoundError, match="no nodes here"):
        PolarVectorStore.from_persist_path(str(tmp_path / "missing"))
    with pytest.raises(ValueError, match="on local disks only"):
        store.persist("/x", fs=fsspec.filesystem("memory"))
    store.persist(str(tmp_path / "a" / "b"), fs=fsspec.filesystem("file"))
    assert len(PolarVectorStore.from_persist_path(str(tmp_path / "a" / "b")).client) == 4
