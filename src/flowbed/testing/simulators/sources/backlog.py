"""A simulated space of Backlog: projects with issues, comments, wiki pages and documents, changed by a script.

    backlog = Backlog()
    project = backlog.add_project("OPS")
    number = backlog.post(project, "Login fails", "It hangs.")
    backlog.comment(project, number, "Same here")
    async with running(backlog, dated=False) as url:
        ...  # a source of kind backlog at url

It answers as version 2 does: `updatedSince` is a day, deleting an issue or page makes an activity and deleting a
comment none, keys stand in the query, and rate limits are announced per kind of call. `POST /_simulator/do` with
`{"do": "post", ...}` calls a method of the script. Every request is in `requests`, without its key.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode

import orjson

from flowbed.testing.simulators.serving.asgi import read_request, send_answer, transport_of
from flowbed.testing.simulators.sources.script import carry_out
from flowbed.testing.simulators.wire import JSON, Answer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from flowbed.testing.simulators.serving.asgi import Receive, Scope, Send
    from flowbed.testing.simulators.wire import Request

START = datetime(2026, 1, 5, 8, tzinfo=UTC)
LARGEST_PAGE, PAGE = 100, 20
# What Backlog calls things that happen.
CREATED, UPDATED, COMMENTED, DELETED, WIKI_DELETED, BULK, DOCUMENT_DELETED = 1, 2, 3, 4, 7, 14, 37
OK = 200
SCRIPT = (
    *(
        "add_project",
        "post",
        "edit",
        "edit_many",
        "delete",
        "move",
        "comment",
        "edit_comment",
        "delete_comment",
    ),
    *(
        "write_wiki",
        "delete_wiki",
        "write_document",
        "trash_document",
        "delete_document",
        "comment_document",
        "edit_document_comment",
        "delete_document_comment",
        "hide",
        "show",
        "refuse",
        "advance",
    ),
)

Row = dict[str, Any]


@dataclass
class _Project:
    """What a project has, by ids."""

    row: Row
    issues: dict[int, Row] = field(default_factory=dict)
    comments: dict[int, list[Row]] = field(default_factory=dict)
    wikis: dict[int, Row] = field(default_factory=dict)
    documents: dict[str, Row] = field(default_factory=dict)
    remarks: dict[str, list[Row]] = field(default_factory=dict)
    trash: set[str] = field(default_factory=set)
    activities: list[Row] = field(default_factory=list)
    visible: bool = True
    refused: bool = False
    highest: int = 0


class _RefusalError(Exception):
    """A call that is refused."""

    def __init__(self, status: int, code: int, message: str = "") -> None:
        super().__init__(message)
        self.answer = _json(status, {"errors": [{"message": message or "no", "code": code, "moreInfo": ""}]})


@dataclass
class Backlog:
    """An ASGI application. The next `storm` requests get a 429, `outage` ones a 502, and `cut` ones half a body.

    `before` is called with each request. With `limit`, so many calls are allowed in a minute. A space without
    `documents` does not know them. Requests need the `key`, if there is one. Those whose path has `broken` fail.
    """

    key: str = field(default="", repr=False)
    limit: int = 0
    documents: bool = True
    storm: int = 0
    outage: int = 0
    cut: int = 0
    broken: str = ""
    before: Callable[[Request], None] = field(default=lambda _request: None, repr=False)
    now: datetime = START
    requests: list[str] = field(default_factory=list)
    refused: int = 0
    projects: dict[int, _Project] = field(default_factory=dict)
    _last: int = 0
    _spent: list[datetime] = field(default_factory=list)

    # The script.

    def add_project(self, key: str, notation: str = "markdown") -> int:
        """Create a project, and return its number."""
        number = self._number()
        row = {"id": number, "projectKey": key, "name": key.title(), "textFormattingRule": notation}
        self.projects[number] = _Project({**row, "archived": False, "useWiki": True})
        return number

    def post(self, project: int, summary: str, description: str = "", **more: Any) -> int:
        """Create an issue, and return its number in the project."""
        found = self.projects[project]
        found.highest += 1
        row = {
            "id": self._number(),
            "projectId": project,
            "issueKey": f"{found.row['projectKey']}-{found.highest}",
            "keyId": found.highest,
            "issueType": {"id": 1, "name": "Bug"},
            "summary": summary,
            "description": description,
            "status": {"id": 1, "name": "Open"},
            "priority": {"id": 3, "name": "Normal"},
            "resolution": None,
            "assignee": None,
            "category": [],
            "versions": [],
            "milestone": [],
            "customFields": [],
            "attachments": [],
            "createdUser": {"id": 1, "userId": None, "name": "Ann"},
            "created": self._time(),
            "updated": self._time(),
            **more,
        }
        found.issues[found.highest] = row
        found.comments[row["id"]] = []
        self._happen(project, CREATED, {"id": row["id"], "key_id": row["keyId"], "summary": summary})
        return found.highest

    def edit(self, project: int, number: int, **fields: Any) -> None:
        """Change fields of an issue, which writes a comment without text."""
        row = self.projects[project].issues[number]
        row.update(fields, updated=self._time())
        self._write(
            project,
            row,
            None,
            changeLog=[{"field": name, "newValue": "", "originalValue": ""} for name in fields],
        )
        self._happen(project, UPDATED, {"id": row["id"], "key_id": number})

    def edit_many(self, project: int, numbers: Sequence[int], **fields: Any) -> None:
        """Change fields of several issues at once."""
        rows = [self.projects[project].issues[number] for number in numbers]
        for row in rows:
            row.update(fields, updated=self._time())
        links = [{"id": row["id"], "key_id": row["keyId"], "title": row["summary"]} for row in rows]
        self._happen(project, BULK, {"tx_id": self._number(), "link": links})

    def delete(self, project: int, number: int) -> None:
        """Delete an issue."""
        found = self.projects[project]
        row = found.issues.pop(number)
        del found.comments[row["id"]]
        self._happen(project, DELETED, {"id": row["id"], "key_id": number})

    def move(self, project: int, number: int, to: int) -> int:
        """Move an issue to another project, and return its number there."""
        found, target = self.projects[project], self.projects[to]
        row = found.issues.pop(number)
        target.highest += 1
        key = f"{target.row['projectKey']}-{target.highest}"
        row.update(projectId=to, keyId=target.highest, issueKey=key, updated=self._time())
        target.issues[target.highest] = row
        target.comments[row["id"]] = found.comments.pop(row["id"])
        return target.highest

    def comment(self, project: int, number: int, content: str) -> int:
        """Comment on an issue, and return the id of the comment."""
        row = self.projects[project].issues[number]
        row["updated"] = self._time()
        comment = self._write(project, row, content)
        self._happen(project, COMMENTED, {"id": row["id"], "key_id": number, "comment": {"id": comment}})
        return comment

    def edit_comment(self, project: int, number: int, comment: int, content: str) -> None:
        """Change a comment, which moves nothing else."""
        found = self.projects[project]
        for each in found.comments[found.issues[number]["id"]]:
            if each["id"] == comment:
                each.update(content=content, updated=self._time())

    def delete_comment(self, project: int, number: int, comment: int) -> None:
        """Delete a comment, which moves nothing."""
        found = self.projects[project]
        issue = found.issues[number]["id"]
        found.comments[issue] = [each for each in found.comments[issue] if each["id"] != comment]

    def write_wiki(self, project: int, name: str, content: str, page: int = 0) -> int:
        """Create or change a page of the wiki, and return its id."""
        page = page or self._number()
        self.projects[project].wikis[page] = {
            "id": page,
            "projectId": project,
            "name": name,
            "content": content,
            "tags": [],
            "updated": self._time(),
        }
        return page

    def delete_wiki(self, project: int, page: int) -> None:
        """Delete a page of the wiki."""
        row = self.projects[project].wikis.pop(page)
        self._happen(project, WIKI_DELETED, {"id": page, "name": row["name"]})

    def write_document(self, project: int, title: str, plain: str, document: str = "") -> str:
        """Create or change a document, and return its id."""
        document = document or f"{self._number():032x}"
        row = {"id": document, "projectId": project, "title": title, "plain": plain, "json": "{}", "tags": []}
        self.projects[project].documents[document] = {**row, "updated": self._time()}
        return document

    def trash_document(self, project: int, document: str) -> None:
        """Move a document to the trash."""
        self.projects[project].trash.add(document)

    def delete_document(self, project: int, document: str) -> None:
        """Delete a document for ever."""
        del self.projects[project].documents[document]
        self.projects[project].remarks.pop(document, None)
        self.projects[project].trash.discard(document)
        self._happen(project, DOCUMENT_DELETED, {"id": document})

    def comment_document(self, project: int, document: str, plain: str, answers: str = "") -> str:
        """Comment on a document, or answer a comment of it, which moves nothing else; return the id."""
        row: Row = {"id": f"{self._number():032x}", "documentId": document, "plain": plain, "content": "{}"}
        row |= {
            "created": self._time(),
            "updated": self._time(),
            "createdUser": {"id": 2, "name": "田中 太郎"},
        }
        remarks = self.projects[project].remarks.setdefault(document, [])
        if answers:
            (answered,) = (each for each in remarks if each["id"] == answers)
            answered["replies"].append({**row, "commentId": answers})
        else:
            remarks.append({**row, "statusId": 0, "commentType": "comment", "replies": []})
        return str(row["id"])

    def edit_document_comment(self, project: int, document: str, comment: str, plain: str) -> None:
        """Change a comment on a document."""
        for each in self.projects[project].remarks[document]:
            if each["id"] == comment:
                each["plain"] = plain

    def delete_document_comment(self, project: int, document: str, comment: str) -> None:
        """Delete a comment on a document with its answers."""
        remarks = self.projects[project].remarks[document]
        remarks[:] = [each for each in remarks if each["id"] != comment]

    def hide(self, project: int) -> None:
        """Take the member whose key it is out of a project."""
        self.projects[project].visible = False

    def show(self, project: int) -> None:
        """Let the member take part again."""
        self.projects[project].visible = True

    def refuse(self, project: int) -> None:
        """List a project, and refuse everything in it."""
        self.projects[project].refused = True

    def advance(self, seconds: float) -> None:
        """Advance the clock."""
        self.now += timedelta(seconds=seconds)

    def dump(self) -> list[Row]:
        """Return everything as a dump: issues with their comments, wiki pages and documents."""
        return [
            row
            for each in self.projects.values()
            for row in (
                *({**issue, "comments": each.comments[issue["id"]]} for issue in each.issues.values()),
                *each.wikis.values(),
                *(
                    {**row, "comments": each.remarks.get(name, [])}
                    for name, row in each.documents.items()
                    if name not in each.trash
                ),
            )
        ]

    def _write(self, project: int, row: Row, content: str | None, **more: Any) -> int:
        number = self._number()
        comment: Row = {
            "id": number,
            "content": content,
            "changeLog": [],
            "createdUser": {"id": 2, "name": "田中 太郎"},
        }
        times = {"created": self._time(), "updated": self._time()}
        self.projects[project].comments[row["id"]].append({**comment, **times, **more})
        return number

    def _happen(self, project: int, kind: int, content: Row) -> None:
        row = {
            "id": self._number(),
            "type": kind,
            "content": content,
            "created": self._time(),
            "notifications": [],
        }
        self.projects[project].activities.append(row)

    def _number(self) -> int:
        self._last += 1
        return self._last

    def _time(self) -> str:
        return f"{self.now:%Y-%m-%dT%H:%M:%SZ}"

    # The API.

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI request."""
        if scope["type"] != "http":
            raise NotImplementedError(f"a simulator knows no {scope['type']}")
        request = await read_request(scope, receive)
        if request is None:
            return
        if request.path == "/_simulator/do":
            await send_answer(send, _json(*carry_out(self, orjson.loads(request.body), script=SCRIPT)))
            return
        self.before(request)
        query = parse_qs(request.query)
        key = query.pop("apiKey", [""])[0]
        rest = urlencode(query, doseq=True)
        self.requests.append(f"{request.path}?{rest}" if rest else request.path)
        answer = self._faulty(request.path) or self._answered(request.path, query, key)
        headers = (
            *answer.headers,
            *self._limits(),
            (b"date", format_datetime(self.now, usegmt=True).encode()),
        )
        answer = Answer(status=answer.status, body=answer.body, headers=headers)
        if self.cut and answer.status == OK:
            self.cut -= 1
            await send_answer(send, answer, half=True)
            transport_of(scope).abort()
            return
        await send_answer(send, answer)

    def _faulty(self, path: str) -> Answer | None:
        if self.outage or (self.broken and self.broken in path):
            self.outage = max(0, self.outage - 1)
            return Answer(status=502, body=b"<html>502</html>", headers=((b"content-type", b"text/html"),))
        since = self.now - timedelta(minutes=1)
        self._spent = [each for each in self._spent if each > since] if self.limit else []
        if self.storm or (self.limit and len(self._spent) >= self.limit):
            self.storm = max(0, self.storm - 1)
            self.refused += 1
            return _RefusalError(429, 13, "Too many requests").answer
        self._spent.append(self.now)
        return None

    def _limits(self) -> tuple[tuple[bytes, bytes], ...]:
        if not self.limit:
            return ()
        reset = (self._spent[0] if self._spent else self.now) + timedelta(minutes=1)
        return (
            (b"x-ratelimit-limit", b"%d" % self.limit),
            (b"x-ratelimit-remaining", b"%d" % max(0, self.limit - len(self._spent))),
            (b"x-ratelimit-reset", b"%d" % reset.timestamp()),
        )

    def _answered(self, path: str, query: Mapping[str, list[str]], key: str) -> Answer:
        if self.key and key != self.key:
            return _RefusalError(401, 11, "Authentication failure").answer
        try:
            return _json(OK, self._route(path.removeprefix("/api/v2").strip("/").split("/"), query))
        except _RefusalError as refused:
            return refused.answer

    def _route(self, parts: list[str], query: Mapping[str, list[str]]) -> Any:  # noqa: C901, PLR0911 - one for each route
        match parts:
            case ["projects"]:
                return [each.row for each in self.projects.values() if each.visible]
            case ["projects", name]:
                return self._project(name).row
            case ["projects", name, "activities"]:
                return self._activities(self._project(name), query)
            case ["issues"]:
                return self._issues(query)
            case ["issues", "count"]:
                return {"count": len(self._project(query["projectId[]"][0]).issues)}
            case ["issues", number]:
                return self._issue(number)[1]
            case ["issues", number, "comments"]:
                project, row = self._issue(number)
                return self._comments(project.comments[row["id"]], query)
            case ["wikis"]:
                rows = self._project(query["projectIdOrKey"][0]).wikis.values()
                return [{name: row[name] for name in row if name != "content"} for row in rows]
            case ["wikis", name]:
                return self._page("wikis", int(name))
            case ["documents", *rest] if self.documents:
                return self._documents(rest, query)
        raise _RefusalError(404, 6 if parts[0] != "documents" else 0, "No such resource.")

    def _project(self, name: str) -> _Project:
        for number, each in self.projects.items():
            if name in (str(number), each.row["projectKey"]) and each.visible:
                if each.refused:
                    raise _RefusalError(403, 5, "No permission.")
                return each
        raise _RefusalError(404, 6, "No project.")

    def _issue(self, number: str) -> tuple[_Project, Row]:
        wanted = int(number) if number.isdecimal() else 0
        for project in self.projects.values():
            for row in project.issues.values():
                if (row["id"] == wanted or row["issueKey"] == number) and project.visible:
                    return project, row
        raise _RefusalError(404, 6, "No issue.")

    def _page(self, kind: str, name: Any) -> Row:
        for project in self.projects.values():
            if name in getattr(project, kind) and project.visible:
                found: Row = getattr(project, kind)[name]
                return found
        raise _RefusalError(404, 6, "No page.")

    def _issues(self, query: Mapping[str, list[str]]) -> list[Row]:
        found = [row for name in query["projectId[]"] for row in self._project(name).issues.values()]
        since = query.get("updatedSince", [""])[0]
        if since and not re.fullmatch(r"\d{4}-\d\d-\d\d", since):
            raise _RefusalError(400, 7, "updatedSince is no date.")
        found = [row for row in found if row["updated"] >= since]
        order = query.get("sort", ["created"])[0]
        found.sort(key=lambda row: (row[order], row["id"]), reverse=query.get("order", ["desc"])[0] == "desc")
        return _part(found, query)

    def _comments(self, rows: Sequence[Row], query: Mapping[str, list[str]]) -> list[Row]:
        after = int(query.get("minId", ["0"])[0])
        found = [row for row in rows if row["id"] > after]
        found.sort(key=lambda row: row["id"], reverse=query.get("order", ["desc"])[0] == "desc")
        return _part(found, query)

    def _activities(self, project: _Project, query: Mapping[str, list[str]]) -> list[Row]:
        kinds = {int(each) for each in query.get("activityTypeId[]", ())}
        return self._comments([row for row in project.activities if not kinds or row["type"] in kinds], query)

    def _documents(self, rest: list[str], query: Mapping[str, list[str]]) -> Any:
        if rest == ["tree"]:
            project = self._project(query["projectIdOrKey"][0])
            trees: dict[bool, list[Row]] = {True: [], False: []}
            for name, row in project.documents.items():
                trees[name in project.trash].append({"id": name, "name": row["title"], "children": []})
            active, trash = ({"id": kind, "children": trees[kind == "Trash"]} for kind in ("Active", "Trash"))
            return {"projectId": project.row["id"], "activeTree": active, "trashTree": trash}
        if rest:
            row = self._page("documents", rest[0])
            if rest[1:] == ["comments"]:
                return self.projects[row["projectId"]].remarks.get(rest[0], [])
            return row
        project = self._project(query["projectId[]"][0])
        return _part(sorted(project.documents.values(), key=lambda row: row["updated"], reverse=True), query)


def sample() -> Backlog:
    """Return a space with a little of everything, to try a source without a Backlog."""
    backlog = Backlog()
    project = backlog.add_project("OPS", "backlog")
    number = backlog.post(project, "夜間バッチが止まる", "*再現手順\n-バッチを実行する\n-''五分''待つ")
    backlog.comment(project, number, "ディスクの空きがありませんでした。")
    backlog.post(project, "Login fails on Safari", "The page hangs after the password.")
    backlog.write_wiki(project, "Home", "*ログイン\nチームの名前を入力します。")
    backlog.write_document(project, "バックアップの戻し方", "書き込みを止めてから、コピーを取ります。")
    backlog.advance(3_600)
    return backlog


def _part(rows: Sequence[Row], query: Mapping[str, list[str]]) -> list[Row]:
    offset = int(query.get("offset", ["0"])[0])
    return list(rows[offset : offset + min(int(query.get("count", [str(PAGE)])[0]), LARGEST_PAGE)])


def _json(status: int, value: object) -> Answer:
    return Answer(status=status, body=orjson.dumps(value), headers=JSON)
