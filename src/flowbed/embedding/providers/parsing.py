"""Extracts vectors from providers' responses: each provably belongs to its text, or the response is refused. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pybase64 import b64decode  # ten times as fast as the standard library's

from flowbed.errors import Misconfigured, Rejected, Transient
from flowbed.records.values import count as counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

FLOAT = "<f4"
# Squared lengths within single precision.
TINY, HUGE = 1e-30, 1e30


# More tokens than any request can have: figures beyond it are a server's mistake, and would not fit the ledger.
MOST_TOKENS = 10**9
# Levels of nested objects in which the message of an error is looked for.
LEVELS = 8


def indexed(data: Any, count: int) -> list[Any]:  # parsed JSON
    """Return the embeddings of `data`, a list of {index, embedding}, in the order of their texts.

    Servers that leave out fields of value 0 leave out the index of the first text.

    Raises:
        Transient: it is not such a list, or an index is missing, doubled or out of range: no vector can be trusted.
    """
    if not isinstance(data, list) or not all(isinstance(each, dict) for each in data):
        raise Transient("the response has no list of embeddings")
    if len(data) != count:
        raise Transient(f"the response has {counted(len(data), 'vector')} for {counted(count, 'text')}")
    found: dict[int, Any] = {}
    without = [each for each in data if "index" not in each]
    for each in data:
        index = each.get("index", 0 if len(without) == 1 else None)
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < count:
            raise Transient(
                f"the response has a vector with index {str(index)[:20]} among {counted(count, 'text')}"
            )
        if index in found:
            raise Transient(f"the response has two vectors with index {index}, so neither can be trusted")
        found[index] = each.get("embedding")
    return [found[index] for index in range(count)]


def positional(rows: Any, count: int) -> list[Any]:  # parsed JSON
    """Return embeddings that are in the order of their texts and have no index.

    Raises:
        Transient: it is not a list, or does not have one embedding per text.
    """
    if not isinstance(rows, list):
        raise Transient("the response has no list of embeddings")
    if len(rows) != count:
        raise Transient(f"the response has {counted(len(rows), 'vector')} for {counted(count, 'text')}")
    return rows


def matrix(embeddings: Sequence[Any], dimensions: int) -> NDArray[np.float32]:
    """Decode embeddings, each base64 of little-endian float32 or a list of numbers, into one array.

    Raises:
        Transient: one cannot be decoded, or their lengths differ.
        Misconfigured: all have another number of dimensions than expected.
    """
    import numpy as np

    rows = [_row(embedding) for embedding in embeddings]
    lengths = {len(row) for row in rows}
    if lengths != {dimensions}:
        if len(lengths) == 1 and 0 not in lengths:
            (length,) = lengths
            raise Misconfigured(
                f"it returned vectors of {length} dimensions instead of {dimensions}; "
                f"set the option dimensions to {length}, or use another model"
            )
        raise Transient(
            f"it returned vectors of different lengths: {', '.join(map(str, sorted(lengths)[:3]))}"
        )
    return np.array(rows, dtype=np.float32)


def normalised(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale every vector to length 1.

    Raises:
        Transient: one has a number that is not finite.
        Rejected: one is all zeros, so has no direction; `inputs` says which.
    """
    import numpy as np

    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        squares = np.einsum("ij,ij->i", vectors, vectors)
    # In Python: for the few vectors of most calls numpy's comparison takes longer than the product.
    if all(TINY < square < HUGE for square in squares.tolist()):
        unit: NDArray[np.float32] = vectors / np.sqrt(squares)[:, None]
        return unit
    # Not finite, zero, or its square overflows or underflows: double precision tells.
    precise = np.linalg.norm(vectors.astype(np.float64), axis=1)
    if not np.isfinite(precise).all():
        raise Transient("it returned a vector with numbers that are not finite")
    nowhere = np.flatnonzero(precise == 0)
    if len(nowhere):
        raise Rejected(f"it returned only zeros for {counted(len(nowhere), 'text')}", inputs=nowhere.tolist())
    divided: NDArray[np.float32] = (vectors / precise[:, None]).astype(np.float32)
    return divided


def usage(payload: Any, *path: str) -> int | None:  # parsed JSON
    """Return the token count at `path` in a response; None if there is none."""
    for name in path:
        payload = payload.get(name) if isinstance(payload, dict) else None
    return whole_number(payload, most=MOST_TOKENS)


def whole_number(value: Any, *, most: int) -> int | None:  # parsed JSON
    """Return a number of things, 0 to `most`; None for anything else."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= most:
        return None  # the comparison is also false for a float that is not a number
    return int(value) if value == int(value) else None


def message_of(payload: Any, levels: int = LEVELS) -> str:  # parsed JSON
    """Find the message of an error, in the forms that servers use, up to `levels` deep."""
    if isinstance(payload, str):
        return payload
    if not levels:
        return ""
    if isinstance(payload, list):
        # Validation errors of FastAPI servers, which repeat the whole input beside their message.
        return "; ".join(filter(None, (message_of(each, levels - 1) for each in payload)))
    if isinstance(payload, dict):
        for name in ("error", "message", "detail", "msg"):
            if found := message_of(payload.get(name), levels - 1):
                return found
    return ""


def _row(embedding: Any) -> NDArray[np.float32]:  # parsed JSON
    import numpy as np

    try:
        if isinstance(embedding, str):
            return np.frombuffer(b64decode(embedding, validate=True), FLOAT)
        if isinstance(embedding, list):
            with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which is refused later
                row = np.array(embedding, dtype=np.float32)
            if row.ndim == 1:
                return row
    except (ValueError, TypeError, OverflowError):
        pass
    raise Transient("the response has a vector that is neither base64 nor a list of numbers")
