"""Haystack: a document store and a retriever over a project."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haystack import component, default_from_dict, default_to_dict
from haystack.dataclasses import Document
from haystack.document_stores.errors import DuplicateDocumentError
from haystack.document_stores.types import DuplicatePolicy
from haystack.errors import FilterError

import flowbed
from flowbed.errors import NotFound
from flowbed.integrations import writing
from flowbed.integrations.conditions import absent, nothing, present

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowbed.blocking import Blocking
    from flowbed.records import Hit, IndexedText

ORDERS = {">": "$gt", ">=": "$gte", "<": "$lt", "<=": "$lte"}
LISTS = {"in": "$in", "not in": "$nin"}


class FlowbedDocumentStore:
    """A collection of a project as a document store.

    Documents are embedded with the project's model when they are written; their own embeddings are not used, since a
    collection never mixes two models. `meta` holds texts, numbers and booleans. Only documents written here are changed
    and deleted here; rows of sources are found too.
    """

    def __init__(self, folder: str = ".", collection: str = "haystack") -> None:
        """Use a collection of the project in `folder`; it is opened by the first call."""
        self.folder = folder
        self.collection = collection
        self._bed: Blocking | None = None

    @property
    def bed(self) -> Blocking:
        """The open project."""
        if self._bed is None:
            self._bed = flowbed.open(Path(self.folder))
        return self._bed

    def close(self) -> None:
        """Close the project."""
        if self._bed is not None:
            self._bed.close()
            self._bed = None

    def to_dict(self) -> dict[str, Any]:
        """Return what a pipeline stores of it."""
        stored: dict[str, Any] = default_to_dict(self, folder=self.folder, collection=self.collection)
        return stored

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> FlowbedDocumentStore:
        """Return the store that `to_dict` was called on."""
        made: FlowbedDocumentStore = default_from_dict(cls, data)
        return made

    def count_documents(self) -> int:
        """Count the rows of the collection."""
        known = self.bed.status().collections.get(self.collection)
        return 0 if known is None else known.rows

    def filter_documents(self, filters: dict[str, Any] | None = None) -> list[Document]:
        """Return the documents that match, in the order of their ids.

        Raises:
            FilterError: the filter is malformed, or compares something else than `meta`.
        """
        found = writing.rows(self.bed, self.collection, where=where(filters) if filters else None)
        return [_document(row) for row in found]

    def write_documents(
        self, documents: list[Document], policy: DuplicatePolicy = DuplicatePolicy.NONE
    ) -> int:
        """Write documents, and return how many; without a policy, one that is there is an error.

        Raises:
            ValueError: something else than documents is given, or one has no text, or `meta` that cannot be stored.
            DuplicateDocumentError: a document is there already, and nothing is written.
        """
        wanted = {document.id: document for document in _documents(documents)}
        if policy != DuplicatePolicy.OVERWRITE:
            there = {row.id for row in writing.rows(self.bed, self.collection, ids=list(wanted))}
            if there and policy != DuplicatePolicy.SKIP:
                raise DuplicateDocumentError(
                    f"already in the collection {self.collection}: {', '.join(sorted(there)[:5])}"
                )
            wanted = {name: each for name, each in wanted.items() if name not in there}
        if empty := [name for name, each in wanted.items() if not (each.content or "").strip()]:
            raise ValueError(f"a document needs text, and these have none: {', '.join(empty[:5])}")
        try:
            writing.write(
                self.bed,
                self.collection,
                ids=list(wanted),
                texts=[each.content or "" for each in wanted.values()],
                metadata=[each.meta for each in wanted.values()],
            )
        except flowbed.errors.Rejected as error:
            raise ValueError(str(error)) from error
        return len(wanted)

    def delete_documents(self, document_ids: list[str]) -> None:
        """Delete documents by id; ids that are not there are ignored."""
        writing.delete(self.bed, self.collection, document_ids)


@component
class FlowbedRetriever:
    """Finds the documents nearest to a text, which is embedded with the project's model."""

    def __init__(
        self, document_store: FlowbedDocumentStore, top_k: int = 10, filters: dict[str, Any] | None = None
    ) -> None:
        """Search one store."""
        self.document_store = document_store
        self.top_k = top_k
        self.filters = filters

    def to_dict(self) -> dict[str, Any]:
        """Return what a pipeline stores of it."""
        stored: dict[str, Any] = default_to_dict(
            self, document_store=self.document_store.to_dict(), top_k=self.top_k, filters=self.filters
        )
        return stored

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> FlowbedRetriever:
        """Return the retriever that `to_dict` was called on."""
        given = data["init_parameters"]
        given["document_store"] = FlowbedDocumentStore.from_dict(given["document_store"])
        made: FlowbedRetriever = default_from_dict(cls, data)
        return made

    @component.output_types(documents=list[Document])
    def run(
        self, query: str, top_k: int | None = None, filters: dict[str, Any] | None = None
    ) -> dict[str, list[Document]]:
        """Return the nearest documents with their cosines, best first."""
        chosen = filters or self.filters
        try:
            hits = self.document_store.bed.search(
                query,
                collection=self.document_store.collection,
                where=where(chosen) if chosen else None,
                limit=writing.positive(top_k or self.top_k),
            )
        except NotFound:
            hits = ()
        return {"documents": [_document(hit, score=hit.score) for hit in hits]}


def _documents(given: object) -> list[Document]:
    """Return a list of documents as it is.

    Raises:
        ValueError: it is something else, as Haystack specifies.
    """
    if not isinstance(given, list) or not all(isinstance(each, Document) for each in given):
        raise ValueError("write_documents takes a list of documents")
    return given


def _document(row: Hit | IndexedText, *, score: float | None = None) -> Document:
    return Document(id=row.id, content=row.document, meta=dict(row.metadata), score=score)


def where(filters: Mapping[str, Any]) -> dict[str, Any]:
    """Return filters of Haystack as a filter of Flowbed.

    Raises:
        FilterError: a part of the filter is missing, unknown, or about something else than `meta`.
    """
    if "field" in filters:
        return _comparison(filters)
    operator, conditions = _part(filters, "operator"), _part(filters, "conditions")
    inner = [where(each) for each in conditions]
    if operator not in {"AND", "OR", "NOT"} or not inner:
        raise FilterError(
            f"{operator!r} of {len(inner)} conditions: it must be AND, OR or NOT, of at least one"
        )
    if operator == "NOT":
        return {"$not": {"$and": inner}}
    return {"$and" if operator == "AND" else "$or": inner}


def _part(filters: Mapping[str, Any], name: str) -> Any:
    if name not in filters:
        raise FilterError(f"{name!r} is missing in {dict(filters)!r}")
    return filters[name]


def _comparison(condition: Mapping[str, Any]) -> dict[str, Any]:
    operator, value = _part(condition, "operator"), _part(condition, "value")
    field, key = condition["field"], str(condition["field"]).removeprefix("meta.")
    if field in {"content", "embedding", "score", "blob", "id"}:
        raise FilterError(f"documents of Flowbed are filtered by meta, not by {field!r}")
    if operator in LISTS:
        if not isinstance(value, list):
            raise FilterError(f"{operator!r} compares with a list, not with {value!r}")
        return {key: {LISTS[operator]: value}}
    if operator in {"==", "!="}:
        if value is None:
            return absent(key) if operator == "==" else present(key)
        return {key: {"$eq" if operator == "==" else "$ne": value}}
    if operator not in ORDERS:
        raise FilterError(f"unknown operator {operator!r}")
    return nothing() if value is None else {key: {ORDERS[operator]: _orderable(value)}}


def _orderable(value: Any) -> Any:
    """Return a number or an ISO date.

    Raises:
        FilterError: the value is something else: Haystack allows no order of other texts.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    try:
        datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise FilterError(f"only numbers and ISO dates have an order, not {value!r}") from None
    return value
