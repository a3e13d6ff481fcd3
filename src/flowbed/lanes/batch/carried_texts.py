"""Which texts live submissions carry: none is paid for again, whatever becomes of the chunks it was sent for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from flowbed.errors import NotFound
from flowbed.lanes.batch.input import texts_key

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from numpy.typing import NDArray

    from flowbed.ledger import Ledger
    from flowbed.records import Space
    from flowbed.storage import Store

HASH = np.dtype("V32")
# Compared as numbers: the first 8 bytes find the place, all 32 decide.
PREFIX = np.dtype(">u8")


class CarriedTexts:
    """The texts of all live submissions of one space: 88 bytes each, of a million texts 88 MB."""

    def __init__(self, store: Store, ledger: Ledger, space: Space) -> None:
        """Know of none yet."""
        self._store, self._ledger = store, ledger
        self._space = space.to_json()
        self._texts: dict[str, NDArray[np.void]] = {}
        self._all, self._owners, self._prefixes, self._places = _nothing()
        self._names: list[str] = []

    @property
    def names(self) -> Collection[str]:
        """The ids of the live submissions, as of the last `refresh`."""
        return self._texts.keys()

    async def refresh(self) -> None:
        """Take in the submissions made since, and forget those that have ended."""
        live = [
            row.id
            async for page in self._ledger.submissions.pages(live=True)
            for row in page
            if row.space == self._space
        ]
        new = [each for each in live if each not in self._texts]
        if not new and len(live) == len(self._texts):
            return
        texts = {each: await self._read(each) for each in live}
        # One more is the usual case, and to sort a million takes longer than to find what waits of them.
        if len(new) > 1 or len(live) != len(self._texts) + len(new):
            new, self._names = live, []
            self._all, self._owners, self._prefixes, self._places = _nothing()
        self._add([(each, texts[each]) for each in new])
        self._texts = texts

    def _add(self, new: Sequence[tuple[str, NDArray[np.void]]]) -> None:
        texts = np.concatenate([each for _, each in new] or [np.empty(0, HASH)])
        prefixes = _prefixes(texts)
        order = np.argsort(prefixes, kind="stable")
        at = np.searchsorted(self._prefixes, prefixes[order], side="right")
        self._prefixes = np.insert(self._prefixes, at, prefixes[order])
        self._places = np.insert(self._places, at, order + len(self._all))
        self._all = np.concatenate([self._all, texts])
        owners = np.repeat(np.arange(len(new)) + len(self._names), [len(each) for _, each in new])
        self._owners = np.concatenate([self._owners, owners])
        self._names = [*self._names, *(name for name, _ in new)]

    def find(self, hashes: Collection[str]) -> Mapping[str, str]:
        """Tell which submission carries each of the texts named; those that none does are absent."""
        if not len(self._all) or not hashes:
            return {}
        asked = list(hashes)
        wanted = np.frombuffer(bytes.fromhex("".join(asked)), HASH)
        first = np.searchsorted(self._prefixes, _prefixes(wanted))
        found: dict[str, str] = {}
        inside = np.minimum(first, len(self._prefixes) - 1)
        for at in np.flatnonzero(self._prefixes[inside] == _prefixes(wanted)):
            place = int(first[at])
            name, whole = asked[at], wanted[at].tobytes()
            while place < len(self._prefixes) and self._prefixes[place] == int(name[:16], 16):
                text = self._places[place]
                if self._all[text].tobytes() == whole:
                    found[name] = self._names[self._owners[text]]
                    break
                place += 1
        return found

    async def _read(self, submission: str) -> NDArray[np.void]:
        if submission in self._texts:
            return self._texts[submission]
        try:
            return np.frombuffer((await self._store.get(texts_key(submission))).body, HASH)
        except (
            NotFound
        ):  # it was made elsewhere, by other rules: the ledger still tells which chunks are its own
            return np.empty(0, HASH)


def _nothing() -> tuple[NDArray[np.void], NDArray[np.int64], NDArray[np.uint64], NDArray[np.int64]]:
    """Make what is known of no text: hashes and owners, and in order, prefixes and the places of these."""
    return np.empty(0, HASH), np.empty(0, np.int64), np.empty(0, PREFIX), np.empty(0, np.int64)


def _prefixes(hashes: NDArray[np.void]) -> NDArray[np.uint64]:
    return np.ascontiguousarray(hashes).view(np.uint8).reshape(-1, 32)[:, :8].copy().view(PREFIX).reshape(-1)
