"""Quotas of each key."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from flowbed.embedding.wrappers.request_rates import MemoryRates
from flowbed.errors import Exhausted, Misconfigured, TooMany, Transient
from flowbed.records.serving import Allowance, Caller, TierLimits
from flowbed.services.quotas import KEPT_DAYS, SEEN_EVERY, QuotaService
from flowbed.testing.ledger import key

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.services.conftest import Project

TODAY, TOMORROW = "2026-01-01", "2026-01-02"
DAY = 86_400.0
TIERS = {"small": TierLimits(requests=60, tokens=100), "counted": TierLimits()}
SMALL = Caller(key="k1", tier="small")


def quotas(project: Project) -> QuotaService:
    """Create the quotas of one server."""
    return QuotaService(project.ledger, tiers=TIERS, clock=project.now, monotonic=project.seconds)


async def used(project: Project, day: str = TODAY) -> Mapping[str, int]:
    """Read the use recorded in the ledger."""
    return await project.ledger.quotas.used(day, ["k1", "k2"])


async def spend(quotas: QuotaService, tokens: int, caller: Caller = SMALL) -> None:
    """Admit, reserve and use tokens."""
    await quotas.admit(caller)
    quotas.hold(caller, tokens)
    quotas.settle(caller, held=tokens, tokens=tokens)


async def test_requests_per_minute_refill_by_shares_of_the_minute(project: Project) -> None:
    quota = quotas(project)
    for _ in range(60):
        await quota.admit(SMALL)
    assert quota.allowance(SMALL).requests_left == 0
    with pytest.raises(TooMany, match="60 requests a minute") as caught:
        await quota.admit(SMALL)
    assert caught.value.retry_after == pytest.approx(1.0)
    project.now.advance(seconds=1)
    await quota.admit(SMALL)
    with pytest.raises(TooMany):
        await quota.admit(SMALL)
    project.now.advance(seconds=60)
    assert quota.allowance(SMALL).requests_left == 60


async def test_requests_per_minute_are_those_of_all_servers_that_share_rates(project: Project) -> None:
    """What another server has admitted is gone here too, and the headers say so."""
    rates = MemoryRates(project.seconds)
    servers = [
        QuotaService(project.ledger, tiers=TIERS, clock=project.now, rates=rates, monotonic=project.seconds)
        for _ in range(2)
    ]
    for n in range(60):
        await servers[n % 2].admit(SMALL)
    assert servers[1].allowance(SMALL).requests_left == 0
    for each in servers:
        with pytest.raises(TooMany):
            await each.admit(SMALL)


async def test_limits_are_separate_for_each_key(project: Project) -> None:
    quota = quotas(project)
    for _ in range(60):
        await quota.admit(SMALL)
    await quota.admit(Caller(key="k2", tier="small"))
    for _ in range(100):
        await quota.admit(Caller())
    assert quota.allowance(Caller()) == Allowance()
    assert quota.left(Caller()) is None


async def test_tokens_per_day_are_limited_until_midnight_utc(project: Project) -> None:
    quota = quotas(project)
    await spend(quota, 99)
    assert quota.left(SMALL) == 1
    with pytest.raises(Exhausted, match=r"1 of 100 tokens a day are left.*needs 2.*24.0 hours") as caught:
        quota.hold(SMALL, 2)
    assert caught.value.code == "insufficient_quota"
    await spend(quota, 1)
    assert quota.allowance(SMALL).tokens_left == 0
    assert quota.allowance(SMALL).tokens_reset == DAY
    project.now.advance(seconds=DAY)
    await spend(quota, 100)


async def test_hold_reserves_tokens_until_settled(project: Project) -> None:
    quota = quotas(project)
    await quota.admit(SMALL)
    quota.hold(SMALL, 60)
    with pytest.raises(Exhausted, match="40 of 100 tokens a day are left"):
        quota.hold(SMALL, 60)
    quota.settle(SMALL, held=60, tokens=0)
    quota.hold(SMALL, 100)
    quota.settle(SMALL, held=100, tokens=30)
    assert quota.left(SMALL) == 70


async def test_usage_is_known_after_a_restart(project: Project) -> None:
    async with quotas(project) as quota:
        await spend(quota, 60)
        await spend(quota, 5, Caller(key="k2", tier="counted"))
    assert await used(project) == {"k1": 60, "k2": 5}
    async with quotas(project) as quota:
        await quota.admit(SMALL)
        assert quota.left(SMALL) == 40


async def test_usage_of_several_servers_adds_up(project: Project) -> None:
    one, other = quotas(project), quotas(project)
    await spend(one, 30)
    await spend(other, 20)
    await one.write()
    await other.write()
    assert other.left(SMALL) == 50
    await spend(one, 1)
    await one.write()
    assert one.left(SMALL) == 49
    assert await used(project) == {"k1": 51}


async def test_write_failing_ledger_gets_the_counts_later_once(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    quota = quotas(project)
    await spend(quota, 10)
    add = project.ledger.quotas.add

    async def failing(day: str, tokens: Mapping[str, int]) -> Mapping[str, int]:
        raise Transient("no answer")

    monkeypatch.setattr(project.ledger.quotas, "add", failing)
    await quota.write()
    await spend(quota, 5)
    monkeypatch.setattr(project.ledger.quotas, "add", add)
    await quota.write()
    await quota.write()
    assert await used(project) == {"k1": 15}
    assert quota.left(SMALL) == 85


async def test_settle_during_a_write_is_counted_once(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    quota = quotas(project)
    await spend(quota, 10)
    add = project.ledger.quotas.add

    async def slow(day: str, tokens: Mapping[str, int]) -> Mapping[str, int]:
        reported = await add(day, tokens)
        quota.settle(SMALL, held=0, tokens=7)
        return reported

    monkeypatch.setattr(project.ledger.quotas, "add", slow)
    await quota.write()
    assert quota.left(SMALL) == 83
    monkeypatch.setattr(project.ledger.quotas, "add", add)
    await quota.write()
    assert await used(project) == {"k1": 17}


async def test_write_around_midnight_counts_each_day_once(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    quota = quotas(project)
    project.now.advance(seconds=DAY - 1)
    await spend(quota, 10)
    add = project.ledger.quotas.add

    async def over_midnight(day: str, tokens: Mapping[str, int]) -> Mapping[str, int]:
        reported = await add(day, tokens)
        quota.settle(SMALL, held=0, tokens=4)
        project.now.advance(seconds=2)
        quota.settle(SMALL, held=0, tokens=3)
        return reported

    monkeypatch.setattr(project.ledger.quotas, "add", over_midnight)
    await quota.write()
    monkeypatch.setattr(project.ledger.quotas, "add", add)
    await quota.write()
    await quota.write()
    assert await used(project) == {"k1": 14}
    assert await used(project, TOMORROW) == {"k1": 3}
    assert quota.left(SMALL) == 97


async def test_settle_after_midnight_charges_the_next_day(project: Project) -> None:
    quota = quotas(project)
    await quota.admit(SMALL)
    quota.hold(SMALL, 90)
    project.now.advance(seconds=DAY)
    await quota.admit(SMALL)
    quota.settle(SMALL, held=90, tokens=10)
    assert quota.left(SMALL) == 90


async def test_write_new_day_drops_old_days(project: Project) -> None:
    quota = quotas(project)
    await spend(quota, 10)
    await quota.write()
    project.now.advance(seconds=(KEPT_DAYS + 1) * DAY)
    await spend(quota, 1)
    await quota.write()
    assert await used(project) == {}


async def test_write_notes_the_last_use_of_keys_now_and_then(project: Project) -> None:
    await project.ledger.keys.create(key())
    async with quotas(project) as quota:
        project.now.advance(seconds=SEEN_EVERY)
        await quota.admit(SMALL)
        await quota.write()
        first = project.now()
        assert [row.used for row in await project.ledger.keys.all()] == [first]
        project.now.advance(seconds=1)
        await quota.admit(SMALL)
        await quota.write()
        assert [row.used for row in await project.ledger.keys.all()] == [first]
    assert [row.used for row in await project.ledger.keys.all()] == [first + 1_000_000]


async def test_counts_are_written_regularly(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowbed.services.quotas.EVERY", 0.05)
    written = asyncio.Event()
    add = project.ledger.quotas.add

    async def reported(day: str, tokens: Mapping[str, int]) -> Mapping[str, int]:
        totals = await add(day, tokens)
        written.set()
        return totals

    monkeypatch.setattr(project.ledger.quotas, "add", reported)
    async with quotas(project) as quota:
        await spend(quota, 10)
        async with asyncio.timeout(30):
            await written.wait()
        assert await used(project) == {"k1": 10}


async def test_close_during_a_write_counts_once(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowbed.services.quotas.EVERY", 0.05)
    written, go_on = asyncio.Event(), asyncio.Event()
    add = project.ledger.quotas.add

    async def slow(day: str, tokens: Mapping[str, int]) -> Mapping[str, int]:
        totals = await add(day, tokens)
        written.set()
        await go_on.wait()
        return totals

    monkeypatch.setattr(project.ledger.quotas, "add", slow)
    quota = await quotas(project).__aenter__()
    await spend(quota, 10)
    async with asyncio.timeout(30):
        await written.wait()
        ending = asyncio.create_task(quota.__aexit__())
        await asyncio.sleep(0)
        go_on.set()
        await ending
    assert await used(project) == {"k1": 10}


async def test_admit_unknown_tier_is_misconfigured(project: Project) -> None:
    gone = Caller(key="k1", tier="gold")
    with pytest.raises(Misconfigured, match=r"'gold'.*\[serve.tiers.gold\]"):
        await quotas(project).admit(gone)
    assert quotas(project).allowance(gone) == Allowance()


async def test_settle_after_midnight_frees_no_other_reservation(project: Project) -> None:
    quota = quotas(project)
    await quota.admit(SMALL)
    quota.hold(SMALL, 40)
    project.now.advance(seconds=DAY)
    await quota.admit(SMALL)
    assert quota.left(SMALL) == 60
    quota.hold(SMALL, 60)
    quota.settle(SMALL, held=40, tokens=40)
    with pytest.raises(Exhausted):
        quota.hold(SMALL, 1)


async def test_write_failing_ledger_gets_the_last_use_later(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    await project.ledger.keys.create(key())
    quota = quotas(project)
    await quota.admit(SMALL)
    seen = project.now()
    use = project.ledger.keys.use

    async def failing(times: Mapping[str, int]) -> None:
        raise Transient("no answer")

    monkeypatch.setattr(project.ledger.keys, "use", failing)
    await quota.write(seen=True)
    monkeypatch.setattr(project.ledger.keys, "use", use)
    await quota.write(seen=True)
    assert [row.used for row in await project.ledger.keys.all()] == [seen]
