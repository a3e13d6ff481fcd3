"""Read a Slack workspace over its Web API: what is new, what changed, and what is gone."""

from __future__ import annotations

import sqlite3
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson

from flowbed.errors import Error
from flowbed.records import Entry, Page, Problem
from flowbed.records.values import listing
from flowbed.sources.apis.following import Following, following
from flowbed.sources.apis.turns import Work, in_turns
from flowbed.sources.slack import positions as stored
from flowbed.sources.slack.api import MissingScope, NoAnswer, SlackApi, SlackRefusal, open_http
from flowbed.sources.slack.estimate import in_words
from flowbed.sources.slack.links import ANY_WORKSPACE, linked_in_workspace
from flowbed.sources.slack.messages import Channel, etag, read_document
from flowbed.sources.slack.pacing import CALLS_A_MINUTE, MINUTE, Pacing
from flowbed.sources.slack.people import People
from flowbed.sources.slack.positions import Position
from flowbed.sources.slack.reading import ChannelReading, Found
from flowbed.sources.slack.workspace import open_workspace

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
    from pathlib import Path

    from flowbed.records import Document, Linked
    from flowbed.sources.apis.raw_answers import RawAnswers
    from flowbed.sources.slack.text import Names
    from flowbed.sources.slack.workspace import Workspace

# What was posted this long before the listing (seconds) may not be visible yet, so it is listed by the next fetch.
SETTLING = 60
# Increase it whenever `checked` keeps something else of a message: what was kept before is then asked for again.
KEPT = "1"
# Among the raw answers: the strangers that were asked for. No document has such an id.
STRANGERS = "users"


@dataclass(frozen=True, kw_only=True)
class SlackOptions:
    """What to read: the names or ids of channels (all where the app is a member), and seconds; `page` is the page size.

    After `seconds` a fetch ends, and the next one goes on.
    """

    channels: tuple[str, ...]
    lookback: int
    page: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Web:
    """A source of the threads and days of a workspace; a document's id is that of `Export`.

    `raw` is the file that keeps what Slack answered. `sleep` waits, `monotonic` returns seconds.
    """

    location: str
    token: str = field(repr=False)
    options: SlackOptions
    raw: Path | None
    sleep: Callable[[float], Awaitable[None]]
    monotonic: Callable[[], float]

    async def fetch(self, cursor: str) -> AsyncIterator[Page]:
        """List what changed since `cursor`, a slice of what is older, and what is gone; each page has its cursor.

        From the beginning, everything is listed again of what Slack answered before, if that was kept.
        """
        began = self.monotonic()
        http = open_http(self.location, self.token)
        async with following(
            stored,
            cursor,
            stored.read(cursor),
            origin=self.location,
            http=http,
            raw=self.raw,
            vendor="Slack",
            options=KEPT,
        ) as found:
            pacing = Pacing(sleep=self.sleep, monotonic=self.monotonic)
            api = SlackApi(http=http, pacing=pacing)
            before = {name: each.name for name, each in found.positions.items()}
            workspace = await open_workspace(api, self.options.channels, before)
            fetch = _Fetch(
                source=self,
                api=api,
                workspace=workspace,
                people=People(api, workspace.people, _strangers(found.raw) if workspace.lists_people else {}),
                found=found,
                deadline=began + self.options.seconds,
            )
            async with aclosing(fetch.pages()) as pages:
                async for page in pages:
                    yield page

    async def look(self) -> tuple[str, ...]:
        """Ask which channels the app can read, and which it cannot."""
        http = open_http(self.location, self.token)
        try:
            api = SlackApi(http=http, pacing=Pacing(sleep=self.sleep, monotonic=self.monotonic), waits=())
            seen = await open_workspace(api, self.options.channels)
            refused = await _refused(api, seen)
        finally:
            await http.aclose()
        lines = [
            f"Slack workspace {seen.team}: reads {listing([each.label for each in seen.channels], none='no channel')}"
        ]
        if seen.unread and not self.options.channels:
            lines.append(f"does not read {listing(seen.unread, none='no channel')}: the app is not in them")
        return (*lines, *(f"{each.subject}: {each.reason}" for each in (*seen.problems, *refused)))

    def linked(self, link: str, cursor: str) -> Linked | None:
        """Return what a link to a message points to, and what is known of it where it is missing."""
        return linked_in_workspace(link, ANY_WORKSPACE, stored.read(cursor), self.options.channels)


def _strangers(raw: RawAnswers | None) -> dict[str, tuple[str, int]]:
    try:
        found = raw.answer(STRANGERS) if raw is not None else None
    except sqlite3.Error:
        return {}
    return {id_: (name, at) for id_, (name, at) in (found or {}).items()}


async def _refused(api: SlackApi, seen: Workspace) -> list[Problem]:
    """Ask for a message of a public and of a private channel, and say which scope is missing."""
    found = []
    for private in (False, True):
        some = [each for each in seen.channels if (each.id in seen.private) == private][:1]
        for channel in some:
            try:
                await api.call("conversations.history", channel=channel.id, limit=1)
            except NoAnswer:
                continue  # of its limits; a run waits for them
            except Error as error:
                found.append(Problem(subject=channel.label, reason=str(error), skipped=True))
    return found


@dataclass(kw_only=True)
class _Fetch:
    """One fetch, which ends at the `deadline`."""

    source: Web
    api: SlackApi
    workspace: Workspace
    people: People
    found: Following[dict[str, Position]]
    deadline: float
    readings: dict[str, ChannelReading] = field(default_factory=dict)
    unscoped: list[MissingScope] = field(default_factory=list)

    async def pages(self) -> AsyncGenerator[Page]:
        following = self.found
        self._leave_out()
        problems = [*self.workspace.problems, *self._lost()]
        following.trouble = bool(problems)
        following.problems += problems
        for page in following.pages():
            yield page
        self._begin()
        works = [
            Work(name, self._steps(each), partial(getattr, each, "rank"))
            for name, each in self.readings.items()
        ]
        async with aclosing(in_turns(works, over=self._over)) as found_by_channel:
            async for name, found in found_by_channel:
                await self._take(self.readings[name].channel, found)
                for page in following.pages():
                    yield page
        self._report_what_is_left()
        for page in self._repeated() if following.again else ():
            yield page
        read = [
            name
            for name, each in self.readings.items()
            if each.position.whole and each.done and not each.limited
        ]
        for page in following.last_pages(
            whole=len(read) == len(self.readings),
            wanted={each: (f"{each}/",) for each in self.workspace.wanted},
            read=read,
            named=bool(self.source.options.channels),
            empty=self._why_empty(),
        ):
            yield page

    def _leave_out(self) -> None:
        """Forget the channels that the options leave out."""
        positions = self.found.positions
        for name in positions.keys() - set(self.workspace.wanted) if self.source.options.channels else ():
            self.found.forget(stored.documents({name: positions.pop(name)}))

    def _lost(self) -> Iterator[Problem]:
        """Name the channels that were read before, and that the app is not in any more."""
        labels, archived = self.workspace.names.channels, self.workspace.archived
        for name, position in self.found.positions.items():
            if name not in archived.union(self.workspace.wanted) and (position.days or position.threads):
                yield Problem(
                    subject=f"#{labels.get(name, position.name or name)}",
                    reason="the app is not in this channel any more, or it was deleted; what is indexed of it is kept:"
                    " invite the app, or name the other channels in the option channels to delete it",
                    skipped=True,
                    folder=f"{name}/",
                )

    def _begin(self) -> None:
        # The end is fixed at the start: a moving end would never be reached.
        end = self.workspace.date - SETTLING
        options = self.source.options
        positions = self.found.positions
        for channel in sorted(
            self.workspace.channels, key=lambda each: positions.get(each.id, Position()).listed
        ):
            self.readings[channel.id] = ChannelReading(
                api=self.api,
                channel=channel,
                position=replace(
                    positions.get(channel.id, Position()).copy(), name=channel.label.removeprefix("#")
                ),
                end=end,
                lookback=options.lookback,
                page=options.page,
                base=self.workspace.base,
                created=self.workspace.created.get(channel.id, 0),
            )
        self.api.pacing.left = self._left

    def _over(self) -> bool:
        return self.source.monotonic() >= self.deadline

    async def _steps(self, reading: ChannelReading) -> AsyncGenerator[Found]:
        """Read a channel. One that is refused keeps its position, and the others go on."""
        try:
            async with aclosing(reading.steps()) as steps:
                async for found in steps:
                    yield found
        except (SlackRefusal, MissingScope, NoAnswer) as error:
            if isinstance(error, NoAnswer) and error.alone:
                raise  # not the channel: Slack does not answer at all
            if isinstance(error, MissingScope):
                self.unscoped.append(error)
                if len(self.unscoped) == len(self.readings):
                    raise  # not the channel: nothing can be read
            self.found.trouble = True
            said = str(error) if isinstance(error, MissingScope) else str(error).partition(";")[0]
            yield Found(
                problems=[
                    Problem(
                        subject=reading.channel.label,
                        reason=f"{said}; what is indexed of it is kept, and the next run tries again",
                        skipped=True,
                        folder=f"{reading.channel.id}/",
                    )
                ],
                position=self.found.positions.get(reading.channel.id, Position(name=reading.position.name)),
            )

    async def _take(self, channel: Channel, found: Found) -> None:
        """Keep what was found in a channel, and make its documents."""
        following = self.found
        following.positions[channel.id] = found.position
        following.problems += found.problems
        if found.problems:
            following.trouble = True
            following.troubled.add(channel.id)
        if self.workspace.lists_people and await self.people.learn(
            each for messages in found.documents.values() for each in messages
        ):
            strangers = dict(self.people.asked)
            following.keep(lambda raw: raw.put(STRANGERS, strangers))
        for key, messages in found.documents.items():
            name = f"{channel.id}/{key}"
            following.seen.add(name)
            following.keep(
                partial(_put, name=name, label=channel.label, messages=messages, found=found, key=key)
            )
            if messages:
                self._entry(channel, key, messages)
            elif not following.first:
                following.gone.append(name)

    def _entry(self, channel: Channel, key: str, messages: Sequence[dict[str, Any]]) -> None:
        base = self.workspace.base
        raw = [orjson.dumps(each) for each in messages]
        read = partial(_document, channel, key, raw, self.workspace.names, base)
        self.found.add(
            Entry(document=f"{channel.id}/{key}", etag=etag(channel, messages, base), read=read),
            sum(len(str(each.get("text", ""))) for each in messages),
        )

    def _repeated(self) -> Iterator[Page]:
        """List everything that this fetch has not listed, as Slack answered it before."""
        following = self.found
        known = stored.documents(following.positions)
        labels = self.workspace.names.channels
        for name, answer in following.raw.answers() if following.raw else ():
            id_, _, key = name.partition("/")
            if name not in known or name in following.seen or not answer["messages"]:
                continue
            label = f"#{labels[id_]}" if id_ in labels else answer["channel"]
            self._entry(Channel(id=id_, label=label), key, answer["messages"])
            if following.full:
                yield from following.pages()

    def _why_empty(self) -> str:
        """Say why a fetch that covers everything listed nothing."""
        labels = listing([each.label for each in self.workspace.channels], none="no channel")
        return f"there are no messages that are older than a minute in {labels}"

    def _report_what_is_left(self) -> None:
        unfinished = [each for each in self.readings.values() if not each.done]
        slow = self.api.pacing.slow
        if slow:
            self.found.problems.append(
                Problem(
                    subject="Slack",
                    reason="allows this app one call a minute, and 15 messages a call, as it does for apps that are"
                    " distributed outside its marketplace: an internal app that is not distributed has 50 calls",
                    skipped=True,
                )
            )
        # A channel that was refused is reported by itself.
        if self._over() and unfinished:
            minutes = round(self.source.options.seconds / MINUTE)
            left = in_words(list(self.readings.values()), MINUTE if slow else MINUTE / CALLS_A_MINUTE)
            self.found.problems.append(
                Problem(
                    subject="Slack",
                    reason=f"not all was read in {minutes} minutes (option minutes){left and f': {left}'}; the next run"
                    " goes on from there",
                    skipped=True,
                )
            )

    def _left(self) -> str:
        left = in_words(list(self.readings.values()), MINUTE)
        return f"; {left}" if left else ""


def _put(
    raw: RawAnswers, *, name: str, label: str, messages: Sequence[dict[str, Any]], found: Found, key: str
) -> None:
    """Keep the messages of a document; a thread without text is kept too, since the position has it."""
    if messages or key.removeprefix("t/") in found.position.threads:
        raw.put(name, {"channel": label, "messages": messages})
    else:
        raw.remove(name)


def _document(channel: Channel, key: str, raw: Sequence[bytes], names: Names, base: str) -> Document:
    return read_document(channel, key, [orjson.loads(each) for each in raw], names, base)
