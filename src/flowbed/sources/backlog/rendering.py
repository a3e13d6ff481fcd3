"""Documents of Backlog's records, which are the same whether they come from a dump or over the API. No I/O."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from flowbed.errors import Rejected
from flowbed.records import Document
from flowbed.records.issues import KIND, Issue, Note
from flowbed.records.values import LARGEST, shown
from flowbed.sources.backlog.notation import to_markdown
from flowbed.sources.decoding import UNUSABLE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from flowbed.records import Scalar

# Increase it whenever the same record would become another document.
REVISION = 2

NOTATIONS = ("markdown", "backlog")
# Types of custom fields that hold text: of a line, of several lines.
TEXTS = frozenset({1, 2})


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """How records become documents: `url` is the address of the space, `notation` that of its project."""

    url: str = ""
    notation: str = NOTATIONS[0]
    project: str = ""

    def text(self, value: str) -> str:
        """Return a text as Markdown, with line ends and letters in one form of each."""
        plain = unicodedata.normalize("NFC", value.replace("\r\n", "\n").replace("\r", "\n"))
        return to_markdown(plain) if self.notation == "backlog" else plain


def identity(record: Mapping[str, Any]) -> str:
    """Return the id of a document.

    It is `{project}#{number}` for an issue, `{project}/wikis/{id}` and `{project}/documents/{id}` for pages, where the
    project is its number: its key may change.

    Raises:
        Rejected: a part of the id is missing or invalid.
    """
    project = _number(record, "projectId")
    if is_issue(record):
        return f"{project}#{_number(record, 'keyId')}"
    if is_document(record):
        name = record["id"]
        if not isinstance(name, str) or not name or UNUSABLE.search(name) or "/" in name:
            raise Rejected(f"id must be that of a document, not {shown(name)}")
        return f"{project}/documents/{name}"
    if "name" in record:
        return f"{project}/wikis/{_number(record, 'id')}"
    raise Rejected("is no issue (keyId), wiki page (name) or document (title) of Backlog")


def is_issue(record: Mapping[str, Any]) -> bool:
    """Return whether a record is an issue."""
    return "keyId" in record or "issueKey" in record


def is_document(record: Mapping[str, Any]) -> bool:
    """Return whether a record is a document, which has its text without formatting."""
    return "plain" in record or ("title" in record and "name" not in record)


def moment(record: Mapping[str, Any], name: str = "updated") -> int:
    """Return a time of a record in seconds since 1970.

    Raises:
        Rejected: it is missing, or no time.
    """
    value = record.get(name)
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        found = None
    if found is None:
        raise Rejected(f"{name} must be a time, such as 2026-01-05T08:00:00Z, not {shown(value)}")
    return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())


def document(
    name: str, record: Mapping[str, Any], rendering: Rendering, comments: Sequence[Any] | None = None
) -> Document:
    """Create the document of a record; `comments` are those of its own field unless they are given.

    A document with comments has the form of an issue, so that each is found by itself.

    Raises:
        Rejected: a field has another type than Backlog's; the message names it.
    """
    if is_issue(record):
        return _issue(name, record, rendering, comments)
    url = _page_url(record, rendering)
    notes = tuple(_remarks(record, comments, url)) if is_document(record) else ()
    if notes:
        kind, text = KIND, _with_remarks(record, notes, url)
    elif is_document(record):
        kind, text = "text", _plain(record)
    else:
        kind, text = "markdown", rendering.text(_text(record, "content"))
    metadata: dict[str, Scalar] = {
        "type": "document" if is_document(record) else "wiki",
        "project": _project(record, rendering),
        "tags": ", ".join(_names(record, "tags")),
        "url": url,
    }
    return Document(
        id=name,
        kind=kind,
        text=text,
        title=_text(record, "title" if is_document(record) else "name"),
        # Those of a comment are its own.
        metadata={key: value for key, value in metadata.items() if value and not (notes and key == "url")},
    )


def _page_url(record: Mapping[str, Any], rendering: Rendering) -> str:
    """Return the address of a wiki page or document, empty where the space or the project is not known."""
    if not rendering.url:
        return ""
    if not is_document(record):
        return f"{rendering.url}/alias/wiki/{record['id']}"
    return f"{rendering.url}/document/{rendering.project}/{record['id']}" if rendering.project else ""


def _with_remarks(record: Mapping[str, Any], notes: tuple[Note, ...], url: str) -> str:
    return Issue(
        description=_plain(record),
        author=_user(record, "createdUser"),
        url=url,
        created_at=_text(record, "created"),
        notes=notes,
    ).to_json()


def _remarks(record: Mapping[str, Any], comments: Sequence[Any] | None, url: str) -> Iterator[Note]:
    """Yield the comments on a document with text, each before the answers to it; they have no address of their own."""
    if comments is None:
        comments = record.get("comments") or []
        if not isinstance(comments, list):
            raise Rejected(f"comments must be a list, not {shown(comments)}")
    for comment in comments:
        if not isinstance(comment, dict):
            raise Rejected(f"a comment must be an object with an id, not {shown(comment)}")
        for each in (comment, *_objects(comment, "replies")):
            if not isinstance(each.get("id"), str) or not each["id"] or UNUSABLE.search(each["id"]):
                raise Rejected(f"a comment must be an object with an id, not {shown(each)}")
            if _plain(each):
                yield Note(
                    id=each["id"],
                    author=_user(each, "createdUser"),
                    body=_plain(each),
                    url=url,
                    created_at=_text(each, "created"),
                )


def _plain(record: Mapping[str, Any]) -> str:
    return unicodedata.normalize("NFC", _text(record, "plain"))


def _issue(
    name: str, record: Mapping[str, Any], rendering: Rendering, comments: Sequence[Any] | None
) -> Document:
    key = _text(record, "issueKey")
    url = f"{rendering.url}/view/{key}" if rendering.url and key else ""
    found = {each["id"]: each for each in _comments(record, comments)}
    return Document(
        id=name,
        kind=KIND,
        title=_text(record, "summary"),
        text=Issue(
            description=_description(record, rendering),
            labels=(*_names({"type": [record.get("issueType")]}, "type"), *_names(record, "category")),
            author=_user(record, "createdUser"),
            url=url,
            created_at=_text(record, "created"),
            notes=tuple(
                _note(each, url, rendering) for _, each in sorted(found.items()) if each.get("content")
            ),
        ).to_json(),
        metadata=_metadata(record, rendering),
    )


def _description(record: Mapping[str, Any], rendering: Rendering) -> str:
    """Return the description, the custom fields with text, and the names of files."""
    parts = [rendering.text(_text(record, "description")).strip()]
    for each in _objects(record, "customFields"):
        value = each.get("value")
        if each.get("fieldTypeId") in TEXTS and isinstance(value, str) and value.strip():
            parts.append(f"{_text(each, 'name')}: {rendering.text(value).strip()}")
    files = [f"[file: {name}]" for name in _names(record, "attachments")]
    return "\n\n".join(filter(None, [*parts, "\n".join(files)]))


def _metadata(record: Mapping[str, Any], rendering: Rendering) -> dict[str, Scalar]:
    one = {
        name: ", ".join(_names({name: [record.get(name)]}, name))
        for name in ("status", "priority", "resolution")
    }
    found: dict[str, Scalar] = {
        "type": "issue",
        "project": _project(record, rendering),
        "key": _text(record, "issueKey"),
        "iid": record["keyId"],
        "state": one["status"],
        "priority": one["priority"],
        "resolution": one["resolution"],
        "assignee": _user(record, "assignee"),
        "milestone": ", ".join(_names(record, "milestone")),
        "labels": ", ".join(
            [*_names({"type": [record.get("issueType")]}, "type"), *_names(record, "category")]
        ),
    }
    return {name: value for name, value in found.items() if value}


def _project(record: Mapping[str, Any], rendering: Rendering) -> str:
    """Return the key of a record's project, its number where nothing says the key."""
    key = _text(record, "issueKey").rpartition("-")[0] if is_issue(record) else ""
    return key or rendering.project or str(record["projectId"])


def _comments(record: Mapping[str, Any], comments: Sequence[Any] | None) -> Iterator[Mapping[str, Any]]:
    if comments is None:
        comments = record.get("comments") or []
        if not isinstance(comments, list):
            raise Rejected(f"comments must be a list, not {shown(comments)}")
    for comment in comments:
        if not isinstance(comment, dict) or not _is_number(comment.get("id")):
            raise Rejected(f"a comment must be an object with an id, not {shown(comment)}")
        yield comment


def _note(comment: Mapping[str, Any], url: str, rendering: Rendering) -> Note:
    return Note(
        id=str(comment["id"]),
        author=_user(comment, "createdUser"),
        body=rendering.text(_text(comment, "content")),
        url=f"{url}#comment-{comment['id']}" if url else "",
        created_at=_text(comment, "created"),
    )


def _user(record: Mapping[str, Any], name: str) -> str:
    user = record.get(name)
    if user is None:
        return ""
    if not isinstance(user, dict):
        raise Rejected(f"{name} must be an object, not {shown(user)}")
    return " ".join(_text(user, "name").split())


def _names(record: Mapping[str, Any], name: str) -> list[str]:
    return [found for each in _objects(record, name) if (found := " ".join(_text(each, "name").split()))]


def _objects(record: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    found = record.get(name) or []
    if not isinstance(found, list):
        raise Rejected(f"{name} must be a list, not {shown(found)}")
    return [each for each in found if isinstance(each, dict)]


def _text(record: Mapping[str, Any], name: str) -> str:
    value = record.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Rejected(f"{name} must be a string, not {shown(value)}")
    return value


def _number(record: Mapping[str, Any], name: str) -> int:
    value: Any = record.get(name)
    if not _is_number(value):
        raise Rejected(f"{name} must be an integer above 0, not {shown(value)}")
    return int(value)


def _is_number(value: object) -> bool:
    # A bool is an int in Python, but not an id.
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < LARGEST
