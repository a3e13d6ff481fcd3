"""Refusals: OpenAI's statuses, shapes and messages, which clients look for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowbed.testing.conformance.checks.inputs import ITEMS, TOKENS, long_array

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flowbed.testing.conformance.client import Client

UNKNOWN = "a-model-that-there-is-not"
RETRIES = 2  # how often the SDK retries by default
OF_300_000 = 40, 8000  # arrays of tokens, each within its limit, 320,000 tokens together
LONG_WORDS = 20_000  # more than 8,192 tokens with any tokenizer


async def unknown_model(client: Client) -> None:
    """An unknown model is refused with status 404 and the code model_not_found."""
    refusal = await client.refused(404, model=UNKNOWN)
    code = refusal.fields["code"]
    client.require(code == "model_not_found", f"the code is {code!r}")
    client.require(refusal.error.code == code, f"the SDK's error has the code {refusal.error.code!r}")


async def no_model(client: Client) -> None:
    """A request without a model is refused with status 400."""
    for model in ({}, {"model": ""}, {"model": None}, {"model": 5}):
        await client.refused_raw(400, {"input": "text", **model})


async def no_input(client: Client) -> None:
    """A request without input, or with null, is refused with status 400."""
    await client.refused_raw(400, {"model": client.target.model})
    await client.refused_raw(400, {"model": client.target.model, "input": None})


async def empty_string(client: Client) -> None:
    """An empty string is refused with status 400."""
    await client.refused(400, "")


async def empty_list(client: Client) -> None:
    """An empty list is refused with status 400."""
    await client.refused(400, [])


async def empty_string_in_a_list(client: Client) -> None:
    """A list with an empty string is refused as a whole, with status 400."""
    for given in ([""], ["", "text"], ["text", ""], ["text", "", "another"]):
        await client.refused(400, given)


async def empty_token_array(client: Client) -> None:
    """An empty token array in a list is refused with status 400."""
    arrays: tuple[list[list[int]], ...] = ([[]], [[], long_array(2)], [long_array(2), []])
    for given in arrays:
        await client.refused(400, given)


async def other_inputs(client: Client) -> None:
    """Input that is neither text nor tokens, or both mixed, is refused with status 400."""
    array = long_array(2)
    given: Iterable[Any] = (
        5,
        True,
        {"text": "text"},
        [None],
        [1.5],
        [True],
        ["text", 5],
        [5, "text"],
        ["text", array],
        [array, "text"],
        [["text"]],
        [[1.5]],
        [[array]],
        ["text", None],
    )
    for each in given:
        await client.refused_raw(400, {"model": client.target.model, "input": each})


async def no_tokens(client: Client) -> None:
    """Numbers that are not cl100k tokens are refused with status 400."""
    for given in ([-1], [2**31], [2**70], [[5, -1]], [long_array(1), [2**31]]):
        await client.refused_raw(400, {"model": client.target.model, "input": given})


async def items_2049(client: Client) -> None:
    """More than 2,048 items are refused with status 400."""
    await client.refused(400, ["text"] * (ITEMS + 1))
    await client.refused(400, [long_array(1)] * (ITEMS + 1))


async def tokens_8193(client: Client) -> None:
    """A text of more than 8,192 tokens is refused with status 400 and OpenAI's message, not truncated."""
    words = f"maximum context length is {TOKENS} tokens"
    for given in (long_array(TOKENS + 1), [long_array(1), long_array(TOKENS + 1)], "long " * LONG_WORDS):
        refusal = await client.refused(400, given)
        message = refusal.fields["message"]
        client.require(words in message, f"the message does not say {words!r}: {message}")
    client.require(
        refusal.fields["type"] == "invalid_request_error", f"the type is {refusal.fields['type']!r}"
    )


async def tokens_300000(client: Client) -> None:
    """More than 300,000 tokens are refused with status 400 and the code max_tokens_per_request."""
    arrays, tokens = OF_300_000
    refusal = await client.refused(400, [long_array(tokens)] * arrays)
    found = refusal.fields["code"], refusal.fields["type"]
    client.require(found == ("max_tokens_per_request",) * 2, f"code and type are {found}")
    words = "max 300000 tokens per request"
    client.require(words in refusal.fields["message"], f"the message does not say {words!r}")


async def not_json(client: Client) -> None:
    """A body that is not a JSON object is refused with status 400."""
    for body in (b"", b"{", b"[]", b'"text"', b"null", b"\xff\xfe", b'{"input": "text", "model": '):
        await client.refused_raw(400, body)


async def unknown_field(client: Client) -> None:
    """An unknown field is refused with status 400."""
    await client.refused(400, extra_body={"a_field_that_there_is_not": 1})


async def wrong_user(client: Client) -> None:
    """A `user` that is not a text is refused with status 400."""
    for user in (5, ["somebody"], {"name": "somebody"}):
        await client.refused_raw(400, {"model": client.target.model, "input": "text", "user": user})


async def wrong_method(client: Client) -> None:
    """GET on /embeddings is refused with status 405."""
    await client.refused_raw(405, None, method="GET")


async def unknown_path(client: Client) -> None:
    """An unknown path is refused with status 404."""
    await client.refused_raw(404, {}, path="/a-path-that-there-is-not")


async def asked_once(client: Client) -> None:
    """The SDK, which retries twice if it may, does not retry refused requests."""
    patient = client.another(retries=RETRIES)
    for status, given, more in ((400, "", {}), (404, "text", {"model": UNKNOWN})):
        refusal = await patient.refused(status, given, **more)
        asked = len(refusal.exchanges)
        client.require(asked == 1, f"a request with status {status} was sent {asked} times")


async def next_is_answered(client: Client) -> None:
    """After a refusal the connection answers the next request."""
    await client.refused(400, ["text", ""])
    answer = await client.embed("text")
    client.require(len(answer.vectors) == 1, "a single text does not have exactly one vector")


CHECKS = (
    unknown_model,
    no_model,
    no_input,
    empty_string,
    empty_list,
    empty_string_in_a_list,
    empty_token_array,
    other_inputs,
    no_tokens,
    items_2049,
    tokens_8193,
    tokens_300000,
    not_json,
    unknown_field,
    wrong_user,
    wrong_method,
    unknown_path,
    asked_once,
    next_is_answered,
)
