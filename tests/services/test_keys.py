"""API keys."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from typing import TYPE_CHECKING

import pytest

from flowbed.errors import Misconfigured, NotFound, Transient, Unauthorized
from flowbed.records.serving import Caller
from flowbed.services.keys import GRACE, LASTING, OPEN

if TYPE_CHECKING:
    from tests.services.conftest import Project

    from flowbed.ledger import KeyRow


async def test_caller_without_any_key_anyone_is_admitted_as_admin(project: Project) -> None:
    keys = project.keys()
    assert not await keys.required()
    assert await keys.caller(None) == OPEN
    assert await keys.caller("whatever") == Caller(name="anyone", admin=True)


async def test_caller_is_found_by_secret_and_only_its_hash_is_stored(project: Project) -> None:
    keys = project.keys()
    row, secret = await keys.create("app", secret=project.secret, models=["small"], admin=True)
    assert await keys.caller(secret) == Caller(
        key=row.id, name="app", tier="default", admin=True, models=frozenset({"small"})
    )
    (kept,) = await project.ledger.keys.all()
    assert kept.hash == hashlib.sha256(secret.encode()).hexdigest()
    assert (kept.prefix, kept.name) == (secret[:8], "app")
    assert secret not in repr(kept)


@pytest.mark.parametrize("secret", [None, "", "fb-", "fb-" + "1" * 43, "sk-1234", "fb-" + "\u00e9" * 43])
async def test_caller_after_the_first_key_other_secrets_are_refused(
    project: Project, secret: str | None
) -> None:
    keys = project.keys()
    assert await keys.caller(secret) == OPEN
    await project.keys().create("app", secret=project.secret)  # by another process
    project.now.advance(seconds=LASTING)
    with pytest.raises(Unauthorized, match="API key") as caught:
        await keys.caller(secret)
    assert caught.value.code == "invalid_api_key"
    assert not secret or secret not in str(caught.value)


async def test_caller_key_revoked_elsewhere_is_refused_within_seconds(project: Project) -> None:
    """Without any valid key left, callers still need one."""
    keys = project.keys()
    row, secret = await keys.create("app", secret=project.secret)
    await keys.caller(secret)
    await project.keys().revoke(row.id)
    assert (await keys.caller(secret)).key == row.id
    project.now.advance(seconds=LASTING)
    with pytest.raises(Unauthorized):
        await keys.caller(secret)
    with pytest.raises(Unauthorized):
        await keys.caller(None)
    assert await project.keys().required()


async def test_revoke_takes_effect_at_once_in_this_process(project: Project) -> None:
    """An unknown key cannot be revoked."""
    keys = project.keys()
    row, secret = await keys.create("app", secret=project.secret)
    await keys.caller(secret)
    await keys.revoke(row.id)
    with pytest.raises(Unauthorized):
        await keys.caller(secret)
    with pytest.raises(NotFound, match="no key 'nonsense'"):
        await keys.revoke("nonsense")


async def test_caller_known_key_reads_the_ledger_once(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, secret = await project.keys().create("app", secret=project.secret)
    keys = project.keys()  # which knows of no key yet
    requested: list[str] = []
    find = project.ledger.keys.find

    async def counted(hash: str) -> KeyRow | None:
        requested.append(hash)
        return await find(hash)

    monkeypatch.setattr(project.ledger.keys, "find", counted)
    for _ in range(3):
        assert (await keys.caller(secret)).name == "app"
    with pytest.raises(Unauthorized):
        await keys.caller("fb-tooshort")
    assert requested == [hashlib.sha256(secret.encode()).hexdigest()]


async def test_caller_concurrent_lookups_read_the_ledger_once(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, secret = await project.keys().create("app", secret=project.secret)
    keys = project.keys()  # which knows of no key yet
    requested: list[str] = []
    find, exist = project.ledger.keys.find, project.ledger.keys.exist

    async def found(hash: str) -> KeyRow | None:
        requested.append("find")
        return await find(hash)

    async def existing() -> bool:
        requested.append("exist")
        return await exist()

    monkeypatch.setattr(project.ledger.keys, "find", found)
    monkeypatch.setattr(project.ledger.keys, "exist", existing)
    assert await asyncio.gather(*(keys.required() for _ in range(50))) == [True] * 50
    callers = await asyncio.gather(*(keys.caller(secret) for _ in range(50)))
    assert {caller.name for caller in callers} == {"app"}
    assert requested == ["exist", "find"]


async def test_caller_known_keys_stay_valid_while_the_ledger_is_away(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unknown ones are told to retry."""
    keys = project.keys()
    _, secret = await keys.create("app", secret=project.secret)
    _, other = await keys.create("other", secret=project.secret)
    await keys.caller(secret)

    async def away(hash: str) -> KeyRow | None:
        raise Transient("no answer")

    monkeypatch.setattr(project.ledger.keys, "find", away)
    project.now.advance(seconds=LASTING)
    assert (await keys.caller(secret)).name == "app"
    with pytest.raises(Transient, match="no answer"):
        await keys.caller(other)
    project.now.advance(seconds=GRACE + 1)
    with pytest.raises(Transient, match="no answer"):
        await keys.caller(secret)


async def test_create_key_invalid_name_tier_or_secret_is_refused(project: Project) -> None:
    keys = project.keys()
    with pytest.raises(Misconfigured, match="name"):
        await keys.create(" ", secret=project.secret)
    with pytest.raises(Misconfigured, match=r"no tier 'gold'.*default"):
        await keys.create("app", secret=project.secret, tier="gold")
    with pytest.raises(Misconfigured, match="32 random bytes"):
        await keys.create("app", secret=lambda: "short")
    assert not await keys.required()


async def test_keys_log_neither_secrets_nor_hashes(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    keys = project.keys()
    row, secret = await keys.create("app", secret=project.secret)
    await keys.caller(secret)
    await keys.revoke(row.id)
    with pytest.raises(Unauthorized):
        await keys.caller(secret)
    assert secret not in caplog.text
    assert row.hash not in caplog.text


async def test_health_unreadable_ledger_is_unhealthy_with_the_reason(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = project.keys()
    assert (await keys.health()).state == "ok"

    async def gone() -> bool:
        raise Transient("no answer")

    monkeypatch.setattr(project.ledger.keys, "exist", gone)
    health = await keys.health()
    assert (health.state, health.reason) == ("unhealthy", "no answer")


async def test_caller_hanging_ledger_is_waited_for_once_in_seconds(
    project: Project, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    keys = project.keys()
    _, secret = await keys.create("app", secret=project.secret)
    await keys.caller(secret)
    requested: list[str] = []
    hang = asyncio.Event()

    async def hanging(hash: str) -> KeyRow | None:
        requested.append(hash)
        await hang.wait()
        raise Transient("no answer")

    monkeypatch.setattr(project.ledger.keys, "find", hanging)
    monkeypatch.setattr("flowbed.services.keys.PATIENCE", 0.01)
    project.now.advance(seconds=LASTING)
    for _ in range(3):
        assert (await keys.caller(secret)).name == "app"
    assert len(caplog.messages) == 1
    hang.set()
    await asyncio.sleep(0.01)
    project.now.advance(seconds=LASTING)
    assert (await keys.caller(secret)).name == "app"
    assert len(requested) == 2
    project.now.advance(seconds=GRACE)
    with pytest.raises(Transient, match="no answer"):
        await keys.caller(secret)
