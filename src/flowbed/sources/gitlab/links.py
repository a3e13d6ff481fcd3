"""Addresses of issues, notes, merge requests and wiki pages, and what is known of one that has no document."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from flowbed.records import Linked
from flowbed.sources.gitlab.position import documents
from flowbed.sources.gitlab.rendering import project_of
from flowbed.sources.linked_lines import Address

if TYPE_CHECKING:
    from flowbed.sources.gitlab.position import Position

# Older addresses lack "-/", newer ones of issues have "work_items".
_PLACE = re.compile(r"/(.+?)/(?:-/)?(?:(issues|work_items|merge_requests)/(\d+)|wikis/(.+?))/?")
_NOTE = re.compile(r"note_(\d+)")


def place(link: str, root: str) -> tuple[str, str, str] | None:
    """Return the path of the project, the end of the document's id, and the note (or empty); None for other links.

    `root` is the address of the GitLab.
    """
    parts, host = urlsplit(link), urlsplit(root)
    below = parts.path.removeprefix(host.path.rstrip("/"))
    found = _PLACE.fullmatch(below) if parts.netloc == host.netloc else None
    if found is None:
        return None
    note = _NOTE.fullmatch(parts.fragment)
    if found[4]:
        return found[1], f"/wikis/{unquote(found[4])}", ""
    mark = "!" if found[2] == "merge_requests" else "#"
    return found[1], f"{mark}{found[3]}", note[1] if note else ""


def address(link: str) -> Address | None:
    """Return what an address names, at whichever GitLab it is; None if it is none of an issue or page."""
    site = urlsplit(link).netloc
    project, found = project_of(link), place(link, f"https://{site}")
    return Address(site, f"{project.casefold()}{found[1]}", found[2]) if project and found else None


def linked_in_project(end: str, note: str, position: Position, *, confidential: bool) -> Linked:
    """Return the document of a project that was read as far as `position`, by the end of its id."""
    return Linked(
        documents=(f"{position.number}{end}",) if position.number else (),
        item=note,
        absent=_absent(end, note, position, confidential=confidential),
    )


def _absent(end: str, note: str, position: Position, *, confidential: bool) -> str:
    if not position.number:
        return "the project was not read yet; the next `flowbed run` reads it"
    name = f"{position.number}{end}"
    if note and name in documents(position):
        hidden = "" if confidential else ", is internal, which needs the option confidential"
        return (
            f"note {note} was not there when {name} was last read: it was written since, was deleted{hidden}, or GitLab"
            " wrote it itself"
        )
    hidden = "" if confidential else ", or is confidential, which needs the option confidential"
    if end.startswith("/"):
        hidden = ""
    return (
        f"{name} was not there when the project was last read: it was created since, which the next `flowbed run`"
        f" finds, or was deleted or moved{hidden}"
    )
