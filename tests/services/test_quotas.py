"""How much each key may ask."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

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
    """Make what one server counts with."""
    return QuotaService(project.ledger, tiers=TIERS, clock=project.now, monotonic=project.seconds)


async def used(project: Project, day: str = TODAY) -> Mapping[str, int]:
    """Read what the ledger knows."""
    return await project.ledger.quotas.used(day, ["k1", "k2"])


async def spend(quotas: QuotaService, tokens: int, caller: Caller = SMALL) -> None:
    """Ask for so many tokens, and get them."""
    await quotas.admit(caller)
    quotas.hold(caller, tokens)
    quotas.settle(caller, held=tokens, tokens=tokens)


async def test_requests_of_a_minute_are_limited(project: Project) -> None:
    """A key has its requests of a minute at once, and then one more with each share of the minute."""
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


async def test_limits_are_for_each_key(project: Project) -> None:
    """What one key has used takes nothing from another, and none from whoever needs no key."""
    quota = quotas(project)
    for _ in range(60):
        await quota.admit(SMALL)
    await quota.admit(Caller(key="k2", tier="small"))
    for _ in range(100):
        await quota.admit(Caller())
    assert quota.allowance(Caller()) == Allowance()
    assert quota.left(Caller()) is None


async def test_tokens_of_a_day_are_limited(project: Project) -> None:
    """A key has its tokens of a day, to the last one, and new ones at midnight UTC."""
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


async def test_what_is_set_aside_cannot_be_used_twice(project: Project) -> None:
    """Requests at once do not pass the quota together; what a failed one held is there again."""
    quota = quotas(project)
    await quota.admit(SMALL)
    quota.hold(SMALL, 60)
    with pytest.raises(Exhausted, match="40 of 100 tokens a day are left"):
        quota.hold(SMALL, 60)
    quota.settle(SMALL, held=60, tokens=0)
    quota.hold(SMALL, 100)
    quota.settle(SMALL, held=100, tokens=30)
    assert quota.left(SMALL) == 70


async def test_what_was_used_is_known_after_a_restart(project: Project) -> None:
    """A server that ends writes down what it counted, and the next one goes on from there."""
    async with quotas(project) as quota:
        await spend(quota, 60)
        await spend(quota, 5, Caller(key="k2", tier="counted"))
    assert await used(project) == {"k1": 60, "k2": 5}
    async with quotas(project) as quota:
        await quota.admit(SMALL)
        assert quota.left(SMALL) == 40


async def test_servers_share_a_quota(project: Project) -> None:
    """What another server counts is known as soon as both have written, and no token of either is lost."""
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


async def test_counts_wait_for_a_ledger_that_fails(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the ledger does not take is kept and written later, once; meanwhile requests are answered."""
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


async def test_what_comes_while_counts_are_written_is_counted(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens that are used while the ledger is written to are neither lost nor written twice."""
    quota = quotas(project)
    await spend(quota, 10)
    add = project.ledger.quotas.add

    async def slow(day: str, tokens: Mapping[str, int]) -> Mapping[str, int]:
        told = await add(day, tokens)
        quota.settle(SMALL, held=0, tokens=7)
        return told

    monkeypatch.setattr(project.ledger.quotas, "add", slow)
    await quota.write()
    assert quota.left(SMALL) == 83
    monkeypatch.setattr(project.ledger.quotas, "add", add)
    await quota.write()
    assert await used(project) == {"k1": 17}


async def test_midnight_while_counts_are_written(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens that are used around midnight count for one day each, and once."""
    quota = quotas(project)
    project.now.advance(seconds=DAY - 1)
    await spend(quota, 10)
    add = project.ledger.quotas.add

    async def over_midnight(day: str, tokens: Mapping[str, int]) -> Mapping[str, int]:
        told = await add(day, tokens)
        quota.settle(SMALL, held=0, tokens=4)
        project.now.advance(seconds=2)
        quota.settle(SMALL, held=0, tokens=3)
        return told

    monkeypatch.setattr(project.ledger.quotas, "add", over_midnight)
    await quota.write()
    monkeypatch.setattr(project.ledger.quotas, "add", add)
    await quota.write()
    await quota.write()
    assert await used(project) == {"k1": 14}
    assert await used(project, TOMORROW) == {"k1": 3}
    assert quota.left(SMALL) == 97


async def test_a_request_over_midnight_gives_back_nothing_of_the_next_day(project: Project) -> None:
    """What a request held before midnight is not taken from the day after, which pays for what it used."""
    quota = quotas(project)
    await quota.admit(SMALL)
    quota.hold(SMALL, 90)
    project.now.advance(seconds=DAY)
    await quota.admit(SMALL)
    quota.settle(SMALL, held=90, tokens=10)
    assert quota.left(SMALL) == 90


async def test_old_days_are_dropped(project: Project) -> None:
    """With a new day, what was used months ago is dropped from the ledger."""
    quota = quotas(project)
    await spend(quota, 10)
    await quota.write()
    project.now.advance(seconds=(KEPT_DAYS + 1) * DAY)
    await spend(quota, 1)
    await quota.write()
    assert await used(project) == {}


async def test_the_last_use_of_a_key_is_noted(project: Project) -> None:
    """When a key was last used is written down once in a while, and in the end."""
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


async def test_counts_are_written_every_second(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a server runs, what it counts is in the ledger without anyone asking for it."""
    written = asyncio.Event()
    add = project.ledger.quotas.add

    async def told(day: str, tokens: Mapping[str, int]) -> Mapping[str, int]:
        totals = await add(day, tokens)
        written.set()
        return totals

    monkeypatch.setattr(project.ledger.quotas, "add", told)
    async with quotas(project) as quota:
        await spend(quota, 10)
        async with asyncio.timeout(30):
            await written.wait()
        assert await used(project) == {"k1": 10}


async def test_what_is_being_written_in_the_end_counts_once(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that ends while its counts are being written waits for that, and does not write them again."""
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


async def test_a_tier_that_is_gone_is_named(project: Project) -> None:
    """A key of a tier that the settings do not have any more is told so."""
    gone = Caller(key="k1", tier="gold")
    with pytest.raises(Misconfigured, match=r"'gold'.*\[serve.tiers.gold\]"):
        await quotas(project).admit(gone)
    assert quotas(project).allowance(gone) == Allowance()


async def test_what_is_set_aside_over_midnight_stays_so(project: Project) -> None:
    """A request that ends after midnight frees nothing of what others hold of the new day, which it counts for."""
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


async def test_the_last_use_waits_for_a_ledger_that_fails(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a key was last used is kept, too, until the ledger takes it."""
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
