"""HTML files that contain everything they need: every text is escaped, and only their own script and style count."""

from __future__ import annotations

import base64
import hashlib
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

FOLDER = files("flowbed.server.page") / "exported"


class Markup(str):
    """A text that is HTML already; any other text is escaped where it is put into an element."""

    __slots__ = ()


def element(name: str, *children: object, **attributes: object) -> Markup:
    """Write an element; `class_` and the like lose their underscore, and None leaves an attribute out."""
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{said}>{joined(children)}</{name}>")


def joined(children: Sequence[object]) -> Markup:
    """Put pieces together; those that are no markup are escaped."""
    return Markup("".join(each if isinstance(each, Markup) else escape(str(each)) for each in children))


def table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], *, numbers: int = 0, empty: str = ""
) -> Markup:
    """Write a table whose last `numbers` columns are figures; `empty` stands for one without rows."""
    if not rows:
        return element("p", empty or "Nothing yet.", class_="note")
    first = len(columns) - numbers

    def cells(name: str, row: Sequence[object]) -> Markup:
        return joined(
            [
                element(name, each, class_="number" if place >= first else None)
                for place, each in enumerate(row)
            ]
        )

    head = element("thead", element("tr", cells("th", columns)))
    body = element("tbody", *(element("tr", cells("td", row)) for row in rows))
    return element("div", element("table", head, body), class_="scroll", tabindex="0")


def document(title: str, body: Markup, *, style: str, script: str = "") -> str:
    """Write a whole file; its policy allows this script and this style, and nothing from elsewhere."""
    allowed = [f"default-src 'none'; style-src {_hash(style)}"]
    if script:
        allowed.append(f"script-src {_hash(script)}")
    policy = element("meta", http_equiv="Content-Security-Policy", content="; ".join(allowed))
    head = joined(
        [
            Markup('<meta charset="utf-8">'),
            Markup(policy.removesuffix("</meta>")),
            Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            Markup('<meta name="color-scheme" content="light dark">'),
            element("title", title),
            Markup(f"<style>{style}</style>"),
        ]
    )
    code = Markup(f'<script type="module">{script}</script>') if script else Markup("")
    page = element("html", element("head", head), element("body", body, code), lang="en")
    return f"<!doctype html>\n{page}\n"


def exported(name: str) -> str:
    """Read a style or script that is written into files."""
    return (FOLDER / name).read_text("utf-8")


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"
