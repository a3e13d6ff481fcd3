"""OpenAI's rate limits, in headers and in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.testing.simulators.limits import Room
    from flowbed.testing.simulators.wire import Headers, Refusal

UNITS = {"requests": "requests per min (RPM)", "inputs": "inputs per min", "tokens": "tokens per min (TPM)"}


def standing(rooms: Sequence[Room]) -> Headers:
    """Return what is left of every limit and when to retry, to the millisecond."""
    headers: list[tuple[str, str]] = []
    for room in rooms:
        headers += [
            (f"x-ratelimit-limit-{room.unit}", str(room.limit)),
            (f"x-ratelimit-remaining-{room.unit}", str(room.remaining)),
            (f"x-ratelimit-reset-{room.unit}", duration(room.reset)),
        ]
    if wait := max((room.wait or 0.0 for room in rooms), default=0.0):
        headers.append(("retry-after-ms", f"{-(-wait * 1000 // 1):.0f}"))
    return tuple((name.encode(), value.encode()) for name, value in headers)


def duration(seconds: float) -> str:
    """Write seconds as OpenAI's headers do: `12ms`, `1.5s`, `6m0s`."""
    if seconds < 1:
        return f"{-(-seconds * 1000 // 1):.0f}ms"
    minutes, rest = divmod(round(seconds, 3), 60)
    return f"{minutes:.0f}m{rest:g}s" if minutes else f"{rest:g}s"


def limited(refusal: Refusal) -> str:
    """Word the refusal of a request that exceeds a limit."""
    model = refusal.call.model if refusal.call else "the model"
    reached = f"Rate limit reached for {model} in organization org-simulated"
    room = refusal.room
    if room is None:
        wait = "later" if refusal.retry_after is None else f"in {duration(refusal.retry_after)}"
        return f"{reached}. Please try again {wait}."
    if room.wait is None:
        return (
            f"Request too large for {model} in organization org-simulated on {UNITS[room.unit]}: Limit {room.limit}, "
            f"Requested {room.asked}. The input or output tokens must be reduced in order to run successfully."
        )
    return (
        f"{reached} on {UNITS[room.unit]}: Limit {room.limit}, Used {room.limit - room.remaining}, "
        f"Requested {room.asked}. Please try again in {duration(room.wait)}. Visit "
        "https://platform.openai.com/account/rate-limits to learn more."
    )
