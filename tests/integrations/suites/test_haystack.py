"""Haystack's own standard tests of document stores, over a project."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from haystack import Pipeline
from haystack.dataclasses import Document
from haystack.document_stores.errors import DuplicateDocumentError
from haystack.document_stores.types import DuplicatePolicy
from haystack.errors import FilterError
from haystack.testing.document_store import DocumentStoreBaseTests

from flowbed.integrations.haystack import FlowbedDocumentStore, FlowbedRetriever

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from flowbed.blocking import Blocking


def content_of(documents: list[Document]) -> list[tuple[str, str | None, dict[str, Any]]]:
    return sorted((each.id, each.content, each.meta) for each in documents)


class TestDocumentStore(DocumentStoreBaseTests):
    """Documents come in the order of their ids, and without embeddings: those are the project's own."""

    @pytest.fixture
    def document_store(self, bed: Blocking) -> Iterator[FlowbedDocumentStore]:
        store = FlowbedDocumentStore(collection="standard")
        store._bed = bed
        yield store
        store.delete_documents([document.id for document in store.filter_documents()])

    @staticmethod
    def assert_documents_are_equal(received: list[Document], expected: list[Document]) -> None:
        assert content_of(received) == content_of(expected)

    def test_write_documents(self, document_store: FlowbedDocumentStore) -> None:
        document = Document(content="test doc")
        assert document_store.write_documents([document]) == 1
        with pytest.raises(DuplicateDocumentError):
            document_store.write_documents([document])
        assert document_store.count_documents() == 1


def test_store_document_without_text_or_with_nested_meta_is_refused_by_name(bed: Blocking) -> None:
    store = FlowbedDocumentStore(collection="refused")
    store._bed = bed
    with pytest.raises(ValueError, match="empty-one"):
        store.write_documents([Document(id="empty-one", content=" ")])
    with pytest.raises(ValueError, match="author"):
        store.write_documents([Document(id="a", content="x", meta={"author": {"name": "ann"}})])
    assert store.count_documents() == 0


def test_store_filter_by_content_is_refused_by_name(bed: Blocking) -> None:
    store = FlowbedDocumentStore(collection="standard")
    store._bed = bed
    with pytest.raises(FilterError, match="content"):
        store.filter_documents({"field": "content", "operator": "==", "value": "a"})


def test_retriever_in_a_pipeline_that_was_stored_finds_documents(tmp_path: Path) -> None:
    (tmp_path / "flowbed.toml").write_text('model = "seeded:64"\n')
    store = FlowbedDocumentStore(str(tmp_path), "notes")
    made = Pipeline()
    made.add_component("retriever", FlowbedRetriever(store, top_k=1))
    pipeline = Pipeline.loads(made.dumps(), allowed_modules=[FlowbedRetriever.__module__])
    loaded = pipeline.get_component("retriever").document_store
    assert pipeline.run({"retriever": {"query": "tea"}})["retriever"]["documents"] == []
    loaded.write_documents(
        [Document(id="1", content="tea", meta={"n": 1}), Document(id="2", content="keys", meta={"n": 2})],
        policy=DuplicatePolicy.OVERWRITE,
    )
    (found,) = pipeline.run({"retriever": {"query": "tea"}})["retriever"]["documents"]
    assert (found.id, found.score) == ("1", pytest.approx(1, abs=1e-3))
    only = {"field": "meta.n", "operator": ">", "value": 1}
    (found,) = pipeline.run({"retriever": {"query": "tea", "filters": only}})["retriever"]["documents"]
    assert found.id == "2"
    loaded.close()


def test_page_of_frameworks_block_runs_in_an_empty_folder(
    run_block_of_the_page: Callable[[str], None],
) -> None:
    run_block_of_the_page("Haystack")
