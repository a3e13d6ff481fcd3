"""LangChain's own standard tests, over a project."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.documents import Document
from langchain_tests.integration_tests import (
    EmbeddingsIntegrationTests,
    RetrieversIntegrationTests,
    VectorStoreIntegrationTests,
)

from flowbed.integrations.langchain import FlowbedEmbeddings, FlowbedRetriever, FlowbedVectorStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flowbed.blocking import Blocking


class TestVectorStore(VectorStoreIntegrationTests):
    """A collection is emptied between tests: opening a project for each would take a second each."""

    @pytest.fixture
    def vectorstore(self, bed: Blocking) -> Iterator[FlowbedVectorStore]:
        store = FlowbedVectorStore(bed, "standard")
        yield store
        if "standard" in bed.status().collections:
            store.delete([row.id for row in bed.rows("standard")])


class TestEmbeddings(EmbeddingsIntegrationTests):
    @pytest.fixture(autouse=True)
    def _project(self, bed: Blocking) -> None:
        self._bed = bed

    @property
    def embeddings_class(self) -> type[FlowbedEmbeddings]:
        return FlowbedEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"bed": self._bed}

    @pytest.fixture
    def model(self) -> FlowbedEmbeddings:
        return FlowbedEmbeddings(self._bed)


class TestRetriever(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def _project(self, bed: Blocking) -> None:
        self._bed = bed
        texts = [f"text {number}" for number in range(5)]
        FlowbedVectorStore(bed, "retrieved").add_texts(texts, ids=[str(number) for number in range(5)])

    @property
    def retriever_constructor(self) -> type[FlowbedRetriever]:
        return FlowbedRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"bed": self._bed, "collection": "retrieved"}

    @property
    def retriever_query_example(self) -> str:
        return "text 3"


def test_store_search_with_a_filter_returns_only_what_matches(bed: Blocking) -> None:
    store = FlowbedVectorStore(bed, "filtered")
    store.add_texts(["keys rotate", "keys open doors"], [{"page": 1}, {"page": 2}], ids=["a", "b"])
    found = store.similarity_search_with_score("keys rotate", filter={"page": {"$gt": 1}})
    assert [(document.id, document.metadata) for document, _ in found] == [("b", {"page": 2})]
    assert store.similarity_search_with_relevance_scores("keys rotate", k=1)[0][1] == pytest.approx(
        1, abs=1e-3
    )


def test_store_marginal_relevance_leaves_out_what_says_the_same(bed: Blocking) -> None:
    store = FlowbedVectorStore(bed, "varied")
    store.add_texts(["the same", "the same", "something else"], ids=["a", "b", "c"])
    found = store.max_marginal_relevance_search("the same", k=2, lambda_mult=0.1)
    assert {document.page_content for document in found} == {"the same", "something else"}


def test_store_nested_metadata_are_refused_and_nothing_is_written(bed: Blocking) -> None:
    store = FlowbedVectorStore(bed, "nested")
    with pytest.raises(Exception, match="author"):
        store.add_texts(["one", "two"], [{"page": 1}, {"author": {"name": "ann"}}], ids=["a", "b"])
    assert store.get_by_ids(["a", "b"]) == []


def test_store_texts_that_cannot_be_added_are_named_and_nothing_is_written(bed: Blocking) -> None:
    store = FlowbedVectorStore(bed, "refused")
    with pytest.raises(Exception, match="text 2 of 3 is empty"):
        store.add_texts(["one", " ", "three"], ids=["a", "b", "c"])
    with pytest.raises(ValueError, match="2 texts came with 1 ids and 2 metadata"):
        store.add_texts(["one", "two"], ids=["a"])
    with pytest.raises(ValueError, match="2 texts came with 2 ids and 1 metadata"):
        store.add_texts(["one", "two"], [{}], ids=["a", "b"])
    assert store.get_by_ids(["a", "b", "c"]) == []


def test_store_of_another_model_is_refused(bed: Blocking) -> None:
    with pytest.raises(ValueError, match="FlowbedEmbeddings"):
        FlowbedVectorStore.from_texts(["a"], None, bed=bed)
    store = FlowbedVectorStore.from_texts(
        ["a"], FlowbedEmbeddings(bed), bed=bed, collection="made", ids=["1"]
    )
    assert store.get_by_ids(["1", "2"]) == [Document(id="1", page_content="a")]


def test_retriever_of_a_store_finds_rows_of_sources_too(bed: Blocking) -> None:
    """What a run has indexed is found like what was added."""
    found = (
        FlowbedVectorStore(bed, "handbook").as_retriever(search_kwargs={"k": 1}).invoke("rotation of keys")
    )
    assert found[0].metadata["path"] == "keys.md"


def test_page_of_frameworks_block_runs_in_an_empty_folder(
    run_block_of_the_page: Callable[[str], None],
) -> None:
    run_block_of_the_page("LangChain")
