"""Call Backlog's API: one call at a time, within its rate limits, and with each refusal turned into what to do."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from flowbed.errors import Misconfigured, Rejected, Transient
from flowbed.http.client import HttpClient
from flowbed.sources.parsing import parse_answer
from flowbed.telemetry import RETRIED, reached

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from flowbed.http.client import HttpResponse

# The next attempts of a call wait this many seconds; after that its project is left to the next fetch.
WAITS = (1.0, 2.0, 5.0, 15.0, 30.0)
# A 429 asks for a wait and is no failure, but one without end is.
MOST_LIMITED = 50
# As Backlog advises after a 429 that does not say how long (seconds).
DEFAULT_WAIT = 60.0
# A description has up to 100,000 characters, and a page 100 of them.
LARGEST_ANSWER = 2**27
# Rows of a page, the most that Backlog gives.
ROWS = 100

OK, UNAUTHORIZED, FORBIDDEN, NOT_FOUND, TOO_MANY, FAILED = 200, 401, 403, 404, 429, 500
# Backlog's numbers of its errors; the words follow the user's language.
IP_DENIED, NO_RESOURCE, BAD_KEY, SECOND_FACTOR, LIMITED = 4, 6, 11, 12, 13


class Withheld(Rejected):
    """Backlog does not show something: it does not exist, or the key may not see it."""

    def __init__(self, message: str, *, missing: bool) -> None:
        """Tell whether Backlog says that it does not exist."""
        super().__init__(message)
        self.missing = missing


class NoAnswer(Transient):
    """A call got no answer although it was tried again."""


@dataclass(kw_only=True)
class BacklogApi:
    """The API of one space; `sleep` waits.

    A call that fails is tried again after each of `waits` (seconds); without any it is tried once. `date` is Backlog's
    time of the last answer, in seconds since 1970, and `answers` counts them. `left` says how much is left to do after
    a rest of so many seconds, for a person who watches.
    """

    http: HttpClient
    sleep: Callable[[float], Awaitable[None]]
    waits: Sequence[float] = WAITS
    date: int = 0
    answers: int = 0
    left: Callable[[float], str] = lambda _rest: ""
    _limits: dict[str, str] = field(default_factory=dict, init=False)
    _until: dict[str, int] = field(default_factory=dict, init=False)

    async def get(self, path: str, **query: Any) -> Any:  # any JSON value
        """Return the answer of a call; a parameter that is a list is sent as Backlog takes arrays.

        Raises:
            Withheld: what the path names does not exist, or the key may not see it.
            Misconfigured: Backlog refuses the key or the request.
            NoAnswer: it failed several times; the same call may succeed later.
        """
        given = {f"{name}[]" if isinstance(value, list) else name: value for name, value in query.items()}
        address = f"{path}?{urlencode(given, doseq=True)}" if given else path
        # Backlog limits kinds of calls by themselves, which are known by the number that they allow.
        kind = "/".join(part for part in path.split("/") if not any(sign.isdigit() for sign in part))
        failures = limited = 0
        while True:
            await self._turn(kind)
            wait: float | None = None
            try:
                response = await self.http.get(address, limit=LARGEST_ANSWER)
                self._note(kind, response)
                answer, reason = self._read(response, path)
                if not reason:
                    self.answers += 1
                    return answer
                is_limit = response.status == TOO_MANY
                wait = response.retry_after
            except Transient as error:
                reason, is_limit = str(error), False
            limited, failures = limited + is_limit, failures + (not is_limit)
            if failures > len(self.waits) or limited > (MOST_LIMITED if self.waits else 0):
                raise NoAnswer(f"{reason}; what was read before is kept, and the next run goes on from there")
            if not is_limit:
                await self.sleep(self.waits[failures - 1] if wait is None else wait)
            elif self._rest(kind) <= 0:
                await self._wait(kind, DEFAULT_WAIT if wait is None else wait)

    async def rows(self, path: str, **query: Any) -> list[dict[str, Any]]:
        """Return the objects of an answer that is a list.

        Raises:
            Withheld, Misconfigured, NoAnswer: as `get`.
        """
        found = await self.get(path, **query)
        if not isinstance(found, list):
            raise NoAnswer(f"Backlog answers {path} with something that is no list")
        return [each for each in found if isinstance(each, dict)]

    async def _turn(self, kind: str) -> None:
        """Wait until there is something left of the limit of a kind of calls."""
        rest = self._rest(kind)
        if rest > 0:
            self._until.pop(self._limits.get(kind, ""), None)
            await self._wait(kind, rest)

    async def _wait(self, kind: str, seconds: float) -> None:
        reason = f"Backlog limits {kind or '/'}{self.left(seconds)}"
        reached(RETRIED, reason=reason, seconds=seconds, limited=True)
        await self.sleep(seconds)

    def _rest(self, kind: str) -> int:
        until = self._until.get(self._limits.get(kind, ""), 0)
        return until - self.date if until else 0

    def _note(self, kind: str, response: HttpResponse) -> None:
        """Remember Backlog's time, and which limit is used up until when."""
        headers = response.headers
        with suppress(TypeError, ValueError):
            self.date = int(parsedate_to_datetime(headers.get("date", "")).timestamp())
        limit, reset = headers.get("x-ratelimit-limit", ""), headers.get("x-ratelimit-reset", "")
        if limit:
            self._limits[kind] = limit
        used_up = headers.get("x-ratelimit-remaining") == "0" or response.status == TOO_MANY
        if used_up and limit and reset.isascii() and reset.isdecimal() and self.date:
            self._until[limit] = min(int(reset) + 1, self.date + 600)

    def _read(self, response: HttpResponse, path: str) -> tuple[Any, str]:
        """Return an answer, or what to call the failure, which passes.

        Raises:
            Withheld, Misconfigured: as `get`.
        """
        status, said = response.status, parse_answer(response.body)
        if status == OK and isinstance(said, list | dict):
            return said, ""
        number, message = _error(said)
        if status in (TOO_MANY, OK) or number == LIMITED or status >= FAILED:
            return None, f"{self.http.label} answers {path} with status {status}{_shown(number)}"
        if status == UNAUTHORIZED or number in (BAD_KEY, SECOND_FACTOR):
            raise Misconfigured(
                f"{self.http.label} refuses the key{_shown(number)}: set BACKLOG_API_KEY to one from Personal Settings,"
                " API, of a member of the projects"
            )
        if number == IP_DENIED:
            raise Misconfigured(
                f"{self.http.label} does not allow this machine's address (4): an administrator has to add it"
            )
        if status in (FORBIDDEN, NOT_FOUND):
            verb = "has no" if status == NOT_FOUND else "does not show"
            raise Withheld(
                f"{self.http.label} {verb} {path}{_shown(number)}",
                missing=status == NOT_FOUND and number == NO_RESOURCE,
            )
        reason = f"{self.http.label} refuses {path} with {status}{_shown(number)}: {message}"
        raise Misconfigured(self.http.redacted(reason))


def _error(said: object) -> tuple[int, str]:
    """Return Backlog's number of an error, 0 if it has none, and what it says."""
    errors = said.get("errors") if isinstance(said, dict) else None
    first = errors[0] if isinstance(errors, list) and errors and isinstance(errors[0], dict) else {}
    number = first.get("code")
    return number if isinstance(number, int) else 0, str(first.get("message", ""))


def _shown(number: int) -> str:
    return f" (code {number})" if number else ""


def addresses(location: str) -> tuple[str, str]:
    """Return the address of a space and the key of a project, or an empty string, of a location.

    It is https://SPACE.backlog.com, or .backlog.jp, or the address of a project in a browser.

    Raises:
        Misconfigured: it is none.
    """
    parts = urlsplit(location)
    found = [part for part in parts.path.split("/") if part]
    key = found[1] if len(found) > 1 and found[0] == "projects" else ""
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or (found and not key):
        raise Misconfigured(
            "the location of a source of kind 'backlog' must be dumps, or a space such as https://acme.backlog.com or"
            " https://acme.backlog.jp"
        )
    return f"{parts.scheme}://{parts.netloc}", key


def open_http(space: str, token: str) -> HttpClient:
    """Open the client of the API. Backlog takes its keys in the query only: the client adds it, and no address has it.

    Raises:
        Misconfigured: there is no key, or it cannot be one.
    """
    if not token:
        raise Misconfigured(
            "no key for Backlog: set BACKLOG_API_KEY to one from Personal Settings, API, see docs/sources.md"
        )
    if not (token.isascii() and token.isalnum()):
        raise Misconfigured("BACKLOG_API_KEY has a character that no key has; set it again")
    return HttpClient(
        f"{space}/api/v2", vendor="backlog", headers={}, secrets=(token,), secret_query=f"apiKey={token}"
    )
