"""Read the wiki of a project, whose listing has no dates: each page is compared with what it was."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flowbed.errors import Rejected
from flowbed.records import canonical
from flowbed.sources.gitlab.api import escaped
from flowbed.sources.gitlab.kinds import NAMES
from flowbed.sources.gitlab.reading import field_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from flowbed.records import Page
    from flowbed.sources.gitlab.reading import Reading


@dataclass(frozen=True)
class Wiki:
    """The wiki of a project."""

    reading: Reading

    async def compared(self) -> AsyncIterator[Page]:
        """Compare all pages with those of the last fetch.

        Raises:
            Withheld: GitLab does not show them.
        """
        reading = self.reading
        number, known = reading.position.number, reading.position.wikis
        rows = await reading.api.get(f"/projects/{number}/wikis", with_content=1)
        listed = set()
        for row in rows if isinstance(rows, list) else [None]:
            listed.add(self._page(row))
            for page in reading.found.pages() if reading.found.full else ():
                yield page
        if None in listed:
            return
        for slug in [slug for slug in known if slug not in listed]:
            del known[slug]
            reading.removed(f"{number}/wikis/{slug}")

    def _page(self, row: Any) -> str | None:  # any JSON value
        """Add a page if it has changed, and return its slug; None if it cannot be read."""
        reading = self.reading
        number, known = reading.position.number, reading.position.wikis
        slug = field_of(row, "slug")
        if not isinstance(slug, str):
            subject = f"{reading.location}: {NAMES['wiki']}"
            reading.malformed(subject, "GitLab answers a page without a slug", kind="wiki")
            return None
        digest = hashlib.sha256(canonical(row)).hexdigest()[:12]
        if known.get(slug) == digest:
            return slug
        known[slug] = digest
        name = f"{number}/wikis/{slug}"
        url = f"{reading.project['web_url']}/-/wikis/{escaped(slug)}"
        try:
            reading.answered(name, {"web_url": url, **row, "project_id": number}, None)
        except Rejected as error:
            reading.malformed(name, str(error), document=name)
        return slug
