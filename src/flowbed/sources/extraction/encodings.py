"""Decode a web page as browsers do: by its byte order mark, or else by the encoding that it names."""

from __future__ import annotations

import codecs
import re

from flowbed.sources.decoding import why_not_text
from flowbed.sources.extraction.writer import RefusedError

# A page names its encoding within its first bytes; long programs may stand before.
HEAD = 2**16
REPLACED = "\ufffd"

_META = re.compile(rb"<meta\b[^>]{0,500}?\bcharset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
_XML = re.compile(rb"\s*<\?xml\b[^>]{0,500}?\bencoding\s*=\s*[\"']([\w.:-]+)", re.IGNORECASE)
# Encodings are read as their supersets, which is what pages of these names have: https://encoding.spec.whatwg.org
_SUPERSETS = {
    "ascii": "cp1252",
    "big5": "big5hkscs",
    "euc_jp": "euc_jis_2004",
    "euc_kr": "cp949",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "shift_jis": "cp932",
    "tis-620": "cp874",
}
# What Python calls encodings, and no page is written in.
_NONE = frozenset({"idna", "punycode", "raw-unicode-escape", "unicode-escape", "utf-7"})
# Names that Python does not know.
_NAMES = {
    "ms932": "cp932",
    "unicode": "utf-8",
    "windows-31j": "cp932",
    "windows-874": "cp874",
    "x-euc-jp": "euc_jis_2004",
    "x-gbk": "gb18030",
    "x-mac-cyrillic": "mac_cyrillic",
    "x-sjis": "cp932",
}


def decoded_page(markup: bytes) -> str:
    """Return the text of a page.

    Raises:
        RefusedError: most of its letters outside ASCII are not in the encoding that it names, or it names none.
    """
    for mark, codec in (
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
    ):
        if markup.startswith(mark):
            return markup.removeprefix(mark).decode(codec, "replace")
    named = _META.search(markup, 0, HEAD) or _XML.match(markup)
    label = named[1].decode().casefold() if named else ""
    codec = _codec(label) or "utf-8"
    text = markup.decode(codec, "replace")
    if 10 * text.count("\0") > len(text):
        raise RefusedError(
            "it is binary, or UTF-16 without a byte order mark; convert it to UTF-8, e.g. with iconv"
        )
    letters = sum(map(len, re.findall(r"[^\x00-\x7f]+", text)))
    if 2 * text.count(REPLACED) <= letters:
        return text  # a letter that is cut does not matter
    if not label:
        fault = why_not_text(markup, final=True).partition(";")[0]
        raise RefusedError(f"it is {fault} and names no encoding; convert it to UTF-8, e.g. with iconv")
    raise RefusedError(
        f"it is not in the encoding that it names, {label}; correct the name, or convert it to UTF-8"
    )


def _codec(label: str) -> str:
    """Return Python's name of an encoding that a page may name, empty where there is none."""
    try:
        name = codecs.lookup(_NAMES.get(label, label)).name
        "".encode(name)
    except (LookupError, UnicodeError):
        return ""
    if name in _NONE:
        return ""
    # What names another one in letters of ASCII cannot be in UTF-16.
    return "utf-8" if name.startswith(("utf-16", "utf-32")) else _SUPERSETS.get(name, name)
