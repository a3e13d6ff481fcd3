"""Who a secret belongs to."""

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


async def test_without_any_key_anyone_may_ask(project: Project) -> None:
    """While there never was a key, any secret and none are let in, without limits, with the admin scope."""
    keys = project.keys()
    assert not await keys.required()
    assert await keys.caller(None) == OPEN
    assert await keys.caller("whatever") == Caller(name="anyone", admin=True)


async def test_a_key_is_known_by_its_secret_alone(project: Project) -> None:
    """The secret of a key tells whose it is; the ledger holds only its hash and its first letters."""
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
async def test_other_secrets_are_refused(project: Project, secret: str | None) -> None:
    """With a first key the door is closed, at the latest after seconds, to all who have none or another."""
    keys = project.keys()
    assert await keys.caller(secret) == OPEN
    await project.keys().create("app", secret=project.secret)  # by another process
    project.now.advance(seconds=LASTING)
    with pytest.raises(Unauthorized, match="API key") as caught:
        await keys.caller(secret)
    assert caught.value.code == "invalid_api_key"
    assert not secret or secret not in str(caught.value)


async def test_a_revoked_key_is_refused_within_seconds(project: Project) -> None:
    """A key that another process revokes opens for seconds at most, and the door stays closed without any key left."""
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


async def test_revoking_here_is_noticed_at_once(project: Project) -> None:
    """A key that is revoked by the same process is refused from then on; an unknown one cannot be revoked."""
    keys = project.keys()
    row, secret = await keys.create("app", secret=project.secret)
    await keys.caller(secret)
    await keys.revoke(row.id)
    with pytest.raises(Unauthorized):
        await keys.caller(secret)
    with pytest.raises(NotFound, match="no key 'nonsense'"):
        await keys.revoke("nonsense")


async def test_a_known_key_asks_the_ledger_once(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within seconds the ledger is asked about one secret once, and about what cannot be a secret never."""
    keys = project.keys()
    _, secret = await keys.create("app", secret=project.secret)
    asked: list[str] = []
    find = project.ledger.keys.find

    async def counted(hash: str) -> KeyRow | None:
        asked.append(hash)
        return await find(hash)

    monkeypatch.setattr(project.ledger.keys, "find", counted)
    for _ in range(3):
        assert (await keys.caller(secret)).name == "app"
    with pytest.raises(Unauthorized):
        await keys.caller("fb-tooshort")
    assert asked == [hashlib.sha256(secret.encode()).hexdigest()]


async def test_many_who_come_at_once_ask_the_ledger_once(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many requests come with one secret when it is to be looked up, the ledger is asked once."""
    keys = project.keys()
    _, secret = await keys.create("app", secret=project.secret)
    asked: list[str] = []
    find, exist = project.ledger.keys.find, project.ledger.keys.exist

    async def found(hash: str) -> KeyRow | None:
        asked.append("find")
        return await find(hash)

    async def existing() -> bool:
        asked.append("exist")
        return await exist()

    monkeypatch.setattr(project.ledger.keys, "find", found)
    monkeypatch.setattr(project.ledger.keys, "exist", existing)
    assert await asyncio.gather(*(keys.required() for _ in range(50))) == [True] * 50
    callers = await asyncio.gather(*(keys.caller(secret) for _ in range(50)))
    assert {caller.name for caller in callers} == {"app"}
    assert asked == ["exist", "find"]


async def test_known_keys_outlast_a_ledger_that_is_away(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the ledger does not answer, known keys go on being known for minutes, and unknown ones are told to wait."""
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


async def test_a_key_needs_a_name_and_a_tier_of_the_settings(project: Project) -> None:
    """A key without a name, of an unknown tier, or of a weak secret is not made."""
    keys = project.keys()
    with pytest.raises(Misconfigured, match="name"):
        await keys.create(" ", secret=project.secret)
    with pytest.raises(Misconfigured, match=r"no tier 'gold'.*default"):
        await keys.create("app", secret=project.secret, tier="gold")
    with pytest.raises(Misconfigured, match="32 random bytes"):
        await keys.create("app", secret=lambda: "short")
    assert not await keys.required()


async def test_secrets_are_never_logged(project: Project, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing that is logged while keys are made, found, refused and revoked has a secret or its hash in it."""
    caplog.set_level(logging.DEBUG)
    keys = project.keys()
    row, secret = await keys.create("app", secret=project.secret)
    await keys.caller(secret)
    await keys.revoke(row.id)
    with pytest.raises(Unauthorized):
        await keys.caller(secret)
    assert secret not in caplog.text
    assert row.hash not in caplog.text


async def test_health_tells_of_a_ledger_that_is_gone(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ledger that cannot be read is unhealthy, with the reason."""
    keys = project.keys()
    assert (await keys.health()).state == "ok"

    async def gone() -> bool:
        raise Transient("no answer")

    monkeypatch.setattr(project.ledger.keys, "exist", gone)
    health = await keys.health()
    assert (health.state, health.reason) == ("unhealthy", "no answer")


async def test_a_ledger_that_hangs_is_waited_for_once(
    project: Project, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the ledger does not answer, only the first request of each few seconds waits for it to."""
    keys = project.keys()
    _, secret = await keys.create("app", secret=project.secret)
    await keys.caller(secret)
    asked: list[str] = []
    hang = asyncio.Event()

    async def hanging(hash: str) -> KeyRow | None:
        asked.append(hash)
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
    assert len(asked) == 2
    project.now.advance(seconds=GRACE)
    with pytest.raises(Transient, match="no answer"):
        await keys.caller(secret)
