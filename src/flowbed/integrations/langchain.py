"""LangChain: embeddings, a vector store and a retriever over a project."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore
from langchain_core.vectorstores.utils import maximal_marginal_relevance

from flowbed.errors import NotFound
from flowbed.integrations import writing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from langchain_core.callbacks import CallbackManagerForRetrieverRun

    from flowbed.blocking import Blocking
    from flowbed.records import Hit


class FlowbedEmbeddings(Embeddings):
    """The model of a project: vectors come from its cache where they can."""

    def __init__(self, bed: Blocking) -> None:
        """Embed with the model of an open project (`flowbed.open`)."""
        self._bed = bed

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed texts that are to be found."""
        return self._bed.vectors(*texts).tolist() if texts else []

    def embed_query(self, text: str) -> list[float]:
        """Embed a text to search for."""
        found: list[float] = self._bed.vectors(text, purpose="query")[0].tolist()
        return found


class FlowbedVectorStore(VectorStore):
    """A collection of a project.

    It finds whatever is in the collection: rows of sources, of imports, and those added here. Only the rows added here
    are changed and deleted here. Metadata are texts, numbers and booleans. Scores are cosines.
    """

    def __init__(self, bed: Blocking, collection: str) -> None:
        """Use a collection of an open project (`flowbed.open`); it is created by the first text."""
        self._bed = bed
        self._collection = collection

    @property
    def embeddings(self) -> FlowbedEmbeddings:
        """The model of the project."""
        return FlowbedEmbeddings(self._bed)

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        bed: Blocking | None = None,
        collection: str = "langchain",
        **_: Any,
    ) -> FlowbedVectorStore:
        """Make a store with these texts, in the project `bed`.

        Raises:
            ValueError: no project is given, or the vectors would be those of another model than the project's.
        """
        if bed is None:
            raise ValueError("name the project: FlowbedVectorStore.from_texts(..., bed=flowbed.open(folder))")
        if not isinstance(embedding, FlowbedEmbeddings):
            raise ValueError(  # noqa: TRY004 - what LangChain's own stores raise
                "a collection has vectors of its project's model only: pass FlowbedEmbeddings(bed) as embedding"
            )
        store = cls(bed, collection)
        store.add_texts(texts, metadatas, ids=ids)
        return store

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        **_: Any,
    ) -> list[str]:
        """Insert texts, or replace those whose id is there, and return their ids.

        A text without an id gets one that is made from it and its metadata, so adding it twice changes nothing.

        Raises:
            Rejected: a text is empty, or its metadata are nested; nothing is written.
            ValueError: there are not as many ids or metadata as texts; nothing is written.
        """
        given = list(texts)
        facts = metadatas or [{} for _ in given]
        named = ids or [None] * len(given)
        if not len(given) == len(facts) == len(named):
            raise ValueError(
                f"{len(given)} texts came with {len(named)} ids and {len(facts)} metadata: give one of each for a text"
            )
        names = [
            name or _name(text, metadata) for name, text, metadata in zip(named, given, facts, strict=True)
        ]
        writing.write(self._bed, self._collection, ids=names, texts=given, metadata=facts)
        return names

    def delete(self, ids: list[str] | None = None, **_: Any) -> bool:
        """Delete texts by id; ids that are not there are ignored.

        Raises:
            ValueError: no ids are given: a collection is not emptied by leaving out an argument.
        """
        if ids is None:
            raise ValueError("name the ids to delete")
        writing.delete(self._bed, self._collection, ids)
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Return the texts with these ids, in the order of the ids; those that are not there are left out."""
        found = {row.id: row for row in writing.rows(self._bed, self._collection, ids=list(ids))}
        return [
            Document(id=name, page_content=found[name].document, metadata=dict(found[name].metadata))
            for name in ids
            if name in found
        ]

    def similarity_search(
        self, query: str, k: int = 4, *, filter: Mapping[str, Any] | None = None, **_: Any
    ) -> list[Document]:
        """Return the `k` nearest texts that match `filter`, best first; docs/filters.md describes filters."""
        return [document for document, _ in self.similarity_search_with_score(query, k, filter=filter)]

    def similarity_search_with_score(
        self, query: str, k: int = 4, *, filter: Mapping[str, Any] | None = None, **_: Any
    ) -> list[tuple[Document, float]]:
        """Return the `k` nearest texts with their cosines, best first."""
        return [(_document(hit), hit.score) for hit in self._hits(query, k, filter)]

    def similarity_search_by_vector(
        self, embedding: list[float], k: int = 4, *, filter: Mapping[str, Any] | None = None, **_: Any
    ) -> list[Document]:
        """Return the `k` texts nearest to a vector of the project's model."""
        return [_document(hit) for hit in self._hits(embedding, k, filter)]

    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        *,
        filter: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> list[Document]:
        """Return `k` of the `fetch_k` nearest texts that differ; a `lambda_mult` of 1 asks for nearness alone."""
        vector = self._bed.vectors(query, purpose="query")[0]
        hits = self._hits(query, fetch_k, filter)
        if not hits:
            return []
        # Their vectors come from the cache: the texts were embedded when they were written.
        candidates = self._bed.vectors(*(hit.document or hit.id for hit in hits)).tolist()
        chosen = maximal_marginal_relevance(vector, candidates, lambda_mult=lambda_mult, k=k)
        return [_document(hits[place]) for place in chosen]

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return lambda cosine: max(0.0, cosine)

    def _hits(self, query: str | list[float], k: int, where: Mapping[str, Any] | None) -> tuple[Hit, ...]:
        try:
            return self._bed.search(
                query, collection=self._collection, where=where, limit=writing.positive(k)
            )
        except NotFound:
            return ()


class FlowbedRetriever(BaseRetriever):
    """Finds texts in one collection of a project, or in all of them."""

    bed: Any
    """The open project (`flowbed.open`)."""
    collection: str | None = None
    """The collection; without one, all of the model's."""
    k: int = 4
    """How many texts to find."""
    where: dict[str, Any] | None = None
    """A filter on metadata, as docs/filters.md describes it."""

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,  # noqa: ARG002 - LangChain passes it by name
        **given: Any,
    ) -> list[Document]:
        hits = self.bed.search(
            query,
            collection=self.collection,
            where=self.where,
            limit=writing.positive(given.get("k", self.k)),
        )
        return [_document(hit) for hit in hits]


def _name(text: str, metadata: Mapping[str, Any]) -> str:
    said = json.dumps([text, metadata], sort_keys=True, default=str)
    return hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _document(hit: Hit) -> Document:
    return Document(id=hit.id, page_content=hit.document, metadata=dict(hit.metadata))
