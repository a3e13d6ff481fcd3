"""The files of a simulated provider, each owned by the key that uploaded it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowbed.testing.simulators.content import Content

MONTH = 30 * 86_400.0  # seconds: how long OpenAI and Voyage keep the files of jobs


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """One file; times are in seconds since 1970, and `expires` is None if it never does."""

    id: str
    key: str
    purpose: str
    filename: str
    content: Content
    created: float
    expires: float | None = None


class Files:
    """All files; an expired file, or one of another key, is not found."""

    def __init__(self) -> None:
        """Start empty."""
        self._files: dict[str, StoredFile] = {}

    def add(
        self, key: str, purpose: str, filename: str, content: Content, *, now: float, keep: float | None
    ) -> StoredFile:
        """Store a file for `keep` seconds, or forever."""
        stored = StoredFile(
            id=f"file-{secrets.token_hex(11)}",
            key=key,
            purpose=purpose,
            filename=filename,
            content=content,
            created=now,
            expires=None if keep is None else now + keep,
        )
        self._files[stored.id] = stored
        return stored

    def peek(self, key: str, file: object) -> Content | None:
        """Return a file even if it has expired."""
        stored = self._files.get(file) if isinstance(file, str) else None
        return stored.content if stored and stored.key == key else None

    def get(self, key: str, file: str, now: float) -> StoredFile | None:
        """Find a file."""
        return next((each for each in self.all(key, now) if each.id == file), None)

    def all(self, key: str, now: float) -> list[StoredFile]:
        """Return all files of a key, the oldest first."""
        self._files = {
            name: each for name, each in self._files.items() if each.expires is None or each.expires > now
        }
        return [each for each in self._files.values() if each.key == key]

    def remove(self, file: str) -> None:
        """Forget a file."""
        self._files.pop(file, None)
