"""Backlog's own notation as Markdown, so that its headings, lists, tables and code are found as such. No I/O."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# What keeps its text as it is: `{code:java}` up to `{/code}`, which may be missing at the end.
_CODE = re.compile(r"\{code(?::([^{}\n]*))?\}\n?(.*?)(?:\{/code\}|\Z)", re.DOTALL)
_QUOTE = re.compile(r"\{quote\}\n?(.*?)(?:\{/quote\}|\Z)", re.DOTALL)
_HEADING = re.compile(r"(\*{1,6})[ \u3000]*(?=[^*\s])(.*)")
_LIST = re.compile(r"(-{1,6}|\+{1,6})[ \u3000]*(?=[^-+\s])(.*)")
_ROW = re.compile(r"\|(.*)\|(h?)[ \u3000]*")
_LINK = re.compile(r"\[\[([^\[\]\n]+?)\]\]")
# What stands between a label and an address.
_BEFORE_ADDRESS = re.compile(r"[>:](?=(?:https?|ftp|mailto):\S|/)")
_COLOR = re.compile(r"&color\([^()\n]*\)\s*\{([^{}]*)\}")
_FILE = re.compile(r"#(?:image|thumbnail|attach)\(([^()\n:]*)(?::[^()\n]*)?\)")
_MARKS = (
    (re.compile(r"'''(?=\S)(.+?)'''"), r"*\1*"),
    (re.compile(r"''(?=\S)(.+?)''"), r"**\1**"),
    (re.compile(r"%%(?=\S)(.+?)%%"), r"~~\1~~"),
)


def to_markdown(text: str) -> str:
    """Return a text in Backlog's notation as Markdown."""
    parts, at = [], 0
    for found in _CODE.finditer(text):
        parts.append(_prose(text[at : found.start()]))
        # A longer fence than any in the code, so that it ends where it should.
        fence = "`" * max([3, *(len(each) + 1 for each in re.findall(r"`{3,}", found[2]))])
        begin = "" if not text[: found.start()].strip(" \u3000") or text[found.start() - 1] == "\n" else "\n"
        end = "" if text[found.end() : found.end() + 1] in ("", "\n") else "\n"
        parts.append(f"{begin}{fence}{(found[1] or '').strip()}\n{found[2].rstrip()}\n{fence}{end}")
        at = found.end()
    return "".join([*parts, _prose(text[at:])])


def _prose(text: str) -> str:
    text = _QUOTE.sub(lambda found: _quoted(found[1]), text.replace("&br;", "\n"))
    text = re.sub(r"^#contents[ \t]*$\n?", "", text, flags=re.MULTILINE)
    for _ in range(2):  # a colour inside another one
        text = _COLOR.sub(r"\1", text)
    return "\n".join(_lines(text))


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}" for line in text.strip("\n").split("\n"))


def _lines(text: str) -> Iterator[str]:
    in_table = False
    for line in text.split("\n"):
        row = _ROW.fullmatch(line.strip(" \u3000"))
        if row is None:
            in_table = False
            yield _inline(_block(line))
            continue
        cells = [each.strip() for each in row[1].split("|")]
        yield f"| {' | '.join(_inline(each.removeprefix('~')) for each in cells)} |"
        if not in_table and (row[2] or all(each.startswith("~") for each in cells)):
            yield f"|{' --- |' * len(cells)}"
        in_table = True


def _block(line: str) -> str:
    if heading := _HEADING.fullmatch(line):
        return f"{'#' * len(heading[1])} {heading[2]}"
    if item := _LIST.fullmatch(line):
        mark = "-" if item[1][0] == "-" else "1."
        return f"{'   ' * (len(item[1]) - 1)}{mark} {item[2]}"
    return line


def _inline(text: str) -> str:
    text = _LINK.sub(lambda found: _link(found[1]), text)
    text = _FILE.sub(lambda found: f"[file: {found[1].strip()}]", text)
    for pattern, replacement in _MARKS:
        text = pattern.sub(replacement, text)
    return text


def _link(inner: str) -> str:
    words = inner.split()
    if not words or inner.startswith(("http:", "https:")) or not inner.endswith(words[-1]):
        return inner
    # An address has no blank in it, and a label has a letter.
    found = _BEFORE_ADDRESS.search(inner, max(1, len(inner) - len(words[-1])))
    return inner if found is None else f"[{inner[: found.start()]}]({inner[found.end() :]})"
