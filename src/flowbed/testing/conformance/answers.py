"""An answer apart from its vectors: its shape, its usage, and its request id."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowbed.testing.conformance.checks.inputs import long_array, tokens_of
from flowbed.testing.conformance.comparing import TEXTS, phrases
from flowbed.testing.conformance.records import Skipped

if TYPE_CHECKING:
    from flowbed.testing.conformance.client import Client
    from flowbed.testing.conformance.exchanges import Exchange

# Models whose token counting is public: https://github.com/openai/tiktoken
OF_CL100K = ("text-embedding-3-small", "text-embedding-3-large", "text-embedding-ada-002")


async def shape(client: Client) -> None:
    """An answer is a list of embeddings with the model and the usage, as JSON."""
    exchange = (await client.embed(list(TEXTS))).exchange
    payload: dict[str, Any] = exchange.payload
    client.require(
        exchange.headers.get("content-type", "").startswith("application/json"),
        f"the content type is {exchange.headers.get('content-type')!r}",
    )
    client.require(payload.get("object") == "list", f"`object` is {payload.get('object')!r}")
    client.require(
        payload.get("model") and isinstance(payload["model"], str), f"`model` is {payload.get('model')!r}"
    )
    for row in exchange.rows:
        client.require(row.get("object") == "embedding", f"`object` of a row is {row.get('object')!r}")
        client.require(type(row.get("index")) is int, f"`index` of a row is {row.get('index')!r}")


async def usage(client: Client) -> None:
    """Usage has equal, positive prompt and total tokens."""
    exchange = (await client.embed(list(TEXTS))).exchange
    _usage(client, exchange)


async def usage_again(client: Client) -> None:
    """A repeated text has the same usage as before."""
    texts = phrases(3, about=f"usage of {client.kind}: ")
    first, again = await client.embed(texts), await client.embed(texts)
    one, other = _usage(client, first.exchange), _usage(client, again.exchange)
    client.require(one == other, f"usage was {one} tokens first, then {other}")


async def usage_adds_up(client: Client) -> None:
    """The usage of a list is the sum of its texts, including repeated ones."""
    texts = [*TEXTS, TEXTS[0]]
    together = _usage(client, (await client.embed(texts)).exchange)
    each = sum([_usage(client, (await client.embed(text)).exchange) for text in texts])
    client.require(together == each, f"usage of the list is {together} tokens, of its texts {each}")


async def usage_grows(client: Client) -> None:
    """A longer text has a higher usage."""
    short = _usage(client, (await client.embed(long_array(8))).exchange)
    long = _usage(client, (await client.embed(long_array(64))).exchange)
    client.require(short < long, f"usage of 8 words is {short} tokens, of 64 words {long}")


async def usage_of_openai(client: Client) -> None:
    """OpenAI's models count the tokens of cl100k."""
    if client.target.model not in OF_CL100K:
        raise Skipped("this model's token counting is not public")
    wanted = sum(len(tokens_of(text)) for text in TEXTS)
    usage = _usage(client, (await client.embed(list(TEXTS))).exchange)
    client.require(usage == wanted, f"usage of {wanted} tokens is {usage}")


async def request_id(client: Client) -> None:
    """Every answer has a unique x-request-id, including errors."""
    first, again = await client.embed(TEXTS[0]), await client.embed(TEXTS[0])
    refusal = await client.refused(400, "")
    ids = [
        each.headers.get("x-request-id", "") for each in (first.exchange, again.exchange, refusal.exchange)
    ]
    client.require(all(ids), f"an answer has no id: {ids}")
    client.require(len(set(ids)) == len(ids), f"two answers have the same id: {ids}")
    client.require(refusal.error.request_id == ids[2], "the id in the SDK's error differs from the header")


def _usage(client: Client, exchange: Exchange) -> int:
    payload = exchange.payload.get("usage")
    client.require(isinstance(payload, dict), f"`usage` is {payload!r}")
    counts = {name: payload.get(name) for name in ("prompt_tokens", "total_tokens")}
    client.require(all(type(each) is int for each in counts.values()), f"usage is {payload}")
    client.require(counts["prompt_tokens"] == counts["total_tokens"] > 0, f"usage is {payload}")
    tokens: int = counts["total_tokens"]
    return tokens


CHECKS = (shape, usage, usage_again, usage_adds_up, usage_grows, usage_of_openai, request_id)
