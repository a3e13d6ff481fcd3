"""Schemas of health checks."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel


class HealthCheck(BaseModel):
    """State of one dependency."""

    name: str
    state: Literal["ok", "degraded", "unhealthy"]
    reason: str
    seconds: float


class Readiness(BaseModel):
    """State of the server and of everything it depends on."""

    status: Literal["ok", "degraded", "unhealthy"]
    checks: list[HealthCheck]
