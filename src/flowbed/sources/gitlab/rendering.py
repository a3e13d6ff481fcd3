"""Documents of GitLab's records, which are the same whether they come from a dump or over the API. No I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from flowbed.errors import Rejected
from flowbed.records import Document
from flowbed.records.issues import KIND, Issue, Note
from flowbed.records.values import LARGEST, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from flowbed.records import Scalar

# Increase it whenever the same record would become another document.
REVISION = 1

# A file that was uploaded to the project: its address begins at the project.
UPLOAD = re.compile(r"(?<=\]\()(?=/uploads/[0-9a-f]{32}/)")

# What comes between the address of a project and that of something in it.
INSIDE = re.compile(r"/-/|/(?=(?:issues|merge_requests|work_items|wikis)/)")

# The formats of a wiki that are Markdown; the others are text.
MARKDOWN = ("markdown", "")


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """What becomes part of documents; `url` is the address of the GitLab, for records that do not say theirs."""

    confidential: bool = False
    url: str = ""

    def hides(self, record: Mapping[str, Any]) -> bool:
        """Tell whether a record is left out, as if it did not exist."""
        return not self.confidential and record.get("confidential") is True


def identity(record: Mapping[str, Any]) -> str:
    """Return the id of a document.

    It is `{project}#{iid}` for an issue, `{project}!{iid}` for a merge request, `{project}/wikis/{slug}` for a page.
    The project is its number, since its path may change; a record without a number has the path.

    Raises:
        Rejected: a part of the id is missing or invalid.
    """
    project = record.get("project_id")
    if not _is_number(project):
        project = _project(record)
    if is_wiki(record):
        return f"{project}/wikis/{record['slug']}" if project else f"wikis/{record['slug']}"
    if not project:
        raise Rejected(f"project_id must be an integer above 0, not {shown(record.get('project_id'))}")
    iid = record.get("iid")
    if not _is_number(iid):
        raise Rejected(f"iid must be an integer above 0, not {shown(iid)}")
    return f"{project}{'!' if is_merge_request(record) else '#'}{iid}"


def is_wiki(record: Mapping[str, Any]) -> bool:
    """Tell whether a record is a page of a wiki."""
    return "iid" not in record and isinstance(record.get("slug"), str)


def is_merge_request(record: Mapping[str, Any]) -> bool:
    """Tell whether a record is a merge request; issues have the same fields otherwise."""
    return "source_branch" in record or "/merge_requests/" in str(record.get("web_url") or "")


def document(
    name: str,
    record: Mapping[str, Any],
    rendering: Rendering,
    notes: Sequence[Any] | None = None,
) -> Document:
    """Create the document of a record; `notes` are those of its own field unless they are given.

    Raises:
        Rejected: a field has another type than GitLab's; the message names it.
    """
    if is_wiki(record):
        return _wiki(name, record, rendering)
    url = address_of(record, rendering)
    wanted = [note for note in _notes(record, notes) if _is_wanted(note, rendering)]
    wanted.sort(key=lambda note: (_text(note, "created_at"), note["id"]))
    return Document(
        id=name,
        kind=KIND,
        title=_text(record, "title"),
        text=Issue(
            description=_uploads(_text(record, "description"), url),
            labels=_labels(record),
            author=_author(record),
            url=url,
            created_at=_text(record, "created_at"),
            notes=tuple(_note(note, url) for note in wanted),
        ).to_json(),
        metadata=_metadata(record),
    )


def _wiki(name: str, record: Mapping[str, Any], rendering: Rendering) -> Document:
    project, url = _project(record), address_of(record, rendering)
    metadata: dict[str, Scalar] = {"type": "wiki", "project": project, "slug": record["slug"], "url": url}
    return Document(
        id=name,
        kind="markdown" if _text(record, "format") in MARKDOWN else "text",
        title=_text(record, "title"),
        text=_uploads(_text(record, "content"), url),
        metadata={key: value for key, value in metadata.items() if value},
    )


def _metadata(record: Mapping[str, Any]) -> dict[str, Scalar]:
    milestone = record.get("milestone")
    found: dict[str, Scalar] = {
        "type": "merge_request" if is_merge_request(record) else "issue",
        "project": _project(record),
        "iid": record["iid"],
        "state": _text(record, "state"),
        "labels": ", ".join(_labels(record)),
        "milestone": _text(milestone, "title") if isinstance(milestone, dict) else "",
        "confidential": record.get("confidential") is True,
    }
    return {name: value for name, value in found.items() if value}


def address_of(record: Mapping[str, Any], rendering: Rendering) -> str:
    """Return the address of a record, or an empty string.

    Raises:
        Rejected: a field has another type than GitLab's.
    """
    url = _text(record, "web_url")
    project = _project(record)
    if url or not rendering.url or not project:
        return url
    if is_wiki(record):
        return f"{rendering.url}/{project}/-/wikis/{quote(record['slug'])}"
    kind = "merge_requests" if is_merge_request(record) else "issues"
    return f"{rendering.url}/{project}/-/{kind}/{record['iid']}"


def _project(record: Mapping[str, Any]) -> str:
    """Return the path of a record's project, its number where nothing says the path, or an empty string."""
    path = record.get("project")
    if isinstance(path, str) and path:
        return path
    references = record.get("references")
    full = references.get("full") if isinstance(references, dict) else None
    if isinstance(full, str) and (path := re.split("[#!]", full)[0]):
        return path
    number = record.get("project_id")
    return str(number) if _is_number(number) else ""


def _labels(record: Mapping[str, Any]) -> tuple[str, ...]:
    labels = record.get("labels") or []
    if not isinstance(labels, list):
        raise Rejected(f"labels must be a list, not {shown(labels)}")
    # With `with_labels_details` each label is an object.
    return tuple(_text(label if isinstance(label, dict) else {"name": label}, "name") for label in labels)


def _notes(record: Mapping[str, Any], notes: Sequence[Any] | None) -> Iterator[Mapping[str, Any]]:
    """Yield the notes of a record, from `notes` or from the threads of `discussions`."""
    if notes is None:
        notes = record.get("notes") or []
        if not isinstance(notes, list):
            raise Rejected(f"notes must be a list, not {shown(notes)}")
        threads = record.get("discussions") or []
        if not notes and isinstance(threads, list):
            notes = [
                note for thread in threads if isinstance(thread, dict) for note in thread.get("notes") or []
            ]
    seen: set[int] = set()
    for note in notes:
        if not isinstance(note, dict) or not _is_number(note.get("id")):
            raise Rejected(f"a note must be an object with an id, not {shown(note)}")
        if note["id"] not in seen:  # pages may overlap where notes were added meanwhile
            seen.add(note["id"])
            yield note


def _is_wanted(note: Mapping[str, Any], rendering: Rendering) -> bool:
    """Leave out what GitLab wrote itself, and internal notes."""
    if note.get("system") is True:
        return False
    return rendering.confidential or not (note.get("internal") is True or note.get("confidential") is True)


def _note(note: Mapping[str, Any], url: str) -> Note:
    number = note["id"]
    return Note(
        id=str(number),
        author=_author(note),
        body=_uploads(_text(note, "body"), url),
        url=f"{url}#note_{number}" if url else "",
        created_at=_text(note, "created_at"),
    )


def _author(record: Mapping[str, Any]) -> str:
    author = record.get("author")
    if author is None:
        return ""
    if not isinstance(author, dict):
        raise Rejected(f"author must be an object, not {shown(author)}")
    return _text(author, "name") or _text(author, "username")


def _text(record: Mapping[str, Any], name: str) -> str:
    value = record.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Rejected(f"{name} must be a string, not {shown(value)}")
    return value


def _uploads(text: str, url: str) -> str:
    """Make the addresses of uploaded files whole, which GitLab writes from the project on."""
    project = project_of(url)
    if not project or "/uploads/" not in text:
        return text
    return UPLOAD.sub(project.replace("\\", r"\\"), text)


def project_of(url: str) -> str:
    """Return the address of the project that something of the address `url` is in, or an empty string."""
    scheme, _, rest = url.partition("://")
    inside = INSIDE.search(rest)
    return f"{scheme}://{rest[: inside.start()]}" if inside else ""


def _is_number(value: object) -> bool:
    # A bool is an int in Python, but not an id.
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < LARGEST
