"""Look-up of many values in a sorted array."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from typing import TypeVar

    from numpy.typing import NDArray

    Key = TypeVar("Key", np.int64, np.uint64)


def positions(keys: NDArray[Key], wanted: NDArray[Key]) -> NDArray[np.int64]:
    """Return the first position of each wanted value in the sorted `keys`, -1 for missing ones."""
    if not len(keys):
        return np.full(len(wanted), -1, np.int64)
    at = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[at] == wanted, at, -1)
