"""Call GitLab's REST API: within its rate limits, and with each refusal turned into what to do."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from flowbed.errors import Misconfigured, Rejected, Transient
from flowbed.http.client import HttpClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from flowbed.http.client import HttpResponse

# The next attempts of a call wait this many seconds, unless GitLab says how long; after that the fetch ends.
WAITS = (1.0, 2.0, 5.0, 15.0, 30.0)
# A 429 asks for a wait and is no failure, but one without end is.
MOST_LIMITED = 50
# Waits after a 429 that does not say how long (seconds).
DEFAULT_WAIT = 30.0
# A description or note has up to a million characters, and a page 100 of them.
LARGEST_ANSWER = 2**28
# Rows of a page, the most that GitLab gives.
ROWS = 100
# Listings of notes that are read again because one was added or deleted meanwhile.
ATTEMPTS = 3

OK, UNAUTHORIZED, FORBIDDEN, NOT_FOUND, TOO_MANY, FAILED = 200, 401, 403, 404, 429, 500


class Withheld(Rejected):
    """GitLab does not show something: it does not exist, or the token may not see it."""

    def __init__(self, message: str, *, missing: bool) -> None:
        """Tell whether GitLab says that it does not exist."""
        super().__init__(message)
        self.missing = missing


@dataclass(kw_only=True)
class GitLabApi:
    """The API of one GitLab; `sleep` waits.

    `calls` counts the requests, `limited` the seconds that GitLab made it wait, `date` is its time of the last answer,
    in seconds since 1970.
    """

    http: HttpClient
    sleep: Callable[[float], Awaitable[None]]
    calls: int = 0
    limited: float = 0.0
    date: int = 0
    _rest: float = field(default=0.0, init=False)

    async def get(self, path: str, **query: str | int) -> Any:  # any JSON value
        """Return the answer of a call.

        Raises:
            Withheld: what the path names does not exist, or the token may not see it.
            Misconfigured: GitLab refuses the token or the request.
            Transient: it failed several times; the same call may succeed later.
        """
        return (await self._answer(path, query)).json

    async def project(self, name: str) -> dict[str, Any]:
        """Return a project, by its number or its escaped path.

        Raises:
            Withheld, Misconfigured, Transient: as `get`.
        """
        found = await self.get(f"/projects/{name}")
        if isinstance(found, dict) and isinstance(found.get("id"), int):
            return {"path_with_namespace": name, "web_url": "", **found}
        raise Transient(f"{self.http.label} answers with something that is no project")

    async def listed(
        self, path: str, *, after: str, order: str, over: Callable[[list[Any]], bool] = lambda _rows: False
    ) -> AsyncIterator[list[Any]]:
        """Yield the rows of a listing from `after` on, in the order of `order`, which is `created` or `updated`.

        `over` says of the rows of a page that those behind them do not matter.

        Each page begins at the time of the last row before it, so that rows that move meanwhile pull none over the end
        of a page, and no offset grows beyond what GitLab allows. More rows of one time than a page has are listed until
        nothing is new. Rows may be yielded twice.

        Raises:
            Withheld, Misconfigured, Transient: as `get`.
        """
        page, anchor = 1, after
        seen, fresh = set[object](), False
        while True:
            query: dict[str, str | int] = {
                "order_by": f"{order}_at",
                "sort": "asc",
                "scope": "all",
                "state": "all",
                "per_page": ROWS,
            }
            if anchor:
                query[f"{order}_after"] = anchor
            if page > 1:
                query["page"] = page
            answer = await self._answer(path, query)
            rows = _rows(answer, path)
            yield rows
            ids = {row.get("id") for row in rows if isinstance(row, dict)}
            seen, fresh = seen | ids, fresh or not ids <= seen
            is_last = not answer.headers.get("x-next-page") or over(rows)
            last = rows[-1].get(f"{order}_at") if rows and isinstance(rows[-1], dict) else None
            if not is_last and not (isinstance(last, str) and last != anchor):
                page += 1  # a page of rows of one time, such as a bulk edit, is left by its number
            elif page > 1 and fresh:
                page, fresh = (
                    1,
                    False,
                )  # one of them may have moved away, and pulled another over the end of a page
            elif is_last:
                return
            else:
                page, anchor, seen, fresh = 1, str(last), set(), False

    async def projects(self, group: str) -> AsyncIterator[dict[str, Any]]:
        """Yield the projects of a group and its subgroups, each once; archived ones too.

        Raises:
            Withheld, Misconfigured, Transient: as `get`.
        """
        seen: set[int] = set()
        page = "1"
        while page:
            query: dict[str, str | int] = {
                "include_subgroups": "true",
                "with_shared": "false",
                "order_by": "id",
                "sort": "asc",
                "per_page": ROWS,
                "page": page,
            }
            answer = await self._answer(f"/groups/{group}/projects", query)
            for row in _rows(answer, "the projects of a group"):
                if isinstance(row, dict) and isinstance(row.get("id"), int) and row["id"] not in seen:
                    seen.add(row["id"])
                    yield row
            page = answer.headers.get("x-next-page", "")

    async def notes(self, path: str) -> list[Any]:
        """Return all notes of an issue or merge request; pages may be short, so only GitLab says which is the last.

        Raises:
            Withheld, Misconfigured, Transient: as `get`.
        """
        found: list[Any] = []
        for _ in range(ATTEMPTS):
            found, totals, page = [], set(), "1"
            while page:
                query: dict[str, str | int] = {
                    "sort": "asc",
                    "order_by": "created_at",
                    "per_page": ROWS,
                    "page": page,
                }
                answer = await self._answer(f"{path}/notes", query)
                found += _rows(answer, path)
                totals.add(answer.headers.get("x-total"))
                page = answer.headers.get("x-next-page", "")
            # A note that is deleted meanwhile pulls another over the end of a page.
            if len(totals) == 1:
                break
        return found

    async def _answer(self, path: str, query: Mapping[str, str | int]) -> HttpResponse:
        address = f"{path}?{urlencode(query)}" if query else path
        failures = limited = 0
        while True:
            if self._rest:
                self.limited += self._rest
                await self.sleep(self._rest)
                self._rest = 0.0
            self.calls += 1
            wait = None
            try:
                response = await self.http.get(address, limit=LARGEST_ANSWER)
                self._note(response)
                if response.status < FAILED and response.status != TOO_MANY:
                    return self._checked(response, path)
                reason, wait = f"{self.http.label} answers with {response.status}", response.retry_after
                limited += response.status == TOO_MANY
                failures += response.status != TOO_MANY
                if response.status == TOO_MANY and wait is None:
                    wait = self._until_reset(response) or DEFAULT_WAIT
            except Transient as error:
                reason = str(error)
                failures += 1
            if failures > len(WAITS) or limited > MOST_LIMITED:
                raise Transient(
                    f"{reason}; what was read before is kept, and the next run goes on from there"
                )
            self._rest = WAITS[failures - 1] if wait is None else wait

    def _checked(self, response: HttpResponse, path: str) -> HttpResponse:
        if response.status == OK and response.json is not None:
            return response
        if response.status == OK:
            raise Transient(f"{self.http.label} answers with something that is not JSON")
        if response.status == UNAUTHORIZED:
            raise Misconfigured(
                f"{self.http.label} refuses the token: set GITLAB_TOKEN to a valid one with the scope read_api"
            )
        if response.status == FORBIDDEN and (scopes := _scopes(response.json)):
            raise Misconfigured(
                f"the token of {self.http.label} lacks a scope (needed: {scopes}): set GITLAB_TOKEN to another"
            )
        if response.status in (FORBIDDEN, NOT_FOUND):
            reason = "does not show" if response.status == FORBIDDEN else "has no"
            raise Withheld(f"{self.http.label} {reason} {path}", missing=response.status == NOT_FOUND)
        said = (
            response.json.get("message") or response.json.get("error")
            if isinstance(response.json, dict)
            else ""
        )
        raise Misconfigured(
            self.http.redacted(f"{self.http.label} refuses {path} with {response.status}: {said}")
        )

    def _note(self, response: HttpResponse) -> None:
        """Remember GitLab's time, and how long to rest where this was the last call that it allows for now."""
        with suppress(TypeError, ValueError):
            self.date = int(parsedate_to_datetime(response.headers.get("date", "")).timestamp())
        if response.headers.get("ratelimit-remaining") == "0":
            self._rest = self._until_reset(response)

    def _until_reset(self, response: HttpResponse) -> float:
        reset = response.headers.get("ratelimit-reset", "")
        return float(max(0, int(reset) - self.date)) if reset.isdecimal() and self.date else 0.0


def _rows(answer: HttpResponse, path: str) -> list[Any]:
    if not isinstance(answer.json, list):
        raise Transient(f"GitLab answers {path} with something that is no list")
    return answer.json


def _scopes(answer: Any) -> str:  # any JSON value
    """Return the scopes that a refusal asks for, empty where it has another reason."""
    if not isinstance(answer, dict) or answer.get("error") != "insufficient_scope":
        return ""
    return ", ".join(str(answer.get("scope", "read_api")).split())


def group_addresses(location: str, group: str, api: str) -> tuple[str, str]:
    """Return the address of the API and the path of a group, where the location is that of the GitLab.

    Raises:
        Misconfigured: the location has more than the address of the GitLab.
    """
    root = api.rstrip("/").removesuffix("/api/v4") if api else location.rstrip("/")
    scheme, _, rest = root.partition("://")
    if location.rstrip("/") != root or "@" in rest or "?" in rest or (not api and "/" in rest):
        raise Misconfigured(
            "with the option group, the location of a source of kind 'gitlab' is the address of the GitLab alone, such"
            " as https://gitlab.com; one below a path also needs the option api"
        )
    if not group.strip("/"):
        raise Misconfigured(
            "option group of a source of kind 'gitlab' is empty; give its path, such as acme/web"
        )
    return f"{scheme}://{rest}/api/v4", group.strip("/")


def addresses(location: str, api: str) -> tuple[str, str]:
    """Return the address of the API and the path of the project, of a location such as https://host/group/project.

    `api` is the address of the API of a GitLab below a path, or an empty string.

    Raises:
        Misconfigured: the location has no project, or is elsewhere than `api`.
    """
    scheme, _, rest = location.rstrip("/").removesuffix(".git").partition("://")
    host, _, path = rest.partition("/")
    if api:
        root = api.rstrip("/").removesuffix("/api/v4")
        if not location.startswith(f"{root}/"):
            raise Misconfigured(
                f"location {location} of a source of kind 'gitlab' is not below its option api, {root}"
            )
        path = location.rstrip("/").removeprefix(f"{root}/")
    else:
        root = f"{scheme}://{host}"
    if "/" not in path or "@" in host or "?" in path or "/-/" in f"{path}/":
        raise Misconfigured(
            f"location {location.partition('@')[2] or location} is no project of GitLab; write it as"
            " https://host/group/project, or give https://host and the option group"
        )
    return f"{root}/api/v4", path


def escaped(path: str) -> str:
    """Return a path as a part of an address."""
    return quote(path, safe="")


def open_http(base_url: str, token: str) -> HttpClient:
    """Open the client of the API; the token goes into a header only, and a public project needs none.

    Raises:
        Misconfigured: the token cannot be one.
    """
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise Misconfigured("GITLAB_TOKEN has a character that no token has; set it again")
    headers = {"PRIVATE-TOKEN": token} if token else {}
    return HttpClient(base_url, vendor="gitlab", headers=headers, secrets=(token,))
