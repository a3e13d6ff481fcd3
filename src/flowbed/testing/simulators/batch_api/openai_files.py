"""OpenAI's Files API, simulated: `/v1/files` (https://platform.openai.com/docs/api-reference/files)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowbed.testing.simulators.batch_api.files import MONTH
from flowbed.testing.simulators.batch_api.forms import read_form
from flowbed.testing.simulators.batch_api.routes import Routes, page
from flowbed.testing.simulators.wire import Stream, as_json, fields

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowbed.testing.simulators.batch_api.files import Files, StoredFile
    from flowbed.testing.simulators.batch_api.forms import Field
    from flowbed.testing.simulators.providers.openai import OpenAI
    from flowbed.testing.simulators.wire import Answer, OperationContext, Request

BYTES = 512 * 1024 * 1024
PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
LEAST, MOST = 3600, 2_592_000  # seconds: range of `expires_after`
LISTED = 10_000


class FilesApi:
    """OpenAI's files: how requests are parsed and answered."""

    def __init__(self, api: OpenAI, files: Files) -> None:
        """Serve `files`; word errors as `api` does."""
        self._api = api
        self._files = files
        self.routes = Routes(
            ("POST", "/v1/files", self._upload),
            ("GET", "/v1/files", self._list),
            ("GET", "/v1/files/*", self._get),
            ("DELETE", "/v1/files/*", self._delete),
            ("GET", "/v1/files/*/content", self._content),
        )

    def _upload(self, request: Request, context: OperationContext) -> Answer:
        form = self._form(request)
        purpose, file = form["purpose"].text, form["file"]
        if purpose not in PURPOSES:
            raise self._api.error(400, f"'{purpose}' is not one of {list(PURPOSES)} - 'purpose'")
        if file.content.size > BYTES:
            raise self._api.error(413, f"The file is larger than {BYTES} bytes.")
        if purpose == "batch":
            first = next(file.content.lines(), b"")
            if not (file.filename or "").endswith(".jsonl") or fields(first) is None:
                raise self._api.error(400, "Invalid file format for Batch API. Must be .jsonl")
        stored = self._files.add(
            context.key,
            purpose,
            file.filename or "",
            file.content,
            now=context.now,
            keep=self._expiry(form) or (MONTH if purpose == "batch" else None),
        )
        return as_json(200, describe(stored), self._api.signed())

    def _form(self, request: Request) -> Mapping[str, Field]:
        """Parse the form of an upload."""
        try:
            form = read_form(request.form, request.headers.get("content-type", ""))
        except ValueError as error:
            raise self._api.error(400, f"The form could not be read: {error}.") from error
        for name in ("file", "purpose"):
            if name not in form:
                raise self._api.error(400, f"'{name}' is a required property")
        return form

    def _expiry(self, form: Mapping[str, Field]) -> float | None:
        if not any(name.startswith("expires_after") for name in form):
            return None
        payload = {
            name: form[f"expires_after[{name}]"].text
            for name in ("anchor", "seconds")
            if f"expires_after[{name}]" in form
        }
        return self.keep(payload, "expires_after")

    def keep(self, payload: Any, name: str) -> float:  # any JSON value
        """Return for how many seconds to keep a file; `name` is the name of the field.

        Raises:
            VendorError: it is not a time, or not an allowed one.
        """
        if not isinstance(payload, dict) or payload.get("anchor") != "created_at":
            message = f"Invalid value for '{name}.anchor'. Supported values are: 'created_at'."
            raise self._api.error(400, message, param=f"{name}.anchor", code="invalid_value")
        seconds = str(payload.get("seconds", ""))
        if not seconds.isdecimal() or not LEAST <= int(seconds) <= MOST:
            message = f"Invalid value for '{name}.seconds'. Must be between {LEAST} and {MOST}."
            raise self._api.error(400, message, param=f"{name}.seconds", code="invalid_value")
        return float(seconds)

    def _list(self, request: Request, context: OperationContext) -> Answer:
        purpose = request.parameter("purpose")
        stored = [each for each in self._files.all(context.key, context.now) if purpose in {"", each.purpose}]
        if request.parameter("order") != "asc":
            stored.reverse()
        return self.page(request, [describe(each) for each in stored], most=LISTED, usual=LISTED)

    def page(self, request: Request, listed: Sequence[dict[str, Any]], *, most: int, usual: int) -> Answer:
        """Return the requested page of a list.

        Raises:
            VendorError: the limit is too high, or `after` is unknown.
        """
        limit = request.parameter("limit") or str(usual)
        if not limit.isdecimal() or not 1 <= int(limit) <= most:
            message = f"Invalid 'limit': expected a value between 1 and {most}, but got '{limit}' instead."
            raise self._api.error(400, message, param="limit", code="invalid_value")
        after = request.parameter("after")
        found = page(listed, after=after, limit=int(limit))
        if found is None:
            raise self._api.error(404, f"No object found with id '{after}'.", param="after")
        return as_json(200, found, self._api.signed())

    def _get(self, _: Request, file: str, context: OperationContext) -> Answer:
        return as_json(200, describe(self._find(file, context)), self._api.signed())

    def _delete(self, _: Request, file: str, context: OperationContext) -> Answer:
        self._files.remove(self._find(file, context).id)
        return as_json(200, {"object": "file", "id": file, "deleted": True}, self._api.signed())

    def _content(self, _: Request, file: str, context: OperationContext) -> Stream:
        stored = self._find(file, context)
        return Stream(
            status=200,
            content=stored.content,
            headers=((b"content-type", b"application/octet-stream"), *self._api.signed()),
        )

    def _find(self, file: str, context: OperationContext) -> StoredFile:
        stored = self._files.get(context.key, file, context.now)
        if stored is None:
            raise self._api.error(404, f"No such File object: {file}", param="id")
        return stored


def describe(stored: StoredFile) -> dict[str, Any]:
    """Describe a file."""
    return {
        "object": "file",
        "id": stored.id,
        "purpose": stored.purpose,
        "filename": stored.filename,
        "bytes": stored.content.size,
        "created_at": int(stored.created),
        "expires_at": None if stored.expires is None else int(stored.expires),
        "status": "processed",
        "status_details": None,
    }
