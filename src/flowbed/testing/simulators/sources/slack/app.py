"""Slack's Web API over a simulated workspace, with rate limits and faults on demand.

Beside Slack's methods below `/api/` it has `/_simulator/do` (POST `{"do": "post", "channel": "C1", "text": "..."}`;
also `reply`, `edit`, `delete`, `archive`, `lose`, `join`, `slow`, `advance`) and `/_simulator/faults` (POST
`{"faults": [...]}`).
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import math
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from email.utils import formatdate
from functools import partial
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qsl

import orjson

from flowbed.testing.simulators.serving.asgi import read_request, send_answer
from flowbed.testing.simulators.sources.slack.workspace import SlackWorkspace
from flowbed.testing.simulators.wire import JSON, Answer, as_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from flowbed.testing.simulators.serving.asgi import Receive, Scope, Send
    from flowbed.testing.simulators.sources.slack.workspace import SimulatedChannel
    from flowbed.testing.simulators.wire import Request

Kind = Literal["ratelimited", "error", "gateway", "cut", "expired_cursor", "hang"]
Reply = dict[str, Any]

DEFAULT_LIMIT = 100
TOO_MANY, BAD_GATEWAY = 429, 502
MINUTE = 60
# What apps get that are sold outside the marketplace.
SLOW_PAGE = 15
LIMITED = ("conversations.history", "conversations.replies")


@dataclass(frozen=True, kw_only=True)
class SlackFault:
    """A fault of the next `times` calls of `method` (any, if empty) in `channel` (any, if empty).

    `ratelimited` is a 429 with `retry_after`, `error` an answer with the error `code`, `gateway` a page of HTML, `cut`
    half of an answer, `expired_cursor` refuses the next cursor, `hang` answers only when the simulator is told to.
    """

    kind: Kind
    method: str = ""
    channel: str = ""
    times: int = 1
    code: str = "internal_error"
    retry_after: int = 1


class SlackSimulator:
    """An ASGI application; `calls` are the calls answered so far, each method with its arguments.

    Calls that hang are answered once `released` is set.

    With `slow`, history and replies take one request a minute of the workspace's clock, and 15 messages a page.
    """

    def __init__(
        self, workspace: SlackWorkspace, *, token: str = "", slow: bool = False, scopes: Sequence[str] = ()
    ) -> None:
        """Serve `workspace`; a `token` is required if there is one. `scopes` restricts it, if not empty."""
        self.workspace = workspace
        self.token = token
        self.slow = slow
        self.scopes = scopes
        self.faults: list[SlackFault] = []
        self.calls: list[tuple[str, dict[str, str]]] = []
        self.statuses: Counter[int] = Counter()
        self.released = asyncio.Event()
        self._last: dict[str, float] = defaultdict(lambda: -math.inf)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI request."""
        if scope["type"] != "http":
            raise NotImplementedError(f"a simulator knows no {scope['type']}")
        request = await read_request(scope, receive)
        if request is None:
            return
        fault = None if request.path.startswith("/_simulator/") else self._due(*_method(request))
        if fault is not None and fault.kind == "hang":
            await self.released.wait()
        answer = self._answer(request, fault)
        self.statuses[answer.status] += 1
        date = ((b"date", formatdate(self.workspace.now, usegmt=True).encode()),)
        await send_answer(send, replace(answer, headers=(*answer.headers, *date)))

    def _answer(self, request: Request, fault: SlackFault | None) -> Answer:  # noqa: PLR0911 - one for each way to answer
        if request.path == "/_simulator/do":
            done = self._do(orjson.loads(request.body))
            return as_json(400 if "error" in done else 200, done)
        if request.path == "/_simulator/faults":
            self.faults = [SlackFault(**each) for each in orjson.loads(request.body)["faults"]]
            return as_json(200, {"faults": len(self.faults)})
        method, arguments = _method(request)
        self.calls.append((method, arguments))
        if fault is not None and (answer := _faulty(fault)) is not None:
            return answer
        if wait := self._wait(method):
            return _limited(wait)
        if fault is not None and fault.kind == "expired_cursor":
            return as_json(200, {"ok": False, "error": "invalid_cursor"})
        whole = as_json(200, self._called(method, arguments, request.bearer))
        if fault is not None and fault.kind == "cut":
            return replace(whole, body=whole.body[: len(whole.body) // 2])
        return whole

    def _do(self, order: dict[str, Any]) -> Reply:
        do, workspace = order.pop("do"), self.workspace
        match do:
            case "post" | "reply":
                return {"ts": workspace.post(**order)}
            case "edit":
                workspace.edit(**order)
            case "delete":
                workspace.delete(**order)
            case "archive":
                workspace.channels[order["channel"]].archived = True
            case "lose" | "join":
                workspace.channels[order["channel"]].member = do == "join"
            case "slow":
                self.slow = bool(order["on"])
            case "advance":
                workspace.now += int(order["seconds"])
            case _:
                return {"error": f"unknown: {do}"}
        return {"ok": True}

    def _due(self, method: str, arguments: Mapping[str, str]) -> SlackFault | None:
        for place, fault in enumerate(self.faults):
            fits = fault.method in {"", method} and fault.channel in {"", arguments.get("channel", "")}
            if not fits or (fault.kind == "expired_cursor" and not arguments.get("cursor")):
                continue
            left = [replace(fault, times=fault.times - 1)] if fault.times > 1 else []
            self.faults[place : place + 1] = left
            return fault
        return None

    def _wait(self, method: str) -> int:
        if not self.slow or method not in LIMITED:
            return 0
        wait = self._last[method] + MINUTE - self.workspace.now
        if wait > 0:
            return math.ceil(wait)
        self._last[method] = self.workspace.now
        return 0

    def _called(self, method: str, arguments: Mapping[str, str], token: str) -> Reply:  # noqa: PLR0911 - one for each method
        if not token or (self.token and token != self.token):
            return {"ok": False, "error": "invalid_auth" if token else "not_authed"}
        if needed := self._missing_scope(method, arguments):
            provided = ",".join(self.scopes)
            return {"ok": False, "error": "missing_scope", "needed": needed, "provided": provided}
        match method:
            case "auth.test":
                return {
                    "ok": True,
                    "url": self.workspace.url,
                    "team": "Acme",
                    "team_id": "T1",
                    "user_id": "UBOT",
                }
            case "users.list" | "users.info":
                return self._people(method, arguments)
            case "conversations.list":
                wanted = arguments.get("types", "public_channel").split(",")
                kinds = {False: "public_channel", True: "private_channel"}
                found = [
                    {
                        "id": each.id,
                        "name": each.name,
                        "is_member": each.member,
                        "is_archived": each.archived,
                        "is_private": each.private,
                        "created": each.created,
                    }
                    for each in self.workspace.channels.values()
                    if kinds[each.private] in wanted and (each.member or not each.private)
                ]
                return self._paged("channels", found, arguments)
            case "conversations.history" | "conversations.replies":
                return self._messages(method, arguments)
        return {"ok": False, "error": "unknown_method"}

    def _people(self, method: str, arguments: Mapping[str, str]) -> Reply:
        if method == "users.info":
            name = self.workspace.strangers.get(arguments.get("user", ""))
            if name is None:
                return {"ok": False, "error": "user_not_found"}
            return {"ok": True, "user": {"id": arguments["user"], "profile": {"display_name": name}}}
        people = [
            {"id": id_, "name": name.lower(), "profile": {"display_name": name}}
            for id_, name in self.workspace.users.items()
        ]
        return self._paged("members", people, arguments)

    def _missing_scope(self, method: str, arguments: Mapping[str, str]) -> str:
        if not self.scopes:
            return ""
        channel = self.workspace.channels.get(arguments.get("channel", ""))
        history = "groups:history" if channel is not None and channel.private else "channels:history"
        needed = {
            "users.list": "users:read",
            "users.info": "users:read",
            "conversations.history": history,
            "conversations.replies": history,
        }.get(method, "")
        if method == "conversations.list":
            needed = "groups:read" if "private" in arguments.get("types", "") else "channels:read"
        return needed if needed not in self.scopes else ""

    def _messages(self, method: str, arguments: Mapping[str, str]) -> Reply:
        channel: SimulatedChannel | None = self.workspace.channels.get(arguments.get("channel", ""))
        if channel is None or (channel.private and not channel.member):
            return {"ok": False, "error": "channel_not_found"}
        if not channel.member:
            return {"ok": False, "error": "not_in_channel"}
        if method == "conversations.replies":
            found = self.workspace.thread(channel.id, arguments.get("ts", ""))
            if not found:
                return {"ok": False, "error": "thread_not_found"}
            return self._paged("messages", found, arguments)
        bounds = {name: arguments[name] for name in ("oldest", "latest") if name in arguments}
        inclusive = arguments.get("inclusive") in {"true", "1"}
        listed = self.workspace.listed(channel.id, **bounds, inclusive=inclusive)
        return self._paged("messages", listed, arguments, shown=partial(self.workspace.seen, channel.id))

    def _paged(
        self,
        name: str,
        found: Sequence[Any],
        arguments: Mapping[str, str],
        *,
        shown: Callable[[Any], Any] = lambda each: each,
    ) -> Reply:
        """Return a page of items, or of ids that are `shown`; its cursor is bound to the arguments and the last."""
        limit = int(arguments.get("limit", DEFAULT_LIMIT))
        limit = min(limit, SLOW_PAGE) if self.slow and name == "messages" else limit
        others = sorted((key, value) for key, value in arguments.items() if key != "cursor")
        mark = hashlib.sha256(orjson.dumps(others)).hexdigest()[:8]
        start = 0
        if cursor := arguments.get("cursor"):
            bound, _, after = base64.b64decode(cursor).decode().partition(":")
            ids = [*map(_id, found)]
            if bound != mark:
                return {"ok": False, "error": "invalid_cursor"}
            # An item that was deleted since then is no reason to lose the place.
            start = ids.index(after) + 1 if after in ids else _place(ids, after)
        page = [shown(each) for each in found[start : start + limit]]
        following = ""
        if start + limit < len(found):
            following = base64.b64encode(f"{mark}:{_id(page[-1])}".encode()).decode()
        more = {"has_more": bool(following)} if name == "messages" else {}
        return {"ok": True, name: page, **more, "response_metadata": {"next_cursor": following}}


def sample() -> SlackSimulator:
    """Return a workspace with a little of everything, to try a source without a Slack."""
    workspace = SlackWorkspace()
    workspace.add_channel("C1", "ops")
    workspace.add_channel("C2", "random", member=False)
    thread = workspace.post("C1", "Why does the nightly backup hang?")
    workspace.post("C1", "The disk is full; delete the old snapshots.", user="U2", thread=thread)
    workspace.post("C1", "I rotated the keys of the mail server today.")
    workspace.now += 3_600
    return SlackSimulator(workspace)


def _method(request: Request) -> tuple[str, dict[str, str]]:
    arguments = dict(parse_qsl(request.query)) | dict(parse_qsl(request.body.decode()))
    return request.path.rpartition("/")[2], arguments


def _faulty(fault: SlackFault) -> Answer | None:
    """Return the answer that a fault puts in place of the real one, if it does."""
    match fault.kind:
        case "ratelimited":
            return _limited(fault.retry_after)
        case "error":
            return as_json(200, {"ok": False, "error": fault.code})
        case "gateway":
            return Answer(
                status=BAD_GATEWAY,
                body=b"<html>Bad Gateway</html>",
                headers=((b"content-type", b"text/html"),),
            )
    return None


def _limited(wait: int) -> Answer:
    body = orjson.dumps({"ok": False, "error": "ratelimited"})
    return Answer(status=TOO_MANY, body=body, headers=(*JSON, (b"retry-after", b"%d" % wait)))


def _id(item: Any) -> str:
    return item if isinstance(item, str) else item.get("ts") or item["id"]


def _place(ids: Sequence[str], after: str) -> int:
    return sum(1 for each in ids if each > after)
