"""API keys: created once, found by the hash of their secret, and cached between requests."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import time
from typing import TYPE_CHECKING

from flowbed.errors import Error, Misconfigured, NotFound, Transient, Unauthorized
from flowbed.ledger import KeyRow
from flowbed.maintenance.key_mark import had_keys, mark_keys
from flowbed.records.serving import Caller, Health
from flowbed.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from flowbed.ledger import Keys as KeyRows
    from flowbed.storage import Store

BEGINNING = "fb-"
SECRET = re.compile(r"fb-[A-Za-z0-9_-]{43}")  # 32 random bytes as URL-safe base64
SHOWN = 8  # readable characters of a secret, so that people can tell keys apart: 30 of its 256 bits
ID_DIGITS = 12
NAME_MOST = 100

# Seconds for which a key is cached: a revoked key works on running servers for at most this long.
LASTING = 5.0
# If the ledger does not answer within PATIENCE seconds, a cached key stays valid for GRACE seconds, so that callers do
# not notice the restart of a database.
PATIENCE, GRACE = 1.0, 300.0

DEFAULT = "default"  # exists without settings, and then has no limits
NOBODY = (None, 0.0, 0.0)
OPEN = Caller(name="anyone", admin=True)


class KeyService:
    """Maps secrets to callers. Until the first key is created, anyone may call: see `required`."""

    def __init__(
        self,
        rows: KeyRows,
        *,
        store: Store,
        tiers: Collection[str] = (),
        models: Collection[str] | None = None,
        clock: Callable[[], int],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Use the ledger's keys and the tiers of the settings; `clock` returns µs since 1970, `monotonic` seconds.

        The first key leaves a mark in `store`. New keys may name `models` only, or any if it is None.
        """
        self._models = models
        self._rows = rows
        self._store = store
        self._tiers = {DEFAULT, *tiers}
        self._clock = clock
        self._monotonic = monotonic
        # The caller, until when it is cached, and until when it is valid if the ledger does not answer.
        self._known: dict[bytes, tuple[Caller, float, float]] = {}
        self._lookups: dict[bytes, asyncio.Task[KeyRow | None]] = {}
        self._open_until = float("-inf")
        self._required = False
        self._checking = asyncio.Lock()

    async def create(
        self,
        name: str,
        *,
        secret: Callable[[], str],
        tier: str = DEFAULT,
        models: Collection[str] = (),
        admin: bool = False,
    ) -> tuple[KeyRow, str]:
        """Create a key and return it with its secret, which is not stored; `secret` returns 32 random bytes as text.

        Raises:
            Misconfigured: the name is empty or too long, or the tier or a model is not in the settings.
        """
        if not name.strip() or len(name) > NAME_MOST:
            raise Misconfigured(f"a key needs a name of 1 to {NAME_MOST} characters that says what it is for")
        if tier not in self._tiers:
            raise Misconfigured(
                f"there is no tier {tier!r}: add [serve.tiers.{tier}] to the settings, or use one of"
                f" {', '.join(sorted(self._tiers))}"
            )
        unknown = [] if self._models is None else [model for model in models if model not in self._models]
        if unknown and self._models is not None:
            raise Misconfigured(
                f"there is no model {unknown[0]!r}: use one of {', '.join(sorted(self._models))}, or add it to the"
                " settings first"
            )
        token = f"{BEGINNING}{secret()}"
        if SECRET.fullmatch(token) is None:
            raise Misconfigured("a secret must be 32 random bytes, written as 43 characters of base64")
        digest = hashlib.sha256(token.encode()).hexdigest()
        row = KeyRow(
            id=digest[:ID_DIGITS],
            name=name.strip(),
            prefix=token[:SHOWN],
            hash=digest,
            tier=tier,
            models=tuple(models),
            admin=admin,
            created=self._clock(),
        )
        await mark_keys(self._store, now=self._clock())
        await self._rows.create(row)
        self._required = True
        return row, token

    async def all(self) -> list[KeyRow]:
        """List every key, oldest first, including revoked ones."""
        return await self._rows.all()

    async def revoke(self, id: str) -> KeyRow:  # noqa: A002 - the record's own field
        """Revoke a key; running servers notice within seconds.

        Raises:
            NotFound: no key has that id.
        """
        row = await self._rows.revoke(id, at=self._clock())
        if row is None:
            raise NotFound(f"there is no key {id!r}; `flowbed keys list` lists them")
        self._known.pop(bytes.fromhex(row.hash), None)
        return row

    async def required(self) -> bool:
        """Tell whether a key must be sent: true once any key was created, even if all are revoked."""
        if self._required or self._monotonic() < self._open_until:
            return self._required
        async with self._checking:  # concurrent callers read the ledger once
            return await self._check()

    async def require_deliberate(self, *, without_keys: bool) -> None:
        """Refuse to serve without keys a project that has had some, unless it is said to be intended.

        Raises:
            Misconfigured: the store says that there were keys, the ledger has none, and not `without_keys`.
        """
        if await self.required():
            await mark_keys(self._store, now=self._clock())
        elif not without_keys and await had_keys(self._store):
            raise Misconfigured(
                f"store {self._store.url} belongs to a project with API keys, but its ledger has none: it was replaced,"
                " and the keys are lost. Without keys, everybody who can connect may do everything: create new ones"
                " with `flowbed keys create NAME`, or allow it with `flowbed serve --without-keys`"
            )

    async def caller(self, secret: str | None) -> Caller:
        """Return the caller that a secret belongs to.

        Raises:
            Unauthorized: a key is required, and none was sent, or it is unknown or revoked.
            Transient: the ledger cannot be reached.
        """
        digest = hashlib.sha256(secret.encode()).digest() if secret else b""
        known, until, latest = self._known.get(digest, NOBODY)
        if known is not None and self._monotonic() < until:
            return known
        if not self._required and not await self.required():
            return OPEN
        if not secret:
            raise Unauthorized(
                "You didn't provide an API key. Send it in the header Authorization, as Bearer fb-...;"
                " create one with `flowbed keys create`.",
                code="invalid_api_key",
            )
        if known is None or self._monotonic() > latest:
            return await self._looked_up(secret, digest)
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._looked_up(secret, digest)
        except (Transient, TimeoutError) as error:
            log.warning("key %s stays valid because the ledger does not answer: %s", known.key, error)
            self._known[digest] = known, self._monotonic() + LASTING, latest
            return known

    async def health(self) -> Health:
        """Read the keys, to check that the ledger answers."""
        before = self._monotonic()
        try:
            await self._rows.exist()
        except Error as error:
            return Health(
                name="ledger", state="unhealthy", reason=str(error), seconds=self._monotonic() - before
            )
        return Health(name="ledger", state="ok", seconds=self._monotonic() - before)

    async def _check(self) -> bool:
        if not self._required and self._monotonic() >= self._open_until:
            self._required = await self._rows.exist()
            self._open_until = self._monotonic() + LASTING
        return self._required

    async def _looked_up(self, secret: str, digest: bytes) -> Caller:
        # Nothing else can be a key, so the ledger is not read for it.
        row = await self._row(digest) if SECRET.fullmatch(secret) is not None else None
        # Found by its hash; compared again in constant time.
        if row is None or row.revoked or not hmac.compare_digest(bytes.fromhex(row.hash), digest):
            self._known.pop(digest, None)
            raise Unauthorized(
                "Incorrect API key provided: it is unknown or was revoked;"
                " `flowbed keys list` shows which keys are valid.",
                code="invalid_api_key",
            )
        caller = Caller(
            key=row.id, name=row.name, tier=row.tier, admin=row.admin, models=frozenset(row.models)
        )
        until = self._monotonic() + LASTING
        self._known[digest] = caller, until, until + GRACE
        return caller

    async def _row(self, digest: bytes) -> KeyRow | None:
        """Read a key from the ledger, once for concurrent callers."""
        lookup = self._lookups.get(digest)
        if lookup is None:
            lookup = self._lookups[digest] = asyncio.create_task(self._rows.find(digest.hex()))
            lookup.add_done_callback(lambda done: self._ended(digest, done))
        return await asyncio.shield(lookup)

    def _ended(self, digest: bytes, lookup: asyncio.Task[KeyRow | None]) -> None:
        self._lookups.pop(digest, None)
        if not lookup.cancelled():
            lookup.exception()  # retrieved, even if nobody waited long enough
