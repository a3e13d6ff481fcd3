"""A simulated GitLab: one project with issues, merge requests, notes and a wiki, changed by a script.

    gitlab = GitLab("web/app")
    iid = gitlab.post("issues", "Login fails", "It hangs.")
    gitlab.note("issues", iid, "Same here")
    async with running(gitlab, dated=False) as url:  # its answers have the time of its own clock
        ...  # a source of kind gitlab at f"{url}/web/app"

It answers as GitLab 18 does: notes are filtered after paging, deleting tells nobody, a note moves its issue at most
once a minute, offsets have a limit, and a 429 is plain text. `POST /_simulator/do` with `{"do": "post", ...}` calls a
method of the script. Every request is in `requests`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote

import orjson

from flowbed.testing.simulators.serving.asgi import read_request, send_answer, transport_of
from flowbed.testing.simulators.sources.script import carry_out
from flowbed.testing.simulators.wire import Answer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from flowbed.testing.simulators.serving.asgi import Receive, Scope, Send
    from flowbed.testing.simulators.wire import Request

# A note moves the `updated_at` of its issue at most once in this time.
TOUCH = timedelta(minutes=1)
LARGEST_PAGE = 100
START = datetime(2026, 1, 1, tzinfo=UTC)

KIND = "(issues|merge_requests)"
SCRIPT = (
    "post",
    "edit",
    "delete",
    "note",
    "edit_note",
    "delete_note",
    "write_wiki",
    "delete_wiki",
    "advance",
)


class _RefusalError(Exception):
    def __init__(self, status: int, message: str) -> None:
        self.answer = _json(status, {"message": message})


@dataclass
class GitLab:
    """The project and its script; `before` is called before each request is answered, to change things meanwhile.

    The faults: `storm` requests are answered 429 (wait `patience` seconds), `outage` ones 502, and `cut` ones by half a
    body. A project that is not `visible` answers 404, and kinds in `forbidden` answer 403; everything does if the token
    is not `scoped`. The project does not have those in `switched_off` (`issues`, `merge_requests`, `wiki`). Requests
    need the `token`, if there is one.
    """

    path: str = "web/app"
    number: int = 7
    token: str = ""
    most_offset: int = 50_000
    largest_page: int = LARGEST_PAGE
    storm: int = 0
    patience: int = 7
    outage: int = 0
    cut: int = 0
    visible: bool = True
    forbidden: set[str] = field(default_factory=set)
    switched_off: set[str] = field(default_factory=set)
    scoped: bool = True
    before: Callable[[Request], None] = field(default=lambda _request: None, repr=False)
    now: datetime = START
    requests: list[str] = field(default_factory=list)
    rows: dict[str, dict[int, dict[str, Any]]] = field(
        default_factory=lambda: {"issues": {}, "merge_requests": {}}
    )
    notes: dict[tuple[str, int], list[dict[str, Any]]] = field(default_factory=dict)
    pages: dict[str, dict[str, Any]] = field(default_factory=dict)
    highest: dict[str, int] = field(default_factory=dict)
    url: str = "https://gitlab.example"

    # The script.

    def post(
        self, kind: str, title: str, description: str = "", *, labels: Sequence[str] = (), **more: Any
    ) -> int:
        """Create an issue or merge request, and return its iid."""
        self.advance(1)
        iid = self.highest[kind] = self.highest.get(kind, 0) + 1
        address = f"{self.url}/{self.path}/-/{kind}/{iid}"
        row = {
            "id": 1_000 * self.number + iid,
            "iid": iid,
            "project_id": self.number,
            "title": title,
            "description": description,
            "state": "opened",
            "labels": list(labels),
            "author": {"id": 1, "username": "ann", "name": "Ann"},
            "created_at": self._time(),
            "updated_at": self._time(),
            "confidential": False,
            "web_url": address,
            "references": {"full": f"{self.path}{'#' if kind == 'issues' else '!'}{iid}"},
            **({"source_branch": "fix"} if kind == "merge_requests" else {}),
            **more,
        }
        self.rows[kind][iid] = row
        self.notes[kind, iid] = []
        return iid

    def edit(self, kind: str, iid: int, **fields: Any) -> None:
        """Change fields of an issue or merge request, which GitLab notes itself."""
        self.advance(1)
        self.rows[kind][iid].update(fields, updated_at=self._time())
        self._write_note(kind, iid, "changed the description", system=True)

    def delete(self, kind: str, iid: int) -> None:
        """Delete an issue or merge request, which leaves no trace."""
        self.advance(1)
        del self.rows[kind][iid]
        del self.notes[kind, iid]

    def note(self, kind: str, iid: int, body: str, **more: Any) -> int:
        """Write a note and return its id."""
        self.advance(1)
        self._touch(kind, iid)
        return self._write_note(kind, iid, body, **more)

    def edit_note(self, kind: str, iid: int, number: int, body: str) -> None:
        """Change a note."""
        self.advance(1)
        for note in self.notes[kind, iid]:
            if note["id"] == number:
                note.update(body=body, updated_at=self._time())
        self._touch(kind, iid)

    def delete_note(self, kind: str, iid: int, number: int) -> None:
        """Delete a note, which moves nothing."""
        self.advance(1)
        self.notes[kind, iid] = [note for note in self.notes[kind, iid] if note["id"] != number]

    def write_wiki(self, slug: str, content: str) -> None:
        """Create or change a page of the wiki."""
        self.pages[slug] = {
            "slug": slug,
            "title": slug.rpartition("/")[2],
            "format": "markdown",
            "content": content,
        }

    def delete_wiki(self, slug: str) -> None:
        """Delete a page of the wiki."""
        del self.pages[slug]

    def advance(self, seconds: float) -> None:
        """Advance the clock."""
        self.now += timedelta(seconds=seconds)

    def dump(self) -> list[dict[str, Any]]:
        """Return everything as a dump: rows with their notes, and pages of the wiki."""
        rows = [
            {**row, "notes": self.notes[kind, iid]}
            for kind in self.rows
            for iid, row in self.rows[kind].items()
        ]
        return rows + [
            {
                **page,
                "project_id": self.number,
                "project": self.path,
                "web_url": f"{self.url}/{self.path}/-/wikis/{page['slug'].replace('/', '%2F')}",
            }
            for page in self.pages.values()
        ]

    def _touch(self, kind: str, iid: int) -> None:
        row = self.rows[kind][iid]
        if self.now - datetime.fromisoformat(row["updated_at"]) >= TOUCH:
            row["updated_at"] = self._time()

    def _write_note(self, kind: str, iid: int, body: str, **more: Any) -> int:
        number = self.highest["notes"] = self.highest.get("notes", 100) + 1
        self.notes[kind, iid].append({
            "id": number,
            "body": body,
            "author": {"id": 2, "username": "bob", "name": "Bob"},
            "created_at": self._time(),
            "updated_at": self._time(),
            "system": False,
            "internal": False,
            "noteable_iid": iid,
            **more,
        })  # fmt: skip
        return number

    def _time(self) -> str:
        return f"{self.now:%Y-%m-%dT%H:%M:%S}.{self.now.microsecond // 1000:03}Z"

    # The API.

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI request."""
        if scope["type"] != "http":
            raise NotImplementedError(
                f"a simulator knows no {scope['type']}"
            )  # as the ASGI specification requires
        request = await read_request(scope, receive)
        if request is None:
            return
        if request.path == "/_simulator/do":
            await send_answer(send, _json(*carry_out(self, orjson.loads(request.body), script=SCRIPT)))
            return
        self.before(request)
        self.requests.append(f"{request.path}?{request.query}" if request.query else request.path)
        answer = self._faulty() or self._answered(request)
        dated = Answer(
            status=answer.status,
            body=answer.body,
            headers=(*answer.headers, (b"date", format_datetime(self.now, usegmt=True).encode())),
        )
        if self.cut and dated.status == 200:
            self.cut -= 1
            await send_answer(send, dated, half=True)
            transport_of(scope).abort()
            return
        await send_answer(send, dated)

    def _faulty(self) -> Answer | None:
        if self.storm:
            self.storm -= 1
            headers = ((b"content-type", b"text/plain"), (b"retry-after", b"%d" % self.patience))
            return Answer(status=429, body=b"Retry later\n", headers=headers)
        if self.outage:
            self.outage -= 1
            return Answer(status=502, body=b"<html>502</html>", headers=((b"content-type", b"text/html"),))
        return None

    def _answered(self, request: Request) -> Answer:
        if self.token and request.headers.get("private-token") != self.token:
            return _json(401, {"message": "401 Unauthorized"})
        if not self.scoped:
            return _json(403, {"error": "insufficient_scope", "scope": "api read_api"})
        query = dict(parse_qsl(request.query))
        try:
            return self._route(request.path, query)
        except _RefusalError as refused:
            return refused.answer

    def _route(self, path: str, query: Mapping[str, str]) -> Answer:
        below = re.fullmatch(
            r"/api/v4/projects/(.+?)(?:/((?:issues|merge_requests|wikis).*))?", unquote(path)
        )
        if below is None or below[1] not in (self.path, str(self.number)) or not self.visible:
            raise _RefusalError(404, "404 Project Not Found")
        if below[2] is None:
            return _json(200, self.described())
        kind, *rest = below[2].split("/")
        if kind in self.forbidden:
            raise _RefusalError(403, "403 Forbidden")
        if kind == "wikis":
            return _json(200, list(self.pages.values()))
        if not rest:
            rows = [*self.rows[kind].values()]
            return self._list(rows, query, seen=lambda row: self._row(kind, row["iid"]))
        iid = int(rest[0])
        if iid not in self.rows[kind]:
            raise _RefusalError(404, "404 Not Found")
        if rest[1:] == ["notes"]:
            # Notes that one may not see are filtered after paging.
            return self._list(self.notes[kind, iid], query, shown=lambda note: not note.get("hidden"))
        return _json(200, self._row(kind, iid))

    def described(self) -> dict[str, Any]:
        """Return the project as the API shows it."""
        levels = {
            f"{kind}_access_level": "disabled" if kind in self.switched_off else "enabled"
            for kind in ("issues", "merge_requests", "wiki")
        }
        return {
            "id": self.number,
            "path_with_namespace": self.path,
            "web_url": f"{self.url}/{self.path}",
            **levels,
        }

    def _row(self, kind: str, iid: int) -> dict[str, Any]:
        said = [note for note in self.notes[kind, iid] if not note["system"]]
        return {**self.rows[kind][iid], "user_notes_count": len(said)}

    def _list(
        self,
        rows: Sequence[dict[str, Any]],
        query: Mapping[str, str],
        *,
        shown: Callable[[dict[str, Any]], bool] = lambda _row: True,
        seen: Callable[[dict[str, Any]], dict[str, Any]] = lambda row: row,
    ) -> Answer:
        order = query.get("order_by", "created_at")
        found = sorted(
            rows, key=lambda row: (row[order], row["id"]), reverse=query.get("sort", "desc") == "desc"
        )
        for name in ("updated", "created"):
            if after := query.get(f"{name}_after"):
                found = [row for row in found if row[f"{name}_at"] >= after]
        size = min(int(query.get("per_page", 20)), self.largest_page)
        page = int(query.get("page", 1))
        first = (page - 1) * size
        if first >= self.most_offset:
            message = f"Offset pagination has a maximum allowed offset of {self.most_offset} for requests that return"
            return _json(
                405, {"error": f"{message} objects of type Issue. Remaining records can be retrieved using"}
            )
        following = str(page + 1) if first + size < len(found) else ""
        answer = _json(200, [seen(row) for row in found[first : first + size] if shown(row)])
        headers = (
            *answer.headers,
            (b"x-next-page", following.encode()),
            (b"x-page", b"%d" % page),
            (b"x-total", b"%d" % len(found)),
        )
        return Answer(status=200, body=answer.body, headers=headers)


@dataclass
class GitLabGroup:
    """A group of projects on one GitLab, each with its own script and faults; the `visible` ones are listed.

    `requests` are those for the group itself.
    """

    path: str
    projects: Sequence[GitLab]
    requests: list[str] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI request, or let its project answer."""
        path = unquote(scope["path"]) if scope["type"] == "http" else ""
        if f"{path}/".startswith(f"/api/v4/groups/{self.path}/projects/"):
            request = await read_request(scope, receive)
            if request is not None:
                self.requests.append(request.query)
                await send_answer(send, self._listed(dict(parse_qsl(request.query))))
            return
        named = path.removeprefix("/api/v4/projects/")
        for each in self.projects:
            if any(f"{named}/".startswith(f"{name}/") for name in (each.path, str(each.number))):
                await each(scope, receive, send)
                return
        await send_answer(send, _json(404, {"message": "404 Not Found"}))

    def _listed(self, query: Mapping[str, str]) -> Answer:
        found = [each.described() for each in self.projects if each.visible]
        size, page = min(int(query.get("per_page", 20)), LARGEST_PAGE), int(query.get("page", 1))
        answer = _json(200, found[(page - 1) * size : page * size])
        following = str(page + 1) if page * size < len(found) else ""
        return Answer(status=200, body=answer.body, headers=((b"x-next-page", following.encode()),))


def sample() -> GitLab:
    """Return a project with a little of everything, to try a source without a GitLab."""
    gitlab = GitLab()
    iid = gitlab.post("issues", "Login fails on Safari", "The page hangs after the password.", labels=["bug"])
    gitlab.note("issues", iid, "It works again after the cookies are cleared.")
    gitlab.post("merge_requests", "Renew the session after login", "Repairs the login on Safari.")
    gitlab.write_wiki("home", "# How to log in\n\nUse the name of your team and your password.")
    return gitlab


def _json(status: int, value: object) -> Answer:
    return Answer(status=status, body=orjson.dumps(value))
