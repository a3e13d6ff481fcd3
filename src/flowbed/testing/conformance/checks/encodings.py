"""Encodings and dimensions of vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from flowbed.testing.conformance.comparing import TEXTS, require_same, require_unit
from flowbed.testing.conformance.exchanges import numbers_of
from flowbed.testing.conformance.records import Failed, Skipped

if TYPE_CHECKING:
    from flowbed.testing.conformance.client import Client
    from flowbed.testing.conformance.exchanges import Answer

FLOAT_BYTES = 4
CLOSE = 1e-3  # tolerance between two answers to one text: rounding in another batch
PADDED = "x-flowbed-padded"  # set by Flowbed if its settings say to pad vectors


async def default_of_the_sdk(client: Client) -> None:
    """Without a given encoding, the SDK asks for base64 and gets it."""
    answer = await client.embed(list(TEXTS[:2]))
    client.require(
        answer.exchange.sent.get("encoding_format") == "base64", "this SDK does not ask for base64"
    )
    _require_base64(client, answer)


async def floats(client: Client) -> None:
    """With encoding_format float, vectors are lists of numbers."""
    answer = await client.embed(list(TEXTS[:2]), encoding_format="float")
    client.require(
        all(isinstance(each, list) for each in answer.exchange.embeddings),
        f"an embedding is not a list: {answer.exchange.shown}",
    )


async def base64(client: Client) -> None:
    """With encoding_format base64 vectors are little-endian float32 in base64."""
    answer = await client.embed(list(TEXTS[:2]), encoding_format="base64")
    _require_base64(client, answer)
    read = await client.embed(list(TEXTS[:2]), encoding_format="float")
    require_same(client, answer.vectors, read.vectors, "base64 and float")


async def default_on_the_wire(client: Client) -> None:
    """Without encoding_format vectors are lists of numbers."""
    exchange = await client.embed_raw({"model": client.target.model, "input": list(TEXTS[:2])})
    client.require(len(exchange.embeddings) == 2, f"two texts do not have two vectors: {exchange.shown}")
    client.require(
        all(isinstance(each, list) for each in exchange.embeddings),
        f"an embedding is not a list: {exchange.shown}",
    )


async def same_in_each_encoding(client: Client) -> None:
    """Float and base64 contain the same numbers."""
    given = list(TEXTS[:2])
    read = await client.embed(given, encoding_format="float")
    packed = await client.embed(given, encoding_format="base64")
    _require_close(client, read, packed)


async def unknown_encoding(client: Client) -> None:
    """An unknown encoding is refused with status 400."""
    await client.refused(400, encoding_format="hex")


async def fewer_dimensions(client: Client) -> None:
    """Fewer dimensions give vectors of that many numbers with length 1, or are refused; they are never ignored."""
    whole = await client.embed(list(TEXTS[:2]), encoding_format="float")
    wanted = max(1, whole.vectors.shape[1] // 2)
    read = await _reduced(client, wanted, "float")
    packed = await _reduced(client, wanted, "base64")
    for answer in (read, packed):
        client.require(
            answer.vectors.shape == (2, wanted),
            f"two vectors of {wanted} numbers were requested, got {answer.vectors.shape}",
        )
        require_unit(client, answer.vectors)
    _require_close(client, read, packed)


async def all_dimensions(client: Client) -> None:
    """The model's own number of dimensions may be given."""
    whole = await client.embed(list(TEXTS[:2]), encoding_format="float")
    named = await _reduced(client, whole.vectors.shape[1], "float")
    require_same(client, named.vectors, whole.vectors, "with dimensions and without")


async def more_dimensions(client: Client) -> None:
    """More dimensions than the model has are refused with status 400."""
    whole = await client.embed(TEXTS[0])
    body = {"model": client.target.model, "input": TEXTS[0], "dimensions": whole.vectors.shape[1] + 1}
    exchange = await client.send("POST", "/embeddings", body)
    if exchange.status == 200 and PADDED in exchange.headers:
        raise Skipped("the server pads vectors, as it says in its answer")
    await client.refused(400, dimensions=body["dimensions"])


async def impossible_dimensions(client: Client) -> None:
    """Dimensions that are 0, negative, fractional or a text are refused with status 400."""
    for dimensions in (0, -1, 2.5, "many", True):
        body = {"model": client.target.model, "input": TEXTS[0], "dimensions": dimensions}
        await client.refused_raw(400, body)


async def _reduced(client: Client, dimensions: int, encoding: str) -> Answer:
    """Request vectors of these dimensions."""
    given = list(TEXTS[:2])
    body: dict[str, Any] = {"model": client.target.model, "input": given, "dimensions": dimensions}
    tried = await client.send("POST", "/embeddings", body)
    if tried.status == 400:
        refusal = await client.refused(400, given, dimensions=dimensions)
        raise Skipped(f"the server refuses other dimensions, which is allowed: {refusal.fields['message']}")
    return await client.embed(given, dimensions=dimensions, encoding_format=encoding)


def _require_base64(client: Client, answer: Answer) -> None:
    """Require base64 with four bytes per number."""
    found = answer.exchange.embeddings
    client.require(
        all(isinstance(each, str) for each in found),
        f"base64 was requested, but an embedding is not base64: {answer.exchange.shown}",
    )
    try:
        read = np.array([numbers_of(each) for each in found], np.float32)
    except ValueError as error:
        raise Failed(f"an embedding is not base64 of float32: {error}") from error
    client.require(read.shape == answer.vectors.shape, "the SDK's vectors differ from those in the answer")


def _require_close(client: Client, one: Answer, other: Answer) -> None:
    client.require(
        one.vectors.shape == other.vectors.shape,
        f"float has {one.vectors.shape} numbers, base64 {other.vectors.shape}",
    )
    apart = float(np.abs(one.vectors - other.vectors).max())
    client.require(apart <= CLOSE, f"numbers of float and base64 differ by up to {apart:.4f}")


CHECKS = (
    default_of_the_sdk,
    floats,
    base64,
    default_on_the_wire,
    same_in_each_encoding,
    unknown_encoding,
    fewer_dimensions,
    all_dimensions,
    more_dimensions,
    impossible_dimensions,
)
