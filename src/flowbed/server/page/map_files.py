"""A map as a file: HTML that contains its points and texts, or a picture."""

from __future__ import annotations

import base64
import struct
import zlib
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from flowbed.records.values import count
from flowbed.server.page.map_bytes import bytes_of
from flowbed.server.page.markup import Markup, document, element, exported

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from flowbed.index.projection import Projection
    from flowbed.records import IndexedText

# Characters of each text that a file keeps: enough to tell what a point is.
TEXT = 280
# Pixels of a picture, its margin, and the colours of topics, as in `plot.js`.
WIDTH, HEIGHT, MARGIN = 1600, 1200, 48
PALETTE = ("1f6fb4", "d9640b", "2a8f4d", "b5267f", "7a5bc2", "8a6d00", "0f8a94", "c23b3b", "5d7a1f", "6b7681")
# Points from which they are drawn smaller.
MANY, MORE = 5_000, 50_000


def html_of(projection: Projection, rows: Sequence[IndexedText]) -> str:
    """Write a map as one HTML file; `rows` are those of its points, in their order."""
    plot = (files("flowbed.server.page") / "files" / "plot.js").read_text("utf-8").replace("\nexport ", "\n")
    data = orjson.dumps(
        {
            "map": base64.b64encode(bytes_of(projection)).decode(),
            "rows": [[row.id, row.document[:TEXT]] for row in rows],
        }
    ).decode()
    # Neither a text nor an id can end the script that holds them.
    safe = data.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    shown = count(len(projection.points), "passage")
    of = "" if len(projection.points) == projection.rows else f" of {projection.rows:,}"
    body = Markup(
        element(
            "header",
            element("h1", f"Map of {projection.collection}"),
            element("p", f"{shown}{of}, version {projection.version}"),
        )
        + element(
            "main",
            element("div", id="canvas"),
            element("aside", element("div", id="legend"), element("div", id="read")),
        )
        + Markup(f'<script type="application/json" id="data">{safe}</script>')
    )
    title = f"Map of {projection.collection}"
    return document(title, body, style=exported("map.css"), script=f"{plot}\n{exported('map.js')}")


def png_of(projection: Projection) -> bytes:
    """Draw a map as a picture, coloured by topic."""
    pixels = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    side = min(WIDTH, HEIGHT) - 2 * MARGIN
    places = (projection.points * side).round().astype(np.int64)
    x = (WIDTH - side) // 2 + places[:, 0]
    y = (HEIGHT + side) // 2 - places[:, 1]
    colours = np.array([list(bytes.fromhex(each)) for each in PALETTE], np.uint8)
    colour = colours[np.minimum(projection.topic, len(colours) - 1)]
    size = 2 if len(places) > MORE else 3 if len(places) > MANY else 5
    for dx, dy in _disc(size):
        pixels[y + dy, x + dx] = colour
    return _png(pixels)


def _disc(size: int) -> list[tuple[int, int]]:
    middle, reach = (size - 1) / 2, size // 2
    return [
        (x - reach, y - reach)
        for y in range(size)
        for x in range(size)
        if (x - middle) ** 2 + (y - middle) ** 2 <= (size / 2) ** 2
    ]


def _png(pixels: NDArray[np.uint8]) -> bytes:
    """Write pixels of shape (height, width, 3) as PNG (RFC 2083): 8 bits of red, green and blue, no filter."""
    height, width, _ = pixels.shape
    lines = np.zeros((height, 1 + 3 * width), np.uint8)
    lines[:, 1:] = pixels.reshape(height, -1)
    parts: list[tuple[bytes, Any]] = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines.tobytes(), 9)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )
