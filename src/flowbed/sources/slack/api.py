"""Call Slack's Web API within its rate limits; each of its errors becomes one that says what to do."""

from __future__ import annotations

from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from flowbed.errors import Misconfigured, Rejected, Transient
from flowbed.http.client import HttpClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from flowbed.http.client import HttpResponse
    from flowbed.sources.slack.pacing import Pacing

# The next attempts of a call wait this many seconds (Slack's own advice goes first); after that the fetch ends.
WAITS = (1.0, 2.0, 5.0, 15.0, 30.0)
# A 429 asks for a wait and is no failure, but one without end is.
MOST_LIMITED = 50
# A request without Retry-After waits this long (seconds).
DEFAULT_WAIT = 30.0
# Messages are as large as 40,000 characters, and a page has up to 999.
LARGEST_PAGE = 64 * 2**20

TOO_MANY = 429
FAILED = 500

# By what failed, as Slack names it in a body with status 200.
PASSING = frozenset(
    {
        "fatal_error",
        "internal_error",
        "rate_limited",
        "ratelimited",
        "request_timeout",
        "service_unavailable",
        "team_added_to_org",
    }
)
OF_THE_TOKEN = frozenset(
    {
        "access_denied",
        "account_inactive",
        "invalid_auth",
        "missing_scope",
        "no_permission",
        "not_allowed_token_type",
        "not_authed",
        "org_login_required",
        "team_access_not_granted",
        "token_expired",
        "token_revoked",
        "two_factor_setup_required",
    }
)
OF_THE_CHANNEL = frozenset({"channel_not_found", "ekm_access_denied", "is_archived", "not_in_channel"})
OF_THE_POSITION = frozenset({"invalid_cursor", "invalid_ts_latest", "invalid_ts_oldest"})
THREAD_GONE = "thread_not_found"


class SlackRefusal(Rejected):
    """Slack answered a call with an error that concerns a channel, a thread or a position in a listing."""

    def __init__(self, method: str, code: str) -> None:
        """Store Slack's name of the error."""
        super().__init__(f"Slack answers {method} with {code}")
        self.code = code


class MissingScope(Misconfigured):
    """The token lacks a scope, which other channels may not need."""


class NoAnswer(Transient):
    """A call failed several times; `alone` says that no other call was answered meanwhile."""

    def __init__(self, message: str, *, alone: bool) -> None:
        """Say whether other calls were answered."""
        super().__init__(message)
        self.alone = alone


@dataclass(kw_only=True)
class SlackApi:
    """The Web API with one token; `pacing` waits.

    A call that fails is tried again after each of `waits` (seconds); without any it is tried once.

    `answers` counts the calls that were answered, `date` is Slack's time of the last one, in seconds since 1970.
    """

    http: HttpClient
    pacing: Pacing
    waits: Sequence[float] = WAITS
    answers: int = 0
    date: int = 0

    async def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        """Call a method and return its answer.

        Raises:
            SlackRefusal: Slack refuses this channel, thread or position.
            Misconfigured: Slack refuses the token, or the answer is none of Slack's.
            NoAnswer: it failed several times; the same call may succeed later.
        """
        path = f"/{method}?{urlencode({name: value for name, value in arguments.items() if value != ''})}"
        failures = limited = 0
        before = self.answers
        while True:
            await self.pacing.turn(method)
            try:
                response = await self.http.get(path, limit=LARGEST_PAGE)
                answer, code = self._read(method, response)
                if answer is not None:
                    self.answers += 1
                    self.pacing.answered(method, len(answer.get("messages") or ()))
                    return answer
                reason = f"{self.http.label} answers {method} with {code}"
                wait = response.retry_after
                is_limit = response.status == TOO_MANY or code in {"ratelimited", "rate_limited"}
            except Transient as error:
                reason, wait, is_limit = str(error), None, False
            limited, failures = limited + is_limit, failures + (not is_limit)
            if failures > len(self.waits) or limited > (MOST_LIMITED if self.waits else 0):
                raise NoAnswer(
                    f"{reason}; what was read before is kept, and the next run goes on from there",
                    alone=self.answers == before,
                )
            if is_limit:
                self.pacing.limited(method, DEFAULT_WAIT if wait is None else wait)
            else:
                await self.pacing.sleep(self.waits[failures - 1] if wait is None else wait)

    async def pages(self, method: str, **arguments: Any) -> AsyncIterator[dict[str, Any]]:
        """Call a method again and again until its answer names no next page."""
        cursor = ""
        while True:
            answer = await self.call(method, **arguments, cursor=cursor)
            yield answer
            cursor = next_cursor(answer)
            if not cursor:
                return

    def _read(self, method: str, response: HttpResponse) -> tuple[dict[str, Any] | None, str]:
        """Return an answer, or None and what to call the failure, which passes.

        Raises:
            SlackRefusal, Misconfigured: as `call`.
        """
        self._note_date(response.headers)
        if response.status == TOO_MANY or response.status >= FAILED:
            return None, f"status {response.status}"
        answer = response.json
        if not isinstance(answer, dict) or not isinstance(answer.get("ok"), bool):
            return None, "something that is not JSON of Slack"
        if answer["ok"]:
            return answer, ""
        code = self.http.redacted(str(answer.get("error", "unknown_error")))
        if code in PASSING:
            return None, code
        if code in OF_THE_TOKEN:
            kind = MissingScope if code == "missing_scope" else Misconfigured
            raise kind(self.http.redacted(f"Slack refuses the token for {method}: {code}{_scopes(answer)}"))
        raise SlackRefusal(method, code)

    def _note_date(self, headers: Mapping[str, str]) -> None:
        try:
            self.date = int(parsedate_to_datetime(headers.get("date", "")).timestamp())
        except (TypeError, ValueError):
            return


def next_cursor(answer: Mapping[str, Any]) -> str:
    """Return where the next page begins, empty if there is none: sending an empty cursor begins again, without end."""
    following = answer.get("response_metadata")
    cursor = following.get("next_cursor") if isinstance(following, dict) else ""
    return cursor if isinstance(cursor, str) else ""


def _scopes(answer: Mapping[str, Any]) -> str:
    """Name the scopes that are missing, or what to do about the token."""
    if answer.get("error") == "missing_scope":
        return (
            f" (needed: {answer.get('needed', '?')}; provided: {answer.get('provided', '?')}); add the scope to the"
            " app, install it again, and set SLACK_TOKEN to the new token"
        )
    return "; set SLACK_TOKEN to the bot token of an app that is installed in the workspace"


def open_http(base_url: str, token: str) -> HttpClient:
    """Open the client of the Web API; the token goes into a header only.

    Raises:
        Misconfigured: there is no token, or it cannot be one.
    """
    if not token:
        raise Misconfigured(
            "no token for Slack: set SLACK_TOKEN to the bot token (xoxb-...) of an internal app, see docs/sources.md"
        )
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise Misconfigured("SLACK_TOKEN has a character that no token has; set it again")
    return HttpClient(
        base_url, vendor="slack", headers={"Authorization": f"Bearer {token}"}, secrets=(token,)
    )
