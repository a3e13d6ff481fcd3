"""An embedder for processes that may be lost: some texts end the process, hang it, or have it hold memory.

`DIES` ends the process as `kill -9` does; `DIES-ONCE path` unless the file is there, which it makes first; `HANGS`
never comes back; `SLOW seconds` blocks for a while; `GROWS megabytes` holds so many more from then on; `FAILS` raises
what is no error of ours.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from flowbed.testing.embedder import Seeded
from flowbed.testing.faults import die

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.records import Embedded, Purpose

FOR_EVER = 1e6  # s


class Dying(Seeded):
    """A seeded embedder that does what its texts say first."""

    def __init__(self, dimensions: int) -> None:
        """Hold nothing yet."""
        super().__init__(dimensions)
        self._held: list[bytes] = []

    async def embed(self, texts: Sequence[str], *, purpose: Purpose) -> Embedded:
        """Do what the texts say, and embed them if that leaves anything to do it."""
        for text in texts:
            self._do(*text.partition(" ")[::2])
        return await super().embed(texts, purpose=purpose)

    def _do(self, word: str, rest: str) -> None:
        if word == "DIES" or (word == "DIES-ONCE" and not Path(rest).exists()):
            if rest:
                Path(rest).touch()
            die()
        elif word in {"HANGS", "SLOW"}:
            time.sleep(float(rest or FOR_EVER))
        elif word == "GROWS":
            self._held.append(b"x" * (int(rest) * 2**20))
        elif word == "FAILS":
            raise ZeroDivisionError(word)


def open_dying(dimensions: int) -> Dying:
    """Open one; this can be pickled for another process."""
    return Dying(dimensions)
