"""A typed client of `flowbed serve` for what clients of OpenAI and Chroma lack: search, fields, jobs, documents.

`Client` is for synchronous code, `AsyncClient` for asyncio. Answers are the records that the server's OpenAPI document
describes. Errors are those of `flowbed.errors`.
"""

from flowbed.client.asynchronous import AsyncClient
from flowbed.client.synchronous import Client

__all__ = ["AsyncClient", "Client"]
