"""Flaws of files, each with the checks that have to find it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.testing.conformance.flaws import Told, refused_with
from tests.testing.conformance.job_flaws import contents, objects, query_at, rewriting, told_at

from flowbed.testing.conformance.checks import files as f

if TYPE_CHECKING:
    from tests.testing.conformance.flaws import Asked, Fields, Inner

DAY = 86_400


def without(*names: str) -> Any:
    """Ask for a list without some of what was asked for."""
    return query_at(
        "files", lambda asked: {name: value for name, value in asked.items() if name not in names}
    )


def clamped(asked: dict[str, str]) -> dict[str, str]:
    """Take limits that cannot be for the nearest that can."""
    if "limit" not in asked:
        return asked
    return {**asked, "limit": str(min(max(int(asked["limit"]), 1), 10_000))}


def turned(asked: dict[str, str]) -> dict[str, str]:
    """Take the oldest for the first."""
    return {"order": "asc", **asked}


def page(change: Any) -> Any:
    return told_at("GET", "files", change)


def cut(said: Fields) -> None:
    """Begin each page with what ended the one before."""
    said["data"] = said["data"][:1] * 2


class Uploaded:
    """Say of a file something else when it has been sent."""

    def __init__(self, **fields: Any) -> None:
        self._fields = fields

    async def __call__(self, asked: Asked, inner: Inner) -> Told:
        told = await inner(asked.said)
        if (asked.method, asked.path, told.status) == ("POST", "/v1/files", 200):
            told.said.update(self._fields)
        return told


async def undying(asked: Asked, inner: Inner) -> Told:
    """Say that a file is deleted, and keep it."""
    if asked.method != "DELETE":
        return await inner(asked.said)
    file = asked.path.rpartition("/")[2]
    return Told(200, {"id": file, "object": "file", "deleted": True}, {"content-type": "application/json"})


class Lingering:
    """Give the content of files that were deleted."""

    def __init__(self) -> None:
        self._known: dict[str, Told] = {}

    async def __call__(self, asked: Asked, inner: Inner) -> Told:
        if asked.method == "DELETE":
            path = f"{asked.path}/content"
            content = await inner(asked.said, method="GET", path=path)
            if content.status == 200:
                self._known[path] = content
        return self._known.get(asked.path) or await inner(asked.said)


class Listing:
    """List files that were deleted."""

    def __init__(self) -> None:
        self._gone: list[Fields] = []

    async def __call__(self, asked: Asked, inner: Inner) -> Told:
        if asked.method == "DELETE":
            told = await inner(asked.said, method="GET")
            self._gone += [told.said] if told.status == 200 else []
        told = await inner(asked.said)
        if (
            asked.path == "/v1/files"
            and asked.method == "GET"
            and "limit" not in asked.query
            and not asked.query
        ):
            told.said["data"] += self._gone
        return told


async def bare(asked: Asked, inner: Inner) -> Told:
    """Say nothing when a file is deleted."""
    told = await inner(asked.said)
    return Told(200, {}, told.headers) if asked.method == "DELETE" and told.status == 200 else told


async def empty_for_unknown(asked: Asked, inner: Inner) -> Told:
    """Give no bytes of a file that there is not."""
    told = await inner(asked.said)
    if asked.path.endswith("/content") and told.status == 404:
        return Told(200, b"", {"content-type": "application/octet-stream"})
    return told


async def gone(asked: Asked, inner: Inner) -> Told:
    """Say of a file that there is not that the request was wrong."""
    told = await inner(asked.said)
    if asked.path.startswith("/v1/files/") and told.status == 404:
        return refused_with(400, "No such file.")
    return told


async def unprocessable(asked: Asked, inner: Inner) -> Told:
    told = await inner(asked.said)
    if asked.path == "/v1/files" and asked.method == "POST" and told.status == 400:
        return refused_with(422, "This cannot be processed.")
    return told


async def whatever(asked: Asked, inner: Inner) -> Told:
    """Take a form that lacks something."""
    told = await inner(asked.said)
    lacks = told.status == 400 and "required property" in str(told.said)
    return Told(200, {"id": "file-1", "object": "file"}, told.headers) if lacks else told


ALL_SENT = {
    check
    for check in f.CHECKS
    if check
    not in {f.wrong_pages, f.kept_by_default, f.kept_too_long, f.wrong_purpose, f.incomplete, f.unknown}
}
FLAWS: dict[str, tuple[Any, set[Any]]] = {
    "files are called something else": (
        objects("file", lambda row: row.update(object="blob")),
        {f.described},
    ),
    "files lose the letters of their names": (
        objects("file", lambda row: row.update(filename=row["filename"].encode("ascii", "ignore").decode())),
        {f.described},
    ),
    "files are counted in characters": (
        objects("file", lambda row: row.update(bytes=row["bytes"] - 1)),
        {f.described},
    ),
    "files have no purpose": (
        objects("file", lambda row: row.update(purpose="")),
        {f.described, f.by_purpose},
    ),
    "files have no status": (objects("file", lambda row: row.pop("status")), {f.described, f.processed}),
    "files have no time": (
        objects("file", lambda row: row.update(created_at=None)),
        {f.described, f.kept, f.kept_by_default},
    ),
    "files that are sent have no id": (Uploaded(id=""), ALL_SENT),
    "files end as errors": (objects("file", lambda row: row.update(status="error")), {f.processed}),
    "files are others when they are sent": (
        Uploaded(created_at=5, expires_at=5 + 30 * DAY),
        {f.retrieved, f.kept},
    ),
    "ends of lines are made alike": (contents(lambda content: content.replace(b"\r\n", b"\n")), {f.content}),
    "a last end of a line is added": (contents(lambda content: content + b"\n"), {f.content}),
    "the oldest files come first": (query_at("files", turned), {f.listed}),
    "order is passed over": (without("order"), {f.listed}),
    "what to begin after is passed over": (without("after"), {f.paged}),
    "limits are passed over": (without("limit"), {f.paged, f.wrong_pages}),
    "limits are made to fit": (query_at("files", clamped), {f.wrong_pages}),
    "purposes are passed over": (without("purpose"), {f.by_purpose}),
    "there is always more": (page(lambda said: said.update(has_more=True)), {f.paged}),
    "there is never more": (page(lambda said: said.update(has_more=False)), {f.paged}),
    "lists are called something else": (page(lambda said: said.update(object="page")), {f.paged}),
    "pages have no ends": (page(lambda said: said.update(last_id=None)), {f.paged}),
    "files are listed twice": (page(cut), {f.listed, f.paged, f.by_purpose}),
    "deleted files are kept": (undying, {f.deleted, f.unknown}),
    "the content of deleted files is kept": (Lingering(), {f.deleted}),
    "deleted files are listed": (Listing(), {f.deleted}),
    "nothing is said of what is deleted": (bare, {f.deleted}),
    "nothing is said of when files go": (
        objects("file", lambda row: row.pop("expires_at")),
        {f.kept, f.kept_by_default},
    ),
    "files are kept for 30 days whatever is said": (
        rewriting(lambda form: form.replace(b"expires_after", b"expires_never")),
        {f.kept, f.kept_too_long},
    ),
    "files are kept for ever where nothing is said": (
        objects(
            "file",
            lambda row: (
                row.update(expires_at=None) if row["expires_at"] == row["created_at"] + 30 * DAY else None
            ),
        ),
        {f.kept, f.kept_by_default},
    ),
    "every purpose is that of batches": (
        rewriting(lambda form: form.replace(b"a-purpose-that-there-is-not", b"batch")),
        {f.wrong_purpose},
    ),
    "forms that lack something are taken": (whatever, {f.incomplete}),
    "forms that are wrong are unprocessable": (
        unprocessable,
        {f.kept_too_long, f.wrong_purpose, f.incomplete},
    ),
    "files that there are not are empty": (empty_for_unknown, {f.deleted, f.unknown}),
    "files that there are not are wrong": (gone, {f.deleted, f.unknown}),
}
