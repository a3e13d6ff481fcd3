"""A map as bytes: a JSON header, and eight bytes for each point.

`FBMAP1`, two zero bytes, the length of the header (uint32), the header padded with spaces to a multiple of 4, and then
columns of all points, little-endian: x and y (uint16 of [0, 1]), time (uint16: 0 is unknown, 1 the first and 65535 the
last), topic and source (uint8).
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowbed.index.projection import Projection

MAGIC = b"FBMAP1\0\0"
LAST = 65_535


def header_of(projection: Projection) -> dict[str, Any]:
    """Describe a map."""
    return {
        "collection": projection.collection,
        "version": projection.version,
        "rows": projection.rows,
        "points": len(projection.points),
        "sources": list(projection.sources),
        "topics": list(projection.topics),
        "time": None if projection.times is None else asdict(projection.times),
        "explained": [round(each, 4) for each in projection.explained],
    }


def bytes_of(projection: Projection) -> bytes:
    """Write a map as bytes."""
    header = orjson.dumps(header_of(projection))
    header += b" " * (-len(header) % 4)
    places = (projection.points * LAST).round().astype("<u2")
    columns = (places[:, 0], places[:, 1], _times(projection), projection.topic, projection.source)
    body = b"".join(column.tobytes() for column in columns)
    return MAGIC + len(header).to_bytes(4, "little") + header + body


def _times(projection: Projection) -> NDArray[np.uint16]:
    times = projection.times
    if times is None:
        return np.zeros(len(projection.time), "<u2")
    span = (times.last - times.first) or 1.0
    known = ~np.isnan(projection.time)
    found = np.zeros(len(projection.time), "<u2")
    found[known] = 1 + ((projection.time[known] - times.first) / span * (LAST - 1)).round()
    return found
