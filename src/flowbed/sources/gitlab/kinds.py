"""The kinds of documents of a project of GitLab."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMES = {"issues": "issues", "merge_requests": "merge requests", "wiki": "the wiki"}
# How the ids of documents go on after the number of the project.
SIGNS = {"issues": "#", "merge_requests": "!", "wiki": "/wikis/"}


def is_on(project: Mapping[str, Any], kind: str) -> bool:
    """Tell whether a project has issues, merge requests or a wiki; older versions do not say."""
    return bool(project.get(f"{kind}_access_level", "enabled") != "disabled")
