"""OpenAI's rate limit headers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowbed.records.serving import Allowance

Headers = list[tuple[bytes, bytes]]
MINUTE, HOUR = 60, 3600


def allowance_headers(allowance: Allowance) -> Headers:
    """Write the headers of an allowance; without a limit there are none."""
    headers: Headers = []
    if allowance.requests is not None:
        headers += _headers(
            b"requests", allowance.requests, allowance.requests_left or 0, allowance.requests_reset
        )
    if allowance.tokens is not None:
        headers += _headers(b"tokens", allowance.tokens, allowance.tokens_left or 0, allowance.tokens_reset)
    if allowance.embeddings is not None:
        headers += _headers(
            b"embeddings", allowance.embeddings, allowance.embeddings_left or 0, allowance.embeddings_reset
        )
    return headers


def _headers(what: bytes, limit: int, left: int, reset: float) -> Headers:
    return [
        (b"x-ratelimit-limit-%b" % what, b"%d" % limit),
        (b"x-ratelimit-remaining-%b" % what, b"%d" % left),
        (b"x-ratelimit-reset-%b" % what, duration(reset).encode()),
    ]


def duration(seconds: float) -> str:
    """Format seconds as Go and OpenAI do: 12ms, 1.5s, 6m0s, 23h59m59s."""
    milliseconds = round(seconds * 1000)
    if milliseconds < 1000:  # noqa: PLR2004 - less than a second
        return f"{milliseconds}ms"
    if milliseconds < MINUTE * 1000:
        return f"{milliseconds / 1000:g}s"
    whole = round(seconds)
    hours, minutes, rest = whole // HOUR, whole % HOUR // MINUTE, whole % MINUTE
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"
