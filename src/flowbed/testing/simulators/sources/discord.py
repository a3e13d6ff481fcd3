"""A simulated Discord server: channels, threads and messages, changed by a script, and the API that lists them.

    discord = Discord()
    channel = discord.add_channel("ops")
    message = discord.post(channel, "Why does it hang?")
    async with running(discord, dated=False) as url:
        ...  # a source of kind discord at f"{url}/channels/{discord.server}"

It answers as version 10 does: pages go from new to old, a listing without the permission to read it is empty, a deleted
message leaves no trace but a count in its thread, and archived threads are listed by themselves. With `limit`, each
channel has so many calls of its messages in five seconds of the server's clock. `POST /_simulator/do` with
`{"do": "post", ...}` calls a method of the script, `POST /_simulator/faults` with `{"faults": [...]}` sets the faults.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qsl

import orjson

from flowbed.errors import Rejected
from flowbed.testing.simulators.serving.asgi import read_request, send_answer
from flowbed.testing.simulators.sources.script import carry_out
from flowbed.testing.simulators.wire import JSON, Answer, as_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowbed.testing.simulators.serving.asgi import Receive, Scope, Send
    from flowbed.testing.simulators.wire import Headers, Request

Kind = Literal["ratelimited", "global", "shared", "error", "gateway", "cut"]
START = 1_767_600_000  # 5 January 2026, 8:00 UTC
EPOCH = 1_420_070_400
TEXT, ANNOUNCEMENT, PUBLIC, PRIVATE, FORUM = 0, 5, 11, 12, 15
DEFAULT, CREATED, REPLY, STARTER = 0, 18, 19, 21
PAGE = 50
WINDOW = 5.0  # seconds of a limit
CONTENT = 1 << 18
SCRIPT = (
    *(
        "add_channel",
        "post",
        "edit",
        "delete",
        "start_thread",
        "archive",
        "delete_thread",
        "lose",
        "hide",
        "regain",
    ),
    "advance",
)


@dataclass(frozen=True, kw_only=True)
class DiscordFault:
    """A fault of the next `times` calls whose path contains `path`.

    `ratelimited`, `global` and `shared` are kinds of a 429 with `retry_after`, `error` a refusal with `status` and the
    error `code`, `gateway` a page of HTML, `cut` half of an answer.
    """

    kind: Kind
    path: str = ""
    times: int = 1
    status: int = 403
    code: int = 50001
    retry_after: float = 1.5


@dataclass
class _Channel:
    """A channel or a thread; `sent` counts messages that were deleted too."""

    id: str
    name: str
    kind: int
    parent: str = ""
    visible: bool = True
    history: bool = True
    archived: bool = False
    archived_at: float = 0.0
    sent: int = 0
    last: str | None = None
    messages: dict[int, dict[str, Any]] = field(default_factory=dict)


class _RefusalError(Exception):
    """A call that is refused."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.answer = as_json(status, {"message": message, "code": code})


class Discord:
    """An ASGI application; `calls` are the calls answered so far, `now` its time, which moves only when told to.

    Without `content`, the bot may not read the content of messages; without `manages`, it may not list private threads.
    """

    def __init__(
        self, *, token: str = "", content: bool = True, manages: bool = True, limit: int = 0
    ) -> None:
        """Start without channels; a `token` is required if there is one."""
        self.server = "900000000000000001"
        self.token = token
        self.content = content
        self.manages = manages
        self.limit = limit
        self.now: float = START
        self.members = {"1": "Ann", "2": "Bob"}
        self.channels: dict[str, _Channel] = {}
        self.faults: list[DiscordFault] = []
        self.calls: list[str] = []
        self.statuses: Counter[int] = Counter()
        self._numbers = 0
        self._spent: dict[str, list[float]] = {}

    # The script.

    def add_channel(self, name: str, *, kind: int = TEXT, channel: str = "") -> str:
        """Create a channel, and return its id."""
        id_ = channel or self._new_id()
        self.channels[id_] = _Channel(id_, name, kind)
        return id_

    def post(
        self, channel: str, text: str, *, author: str = "1", message: str = "", answers: str = "", **more: Any
    ) -> str:
        """Post a message, or a reply to another one, and return its id; posting to an archived thread opens it.

        Raises:
            Rejected: there is no such message to reply to.
        """
        place = self.channels[channel]
        if place.archived:
            self._archive(place, archived=False)
        id_ = message or self._new_id()
        kept = {"id": id_, "channel_id": channel, "type": DEFAULT, "content": text, "edited_timestamp": None}
        name = self.members.get(author, author)
        kept["author"] = {"id": author, "username": name.lower(), "global_name": name}
        if answers:
            if int(answers) not in place.messages:
                raise Rejected(f"no message {answers} to reply to")
            kept |= {
                "type": REPLY,
                "message_reference": {"type": 0, "channel_id": channel, "message_id": answers},
            }
        place.messages[int(id_)] = {**kept, **more}
        place.sent += 1
        place.last = id_
        return id_

    def edit(self, channel: str, message: str, text: str) -> None:
        """Change the text of a message, which moves nothing else; that of an archived thread cannot be changed."""
        place = self.channels[channel]
        if not place.archived:
            place.messages[int(message)] |= {"content": text, "edited_timestamp": _iso(self.now)}

    def delete(self, channel: str, message: str) -> None:
        """Delete a message."""
        del self.channels[channel].messages[int(message)]

    def start_thread(
        self, channel: str, name: str, text: str = "", *, message: str = "", private: bool = False
    ) -> str:
        """Begin a thread in a channel, on one of its messages if that is given, or a post of a forum."""
        id_ = message or self._new_id()
        thread = _Channel(id_, name, PRIVATE if private else PUBLIC, parent=channel, archived_at=self.now)
        self.channels[id_] = thread
        if message:
            reference = {"type": 0, "channel_id": channel, "message_id": message}
            self.post(id_, "", type=STARTER, message_reference=reference)
        elif self.channels[channel].kind == FORUM:
            self.post(id_, text, message=id_)
        elif text:
            self.post(id_, text)
        return id_

    def archive(self, thread: str) -> None:
        """Archive a thread."""
        self._archive(self.channels[thread], archived=True)

    def delete_thread(self, thread: str) -> None:
        """Delete a thread, or a channel with its threads."""
        self.channels = {
            name: each for name, each in self.channels.items() if thread not in (name, each.parent)
        }

    def lose(self, channel: str) -> None:
        """Take the permission to read the history of a channel from the bot."""
        self.channels[channel].history = False

    def hide(self, channel: str) -> None:
        """Hide a channel from the bot."""
        self.channels[channel].visible = False

    def regain(self, channel: str) -> None:
        """Give the permissions for a channel back."""
        self.channels[channel].visible = self.channels[channel].history = True

    def advance(self, seconds: float) -> None:
        """Advance the clock."""
        self.now += seconds

    def _archive(self, thread: _Channel, *, archived: bool) -> None:
        thread.archived, thread.archived_at = archived, self.now

    def _new_id(self) -> str:
        self._numbers += 1
        return str((int((self.now - EPOCH) * 1_000) << 22) + self._numbers)

    # The API.

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI request."""
        if scope["type"] != "http":
            raise NotImplementedError(f"a simulator knows no {scope['type']}")
        request = await read_request(scope, receive)
        if request is None:
            return
        answer = self._answer(request)
        self.statuses[answer.status] += 1
        date = ((b"date", formatdate(self.now, usegmt=True).encode()),)
        await send_answer(send, replace(answer, headers=(*answer.headers, *date)))

    def _answer(self, request: Request) -> Answer:  # noqa: PLR0911 - one for each way to answer
        if request.path == "/_simulator/do":
            return as_json(*carry_out(self, orjson.loads(request.body), script=SCRIPT))
        if request.path == "/_simulator/faults":
            self.faults = [DiscordFault(**each) for each in orjson.loads(request.body)["faults"]]
            return as_json(200, {"faults": len(self.faults)})
        path = request.path.removeprefix("/api/v10")
        self.calls.append(f"{path}?{request.query}" if request.query else path)
        fault = self._due(path)
        if fault is not None and (answer := _faulty(fault)) is not None:
            return answer
        headers, wait = self._spend(path)
        if wait:
            return _limited(wait, "user")
        if self.token and request.headers.get("authorization") != f"Bot {self.token}":
            return as_json(401, {"message": "401: Unauthorized", "code": 0})
        if not request.headers.get("user-agent", "").startswith("DiscordBot ("):
            return Answer(
                status=403, body=b"<html>Cloudflare</html>", headers=((b"content-type", b"text/html"),)
            )
        try:
            whole = as_json(200, self._called(path, dict(parse_qsl(request.query))), headers)
        except _RefusalError as refused:
            return refused.answer
        return replace(whole, body=whole.body[: len(whole.body) // 2]) if fault else whole

    def _due(self, path: str) -> DiscordFault | None:
        for place, fault in enumerate(self.faults):
            if fault.path in path:
                self.faults[place : place + 1] = (
                    [replace(fault, times=fault.times - 1)] if fault.times > 1 else []
                )
                return fault
        return None

    def _spend(self, path: str) -> tuple[Headers, float]:
        """Count a call; return what is left of its limit, and for how long there is nothing left."""
        found = re.fullmatch(r"/channels/(\d+)/messages", path)
        if not self.limit or not found:
            return (), 0.0
        spent = [each for each in self._spent.get(found[1], ()) if each > self.now - WINDOW]
        rest = spent[0] + WINDOW - self.now if spent else WINDOW
        if len(spent) >= self.limit:
            return (), rest
        self._spent[found[1]] = [*spent, self.now]
        left = self.limit - len(spent) - 1
        headers = (
            (b"x-ratelimit-bucket", b"messages"),
            (b"x-ratelimit-remaining", b"%d" % left),
            (b"x-ratelimit-reset-after", f"{rest:.3f}".encode()),
        )
        return headers, 0.0

    def _called(self, path: str, query: Mapping[str, str]) -> Any:
        if path == "/applications/@me":
            return {"id": "5", "name": "flowbed", "flags": CONTENT if self.content else 0}
        parts = path.strip("/").split("/")
        if parts[0] == "guilds":
            return self._of_server(parts)
        return self._of_channel(parts, query)

    def _of_server(self, parts: list[str]) -> Any:
        if parts[1] != self.server:
            raise _RefusalError(404, 10004, "Unknown Guild")
        match parts[2:]:
            case []:
                return {"id": self.server, "name": "Acme", "roles": [{"id": "77", "name": "admins"}]}
            case ["channels"]:
                return [
                    self._shown(each) for each in self.channels.values() if not each.parent and each.visible
                ]
            case ["threads", "active"]:
                found = [each for each in self._threads("") if not each.archived]
                return {"threads": [self._shown(each) for each in found], "members": []}
        raise _RefusalError(404, 0, "404: Not Found")

    def _of_channel(self, parts: list[str], query: Mapping[str, str]) -> Any:  # noqa: C901 - one for each route
        channel = self.channels.get(parts[1])
        if channel is None:
            raise _RefusalError(404, 10003, "Unknown Channel")
        above = self.channels.get(channel.parent, channel)
        if not (channel.visible and above.visible):
            raise _RefusalError(403, 50001, "Missing Access")
        readable = channel.history and above.history
        match parts[2:]:
            case []:
                return self._shown(channel)
            case ["messages"]:
                return self._messages(channel, query) if readable else []
            case ["messages", message]:
                if not readable:
                    raise _RefusalError(403, 50013, "Missing Permissions")
                if int(message) not in channel.messages:
                    raise _RefusalError(404, 10008, "Unknown Message")
                return self._message(channel, channel.messages[int(message)])
            case [*_, "threads", "archived", kind]:
                private = kind == "private"
                if private and "users" not in parts and not self.manages:
                    raise _RefusalError(403, 50013, "Missing Permissions")
                return self._archived(channel, query, PRIVATE if private else PUBLIC)
        raise _RefusalError(404, 0, "404: Not Found")

    def _threads(self, channel: str) -> list[_Channel]:
        """Return the threads of a channel that can be seen, or of all."""
        return [
            each
            for each in self.channels.values()
            if each.parent
            and channel in ("", each.parent)
            and each.visible
            and self.channels[each.parent].visible
        ]

    def _archived(self, channel: _Channel, query: Mapping[str, str], kind: int) -> Any:
        before = query.get("before", "")
        bound = datetime.fromisoformat(before).timestamp() if "T" in before else math.inf
        found = [
            each
            for each in self._threads(channel.id)
            if each.archived and each.kind == kind and each.archived_at < bound
        ]
        found.sort(key=lambda each: (each.archived_at, int(each.id)), reverse=True)
        limit = int(query.get("limit", PAGE))
        return {
            "threads": [self._shown(each) for each in found[:limit]],
            "members": [],
            "has_more": len(found) > limit,
        }

    def _messages(self, channel: _Channel, query: Mapping[str, str]) -> list[dict[str, Any]]:
        before = int(query.get("before", 2**63))
        found = sorted((id_ for id_ in channel.messages if id_ < before), reverse=True)
        return [
            self._message(channel, channel.messages[id_]) for id_ in found[: int(query.get("limit", PAGE))]
        ]

    def _message(self, channel: _Channel, message: dict[str, Any], *, inner: bool = False) -> dict[str, Any]:
        shown = {"attachments": [], "embeds": [], "mentions": [], **message}
        if not self.content:
            shown |= {"content": "", "embeds": [], "attachments": []}
        reference = message.get("message_reference", {})
        if not inner and message["type"] in (REPLY, STARTER):
            place = self.channels.get(reference["channel_id"], channel)
            answered = place.messages.get(int(reference["message_id"]))
            shown["referenced_message"] = self._message(place, answered, inner=True) if answered else None
        thread = self.channels.get(message["id"])
        if thread is not None and thread.parent == channel.id:
            shown["thread"] = self._shown(thread)
        return shown

    def _shown(self, channel: _Channel) -> dict[str, Any]:
        about = {"id": channel.id, "guild_id": self.server, "name": channel.name, "type": channel.kind}
        about["last_message_id"] = channel.last
        if not channel.parent:
            return about
        return {
            **about,
            "parent_id": channel.parent,
            "message_count": len(channel.messages),
            "total_message_sent": channel.sent,
            "thread_metadata": {"archived": channel.archived, "archive_timestamp": _iso(channel.archived_at)},
        }


def sample() -> Discord:
    """Return a server with a little of everything, to try a source without a Discord."""
    discord = Discord()
    ops, forum = discord.add_channel("ops"), discord.add_channel("help", kind=FORUM)
    asked = discord.post(ops, "Why does the nightly backup hang?")
    thread = discord.start_thread(ops, "nightly backup", message=asked)
    discord.post(thread, "The disk is full; delete the old snapshots.", author="2")
    discord.post(ops, "I rotated the keys of the mail server today.")
    discord.start_thread(forum, "How do I restore a backup?", "Which command is it?")
    discord.advance(3_600)
    return discord


def _faulty(fault: DiscordFault) -> Answer | None:
    """Return the answer that a fault puts in place of the real one, if it does."""
    match fault.kind:
        case "ratelimited" | "global" | "shared":
            return _limited(fault.retry_after, "user" if fault.kind == "ratelimited" else fault.kind)
        case "error":
            return as_json(fault.status, {"message": "Refused", "code": fault.code})
        case "gateway":
            return Answer(
                status=502, body=b"<html>Bad Gateway</html>", headers=((b"content-type", b"text/html"),)
            )
    return None


def _limited(wait: float, scope: str) -> Answer:
    said = {"message": "You are being rate limited.", "retry_after": wait, "global": scope == "global"}
    headers = ((b"retry-after", b"%d" % math.ceil(wait)), (b"x-ratelimit-scope", scope.encode()))
    return Answer(status=429, body=orjson.dumps(said), headers=(*JSON, *headers))


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
