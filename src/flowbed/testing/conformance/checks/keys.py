"""API keys and rate limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import openai

from flowbed.testing.conformance.records import Failed, Skipped

if TYPE_CHECKING:
    from flowbed.testing.conformance.client import Client
    from flowbed.testing.conformance.exchanges import Refusal

WRONG_KEY = "sk-a-key-that-there-is-not-0123456789"
# Requests until one must be refused, and the seconds beyond which the SDK does not wait.
ENOUGH, PATIENCE = 150, 120
RETRIES = 5
NOT_OFFERED = {404, 405, 501}  # statuses that mean that a path does not exist


async def wrong_key(client: Client) -> None:
    """An unknown key is refused with status 401 and the code invalid_api_key."""
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
    """The lists of models, files and batches are refused with status 401 for an unknown key."""
    stranger = client.another(key=WRONG_KEY)
    await _require_closed(stranger)
    for path in ("/models", "/files", "/batches"):
        if path == "/models" or (await client.send("GET", path)).status not in NOT_OFFERED:
            await stranger.refused_raw(401, None, method="GET", path=path)


async def limited(client: Client) -> None:
    """Beyond the rate limit, requests get status 429, the code rate_limit_exceeded, and Retry-After."""
    refusal = await _until_refused(_limited(client))
    code = refusal.fields["code"]
    client.require(code == "rate_limit_exceeded", f"the code is {code!r}")
    client.require(_wait(refusal) is not None, "the answer has no Retry-After in seconds")


async def waited_for(client: Client) -> None:
    """The SDK waits as Retry-After says, and is then answered."""
    wait = _wait(await _until_refused(_limited(client)))
    client.require(wait is not None, "the answer has no Retry-After in seconds")
    client.require((wait or 0) <= PATIENCE, f"Retry-After is {wait} seconds, longer than the SDK waits")
    await _limited(client, retries=RETRIES).embed("text")


def _limited(client: Client, *, retries: int = 0) -> Client:
    if not client.target.limited_key:
        raise Skipped("no rate-limited key was given (--limited-key)")
    return client.another(key=client.target.limited_key, retries=retries)


async def _until_refused(hasty: Client) -> Refusal:
    body = {"model": hasty.target.model, "input": "text"}
    for _ in range(ENOUGH):
        exchange = await hasty.send("POST", "/embeddings", body)
        if exchange.status != 200:
            # Repeated in the way that the SDK would.
            return await hasty.refused(429)
    raise Failed(f"none of {ENOUGH} requests was refused")


def _wait(refusal: Refusal) -> float | None:
    retry_after = refusal.exchange.headers.get("retry-after", "")
    return float(retry_after) if retry_after.replace(".", "", 1).isdigit() else None


async def _require_closed(stranger: Client, **headers: Any) -> None:  # headers for the SDK
    """Continue only if the server requires a key.

    Raises:
        Skipped: the server accepts everyone, and the target has no key.
    """
    exchange = await stranger.send("GET", "/models", **headers)
    if exchange.status < 400 and not stranger.target.key:
        raise Skipped("the server requires no key; give one that it knows (--key)")


CHECKS = (wrong_key, no_key, wrong_key_elsewhere, limited, waited_for)
