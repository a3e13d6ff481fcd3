"""What the quotas of every ledger must do."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowbed.ledger import Ledger

TODAY, TOMORROW = "2026-11-21", "2026-11-22"


class QuotasContract:
    """Tests of `Quotas`."""

    async def test_add_sums_by_key_and_day(self, ledger: Ledger) -> None:
        """Tokens add up separately for each key and day, and every addition returns the sum."""
        assert await ledger.quotas.used(TODAY, ["k1"]) == {}
        assert await ledger.quotas.add(TODAY, {"k1": 5, "k2": 7}) == {"k1": 5, "k2": 7}
        assert await ledger.quotas.add(TODAY, {"k1": 2**40}) == {"k1": 2**40 + 5}
        assert await ledger.quotas.add(TOMORROW, {"k1": 1}) == {"k1": 1}
        assert await ledger.quotas.add(TODAY, {}) == {}
        assert await ledger.quotas.used(TODAY, ["k1", "k2", "k3"]) == {"k1": 2**40 + 5, "k2": 7}
        assert await ledger.quotas.used(TOMORROW, ["k1", "k2"]) == {"k1": 1}

    async def test_add_concurrent_loses_nothing(self, ledger: Ledger) -> None:
        """No concurrent addition to the same keys is lost, and the last returned sum is the total."""
        sums = await asyncio.gather(
            *(ledger.quotas.add(TODAY, {"k1": number, "k2": 1}) for number in range(20))
        )
        assert await ledger.quotas.used(TODAY, ["k1", "k2"]) == {"k1": 190, "k2": 20}
        assert sorted(told["k2"] for told in sums) == list(range(1, 21))

    async def test_take_grants_no_more_than_there_is(self, ledger: Ledger) -> None:
        """Embeddings are granted up to the quota, in part if that is enough, and tokens do not count."""
        quotas = ledger.quotas
        await quotas.add(TODAY, {"k1": 100})
        assert await quotas.take(TODAY, "k1", 6, least=6, most=10) == (6, 6)
        assert await quotas.take(TODAY, "k1", 6, least=6, most=10) == (0, 6)
        assert await quotas.take(TODAY, "k1", 6, least=1, most=10) == (4, 10)
        assert await quotas.take(TODAY, "k1", 6, least=1, most=10) == (0, 10)
        assert await quotas.take(TODAY, "k2", 3, least=3, most=10) == (3, 3)
        assert await quotas.take(TOMORROW, "k1", 3, least=3, most=10) == (3, 3)
        await quotas.give_back(TODAY, "k1", 2)
        assert await quotas.take(TODAY, "k1", 6, least=1, most=10) == (2, 10)
        await quotas.give_back(TODAY, "k2", 9)
        assert await quotas.take(TODAY, "k2", 10, least=10, most=10) == (10, 10)
        await quotas.give_back(TODAY, "unknown", 1)
        assert await quotas.add(TODAY, {"k1": 1}) == {"k1": 101}
        assert await quotas.take(TODAY, "k1", 1, least=1, most=10) == (0, 10)
        assert await quotas.used(TODAY, ["k1", "k2"]) == {"k1": 101}

    async def test_take_concurrent_never_exceeds_the_quota(self, ledger: Ledger) -> None:
        """Of many that take at once, as many succeed as there is room for."""
        taken = await asyncio.gather(
            *(ledger.quotas.take(TODAY, "k1", 7, least=7, most=100) for _ in range(20))
        )
        assert sum(each.granted for each in taken) == 98

    async def test_forget_drops_old_days(self, ledger: Ledger) -> None:
        """Use before the given day is dropped, and nothing else."""
        await ledger.quotas.add(TODAY, {"k1": 5, "k2": 5})
        await ledger.quotas.add(TOMORROW, {"k1": 6})
        assert await ledger.quotas.forget(before=TOMORROW) == 2
        assert await ledger.quotas.forget(before=TOMORROW) == 0
        assert await ledger.quotas.used(TODAY, ["k1"]) == {}
        assert await ledger.quotas.used(TOMORROW, ["k1"]) == {"k1": 6}
