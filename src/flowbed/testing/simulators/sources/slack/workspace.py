"""What is said in a simulated workspace, as Slack keeps it."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from typing import Any

from flowbed.errors import Rejected


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
    _order: list[str] = field(default_factory=list, init=False)
    _known: set[str] = field(default_factory=set, init=False)
    _replies: dict[str, list[str]] = field(default_factory=dict, init=False)

    def order(self) -> list[str]:
        """Return the timestamps of all messages, oldest first."""
        # Messages may be put in and taken out by others. To compare is cheap, to sort for each call is not.
        if self._known != self.messages.keys():
            self._known = set(self.messages)
            self._order = sorted(self.messages, key=timestamp)
            self._replies = {}
            for ts in self._order:
                if thread := self.messages[ts].get("thread_ts"):
                    self._replies.setdefault(thread, []).append(ts)
        return self._order

    def replies(self, thread: str) -> list[str]:
        """Return the timestamps of the replies of a thread, oldest first."""
        self.order()
        return self._replies.get(thread, [])


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
        place = self.channels[channel]
        return [place.messages[ts] for ts in place.replies(thread)]

    def seen(self, channel: str, ts: str) -> dict[str, Any]:
        """Return a message as Slack lists it, a parent with what is said of its replies."""
        message, replies = self.channels[channel].messages[ts], self.replies_to(channel, ts)
        if not replies:
            return dict(message)
        about = {"thread_ts": ts, "reply_count": len(replies), "latest_reply": replies[-1]["ts"]}
        return {**message, **about, "reply_users": sorted({each["user"] for each in replies})}

    def history(self, channel: str) -> list[dict[str, Any]]:
        """Return the messages of the channel itself, newest first: replies only if they were also sent there."""
        return [self.seen(channel, ts) for ts in self.listed(channel)]

    def listed(
        self, channel: str, oldest: str = "0", latest: str = "99999999999.999999", *, inclusive: bool = True
    ) -> list[str]:
        """Return the timestamps of the messages of the channel itself between those times, newest first."""
        place = self.channels[channel]
        order = place.order()
        first = (bisect_left if inclusive else bisect_right)(order, timestamp(oldest), key=timestamp)
        last = (bisect_right if inclusive else bisect_left)(order, timestamp(latest), key=timestamp)
        return [ts for ts in reversed(order[first:last]) if _is_listed(place.messages[ts])]

    def thread(self, channel: str, ts: str) -> list[dict[str, Any]]:
        """Return a thread, its parent first; nothing if there is none."""
        messages = self.channels[channel].messages
        if ts not in messages:
            return []
        if "thread_ts" in messages[ts]:
            return [dict(messages[ts])]
        return [self.seen(channel, ts), *(dict(each) for each in self.replies_to(channel, ts))]


def timestamp(ts: str) -> tuple[int, int]:
    """Return what a timestamp is sorted by."""
    seconds, _, counter = ts.partition(".")
    return int(seconds), int(counter or 0)


def _is_listed(message: dict[str, Any]) -> bool:
    return "thread_ts" not in message or message.get("subtype") == "thread_broadcast"
