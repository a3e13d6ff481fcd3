"""LlamaIndex over a project: it publishes no suite for vector stores, so its index, retriever and filters are used."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.schema import Document as LlamaDocument
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
)

from flowbed.errors import Rejected
from flowbed.integrations.llamaindex import FlowbedEmbedding, FlowbedVectorStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flowbed.blocking import Blocking


def node(name: str, text: str, document: str, **metadata: str | int) -> TextNode:
    made = TextNode(id_=name, text=text, metadata=metadata)
    made.relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(node_id=document)
    return made


NODES = [
    node("a", "keys rotate on monday", "doc-1", team="ops", page=1),
    node("b", "tea is at four", "doc-1", team="kitchen", page=2),
    node("c", "leave is asked for in advance", "doc-2", team="people", page=3),
    node("d", "no page here", "doc-2", team="people"),
]


@pytest.fixture
def store(bed: Blocking) -> Iterator[FlowbedVectorStore]:
    made = FlowbedVectorStore(bed, "nodes")
    made.add(NODES)
    yield made
    made.clear()


def ids(found: list[TextNode]) -> list[str]:
    return sorted(each.node_id for each in found)


def filtered(key: str, operator: FilterOperator, value: object = None) -> MetadataFilters:
    return MetadataFilters(filters=[MetadataFilter(key=key, operator=operator, value=value)])


def test_store_nodes_come_back_as_they_were(store: FlowbedVectorStore) -> None:
    (found,) = store.get_nodes(["a"])
    assert (found.text, found.metadata, found.ref_doc_id) == (
        "keys rotate on monday",
        {"team": "ops", "page": 1},
        "doc-1",
    )


def test_store_query_finds_the_node_with_the_text(store: FlowbedVectorStore) -> None:
    """What is embedded is the text with its metadata, as LlamaIndex has it."""
    asked = NODES[1].get_content(metadata_mode="embed")
    found = store.query(VectorStoreQuery(query_str=asked, similarity_top_k=2))
    assert found.ids is not None
    assert found.ids[0] == "b"
    assert found.similarities[0] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (filtered("team", FilterOperator.EQ, "people"), ["c", "d"]),
        (filtered("team", FilterOperator.NE, "people"), ["a", "b"]),
        (filtered("page", FilterOperator.GT, 1), ["b", "c"]),
        (filtered("page", FilterOperator.LTE, 2), ["a", "b"]),
        (filtered("page", FilterOperator.IN, [1, 3]), ["a", "c"]),
        (filtered("page", FilterOperator.NIN, [1, 3]), ["b", "d"]),
        (filtered("page", FilterOperator.IS_EMPTY), ["d"]),
        (
            MetadataFilters(
                filters=[
                    MetadataFilter(key="team", value="ops"),
                    MetadataFilter(key="page", value=3),
                ],
                condition=FilterCondition.OR,
            ),
            ["a", "c"],
        ),
        (
            MetadataFilters(
                filters=[
                    filtered("team", FilterOperator.EQ, "people"),
                    filtered("page", FilterOperator.EQ, 3),
                ]
            ),
            ["c"],
        ),
        (
            MetadataFilters(
                filters=[MetadataFilter(key="team", value="people")], condition=FilterCondition.NOT
            ),
            ["a", "b"],
        ),
    ],
    ids=["eq", "ne", "gt", "lte", "in", "nin", "is_empty", "or", "nested", "not"],
)
def test_store_filters_select_nodes(
    store: FlowbedVectorStore, filters: MetadataFilters, expected: list[str]
) -> None:
    assert ids(store.get_nodes(filters=filters)) == expected
    found = store.query(VectorStoreQuery(query_str="anything", similarity_top_k=10, filters=filters))
    assert sorted(found.ids or []) == expected


def test_store_operator_on_lists_or_parts_of_texts_is_refused_by_name(store: FlowbedVectorStore) -> None:
    with pytest.raises(Rejected, match="'any'"):
        store.get_nodes(filters=filtered("team", FilterOperator.ANY, ["a"]))
    with pytest.raises(Rejected, match=r"'text_match': .* texts among them are compared whole; it has ==,"):
        store.get_nodes(filters=filtered("team", FilterOperator.TEXT_MATCH, "a"))
    with pytest.raises(Rejected, match="mmr"):
        store.query(VectorStoreQuery(query_str="a", mode=VectorStoreQueryMode.MMR))


def test_store_delete_of_a_document_removes_its_nodes_only(store: FlowbedVectorStore) -> None:
    store.delete("doc-1")
    assert ids(store.get_nodes()) == ["c", "d"]
    store.delete_nodes(["c"])
    assert ids(store.get_nodes()) == ["d"]
    with pytest.raises(Rejected, match="clear"):
        store.delete_nodes()


def test_store_clear_leaves_rows_of_sources(bed: Blocking) -> None:
    handbook = FlowbedVectorStore(bed, "handbook")
    handbook.clear()
    assert [found.metadata["path"] for found in handbook.get_nodes()] == ["keys.md"]


def test_index_over_the_store_retrieves_and_forgets_documents(bed: Blocking) -> None:
    store = FlowbedVectorStore(bed, "index")
    model = FlowbedEmbedding(bed)
    documents = [
        LlamaDocument(id_="1", text="Keys rotate on Monday.", metadata={"team": "ops"}),
        LlamaDocument(id_="2", text="Tea is at four.", metadata={"team": "kitchen"}),
    ]
    index = VectorStoreIndex.from_documents(
        documents, storage_context=StorageContext.from_defaults(vector_store=store), embed_model=model
    )
    again = VectorStoreIndex.from_vector_store(store, embed_model=model)
    found = again.as_retriever(similarity_top_k=2).retrieve("Tea is at four.")
    assert {each.node.ref_doc_id for each in found} == {"1", "2"}
    index.delete_ref_doc("1")
    assert [each.node.ref_doc_id for each in again.as_retriever(similarity_top_k=2).retrieve("Keys")] == ["2"]


async def test_embedding_async_equals_sync(bed: Blocking) -> None:
    model = FlowbedEmbedding(bed)
    assert await model.aget_query_embedding("a text") == model.get_query_embedding("a text")
    assert await model.aget_text_embedding_batch(["one", "two"]) == model.get_text_embedding_batch(
        ["one", "two"]
    )


def test_page_of_frameworks_block_runs_in_an_empty_folder(
    run_block_of_the_page: Callable[[str], None],
) -> None:
    run_block_of_the_page("LlamaIndex")
