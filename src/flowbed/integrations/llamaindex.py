"""LlamaIndex: an embedding and a vector store over a project."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.schema import MetadataMode
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    FilterCondition,
    FilterOperator,
    MetadataFilters,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)
from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict

from flowbed.errors import NotFound, Rejected
from flowbed.integrations import writing
from flowbed.integrations.conditions import absent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llama_index.core.schema import BaseNode
    from llama_index.core.vector_stores.types import MetadataFilter, VectorStoreQuery

    from flowbed.blocking import Blocking
    from flowbed.records import Hit, IndexedText

# The key under which LlamaIndex stores a node; rows that it did not write have none.
NODE = "_node_content"
MODES = {
    VectorStoreQueryMode.DEFAULT: "vector",
    VectorStoreQueryMode.TEXT_SEARCH: "text",
    VectorStoreQueryMode.SPARSE: "text",
    VectorStoreQueryMode.HYBRID: "hybrid",
}
OPERATORS = {
    FilterOperator.EQ: "$eq",
    FilterOperator.NE: "$ne",
    FilterOperator.GT: "$gt",
    FilterOperator.GTE: "$gte",
    FilterOperator.LT: "$lt",
    FilterOperator.LTE: "$lte",
    FilterOperator.IN: "$in",
    FilterOperator.NIN: "$nin",
}


class FlowbedEmbedding(BaseEmbedding):
    """The model of a project: vectors come from its cache where they can."""

    _bed: Any = PrivateAttr()

    def __init__(self, bed: Blocking, **given: Any) -> None:
        """Embed with the model of an open project (`flowbed.open`)."""
        super().__init__(model_name="flowbed", **given)
        self._bed = bed

    @classmethod
    def class_name(cls) -> str:
        """Return the name that LlamaIndex stores."""
        return "FlowbedEmbedding"

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        found: list[list[float]] = self._bed.vectors(*texts).tolist()
        return found

    def _get_query_embedding(self, query: str) -> list[float]:
        found: list[float] = self._bed.vectors(query, purpose="query")[0].tolist()
        return found

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)


class FlowbedVectorStore(BasePydanticVectorStore):
    """A collection of a project.

    Nodes are embedded with the project's model, whatever model the index has: a collection never mixes two. It finds
    whatever is in the collection, also rows of sources and imports; only nodes added here are changed and deleted here.
    """

    stores_text: bool = True
    # Texts of queries are embedded by the project's model, so the index need not do it.
    is_embedding_query: bool = False

    _bed: Any = PrivateAttr()
    _collection: str = PrivateAttr()

    def __init__(self, bed: Blocking, collection: str = "llamaindex") -> None:
        """Use a collection of an open project (`flowbed.open`); it is created by the first node."""
        super().__init__()
        self._bed = bed
        self._collection = collection

    @classmethod
    def class_name(cls) -> str:
        """Return the name that LlamaIndex stores."""
        return "FlowbedVectorStore"

    @property
    def client(self) -> Any:
        """The project."""
        return self._bed

    def add(self, nodes: Sequence[BaseNode], **_: Any) -> list[str]:
        """Insert nodes, or replace those whose id is there, and return their ids.

        Raises:
            Rejected: the metadata of a node are nested, or its text is empty; nothing is written.
        """
        sent = [node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes]
        writing.write(
            self._bed,
            self._collection,
            ids=[node.node_id for node in nodes],
            texts=[node.get_content(metadata_mode=MetadataMode.NONE) for node in nodes],
            metadata=[node_to_metadata_dict(node, remove_text=True, flat_metadata=True) for node in nodes],
            vectors=self._bed.vectors(*sent) if sent else None,
        )
        return [node.node_id for node in nodes]

    def delete(self, ref_doc_id: str, **_: Any) -> None:
        """Delete all nodes of a document."""
        self._delete(where={"ref_doc_id": ref_doc_id})

    def delete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **_: Any
    ) -> None:
        """Delete nodes that have one of these ids and match the filters.

        Raises:
            Rejected: neither is given: `clear` deletes everything.
        """
        if node_ids is None and filters is None:
            raise Rejected("name the nodes to delete, by node_ids or filters; clear() deletes all")
        self._delete(ids=node_ids, where=_where(filters))

    def clear(self) -> None:
        """Delete all nodes that were added here; rows of sources stay."""
        self._delete(where=None)

    def get_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """Return the nodes that have one of these ids and match the filters."""
        found = writing.rows(self._bed, self._collection, ids=node_ids, where=_where(filters))
        return [_node(row) for row in found]

    def query(self, query: VectorStoreQuery, **_: Any) -> VectorStoreQueryResult:
        """Return the nearest nodes, best first; scores are cosines in the default mode.

        Raises:
            Rejected: a mode, a filter or an option that Flowbed does not have.
        """
        mode = MODES.get(query.mode)
        if mode is None:
            known = ", ".join(each.value for each in MODES)
            raise Rejected(f"Flowbed has no query mode {query.mode.value!r}; it has {known}")
        asked = query.query_str or query.query_embedding
        if not asked:
            raise Rejected("the query has neither a text nor a vector")
        if query.node_ids:
            raise Rejected(
                "a search cannot be limited to node_ids; use filters, or get_nodes for the nodes themselves"
            )
        try:
            hits = self._bed.search(
                asked,
                collection=self._collection,
                where=_all(_where(query.filters), _listed("ref_doc_id", query.doc_ids)),
                limit=writing.positive(query.similarity_top_k),
                mode=mode,
            )
        except NotFound:
            hits = ()
        return VectorStoreQueryResult(
            nodes=[_node(hit) for hit in hits],
            similarities=[hit.score for hit in hits],
            ids=[hit.id for hit in hits],
        )

    def _delete(self, *, ids: list[str] | None = None, where: Mapping[str, Any] | None) -> None:
        found = writing.rows(self._bed, self._collection, ids=ids, where=where)
        writing.delete(self._bed, self._collection, [row.id for row in found if NODE in row.metadata])


def _node(row: Hit | IndexedText) -> BaseNode:
    """Return the node that a row was written from, or one that is made for a row of a source."""
    if NODE in row.metadata:
        return metadata_dict_to_node(dict(row.metadata), text=row.document)
    from llama_index.core.schema import TextNode

    return TextNode(id_=row.id, text=row.document, metadata=dict(row.metadata))


def _listed(key: str, values: Sequence[str] | None) -> Mapping[str, Any] | None:
    """Return the filter of rows with one of these values; LlamaIndex sends an empty list for no limit."""
    return {key: {"$in": list(values)}} if values else None


def _all(*filters: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    given = [each for each in filters if each is not None]
    return {"$and": given} if given else None


def _where(filters: MetadataFilters | MetadataFilter | None) -> Mapping[str, Any] | None:
    """Return filters of LlamaIndex as a filter of Flowbed.

    Raises:
        Rejected: an operator on lists, which metadata of Flowbed cannot be, or on parts of texts.
    """
    if filters is None:
        return None
    if not isinstance(filters, MetadataFilters):
        return _condition(filters)
    inner = [_where(each) or {} for each in filters.filters]
    if filters.condition == FilterCondition.NOT:
        return {"$not": {"$or": inner}}
    if not inner:
        return None
    return {"$or" if filters.condition == FilterCondition.OR else "$and": inner}


def _condition(each: MetadataFilter) -> Mapping[str, Any]:
    operator = FilterOperator(getattr(each, "operator", FilterOperator.EQ))
    if operator == FilterOperator.IS_EMPTY:
        return absent(each.key)
    if operator not in OPERATORS:
        raise Rejected(
            f"Flowbed's filters have nothing like {operator.value!r}: metadata are no lists, and texts among them are"
            f" compared whole; it has {', '.join(each.value for each in (*OPERATORS, FilterOperator.IS_EMPTY))}"
        )
    return {each.key: {OPERATORS[operator]: each.value}}
