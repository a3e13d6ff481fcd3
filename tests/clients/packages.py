"""Embed texts with LangChain or LlamaIndex, in the environment that has them, and print the vectors as JSON.

python packages.py langchain|llamaindex '[{"url": ..., "model": ..., "key": ..., "texts": [...]}, ...]'
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any


def langchain(said: dict[str, Any]) -> dict[str, Any]:
    """Embed with LangChain's class as it is: it sends arrays of cl100k tokens."""
    # Without a network, tiktoken finds its vocabulary in the package that ships it.
    import llama_index.core

    os.environ["TIKTOKEN_CACHE_DIR"] = str(
        Path(llama_index.core.__file__).parent / "_static" / "tiktoken_cache"
    )
    from langchain_openai import OpenAIEmbeddings

    model = OpenAIEmbeddings(
        base_url=said["url"], api_key=said["key"] or "none", model=said["model"], max_retries=0
    )

    async def asynchronously() -> Any:
        return await model.aembed_documents(said["texts"])

    return {
        "documents": model.embed_documents(said["texts"]),
        "query": model.embed_query(said["texts"][0]),
        "later": asyncio.run(asynchronously()),
    }


def llamaindex(said: dict[str, Any]) -> dict[str, Any]:
    """Embed with LlamaIndex's class: it sends texts."""
    from llama_index.embeddings.openai import OpenAIEmbedding

    model = OpenAIEmbedding(
        api_base=said["url"],
        api_key=said["key"] or "none",
        model_name=said["model"],
        max_retries=0,
        reuse_client=False,
    )

    async def asynchronously() -> Any:
        return await model.aget_text_embedding_batch(said["texts"])

    return {
        "documents": model.get_text_embedding_batch(said["texts"]),
        "query": model.get_query_embedding(said["texts"][0]),
        "later": asyncio.run(asynchronously()),
    }


if __name__ == "__main__":
    embed = {"langchain": langchain, "llamaindex": llamaindex}[sys.argv[1]]
    sys.stdout.write(json.dumps([embed(said) for said in json.loads(sys.argv[2])]))
