"""Call Discord's API within its rate limits; each of its errors becomes one that says what to do."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from flowbed.errors import Misconfigured, Rejected, Transient
from flowbed.http.client import HttpClient
from flowbed.sources.discord.limits import Limits, seconds
from flowbed.sources.parsing import parse_answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.http.client import HttpResponse

# The next attempts of a call wait this many seconds; after that its channel is left to the next fetch.
WAITS = (1.0, 2.0, 5.0, 15.0, 30.0)
# A 429 asks for a wait and is no failure, but one without end is.
MOST_LIMITED = 50
# A 429 that does not say how long waits this long (seconds).
DEFAULT_WAIT = 5.0
# Discord blocks an address after 10,000 refused calls in ten minutes; other programs may use the same address.
MOST_REFUSED = 2_000
# A page has 100 messages, each with 10 embeds of 6,000 characters together.
LARGEST_PAGE = 32 * 2**20

OK, UNAUTHORIZED, FORBIDDEN, NOT_FOUND, TOO_MANY, FAILED = 200, 401, 403, 404, 429, 500
# Discord's numbers of its errors.
UNKNOWN_CHANNEL, UNKNOWN_GUILD, UNKNOWN_MESSAGE, MISSING_ACCESS, MISSING_PERMISSION = (
    10003,
    10004,
    10008,
    50001,
    50013,
)

HOME = "https://pypi.org/project/flowbed"


class DiscordRefusal(Rejected):
    """Discord refuses a call for what it names: a server, a channel, a thread or a message."""

    def __init__(self, message: str, *, status: int, number: int) -> None:
        """Store the status and Discord's number of the error, 0 if it has none."""
        super().__init__(message)
        self.status = status
        self.number = number


class NoAnswer(Transient):
    """A call got no answer although it was tried again; `alone` says that no other call did meanwhile."""

    def __init__(self, message: str, *, alone: bool) -> None:
        """Say whether other calls were answered."""
        super().__init__(message)
        self.alone = alone


@dataclass(kw_only=True)
class DiscordApi:
    """The API with the token of one bot; `limits` wait.

    A call that fails is tried again after each of `waits` (seconds); without any it is tried once.

    `answers` counts the calls that were answered, `refused` those that count for a block of this address, `date` is
    Discord's time of the last answer, in seconds since 1970.
    """

    http: HttpClient
    limits: Limits
    waits: Sequence[float] = WAITS
    answers: int = 0
    refused: int = 0
    date: int = 0

    async def get(self, route: str, owner: str, **query: str | int) -> Any:  # any JSON value
        """Return the answer of a route, whose `{}` is its owner, the channel or server that its limit is of.

        Raises:
            DiscordRefusal: what it names does not exist, or the bot may not see it.
            Misconfigured: Discord refuses the token or the request.
            NoAnswer: it failed several times; the same call may succeed later.
        """
        path = route.replace("{}", owner) + (f"?{urlencode(query)}" if query else "")
        # The id of a message is no part of its limit.
        route = "/".join(part for part in route.split("/") if not part.isdecimal())
        failures = limited = 0
        before = self.answers
        while True:
            if self.refused >= MOST_REFUSED:
                raise NoAnswer(
                    f"Discord refused {self.refused:,} calls; the next run goes on, before it blocks this address",
                    alone=True,
                )
            await self.limits.turn(route, owner)
            is_limit, wait = False, None
            try:
                response = await self.http.get(path, limit=LARGEST_PAGE)
                self._note(route, owner, response)
                answer, reason = self._read(response, path)
                if not reason:
                    self.answers += 1
                    return answer
                is_limit, wait = response.status == TOO_MANY, response.retry_after
            except Transient as error:
                reason = str(error)
            limited, failures = limited + is_limit, failures + (not is_limit)
            if failures > len(self.waits) or limited > (MOST_LIMITED if self.waits else 0):
                raise NoAnswer(
                    f"{reason}; what was read before is kept, and the next run goes on from there",
                    alone=self.answers == before,
                )
            if not is_limit:  # which the next turn waits for
                await self.limits.sleep(self.waits[failures - 1] if wait is None else wait)

    def _note(self, route: str, owner: str, response: HttpResponse) -> None:
        headers = response.headers
        with suppress(TypeError, ValueError):
            self.date = int(parsedate_to_datetime(headers.get("date", "")).timestamp())
        self.limits.answered(route, owner, headers)
        shared = headers.get("x-ratelimit-scope") == "shared"
        self.refused += response.status in (UNAUTHORIZED, FORBIDDEN, TOO_MANY) and not shared
        if response.status == TOO_MANY:
            said = response.json if isinstance(response.json, dict) else {}
            rest = seconds(said.get("retry_after")) if "retry_after" in said else response.retry_after
            rest = DEFAULT_WAIT if rest is None else rest
            self.limits.limited(route, owner, rest, everything=said.get("global") is True)

    def _read(self, response: HttpResponse, path: str) -> tuple[Any, str]:
        """Return an answer, or what to call the failure, which passes.

        Raises:
            DiscordRefusal, Misconfigured: as `get`.
        """
        status, said = response.status, parse_answer(response.body)
        if status == OK and isinstance(said, list | dict):
            return said, ""
        if status == UNAUTHORIZED:
            raise Misconfigured(
                f"{self.http.label} refuses the token: set DISCORD_TOKEN to the token of a bot, from Bot, Reset Token"
                " in the Developer Portal"
            )
        if status == TOO_MANY or status >= FAILED or not isinstance(said, dict):
            what = "" if isinstance(said, dict) else ", and with something that is not JSON of Discord"
            return None, f"{self.http.label} answers {path.partition('?')[0]} with status {status}{what}"
        number, message = said.get("code"), self.http.redacted(str(said.get("message", "")))
        if status in (FORBIDDEN, NOT_FOUND) or number in (MISSING_ACCESS, MISSING_PERMISSION):
            number = number if isinstance(number, int) else 0
            reason = f"Discord answers {path.partition('?')[0]} with {status}: {message} ({number})"
            raise DiscordRefusal(reason, status=status, number=number)
        raise Misconfigured(f"{self.http.label} refuses {path} with {status}: {message}")


def addresses(location: str) -> tuple[str, str]:
    """Return the address of the API and the id of the server, of a location such as discord://SERVER.

    The address of a channel in a browser, `https://discord.com/channels/SERVER/...`, is one too.

    Raises:
        Misconfigured: it has no server.
    """
    parts = urlsplit(location)
    scheme, server = parts.scheme, parts.hostname or ""
    base = "https://discord.com"
    if scheme in ("http", "https"):
        found = parts.path.split("/")
        server = found[2] if len(found) > 2 and found[1] == "channels" else ""  # noqa: PLR2004 - "", "channels", id
        base = f"{scheme}://{parts.netloc}"
    if (
        scheme not in ("http", "https", "discord")
        or not (server.isascii() and server.isdecimal())
        or "@" in base
    ):
        raise Misconfigured(
            "the location of a source of kind 'discord' must be exports, or discord://SERVER with the id of a server:"
            " in Discord, turn on Developer Mode under Advanced, and take Copy Server ID"
        )
    return f"{base}/api/v10", server


def open_http(base_url: str, token: str) -> HttpClient:
    """Open the client of the API; the token goes into a header only.

    Raises:
        Misconfigured: there is no token, or it cannot be one.
    """
    if not token:
        raise Misconfigured(
            "no token for Discord: set DISCORD_TOKEN to the token of a bot, see docs/sources.md"
        )
    token = token.removeprefix("Bot ").strip()
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise Misconfigured("DISCORD_TOKEN has a character that no token has; set it again")
    return HttpClient(
        base_url,
        vendor="discord",
        # Without a name of this form, Discord's network refuses calls.
        headers={"Authorization": f"Bot {token}", "User-Agent": f"DiscordBot ({HOME}, {version('flowbed')})"},
        secrets=(token,),
    )
