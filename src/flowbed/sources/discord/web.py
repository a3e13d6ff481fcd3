"""Read a Discord server over its API: what is new, what changed, and what is gone."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson

from flowbed.records import Entry, Page, Problem
from flowbed.records.values import listing
from flowbed.sources.apis.estimate import in_words
from flowbed.sources.apis.following import Following, following
from flowbed.sources.apis.turns import Work, in_turns
from flowbed.sources.discord import positions as stored
from flowbed.sources.discord.api import DiscordApi, DiscordRefusal, NoAnswer, open_http
from flowbed.sources.discord.history import Content, Found
from flowbed.sources.discord.limits import Limits
from flowbed.sources.discord.links import linked_in_server
from flowbed.sources.discord.messages import Place, etag, read_document
from flowbed.sources.discord.positions import Position
from flowbed.sources.discord.reading import ChannelReading
from flowbed.sources.discord.server import WITH_MESSAGES, open_server

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
    from pathlib import Path

    from flowbed.records import Document, Linked
    from flowbed.sources.apis.raw_answers import RawAnswers
    from flowbed.sources.discord.server import Channel, Server
    from flowbed.sources.discord.text import Names

# What was posted this long before the listing (seconds) may not be visible yet, so it is listed by the next fetch.
SETTLING = 60
# Channels that are named in a message, and that `look` tries to read; the others are counted.
SHOWN = 20
# Increase it whenever `from_api` keeps something else of a message: what was kept before is then asked for again.
KEPT = "1"


@dataclass(frozen=True, kw_only=True)
class Web:
    """A source of the threads and days of a server; a document's id is that of `Export`.

    `channels` are the names or ids of those to read (all that the bot sees, if empty), `lookback` is in seconds. `raw`
    is the file that keeps what Discord answered. `sleep` waits, `monotonic` returns seconds.
    """

    location: str
    base_url: str
    server: str
    token: str = field(repr=False)
    channels: tuple[str, ...]
    lookback: int
    raw: Path | None
    sleep: Callable[[float], Awaitable[None]]
    monotonic: Callable[[], float]

    async def fetch(self, cursor: str) -> AsyncIterator[Page]:
        """List what changed since `cursor`, a slice of what is older, and what is gone; each page has its cursor.

        From the beginning, everything is listed again of what Discord answered before, if that was kept.
        """
        http = open_http(self.base_url, self.token)
        async with following(
            stored,
            cursor,
            stored.read(cursor),
            origin=f"{self.base_url} {self.server}",
            http=http,
            raw=self.raw,
            vendor="Discord",
            options=KEPT,
        ) as found:
            api = DiscordApi(http=http, limits=Limits(sleep=self.sleep, monotonic=self.monotonic))
            before = {name: each.name for name, each in found.positions.items()}
            server = await open_server(api, self.server, self.channels, before)
            fetch = _Fetch(source=self, api=api, server=server, found=found, began=self.monotonic())
            async with aclosing(fetch.pages()) as pages:
                async for page in pages:
                    yield page

    async def look(self) -> tuple[str, ...]:
        """Ask which channels the bot can read, and which it cannot."""
        http = open_http(self.base_url, self.token)
        try:
            limits = Limits(sleep=self.sleep, monotonic=self.monotonic)
            api = DiscordApi(http=http, limits=limits, waits=())
            seen = await open_server(api, self.server, self.channels)
            refused = await _refused(api, seen)
        finally:
            await http.aclose()
        labels = [each.label for each in seen.channels if each.label not in refused]
        lines = [f"Discord server {seen.name}: reads {listing(labels, none='no channel')}"]
        lines += [f"does not read {label}: {reason}" for label, reason in refused.items()]
        return (*lines, *(f"{each.subject}: {each.reason}" for each in seen.problems))

    def linked(self, link: str, cursor: str) -> Linked | None:
        """Return what a link to a message points to, and what is known of it where it is missing."""
        return linked_in_server(link, self.server, stored.read(cursor), self.channels)


async def _refused(api: DiscordApi, seen: Server) -> dict[str, str]:
    """Ask for a message of the first channels, and return why some of them cannot be read."""
    found = {}
    for channel in [each for each in seen.channels if each.kind in WITH_MESSAGES][:SHOWN]:
        try:
            some = await api.get("/channels/{}/messages", channel.id, limit=1)
            if not some and channel.last:
                await api.get(f"/channels/{{}}/messages/{channel.last}", channel.id)
        except DiscordRefusal as error:
            if error.status == 403:  # noqa: PLR2004 - forbidden
                found[channel.label] = f"give the bot Read Message History there ({error})"
        except NoAnswer:
            continue  # of its limits; a run waits for them
    return found


@dataclass(kw_only=True)
class _Fetch:
    """One fetch, which `began` then."""

    source: Web
    api: DiscordApi
    server: Server
    found: Following[dict[str, Position]]
    began: float
    readings: dict[str, ChannelReading] = field(default_factory=dict)

    async def pages(self) -> AsyncGenerator[Page]:
        following = self.found
        self._begin()
        for page in following.pages():
            yield page
        works = [
            Work(name, self._steps(each), partial(getattr, each, "rank"))
            for name, each in self.readings.items()
        ]
        async with aclosing(in_turns(works, over=lambda: False)) as found_by_channel:
            async for name, found in found_by_channel:
                self._take(self.readings[name].place, found)
                for page in following.pages():
                    yield page
        for page in self._repeated() if following.again else ():
            yield page
        read = [name for name, each in self.readings.items() if each.position.whole and each.done]
        for page in following.last_pages(
            whole=len(read) == len(self.readings),
            wanted={each: (f"{each}/",) for each in self.server.wanted},
            read=read,
            named=bool(self.source.channels),
            empty=self._why_empty(),
        ):
            yield page

    def _leave_out(self) -> None:
        """Forget the channels that the options leave out."""
        positions = self.found.positions
        for name in positions.keys() - set(self.server.wanted) if self.source.channels else ():
            self.found.forget(stored.documents({name: positions.pop(name)}))

    def _begin(self) -> None:
        self._leave_out()
        self.found.problems += self.server.problems
        self.found.problems += self._unseen()
        self.found.trouble = bool(self.found.problems)
        positions = self.found.positions
        content = Content()
        # The end is fixed at the start: a moving end would never be reached.
        end = self.server.date - SETTLING
        for channel in sorted(
            self.server.channels, key=lambda each: positions.get(each.id, Position()).listed
        ):
            self.readings[channel.id] = ChannelReading(
                api=self.api,
                place=Place(guild=self.server.id, channel=channel.id, label=channel.label),
                channel=channel,
                position=replace(positions.get(channel.id, Position()).copy(), name=channel.name),
                active=self.server.threads.get(channel.id, []),
                end=end,
                lookback=self.source.lookback,
                content=content,
            )
        self.api.limits.left = self._left

    def _left(self, rest: float) -> str:
        """Say how many calls are left, and how long they take at the pace so far."""
        calls = sum(each.left() for each in self.readings.values())
        elapsed = self.source.monotonic() - self.began + rest
        words = in_words(calls, calls * elapsed / max(1, self.api.answers))
        return f"; {words}" if words else ""

    def _unseen(self) -> Iterator[Problem]:
        """Name the channels that were read before, and are not shown any more."""
        if self.source.channels:
            return
        seen = {each.id for each in self.server.channels}
        for name, position in self.found.positions.items():
            if name not in seen and (position.days or position.threads):
                yield Problem(
                    subject=f"#{position.name}" if position.name else f"channel {name}",
                    reason="is not shown to the bot any more: it was deleted, or the bot may not see it; what is"
                    " indexed of it is kept: name the other channels in the option channels to delete it",
                    skipped=True,
                    folder=f"{name}/",
                )

    async def _steps(self, reading: ChannelReading) -> AsyncGenerator[Found]:
        """Read a channel. One that is refused keeps its position and is not asked for again, and the others go on."""
        try:
            async with aclosing(reading.steps()) as steps:
                async for found in steps:
                    yield found
        except (DiscordRefusal, NoAnswer) as error:
            if isinstance(error, NoAnswer) and error.alone:
                raise  # not the channel: Discord does not answer at all
            self.found.trouble = True
            said = str(error).partition(";")[0]
            problem = Problem(
                subject=reading.channel.label,
                reason=f"{said}; what is indexed of it is kept, and the next run tries again",
                skipped=True,
                folder=f"{reading.channel.id}/",
            )
            before = self.found.positions.get(reading.channel.id, Position(name=reading.channel.name))
            yield Found(problems=[problem], position=before)

    def _take(self, place: Place, found: Found) -> None:
        """Keep what was found in a channel, and make its documents."""
        following = self.found
        following.positions[place.channel] = found.position
        following.problems += found.problems
        if found.problems:
            following.trouble = True
            following.troubled.add(place.channel)
        for key, messages in found.documents.items():
            own = _place(place, key, found.titles.get(key, ""))
            name = f"{place.channel}/{key}"
            if name in following.seen:
                continue
            following.seen.add(name)
            is_known = own.thread in found.position.threads
            following.keep(partial(_put, name=name, place=own, messages=messages, is_known=is_known))
            if messages:
                self._entry(own, key, messages)
            elif not following.first:
                following.gone.append(name)

    def _entry(self, place: Place, key: str, messages: Sequence[dict[str, Any]]) -> None:
        raw = [orjson.dumps(each) for each in messages]
        read = partial(_document, place, key, raw, self.server.names)
        self.found.add(
            Entry(document=f"{place.channel}/{key}", etag=etag(place, messages), read=read),
            sum(len(each.get("content", "")) for each in messages),
        )

    def _repeated(self) -> Iterator[Page]:
        """List everything that this fetch has not listed, as Discord answered it before."""
        following = self.found
        known = stored.documents(following.positions)
        channels: dict[str, Channel] = {each.id: each for each in self.server.channels}
        for name, answer in following.raw.answers() if following.raw else ():
            id_, _, key = name.partition("/")
            if name not in known or name in following.seen or not answer["messages"]:
                continue
            label = channels[id_].label if id_ in channels else answer["channel"]
            place = Place(guild=self.server.id, channel=id_, label=label)
            self._entry(_place(place, key, answer["title"]), key, answer["messages"])
            if following.full:
                yield from following.pages()

    def _why_empty(self) -> str:
        """Say why a fetch that covers everything listed nothing."""
        labels = listing([each.label for each in self.server.channels], none="no channel")
        return f"there are no messages that are older than a minute in {labels}, nor in threads of them"


def _place(channel: Place, key: str, title: str) -> Place:
    """Return the place of a document of a channel."""
    thread = key.removeprefix("t/") if key.startswith("t/") else ""
    return replace(channel, thread=thread, title=title)


def _put(
    raw: RawAnswers, *, name: str, place: Place, messages: Sequence[dict[str, Any]], is_known: bool
) -> None:
    """Keep the messages of a document; a thread without text is kept too, since the position has it."""
    if messages or is_known:
        raw.put(name, {"channel": place.label, "title": place.title, "messages": messages})
    else:
        raw.remove(name)


def _document(place: Place, key: str, raw: Sequence[bytes], names: Names) -> Document:
    return read_document(place, key, [orjson.loads(each) for each in raw], names)
