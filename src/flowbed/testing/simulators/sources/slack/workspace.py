"""What is said in a simulated workspace, as Slack keeps it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flowbed.errors import Rejected

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass
class SimulatedChannel:
    """A channel; `messages` are those of everyone, by timestamp, replies included."""

    id: str
    name: str
    private: bool = False
    member: bool = True
    archived: bool = False
    created: int = 0
    messages: dict[str, dict[str, Any]] = field(default_factory=dict)


class SlackWorkspace:
    """Channels and messages at a time `now`, in seconds since 1970, which only moves when it is told to.

    `strangers` are people of other workspaces, whom no list has.
    """

    def __init__(self, now: int = 1_767_600_000, url: str = "https://acme.slack.com/") -> None:
        """Start without channels."""
        self.now = now
        self.url = url
        self.channels: dict[str, SimulatedChannel] = {}
        self.users: dict[str, str] = {"U1": "Ann", "U2": "Bob"}
        self.strangers: dict[str, str] = {}
        self._counter = 0

    def add_channel(self, id_: str, name: str, *, private: bool = False, member: bool = True) -> None:
        """Create a channel."""
        self.channels[id_] = SimulatedChannel(id_, name, private=private, member=member)

    def post(
        self,
        channel: str,
        text: str,
        *,
        user: str = "U1",
        ts: str = "",
        thread: str = "",
        broadcast: bool = False,
        **more: Any,
    ) -> str:
        """Post a message, or a reply to `thread`; return its timestamp.

        Raises:
            Rejected: there is no such thread.
        """
        messages = self.channels[channel].messages
        self._counter += 1
        ts = ts or f"{self.now}.{self._counter:06d}"
        message = {"type": "message", "user": user, "text": text, "ts": ts, **more}
        if thread:
            if thread not in messages:
                raise Rejected(f"no message {thread} to reply to")
            message |= {"thread_ts": thread, "parent_user_id": messages[thread].get("user")}
            if broadcast:
                message |= {"subtype": "thread_broadcast"}
        messages[ts] = message
        return ts

    def edit(self, channel: str, ts: str, text: str) -> None:
        """Change the text of a message; nothing else about it moves."""
        message = self.channels[channel].messages[ts]
        message |= {"text": text, "edited": {"user": message["user"], "ts": f"{self.now}.000000"}}

    def delete(self, channel: str, ts: str) -> None:
        """Delete a message; a parent with replies leaves a tombstone, which goes with the last of them."""
        messages = self.channels[channel].messages
        message = messages[ts]
        if self.replies_to(channel, ts):
            text = "This message was deleted."
            messages[ts] = {"type": "message", "subtype": "tombstone", "user": "USLACKBOT", "hidden": True}
            messages[ts] |= {"text": text, "ts": ts}
            return
        del messages[ts]
        thread = message.get("thread_ts", "")
        parent = messages.get(thread)
        if parent and parent.get("subtype") == "tombstone" and not self.replies_to(channel, thread):
            del messages[thread]

    def replies_to(self, channel: str, thread: str) -> list[dict[str, Any]]:
        """Return the replies of a thread, oldest first."""
        found = [each for each in self.channels[channel].messages.values() if each.get("thread_ts") == thread]
        return sorted(found, key=lambda each: _key(each["ts"]))

    def seen(self, channel: str, ts: str, replies: Sequence[dict[str, Any]] | None = None) -> dict[str, Any]:
        """Return a message as Slack lists it, a parent with what is said of its replies."""
        message = self.channels[channel].messages[ts]
        replies = self.replies_to(channel, ts) if replies is None else replies
        if not replies:
            return dict(message)
        about = {"thread_ts": ts, "reply_count": len(replies), "latest_reply": replies[-1]["ts"]}
        return {**message, **about, "reply_users": sorted({each["user"] for each in replies})}

    def history(self, channel: str) -> list[dict[str, Any]]:
        """Return the messages of the channel itself, newest first: replies only if they were also sent there."""
        replies: dict[str, list[dict[str, Any]]] = {}
        for each in sorted(self.channels[channel].messages.values(), key=lambda each: _key(each["ts"])):
            if "thread_ts" in each:
                replies.setdefault(each["thread_ts"], []).append(each)
        listed = [
            self.seen(channel, ts, replies.get(ts, ()))
            for ts, each in self.channels[channel].messages.items()
            if "thread_ts" not in each or each.get("subtype") == "thread_broadcast"
        ]
        return sorted(listed, key=lambda each: _key(each["ts"]), reverse=True)

    def thread(self, channel: str, ts: str) -> list[dict[str, Any]]:
        """Return a thread, its parent first; nothing if there is none."""
        messages = self.channels[channel].messages
        if ts not in messages:
            return []
        if "thread_ts" in messages[ts]:
            return [dict(messages[ts])]
        return [self.seen(channel, ts), *(dict(each) for each in self.replies_to(channel, ts))]


def _key(ts: str) -> tuple[int, int]:
    seconds, _, counter = ts.partition(".")
    return int(seconds), int(counter or 0)
