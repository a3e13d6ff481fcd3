"""Use LangChain's or LlamaIndex's Chroma store against a server, and print what came back as JSON.

python stores.py langchain|llamaindex '{"host": ..., "port": ..., "url": ..., "model": ...}'
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

TEXTS = ["keys are rotated each month", "lunch is at noon", "the safe is in the cellar"]


def langchain(said: dict[str, Any]) -> dict[str, Any]:
    """Write to a collection, read it and one of the project; texts are embedded by the same server."""
    from langchain_chroma import Chroma
    from langchain_core.documents import Document
    from langchain_openai import OpenAIEmbeddings

    embeddings = OpenAIEmbeddings(
        base_url=said["url"], api_key="none", model=said["model"], check_embedding_ctx_length=False
    )

    def store(name: str) -> Any:
        return Chroma(
            collection_name=name, embedding_function=embeddings, host=said["host"], port=said["port"]
        )

    notes = store("langchain")
    documents = [Document(page_content=text, metadata={"n": n}) for n, text in enumerate(TEXTS)]
    notes.add_documents(documents, ids=["a", "b", "c"])
    found = {
        "nearest": [
            [each.page_content, each.metadata, score]
            for each, score in notes.similarity_search_with_score(TEXTS[1], k=1)
        ],
        "filtered": [each.id for each in notes.similarity_search(TEXTS[1], k=3, filter={"n": {"$ne": 1}})],
        "later": [each.id for each in asyncio.run(notes.asimilarity_search(TEXTS[2], k=1))],
        "got": notes.get(where={"n": 0})["documents"],
        "diverse": len(notes.max_marginal_relevance_search(TEXTS[0], k=2, fetch_k=3)),
    }
    notes.update_document("b", Document(page_content="dinner is at eight", metadata={"n": 5}))
    notes.delete(ids=["c"])
    left = notes.get()
    found["left"] = dict(zip(left["ids"], left["documents"], strict=True))
    found["project"] = [each.page_content for each in store("docs").similarity_search("sentence 3", k=1)]
    notes.delete_collection()
    return found


def llamaindex(said: dict[str, Any]) -> dict[str, Any]:
    """Write nodes, query them with filters, delete some, and read the project's collection."""
    import chromadb
    from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
    from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters, VectorStoreQuery
    from llama_index.embeddings.openai import OpenAIEmbedding
    from llama_index.vector_stores.chroma import ChromaVectorStore

    model = OpenAIEmbedding(api_base=said["url"], api_key="none", model_name=said["model"])
    client = chromadb.HttpClient(host=said["host"], port=said["port"])
    vectors = model.get_text_embedding_batch(TEXTS)
    notes = ChromaVectorStore(chroma_collection=client.get_or_create_collection("llamaindex"))
    nodes = [
        TextNode(
            id_=f"node-{n}",
            text=text,
            embedding=vector,
            metadata={"n": n},
            relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=f"document-{n}")},
        )
        for n, (text, vector) in enumerate(zip(TEXTS, vectors, strict=True))
    ]
    notes.add(nodes)

    def query(place: int, **filters: Any) -> list[str]:
        listed = [MetadataFilter(key=key, value=value) for key, value in filters.items()]
        wanted = MetadataFilters(filters=listed) if listed else None
        asked = VectorStoreQuery(query_embedding=vectors[place], similarity_top_k=2, filters=wanted)
        return [str(node.get_content()) for node in notes.query(asked).nodes]

    found: dict[str, Any] = {"nearest": query(1)[:1], "filtered": query(1, n=2)}
    notes.delete("document-0")
    found["left"] = sorted(node.get_content() for node in notes.get_nodes(None))
    found["project"] = client.get_collection("docs").count()
    client.delete_collection("llamaindex")
    return found


if __name__ == "__main__":
    sys.stdout.write(
        json.dumps({"langchain": langchain, "llamaindex": llamaindex}[sys.argv[1]](json.loads(sys.argv[2])))
    )
