"""Decode bytes to text."""

from __future__ import annotations

import codecs
import re

from flowbed.errors import Rejected

# Characters that no id may contain: control characters, including line ends, and lone surrogates, which UTF-8 cannot
# encode.
UNUSABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
UTF32 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)  # the first of them begins as UTF-16 does


def decoded(raw: bytes) -> str:
    """Decode UTF-8 without its byte order mark. Line ends are kept, so that offsets match the file.

    Raises:
        Rejected: `raw` is not UTF-8; the message says why and where.
    """
    if b"\0" not in raw and not raw.startswith(UTF16):
        try:
            return raw.decode().removeprefix("\ufeff")
        except UnicodeDecodeError as error:
            raise Rejected(why_not_text(raw, final=True)) from error
    raise Rejected(why_not_text(raw, final=True))


def why_not_text(raw: bytes, *, final: bool) -> str:
    """Return why `raw` is not UTF-8 text, or ""; unless `final`, it may end inside a character."""
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


def decoded_file(raw: bytes) -> str:
    """Decode a whole file: UTF-8, or UTF-16 with a byte order mark, as Windows writes it; without the mark.

    Raises:
        Rejected: it is neither; the message says why and where.
    """
    if not raw.startswith(UTF16):
        return decoded(raw)
    if fault := why_not_file(raw, final=True):
        raise Rejected(fault)
    return raw.decode("utf-16")


def why_not_file(raw: bytes, *, final: bool) -> str:
    """Return why `raw` is not the text of a file, or ""; unless `final`, it may end inside a character."""
    if raw.startswith(UTF32):
        return "UTF-32 (byte order mark at 0); convert it to UTF-8, e.g. with iconv"
    if not raw.startswith(UTF16):
        return why_not_text(raw, final=final)
    try:
        text = codecs.getincrementaldecoder("utf-16")().decode(raw, final)
    except UnicodeDecodeError as error:
        return f"not UTF-16 after its byte order mark ({error.reason}); convert it to UTF-8, e.g. with iconv"
    zero = text.find("\0")
    return f"binary (NUL character at {zero})" if zero >= 0 else ""
