"""Read a Discord server over its API: what is new, what changed, and what is gone."""

from __future__ import annotations

import sqlite3
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson

from flowbed.records import Entry, Page, Problem
from flowbed.records.values import listing
from flowbed.sources.discord import positions as stored
from flowbed.sources.discord.api import DiscordApi, DiscordRefusal, NoAnswer, open_http
from flowbed.sources.discord.limits import Limits
from flowbed.sources.discord.links import linked_in_server
from flowbed.sources.discord.messages import Place, etag, read_document
from flowbed.sources.discord.positions import Position
from flowbed.sources.discord.reading import ChannelReading, Content, Found
from flowbed.sources.discord.server import WITH_MESSAGES, open_server
from flowbed.sources.paging import PAGE_ENTRIES
from flowbed.sources.raw_answers import RawAnswers, opened, unkept
from flowbed.sources.turns import Work, in_turns

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
    from pathlib import Path

    from flowbed.records import Document, Linked
    from flowbed.sources.discord.server import Channel, Server
    from flowbed.sources.discord.text import Names

# What was posted this long before the listing (seconds) may not be visible yet, so it is listed by the next fetch.
SETTLING = 60
# Channels that are named in a message, and that `look` tries to read; the others are counted.
SHOWN = 20
# Pages of what was kept have this many characters of messages.
PAGE_CHARACTERS = 4 * 2**20
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
        raw, failure = opened(self.raw, "Discord")
        try:
            api = DiscordApi(http=http, limits=Limits(sleep=self.sleep, monotonic=self.monotonic))
            server = await open_server(api, self.server, self.channels)
            positions = stored.read(cursor)
            kept = _kept(raw) if raw and not positions else {}
            fetch = _Fetch(
                source=self,
                api=api,
                server=server,
                positions=kept or positions,
                first=not positions and not kept,
                again=bool(kept),
                raw=raw,
                problems=[failure] if failure else [],
            )
            async with aclosing(fetch.pages()) as pages:
                async for page in pages:
                    yield page
        finally:
            if raw is not None:
                raw.close()
            await http.aclose()

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


def _kept(raw: RawAnswers) -> dict[str, Position]:
    """Return the positions of the raw answers, where they have all documents before them."""
    try:
        positions = stored.read(raw.position(KEPT))
        return positions if stored.documents(positions) <= raw.documents() else {}
    except sqlite3.Error:
        return {}  # what is damaged is replaced by what Discord answers now


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
    """One fetch: the `first`, or one that lists everything `again` of raw answers, or one of changes.

    `trouble` says that something could not be read.
    """

    source: Web
    api: DiscordApi
    server: Server
    positions: dict[str, Position]
    first: bool
    again: bool
    raw: RawAnswers | None
    problems: list[Problem]
    readings: dict[str, ChannelReading] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    trouble: bool = False
    saved: dict[str, Position] = field(default_factory=dict)
    ever: dict[str, Position] = field(default_factory=dict)

    async def pages(self) -> AsyncGenerator[Page]:
        self._begin()
        self.saved = {name: each.copy() for name, each in self.positions.items()}
        self.ever = stored.announced(self.saved, {})
        if self.problems:
            yield self._page()
        works = [
            Work(name, self._steps(each), partial(getattr, each, "rank"))
            for name, each in self.readings.items()
        ]
        async with aclosing(in_turns(works, over=lambda: False)) as found_by_channel:
            async for name, found in found_by_channel:
                self._take(self.readings[name].place, found)
                if self.entries or self.problems:
                    for page in self._pages():
                        yield page
        for page in self._repeated() if self.again else ():
            yield page
        whole = all(each.position.whole and each.done for each in self.readings.values())
        complete = (self.first or self.again) and whole and not self.trouble
        # Between its pages, a fetch that lists everything again has no position: it must not go on in the middle.
        self.again = False
        yield self._page(complete=complete, last=True, empty=self._why_empty())

    def _begin(self) -> None:
        self.problems += self.server.problems
        self.problems += self._unseen()
        self.trouble = bool(self.problems)
        content = Content()
        # The end is fixed at the start: a moving end would never be reached.
        end = self.server.date - SETTLING
        for channel in sorted(
            self.server.channels, key=lambda each: self.positions.get(each.id, Position()).listed
        ):
            self.readings[channel.id] = ChannelReading(
                api=self.api,
                place=Place(guild=self.server.id, channel=channel.id, label=channel.label),
                channel=channel,
                position=self.positions.get(channel.id, Position()).copy(),
                active=self.server.threads.get(channel.id, []),
                end=end,
                lookback=self.source.lookback,
                content=content,
            )

    def _unseen(self) -> Iterator[Problem]:
        """Name the channels that were read before, and are not shown any more."""
        if self.source.channels:
            return
        seen = {each.id for each in self.server.channels}
        for name, position in self.positions.items():
            if name not in seen and (position.days or position.threads):
                yield Problem(
                    subject=f"channel {name}",
                    reason="is not shown to the bot any more: it was deleted, or the bot may not see it; what is"
                    " indexed of it is kept",
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
            self.trouble = True
            said = str(error).partition(";")[0]
            problem = Problem(
                subject=reading.channel.label,
                reason=f"{said}; what is indexed of it is kept, and the next run tries again",
                skipped=True,
                folder=f"{reading.channel.id}/",
            )
            yield Found(problems=[problem], position=self.positions.get(reading.channel.id, Position()))

    def _take(self, place: Place, found: Found) -> None:
        """Keep what was found in a channel, and make its documents."""
        self.positions[place.channel] = found.position
        self.problems += found.problems
        self.trouble |= bool(found.problems)
        for key, messages in found.documents.items():
            own = _place(place, key, found.titles.get(key, ""))
            name = f"{place.channel}/{key}"
            if name in self.seen:
                continue
            self.seen.add(name)
            is_known = own.thread in found.position.threads
            self._keep(partial(_put, name=name, place=own, messages=messages, is_known=is_known))
            if messages:
                self._entry(own, key, messages)
            elif not self.first:
                self.gone.append(name)

    def _entry(self, place: Place, key: str, messages: Sequence[dict[str, Any]]) -> None:
        raw = [orjson.dumps(each) for each in messages]
        read = partial(_document, place, key, raw, self.server.names)
        self.entries.append(Entry(document=f"{place.channel}/{key}", etag=etag(place, messages), read=read))

    def _repeated(self) -> Iterator[Page]:
        """List everything that this fetch has not listed, as Discord answered it before."""
        known, held = stored.documents(self.positions), 0
        channels: dict[str, Channel] = {each.id: each for each in self.server.channels}
        for name, answer in self.raw.answers() if self.raw else ():
            id_, _, key = name.partition("/")
            if name not in known or name in self.seen or not answer["messages"]:
                continue
            label = channels[id_].label if id_ in channels else answer["channel"]
            wanted = {id_, label.removeprefix("#")} & set(self.source.channels)
            if self.source.channels and not wanted:
                continue
            place = Place(guild=self.server.id, channel=id_, label=label)
            self._entry(_place(place, key, answer["title"]), key, answer["messages"])
            held += sum(len(each.get("content", "")) for each in answer["messages"])
            if held >= PAGE_CHARACTERS or len(self.entries) >= PAGE_ENTRIES:
                held = 0
                yield self._page()

    def _why_empty(self) -> str:
        """Say why a fetch that covers everything listed nothing."""
        labels = listing([each.label for each in self.server.channels], none="no channel")
        return f"there are no messages that are older than a minute in {labels}, nor in threads of them"

    def _pages(self) -> Iterator[Page]:
        """Yield what was found, and before it a page whose cursor knows the new documents."""
        self.ever = stored.announced(self.ever, self.positions)
        if self.entries and not self.again:
            yield Page(cursor=stored.written(stored.announced(self.saved, self.ever)))
        yield self._page()
        self.saved = {name: each.copy() for name, each in self.positions.items()}

    def _page(self, *, complete: bool = False, last: bool = False, empty: str = "") -> Page:
        """Return what was found. What is gone comes last: until then it is known, and would be found once more."""
        cursor = stored.written(self.positions)
        self._keep(lambda raw: raw.keep(KEPT, cursor))
        page = Page(
            entries=self.entries,
            gone=self.gone if last else (),
            problems=self.problems,
            cursor="" if self.again else cursor if last else self._unfinished(),
            complete=complete,
            empty=empty,
        )
        self.entries, self.problems = [], []
        return page

    def _unfinished(self) -> str:
        """Return the cursor within a fetch: what is gone is still known, and is looked for by the next one."""
        return stored.written(stored.announced(self.positions, self.ever))

    def _keep(self, write: Callable[[RawAnswers], None]) -> None:
        """Write to the file of raw answers, and go on without it where that fails."""
        if self.raw is None or self.source.raw is None:
            return
        try:
            write(self.raw)
        except sqlite3.Error as error:
            self.raw = None
            self.problems.append(unkept(self.source.raw, "Discord", error))


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
