"""How a vector is stored: float32 numbers, the token count of its text if known, and a mark if the text was truncated.

On disk and in Redis a seal follows: a checksum of key and value, so that what was damaged there is not taken for a
vector. A reader that does not know the extra bytes sees a value of the wrong length, and ignores it.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING
from zlib import crc32

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np
    from numpy.typing import NDArray

FLOAT, FLOAT_BYTES = "<f4", 4
COUNT_BYTES = 4

# Marks the vector of a truncated text, so that the cache can report it again.
CUT_OFF = b"\x01"

# A seal begins with this. With it a value has a length that none has without.
SEALED = b"fb1:"
SEAL_BYTES = len(SEALED) + 4
# How far the length of a vector of length 1 may be off: providers round, some of them to half precision.
LENGTH_TOLERANCE = 1e-3


class Layout:
    """The stored values of one space."""

    def __init__(self, dimensions: int, *, normalized: bool = False) -> None:
        """Store `dimensions` numbers in each; those of a `normalized` vector have length 1."""
        self._dimensions = dimensions
        self._normalized = normalized
        self._bytes = dimensions * FLOAT_BYTES

    def pack(self, vector: NDArray[np.float32], *, count: int | None, cut_off: bool) -> bytes:
        """Encode one vector of shape (dimensions,) as little-endian float32."""
        return b"".join(
            (
                vector.tobytes(),
                b"" if count is None else count.to_bytes(COUNT_BYTES, "little"),
                CUT_OFF if cut_off else b"",
            )
        )

    def counted(self, value: bytes, count: int) -> bytes:
        """Add the token count to a value that has none."""
        end = self._bytes
        return value[:end] + count.to_bytes(COUNT_BYTES, "little") + value[end:]

    def is_valid(self, value: bytes) -> bool:
        """Return whether a value can be one of this space."""
        more = len(value) - self._bytes
        return more in (0, COUNT_BYTES) or (more in (1, COUNT_BYTES + 1) and value.endswith(CUT_OFF))

    def usable(self, values: Sequence[bytes]) -> list[bool]:
        """Tell of each valid value whether its numbers can be those of a vector."""
        import numpy as np  # slow; finding and submitting work never need it

        vectors = self.vectors(values)
        with np.errstate(over="ignore", invalid="ignore"):
            lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
        return [self._makes_sense(length) for length in lengths.tolist()]

    def is_usable(self, value: bytes) -> bool:
        """Tell the same of one valid value, without numpy."""
        return self._makes_sense(math.hypot(*struct.unpack_from(f"<{self._dimensions}f", value)))

    def _makes_sense(self, length: float) -> bool:
        if self._normalized:
            return abs(length - 1) <= LENGTH_TOLERANCE
        return math.isfinite(length) and length > 0

    def is_finite(self, value: bytes) -> bool:
        """Return whether all numbers of a valid value are finite."""
        import numpy as np  # slow; finding and submitting work never need it

        return bool(np.isfinite(np.frombuffer(value, dtype=FLOAT, count=self._dimensions)).all())

    def is_cut_off(self, value: bytes) -> bool:
        """Return whether a valid value is of a truncated text."""
        return (len(value) - self._bytes) % COUNT_BYTES == 1

    def count(self, value: bytes) -> int | None:
        """Return the token count in a valid value; None if it has none."""
        end = self._bytes + COUNT_BYTES
        return int.from_bytes(value[self._bytes : end], "little") if len(value) >= end else None

    def vectors(self, values: Iterable[bytes]) -> NDArray[np.float32]:
        """Decode valid values into a new array of shape (values, dimensions)."""
        import numpy as np

        joined = b"".join([value[: self._bytes] for value in values])
        return np.frombuffer(joined, dtype=FLOAT).reshape(-1, self._dimensions).astype(np.float32)


def sealed(key: bytes, value: bytes) -> bytes:
    """Return a value with its seal."""
    return b"".join((value, SEALED, _checksum(key, value)))


def unsealed(key: bytes, stored: bytes) -> bytes | None:
    """Return what was sealed; None if it is damaged. What has no seal, as in earlier versions, is returned as it is."""
    value, seal = stored[:-SEAL_BYTES], stored[-SEAL_BYTES:]
    if not seal.startswith(SEALED):
        return stored
    return value if seal[len(SEALED) :] == _checksum(key, value) else None


def _checksum(key: bytes, value: bytes) -> bytes:
    return crc32(value, crc32(key)).to_bytes(4, "little")
