"""Bytes to text, or the reason why not."""

from __future__ import annotations

import codecs
import re

from flowbed.errors import Rejected

# What no id may hold: control characters, line ends among them, and halves of characters, which UTF-8 cannot hold.
UNUSABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def decoded(raw: bytes) -> str:
    r"""Decode UTF-8, without its byte order mark; line ends stay as they are, so that offsets are those of the file.

    Raises:
        Rejected: `raw` is not UTF-8; the message says why, and where.
    """
    if b"\0" not in raw and not raw.startswith(UTF16):
        try:
            return raw.decode().removeprefix("\ufeff")
        except UnicodeDecodeError as error:
            raise Rejected(not_text(raw, final=True)) from error
    raise Rejected(not_text(raw, final=True))


def not_text(raw: bytes, *, final: bool) -> str:
    """Say why `raw` is not UTF-8 text, or nothing; unless `final`, it may end within a character."""
    if raw.startswith(UTF16):
        return "UTF-16 (byte order mark at 0); convert it to UTF-8, e.g. with iconv"
    zero = raw.find(0)
    if zero >= 0:
        return f"binary (NUL byte at {zero})"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(raw, final)
    except UnicodeDecodeError as error:
        byte = raw[error.start]
        return f"not UTF-8 (byte 0x{byte:02x} at {error.start}); convert it to UTF-8, e.g. with iconv"
    return ""
