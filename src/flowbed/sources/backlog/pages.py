"""Read the wiki pages and documents of a project: all are listed, and compared with what was read before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flowbed.errors import Rejected
from flowbed.sources.backlog.api import ROWS, Withheld
from flowbed.sources.backlog.reading import DAY, SETTLING, SLICE, STEP, Answer
from flowbed.sources.backlog.rendering import identity, moment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from flowbed.sources.backlog.reading import Reading


@dataclass(frozen=True)
class Pages:
    """The wiki pages and documents of a project."""

    reading: Reading

    async def wikis(self) -> AsyncIterator[None]:
        """Compare all pages of the wiki, whose listing has their last changes."""
        rows = await self.reading.api.rows("/wikis", projectIdOrKey=self.reading.position.id)
        names = [
            str(row.get("id"))
            for row in rows
            if self._has_moved(self.reading.position.wikis, str(row.get("id")), row)
        ]
        for number, name in enumerate(names, start=1):
            self.reading.waiting = len(names) - number
            try:
                await self._add_page("wikis", name, await self.reading.api.get(f"/wikis/{name}"))
            except Withheld:
                continue  # deleted since it was listed
            yield
        listed = {str(row.get("id")) for row in rows}
        for name in [name for name in self.reading.position.wikis if name not in listed]:
            await self.ask("wikis", name)
        yield

    async def documents(self) -> AsyncIterator[None]:
        """Compare all documents, which are listed with their texts; those in the trash are gone.

        Comments are read of those that changed, and of some others.
        """
        tree = await self.reading.api.get("/documents/tree", projectIdOrKey=self.reading.position.id)
        trash = set(_ids(tree.get("trashTree") if isinstance(tree, dict) else None))
        known = self.reading.position.documents
        old = sorted((at, name) for name, (_, at) in known.items() if at <= self.reading.now - DAY)
        again = {name for _, name in old[:SLICE]}
        listed: set[str] = set()
        offset = 0
        while True:
            rows = await self.reading.api.rows(
                "/documents",
                projectId=[self.reading.position.id],
                sort="updated",
                order="desc",
                offset=offset,
                count=ROWS,
            )
            for row in rows:
                name = str(row.get("id"))
                listed.add(name)
                if name not in trash and (name in again or self._has_moved(known, name, row)):
                    await self._add_document(name, row)
            yield
            if len(rows) < ROWS:
                break
            offset += STEP
        for name in [name for name in known if name in trash or name not in listed]:
            await self.ask("documents", name, trash=trash)
        yield

    def _has_moved(self, known: dict[str, tuple[int, int]], name: str, row: Mapping[str, Any]) -> bool:
        updated, at = known.get(name, (-1, 0))
        return updated != self.reading.moment(row) or at < updated + SETTLING

    async def _add_document(self, name: str, row: Mapping[str, Any]) -> None:
        """Read the comments of a document, and add it, once in a fetch."""
        if f"{self.reading.position.id}/documents/{name}" in self.reading.seen:
            return
        try:
            comments = await self.reading.api.rows(f"/documents/{name}/comments")
        except Withheld:
            comments = []  # of a space without them, or it was deleted since it was listed
        await self._add_page("documents", name, row, comments)

    async def _add_page(
        self,
        kind: str,
        name: str,
        row: Any,  # any JSON value
        comments: list[dict[str, Any]] | None = None,
    ) -> None:
        try:
            found = identity(row if isinstance(row, dict) else {})
            updated = moment(row)
        except Rejected as error:
            self.reading.malformed(f"{self.reading.label}: {kind}/{name}", error)
            return
        if row["projectId"] != self.reading.position.id or found in self.reading.seen:
            return
        self.reading.seen.add(found)
        getattr(self.reading.position, kind)[name] = (updated, self.reading.now)
        self.reading.found.answers.append(Answer(found, row, comments, self.reading.position.notation))

    async def ask(self, kind: str, name: str, *, trash: set[str] | None = None) -> None:
        """Ask for a page: it is gone if it is in the trash, or Backlog does not know it and still shows its project."""
        known: dict[str, tuple[int, int]] = getattr(self.reading.position, kind)
        if name not in known:
            return
        if not trash or name not in trash:
            try:
                row = await self.reading.api.get(f"/{kind}/{name}")
            except Withheld as error:
                if not error.missing:
                    self.reading.keep(f"{self.reading.position.id}/{kind}/{name}", error)
                    return
            else:
                if isinstance(row, dict) and row.get("projectId") == self.reading.position.id:
                    return  # a page that was just written, or moved in the listing
            await self.reading.api.get(f"/projects/{self.reading.position.id}")
        del known[name]
        self.reading.found.gone.append(f"{self.reading.position.id}/{kind}/{name}")


def _ids(tree: object) -> list[str]:
    """Return the ids of the documents of a tree, however deep."""
    found, waiting = [], [tree]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            found += [each["id"]] if isinstance(each.get("id"), str) else []
            children = each.get("children")
            waiting += children if isinstance(children, list) else []
    return found
