"""Schemas of errors."""

from __future__ import annotations

from pydantic import BaseModel


class ErrorDetail(BaseModel):
    """An error as OpenAI describes it."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """The body of every error response."""

    error: ErrorDetail
