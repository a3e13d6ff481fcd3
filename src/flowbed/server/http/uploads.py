"""Multipart forms with a file, parsed as they arrive: the file is never whole in memory."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from flowbed.errors import Rejected
from flowbed.server.http.errors import Unsupported

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# Bytes of an ordinary field, and number of fields: valid fields are words or numbers.
FIELD_BYTES, FIELDS = 1_024, 16
BOUNDARY_BYTES = 70  # https://www.rfc-editor.org/rfc/rfc2046#section-5.1.1


class Upload:
    """A form whose field `file` is a file; `fields` are the others received so far."""

    def __init__(self, content_type: bytes, pieces: AsyncIterator[bytes]) -> None:
        """Parse a form from the pieces of a body.

        Raises:
            Unsupported: the body is not declared as a form.
            Rejected: its boundary is too long.
        """
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            declared = content_type.decode("latin-1")
            raise Unsupported(
                f"Unsupported content type: '{declared}'. Send files as multipart/form-data, with a boundary."
            )
        self.fields: dict[str, str] = {}
        self.filename = ""
        self.has_file = False
        self._pieces = pieces
        self._ready: deque[bytes] = deque()  # bytes of the file that are parsed but not yet read
        self._name, self._value = "", bytearray()
        self._header, self._said = bytearray(), bytearray()
        self._disposition = b""
        self._parts, self._ended = 0, False
        if len(boundary) > BOUNDARY_BYTES:
            raise Rejected(
                f"The boundary of the form has {len(boundary):,} bytes; at most {BOUNDARY_BYTES} are allowed."
            )
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._on_part_begin,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers_finished,
                "on_part_data": self._on_part_data,
                "on_part_end": self._on_part_end,
                "on_end": self._on_end,
            },
        )

    async def begin(self) -> None:
        """Read until the file starts or the form ends.

        Raises:
            Rejected: the body is not a form.
        """
        while not self.has_file and await self._read_on():
            pass

    async def file(self) -> AsyncIterator[bytes]:
        """Read the file, and what follows it to the end of the form.

        Raises:
            Rejected: the body is not a form, or it is incomplete.
        """
        while True:
            while self._ready:
                yield self._ready.popleft()
            if not await self._read_on():
                break
        if not self._ended:
            raise Rejected("The form is incomplete: its last boundary is missing. Send it again.")

    async def _read_on(self) -> bool:
        piece = await anext(self._pieces, b"")
        if not piece:
            return False
        try:
            self._parser.write(piece)
        except FormParserError as error:
            raise Rejected(f"The body is not a multipart form: {error}.") from error
        return True

    def _on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > FIELDS:
            raise Rejected(f"The form has more than {FIELDS} fields.")
        self._name, self._disposition = "", b""
        self._value.clear()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._said += data[start:end]

    def _on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._said)
        self._header.clear()
        self._said.clear()

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        if self._name != "file":
            return
        if self.has_file:
            raise Rejected("The form has two fields 'file'; send one file at a time.", param="file")
        self.has_file = True
        self.filename = options.get(b"filename", b"").decode("utf-8", "replace")

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._name == "file":
            self._ready.append(data[start:end])
            return
        self._value += data[start:end]
        if len(self._value) > FIELD_BYTES:
            raise Rejected(f"Field '{self._name}' has more than {FIELD_BYTES:,} bytes.", param=self._name)

    def _on_part_end(self) -> None:
        if self._name != "file":
            self.fields[self._name] = self._value.decode("utf-8", "replace")

    def _on_end(self) -> None:
        self._ended = True
