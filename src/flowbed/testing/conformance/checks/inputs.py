"""Inputs that may be embedded, and which vector comes back for each."""

from __future__ import annotations

import asyncio
from functools import cache
from typing import TYPE_CHECKING, Any

from rs_bpe.bpe import openai as bpe

from flowbed.testing.conformance.comparing import (
    TEXTS,
    alone,
    phrases,
    require_distinct,
    require_same,
    require_unit,
)

if TYPE_CHECKING:
    from flowbed.testing.conformance.client import Client
    from flowbed.testing.conformance.exchanges import Answer

ITEMS, TOKENS = 2048, 8192  # the most items in a request, and tokens in a text
AT_ONCE = 16
SAMPLED = (0, 1, 1000, 2046, 2047)


async def a_string(client: Client) -> None:
    """A string gets one vector, with index 0."""
    answer = await client.embed(TEXTS[0])
    _require_numbered(client, answer, 1)


async def a_list_of_one(client: Client) -> None:
    """A list of one string gets the vector of that string."""
    answer = await client.embed([TEXTS[0]])
    _require_numbered(client, answer, 1)
    require_same(client, answer.vectors, await alone(client, TEXTS[:1]), "in a list and alone")


async def length_one(client: Client) -> None:
    """Vectors have length 1."""
    require_unit(client, (await client.embed(list(TEXTS))).vectors)


async def asked_again(client: Client) -> None:
    """A repeated text gets the same vector."""
    first, again = await client.embed(TEXTS[1]), await client.embed(TEXTS[1])
    require_same(client, first.vectors, again.vectors, "first and again")


async def different_texts(client: Client) -> None:
    """Different texts get different vectors."""
    require_distinct(client, (await client.embed(list(TEXTS))).vectors)


async def a_list(client: Client) -> None:
    """A list of strings gets a vector for each, indexed from 0, in its order."""
    answer = await client.embed(list(TEXTS))
    _require_numbered(client, answer, len(TEXTS))
    require_same(client, answer.vectors, await alone(client, TEXTS), "in a list and alone")


async def a_list_partly_known(client: Client) -> None:
    """A list of new and known texts is answered in its order."""
    texts = phrases(12, about=f"{client.kind}: ")
    known = texts[1::3]
    before = await client.embed(known)
    answer = await client.embed(texts)
    _require_numbered(client, answer, len(texts))
    require_same(client, answer.vectors[1::3], before.vectors, "first and among others")
    require_same(client, answer.vectors, await alone(client, texts), "in a list and alone")


async def a_text_twice(client: Client) -> None:
    """A text that is twice in a list gets its vector in both places."""
    texts = [TEXTS[0], TEXTS[1], TEXTS[0], TEXTS[2], TEXTS[1], TEXTS[0]]
    answer = await client.embed(texts)
    _require_numbered(client, answer, len(texts))
    places = [TEXTS.index(text) for text in texts]
    require_same(client, answer.vectors, (await alone(client, TEXTS[:3]))[places], "in a list and alone")


async def items_2048(client: Client) -> None:
    """A list of 2,048 strings is answered, every vector in the place of its text."""
    texts = phrases(ITEMS)
    answer = await client.embed(texts)
    _require_numbered(client, answer, ITEMS)
    sampled = await alone(client, [texts[place] for place in SAMPLED])
    require_same(client, answer.vectors[list(SAMPLED)], sampled, "among 2,048 and alone")
    backwards = await client.embed(texts[::-1])
    require_same(client, answer.vectors, backwards.vectors[::-1], "forwards and backwards")


async def a_token_array(client: Client) -> None:
    """An array of cl100k tokens gets the vector of their text."""
    answer = await client.embed(tokens_of(TEXTS[1]))
    _require_numbered(client, answer, 1)
    require_same(client, answer.vectors, await alone(client, TEXTS[1:2]), "as tokens and as text")


async def token_arrays(client: Client) -> None:
    """A list of token arrays gets a vector for each, indexed from 0, in its order."""
    answer = await client.embed([tokens_of(text) for text in TEXTS])
    _require_numbered(client, answer, len(TEXTS))
    require_same(client, answer.vectors, await alone(client, TEXTS), "as tokens and as text")


async def tokens_8192(client: Client) -> None:
    """A text of 8,192 tokens is embedded."""
    answer = await client.embed(long_array(TOKENS))
    _require_numbered(client, answer, 1)


async def many_at_once(client: Client) -> None:
    """Concurrent requests each get the vectors of their own texts."""
    texts = phrases(AT_ONCE)
    wanted = await client.embed(texts)
    require_distinct(client, wanted.vectors)

    async def ask(first: int) -> None:
        places = [(first + step) % AT_ONCE for step in range(first % 5 + 1)]
        answer = await client.embed([texts[place] for place in places])
        _require_numbered(client, answer, len(places))
        require_same(client, answer.vectors, wanted.vectors[places], "among concurrent requests and first")

    await asyncio.gather(*map(ask, range(AT_ONCE)))


async def a_user(client: Client) -> None:
    """`user` is accepted, and changes nothing."""
    named = await client.embed(TEXTS[0], user="somebody")
    require_same(client, named.vectors, await alone(client, TEXTS[:1]), "with a user and without")


async def nulls(client: Client) -> None:
    """Fields that are null count as absent."""
    fields = {"dimensions": None, "encoding_format": None, "user": None}
    body: dict[str, Any] = {"model": client.target.model, "input": list(TEXTS[:2]), **fields}
    exchange = await client.embed_raw(body)
    with_nulls = await client.embed(list(TEXTS[:2]), **fields)
    client.require(
        all(isinstance(each, list) for each in exchange.embeddings),
        "encoding_format null does not give the default, a list of numbers",
    )
    wanted = await client.embed(list(TEXTS[:2]))
    require_same(client, with_nulls.vectors, wanted.vectors, "with nulls and without")


def tokens_of(text: str) -> list[int]:
    """Return the cl100k tokens of a text."""
    return list(_cl100k().encode(text))


def long_array(tokens: int) -> list[int]:
    """Return a text of that many tokens, as an array of them."""
    return tokens_of(" word") * tokens


def _require_numbered(client: Client, answer: Answer, count: int) -> None:
    """Require one vector per input, with indexes in order: clients do not sort them."""
    numbers = [row.get("index") for row in answer.exchange.rows]
    client.require(len(numbers) == count, f"{count} inputs have {len(numbers)} vectors")
    wrong = next((place for place, number in enumerate(numbers) if number != place), None)
    client.require(
        wrong is None,
        f"the vector at position {wrong} has index {numbers[wrong] if wrong is not None else ''}",
    )


@cache
def _cl100k() -> Any:  # rs_bpe has no types
    return bpe.cl100k_base()


CHECKS = (
    a_string,
    a_list_of_one,
    length_one,
    asked_again,
    different_texts,
    a_list,
    a_list_partly_known,
    a_text_twice,
    items_2048,
    a_token_array,
    token_arrays,
    tokens_8192,
    many_at_once,
    a_user,
    nulls,
)
