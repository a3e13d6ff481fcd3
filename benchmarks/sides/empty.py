"""A FastAPI application with one route that does nothing: the upper limit for any FastAPI server."""

from __future__ import annotations

from fastapi import FastAPI

app = FastAPI()


@app.get("/")
@app.post("/v1/embeddings")
async def nothing() -> dict[str, str]:
    """Return an empty answer."""
    return {}
