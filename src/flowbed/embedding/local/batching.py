"""Token ids cut into windows and padded batches, and the vectors put together again. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

# Padded tokens in one batch, and texts in one. Measured on one core: from some 120 tokens on, each takes as long as in
# any larger batch, up to 384; at 1,024 4 % longer for lines and 7 % for passages, at 16,384 three times as long, as
# activations no longer fit the processor's caches. And of few batches one core runs the last while others have none.
TOKENS = 384
TEXTS = 128
# Padded tokens from which on a call is worth the work of one more core: then what the batch takes beside them is a
# quarter. On two idle cores 16 lines were answered in 32 ms in the place of 43.
SHARE = 64

# What running a batch takes beside its tokens, in tokens: the weights are read once more.
BATCH = 16


@dataclass(frozen=True, kw_only=True)
class Window:
    """A stretch of one text: its position in the call and its tokens, special ones not counted."""

    text: int
    ids: Sequence[int]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Windows of nearly one length: where they stand among all windows, their padded ids and their mask."""

    windows: Sequence[int]
    ids: NDArray[np.int64]
    mask: NDArray[np.int64]


def windows_of(text: int, ids: Sequence[int], size: int) -> list[Window]:
    """Cut one text's tokens into as few windows as hold them, all of nearly one length."""
    count = max(1, -(-len(ids) // size))
    bounds = [len(ids) * part // count for part in range(count + 1)]
    return [Window(text=text, ids=ids[bounds[part] : bounds[part + 1]]) for part in range(count)]


def batches_of(
    windows: Sequence[Window], *, prefix: Sequence[int], suffix: Sequence[int], padding: int, cores: int
) -> Iterator[Batch]:
    """Pad windows into batches, largest first; `prefix` and `suffix` are the special tokens around a window.

    Where there are `cores` to run them on, they are of a size that leaves none without work before the others.
    """
    order = sorted(range(len(windows)), key=lambda window: -len(windows[window].ids))
    special = len(prefix) + len(suffix)
    widths = [len(windows[window].ids) + special for window in order]
    # Largest first: memory is claimed once, at the start, and no core begins a long batch when others have ended.
    for cut in sorted(
        split_batches(widths, most=batch_tokens(sum(widths), cores)),
        key=lambda cut: -(cut.stop - cut.start) * widths[cut.start],
    ):
        members, width = order[cut], widths[cut.start]
        ids = np.full((len(members), width), padding, dtype=np.int64)
        mask = np.zeros((len(members), width), dtype=np.int64)
        for row, member in enumerate(members):
            tokens = [*prefix, *windows[member].ids, *suffix]
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        yield Batch(windows=members, ids=ids, mask=mask)


def batch_tokens(tokens: int, cores: int) -> int:
    """Say how large a batch may be for each core to have as much of a call of so many tokens as any other."""
    rounds = -(-tokens // (TOKENS * cores))
    return min(TOKENS, max(SHARE, -(-tokens // (max(1, rounds) * cores))))


def split_batches(widths: Sequence[int], *, most: int = TOKENS) -> list[slice]:
    """Cut windows, widest first, into the batches that take the least time, padding and all.

    A batch of n windows takes n times the widest one's tokens, and `BATCH` more; none but a single window has more
    than `most` tokens.
    """
    ends = [place for place in range(1, len(widths)) if widths[place] < widths[place - 1]]
    ends.append(len(widths))  # a cut between windows of one width saves nothing, unless the batch is full
    least = [math.inf] * (len(widths) + 1)  # to have cut all windows before a place
    least[0] = 0.0
    begun = [0] * (len(widths) + 1)  # where the last batch before a place then begins
    following = 0
    for start, width in enumerate(widths):
        while ends[following] <= start:
            following += 1
        if math.isinf(least[start]):
            continue
        full = min(start + max(1, min(TEXTS, most // width)), len(widths))
        for end in (*takewhile(full.__gt__, islice(ends, following, None)), full):
            taken = least[start] + BATCH + (end - start) * width
            if taken < least[end]:
                least[end], begun[end] = taken, start
    found: list[slice] = []
    end = len(widths)
    while end:
        found.append(slice(begun[end], end))
        end = begun[end]
    return found[::-1]


def pool(output: NDArray[np.float32], mask: NDArray[np.int64], pooling: str) -> NDArray[np.float32]:
    """Make unit vectors of a graph's output: token vectors (texts, tokens, dimensions), or vectors already pooled."""
    if output.ndim == 3:  # noqa: PLR2004 - the shape above
        weights = mask.astype(np.float32)[:, :, None]
        output = output[:, 0] if pooling == "cls" else (output * weights).sum(axis=1)
    return unit_vectors(output)


def join_windows(vectors: NDArray[np.float32], windows: Sequence[Window], texts: int) -> NDArray[np.float32]:
    """Average the windows of each text, weighed by their tokens; windows stand in the order of their texts."""
    if len(windows) == texts:
        return vectors
    weights = np.array([max(1, len(window.ids)) for window in windows], dtype=np.float32)
    owners = np.array([window.text for window in windows])
    starts = np.searchsorted(owners, np.arange(texts))
    return unit_vectors(np.add.reduceat(vectors * weights[:, None], starts, axis=0))


def unit_vectors(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale rows to length 1; a row of zeros stays one."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: NDArray[np.float32] = vectors / np.maximum(lengths, np.float32(1e-12))
    return scaled
