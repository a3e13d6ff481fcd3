"""An embedder whose vectors depend only on the text: `seeded:64` returns unit vectors of 64 dimensions.

Texts that contain POISON are rejected; texts that contain FLAKY fail the first time they are sent.
"""

from __future__ import annotations

import asyncio
import json
from hashlib import shake_256
from typing import TYPE_CHECKING

import numpy as np

from flowbed.embedding.unicode import require_unicode
from flowbed.errors import Misconfigured, Rejected, Transient
from flowbed.records import Embedded, Space

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from flowbed.records import Purpose

# OpenAI's limits of one call.
ITEMS = 2048
TOKENS = 300_000

# The sum of four uniform bytes is close to a bell curve, in whole numbers: vectors point in all directions alike, and
# are the same bytes on every machine, which logarithms and cosines of maths libraries do not guarantee.
BYTES_PER_NUMBER = 4

OPTIONS = {"server", "names_inputs", "items", "price"}

# All texts of a request are one line.
LINE_LIMIT = 1 << 28


class Seeded:
    """Equal texts have equal vectors for either purpose: a query for the exact text finds it with a score of 1."""

    def __init__(
        self,
        dimensions: int,
        *,
        items: int = ITEMS,
        price: float = 0.0,
        server: str = "",
        names_inputs: bool = False,
    ) -> None:
        """Report every request to the process at `server` (host:port), if set, before answering it."""
        self.space = Space(model=f"seeded:{dimensions}", dimensions=dimensions)
        self.items = items
        self.tokens = TOKENS
        self.price = price
        self._server = server
        self._names_inputs = names_inputs
        self._failed: set[str] = set()

    async def embed(self, texts: Sequence[str], *, purpose: Purpose) -> Embedded:  # noqa: ARG002 - see the class
        """Embed every text or none.

        Raises:
            Transient: a text contains FLAKY and is sent for the first time, or the process at `server` does not answer.
            Rejected: a text contains POISON.
        """
        require_unicode(texts)
        if len(texts) > self.items:
            raise Rejected(f"{len(texts)} texts in one call: at most {self.items}")
        flaky = await self._send(texts)
        poison = [position for position, text in enumerate(texts) if "POISON" in text]
        if poison:
            inputs = poison if self._names_inputs else ()
            raise Rejected(f"{len(poison)} of {len(texts)} texts are poison", inputs=inputs)
        if flaky:
            raise Transient(f"{len(flaky)} of {len(texts)} texts are flaky, and were sent for the first time")
        return Embedded(vectors=seeded(texts, self.space.dimensions), tokens=sum(map(self.count, texts)))

    def count(self, text: str) -> int:
        """Count the words between white space."""
        return len(text.split())

    async def _send(self, texts: Sequence[str]) -> Sequence[int]:
        if self._server:
            try:
                return await _report(self._server, texts)
            except OSError as error:
                raise Transient(f"the server at {self._server} did not answer: {error}") from error
        flaky = [
            position for position, text in enumerate(texts) if "FLAKY" in text and text not in self._failed
        ]
        self._failed.update(texts[position] for position in flaky)
        return flaky


def open_seeded(name: str, *, cache: Path, options: Mapping[str, str]) -> Seeded:  # noqa: ARG001 - keeps no files
    """Open the seeded embedder; `name` is its number of dimensions.

    Options: `server` (host:port of a process that every request is reported to), `names_inputs` (true: a rejection
    says which texts), `items` (texts in one call), `price` (US dollars per million tokens).

    Raises:
        Misconfigured: the name is not a number, or an option is unknown or invalid.
    """
    if unknown := set(options) - OPTIONS:
        raise Misconfigured(f"model seeded:{name} has no option {sorted(unknown)}; it has {sorted(OPTIONS)}")
    try:
        return Seeded(
            _positive(name),
            items=_positive(options.get("items", str(ITEMS))),
            price=float(options.get("price", "0")),
            server=options.get("server", ""),
            names_inputs=options.get("names_inputs", "").lower() in {"true", "1"},
        )
    except ValueError as error:
        raise Misconfigured(
            f"model seeded:{name}: dimensions, items and price are numbers ({error})"
        ) from error


def seeded(texts: Sequence[str], dimensions: int) -> NDArray[np.float32]:
    """Return one unit vector per text, of shape (texts, dimensions)."""
    width = dimensions * BYTES_PER_NUMBER
    drawn = b"".join(shake_256(text.encode()).digest(width) for text in texts)
    numbers = np.frombuffer(drawn, np.uint8).reshape(len(texts), dimensions, BYTES_PER_NUMBER)
    # Doubled and shifted by an odd number: centred on 0, but no number is 0, so every vector has a direction.
    centred = 2 * numbers.sum(axis=2, dtype=np.int64) - 255 * BYTES_PER_NUMBER + 1
    lengths = np.sqrt((centred * centred).sum(axis=1, keepdims=True).astype(np.float64))
    vectors: NDArray[np.float32] = (centred / lengths).astype(np.float32)
    return vectors


async def _report(server: str, texts: Sequence[str]) -> Sequence[int]:
    """Send the texts of a request to `server`, and return the positions of those that it wants to fail.

    The request is the JSON line `{"op": "embed", "texts": [...]}`, the response `{"flaky": [positions]}`.

    Raises:
        OSError: the server cannot be reached, or closed the connection.
    """
    host, _, port = server.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=LINE_LIMIT)
    try:
        writer.write(json.dumps({"op": "embed", "texts": list(texts)}).encode() + b"\n")
        await writer.drain()
        line = await reader.readline()
    finally:
        writer.close()
    if not line:
        raise ConnectionResetError("it closed the connection")
    flaky: list[int] = json.loads(line)["flaky"]
    return flaky


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(f"{text} is not positive")
    return number
