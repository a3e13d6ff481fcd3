"""Addresses of issues, comments, wiki pages and documents, and what is known of one that has no document."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from flowbed.records import Linked
from flowbed.sources.linked_lines import Address

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowbed.sources.backlog.position import Position

_ISSUE = re.compile(r"/view/([A-Z0-9_]+)-(\d+)/?")
_WIKI = re.compile(r"/alias/wiki/(\d+)/?")
_DOCUMENT = re.compile(r"/document/([A-Z0-9_]+)/([0-9a-zA-Z]+)/?")
_COMMENT = re.compile(r"comment-(\d+)")


HOSTS = (".backlog.com", ".backlog.jp", ".backlogtool.com")


def address(link: str, space: str) -> Address | None:
    """Return what an address names; None if it is none of an issue or page of `space`, or of any if that is empty."""
    parts = urlsplit(link)
    if parts.netloc != urlsplit(space).netloc if space else not parts.netloc.endswith(HOSTS):
        return None
    if issue := _ISSUE.fullmatch(parts.path):
        comment = _COMMENT.fullmatch(parts.fragment)
        return Address(space, f"{issue[1]}-{issue[2]}", comment[1] if comment else "")
    if found := _DOCUMENT.fullmatch(parts.path):
        return Address(space, f"documents/{found[2]}")
    if found := _WIKI.fullmatch(parts.path):
        return Address(space, f"wikis/{found[1]}")
    return None


def linked_in_space(link: str, space: str, positions: Mapping[int, Position]) -> Linked | None:
    """Return what an address points to in a space that was read as far as `positions`; None for other addresses."""
    parts = urlsplit(link)
    if parts.netloc != urlsplit(space).netloc:
        return None
    if issue := _ISSUE.fullmatch(parts.path):
        comment = _COMMENT.fullmatch(parts.fragment)
        return _linked(issue[1], f"#{issue[2]}", comment[1] if comment else "", positions)
    if document := _DOCUMENT.fullmatch(parts.path):
        return _linked(document[1], f"/documents/{document[2]}", "", positions)
    if wiki := _WIKI.fullmatch(parts.path):
        names = tuple(f"{each.id}/wikis/{wiki[1]}" for each in positions.values())
        known = tuple(
            name for name, each in zip(names, positions.values(), strict=True) if wiki[1] in each.wikis
        )
        return Linked(documents=known or names, absent=_absent(f"wiki page {wiki[1]}", ""))
    return None


def _linked(key: str, end: str, comment: str, positions: Mapping[int, Position]) -> Linked:
    position = next((each for each in positions.values() if each.key == key), None)
    if position is None:
        return Linked(
            documents=(),
            item=comment,
            absent=f"project {key} was not read yet: the options do not name it, the key may not see it, or no run has"
            " come to it",
        )
    name = f"{position.id}{end}"
    known = name in position.names()
    return Linked(documents=(name,), item=comment, absent=_absent(name, comment if known else ""))


def _absent(name: str, comment: str) -> str:
    if comment:
        return (
            f"comment {comment} was not there when {name} was last read: it was written since, was deleted, or has no"
            " text"
        )
    return (
        f"{name} was not there when the project was last read: it was created since, which the next `flowbed run`"
        " finds, or was deleted or moved"
    )
