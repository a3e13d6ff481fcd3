"""How a vector is stored: float32 numbers, the token count of its text if known, and a mark if the text was truncated.

A reader that does not know the extra bytes sees a value of the wrong length, and ignores it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    from numpy.typing import NDArray

FLOAT, FLOAT_BYTES = "<f4", 4
COUNT_BYTES = 4

# Marks the vector of a truncated text, so that the cache can report it again.
CUT_OFF = b"\x01"


class Layout:
    """The stored values of one space."""

    def __init__(self, dimensions: int) -> None:
        """Store `dimensions` numbers in each."""
        self._dimensions = dimensions
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
