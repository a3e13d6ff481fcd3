"""A hook of MkDocs: links to files outside docs/ become names of these files, since the site does not have them."""  # noqa: INP001 - MkDocs loads it by its path

from __future__ import annotations

import re
from typing import Any

OUTSIDE = re.compile(r"\[([^\]]*)\]\((?:\.\./)+([^)#]+)(?:#[^)]*)?\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Return the text of a page without links that leave docs/."""
    depth = page.file.src_uri.count("/")
    return OUTSIDE.sub(lambda link: link[0] if link[0].count("../") <= depth else f"`{link[2]}`", markdown)
