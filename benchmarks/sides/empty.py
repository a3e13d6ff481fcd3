"""A FastAPI application with one route that does nothing: the most that any route of a FastAPI server could reach."""

from __future__ import annotations

from fastapi import FastAPI

app = FastAPI()


@app.get("/")
@app.post("/v1/embeddings")
async def nothing() -> dict[str, str]:
    """Answer with nothing."""
    return {}
