"""What went over the wire, and what the SDK made of it."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from flowbed.testing.conformance.records import Failed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import openai
    from numpy.typing import NDArray

SHOWN = 200  # characters of an answer that a reason quotes


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One request on the wire and its answer; `payload` is the answer's JSON, or None if it is invalid."""

    sent: Any
    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    payload: Any

    @property
    def rows(self) -> list[Any]:
        """The entries of an embeddings answer, in the order received.

        Raises:
            Failed: it has no list of them.
        """
        rows = self.payload.get("data") if isinstance(self.payload, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise Failed(f"the answer has no list of objects under `data`: {self.shown}")
        return rows

    @property
    def embeddings(self) -> list[Any]:
        """The embeddings of an answer, in the order received."""
        return [row.get("embedding") for row in self.rows]

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of an answer that is an object.

        Raises:
            Failed: it is not an object.
        """
        if not isinstance(self.payload, dict):
            raise Failed(f"the answer is not an object: {self.shown}")
        return self.payload

    @property
    def shown(self) -> str:
        """The beginning of the answer."""
        return f"{self.status} {self.body[:SHOWN].decode(errors='replace')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An embeddings answer: as the SDK returns it, and its exchange."""

    parsed: Any
    exchange: Exchange
    vectors: NDArray[np.float32]  # (inputs, dimensions)

    @property
    def tokens(self) -> int:
        """The tokens in the usage."""
        return int(self.parsed.usage.prompt_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class SdkAnswer:
    """Any answer: as the SDK returns it, and its exchange."""

    parsed: Any
    exchange: Exchange


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An error that the SDK raised, and the exchanges before it."""

    error: openai.APIStatusError
    exchanges: Sequence[Exchange]

    @property
    def exchange(self) -> Exchange:
        """The last exchange."""
        return self.exchanges[-1]

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of the error."""
        payload: dict[str, Any] = self.exchange.payload["error"]
        return payload


@dataclass(slots=True)
class Tally:
    """What one check has done so far."""

    requirements: int = 0
    exchanges: int = 0
    files: list[str] = field(default_factory=list)  # created by the check, to be removed after it


def numbers_of(embedding: Any) -> list[float]:  # any JSON value
    """Read an embedding of either encoding: a list of numbers, or base64 of little-endian float32.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(embedding, str):
        numbers: list[float] = np.frombuffer(base64.b64decode(embedding, validate=True), "<f4").tolist()
        return numbers
    if not isinstance(embedding, list) or not all(type(each) in {int, float} for each in embedding):
        raise ValueError(f"{str(embedding)[:40]} is neither base64 nor a list of numbers")
    return embedding
