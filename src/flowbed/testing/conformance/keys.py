"""Who may ask, and how often."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import openai

from flowbed.testing.conformance.records import Failed, Skipped

if TYPE_CHECKING:
    from flowbed.testing.conformance.client import Client
    from flowbed.testing.conformance.exchanges import Refusal

WRONG_KEY = "sk-a-key-that-there-is-not-0123456789"
# Requests until one has to be refused, and seconds after which the SDK would not wait for its turn.
ENOUGH, PATIENCE = 150, 120
RETRIES = 5
NOT_OFFERED = {404, 405, 501}  # how a server says of a path that there is nothing


async def wrong_key(client: Client) -> None:
    """A key that there is not is refused with status 401 and the code invalid_api_key."""
    stranger = client.another(key=WRONG_KEY)
    await _require_closed(stranger)
    refusal = await stranger.refused(401)
    client.require(refusal.fields["code"] == "invalid_api_key", f"the code is {refusal.fields['code']!r}")
    client.require(WRONG_KEY not in refusal.fields["message"], "the message repeats the whole key")


async def no_key(client: Client) -> None:
    """A request without a key is refused with status 401."""
    nothing: Any = openai.Omit()
    await _require_closed(client, authorization=nothing)
    await client.refused(401, extra_headers={"Authorization": nothing})


async def wrong_key_elsewhere(client: Client) -> None:
    """The lists of models, files and batches are refused to a key that there is not, with status 401."""
    stranger = client.another(key=WRONG_KEY)
    await _require_closed(stranger)
    for path in ("/models", "/files", "/batches"):
        if path == "/models" or (await client.send("GET", path)).status not in NOT_OFFERED:
            await stranger.refused_raw(401, None, method="GET", path=path)


async def limited(client: Client) -> None:
    """Who asks too often gets status 429, the code rate_limit_exceeded, and in Retry-After when to come again."""
    refusal = await _until_refused(_limited(client))
    code = refusal.fields["code"]
    client.require(code == "rate_limit_exceeded", f"the code is {code!r}")
    client.require(_wait(refusal) is not None, "there is no Retry-After in seconds")


async def waited_for(client: Client) -> None:
    """The SDK, told in Retry-After when to come again, is answered then."""
    wait = _wait(await _until_refused(_limited(client)))
    client.require(wait is not None, "there is no Retry-After in seconds")
    client.require((wait or 0) <= PATIENCE, f"nobody waits for {wait} seconds")
    await _limited(client, retries=RETRIES).embed("text")


def _limited(client: Client, *, retries: int = 0) -> Client:
    if not client.target.limited_key:
        raise Skipped("no key with a limit was given (--limited-key)")
    return client.another(key=client.target.limited_key, retries=retries)


async def _until_refused(hasty: Client) -> Refusal:
    body = {"model": hasty.target.model, "input": "text"}
    for _ in range(ENOUGH):
        exchange = await hasty.send("POST", "/embeddings", body)
        if exchange.status != 200:
            # Asked for once more, as the SDK tells it.
            return await hasty.refused(429)
    raise Failed(f"none of {ENOUGH} requests was refused")


def _wait(refusal: Refusal) -> float | None:
    told = refusal.exchange.headers.get("retry-after", "")
    return float(told) if told.replace(".", "", 1).isdigit() else None


async def _require_closed(stranger: Client, **headers: Any) -> None:  # the SDK's
    """Go on only where a key is asked for.

    Raises:
        Skipped: everybody is let in, and nobody said that a key is needed.
    """
    exchange = await stranger.send("GET", "/models", **headers)
    if exchange.status < 400 and not stranger.target.key:
        raise Skipped("the server asks for no key; give one that it knows (--key)")


CHECKS = (wrong_key, no_key, wrong_key_elsewhere, limited, waited_for)
