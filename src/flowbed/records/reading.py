"""How a model reads a text."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How a model reads a text: what is `sent` for it, its tokens, and the characters `lost` in unknown tokens."""

    sent: str
    tokens: int
    lost: int = 0
