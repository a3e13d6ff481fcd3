"""A model in processes of its own: they die, hang and grow, and callers get their vectors."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest

from flowbed import telemetry
from flowbed.embedding import open_embedder
from flowbed.embedding.supervised import Supervised
from flowbed.embedding.wrappers.coalesced import Coalesced
from flowbed.errors import Misconfigured, Rejected, Transient
from flowbed.records import Embedded
from flowbed.testing.dying import open_dying
from flowbed.testing.embedder import seeded
from flowbed.testing.embedding import EmbedderContract

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from flowbed.embedding import Embedder


class TestContract(EmbedderContract):
    """A supervised embedder is an embedder."""

    def open_embedder(self, folder: Path) -> Embedder:
        """Supervise the seeded one."""
        opener = partial(open_embedder, "seeded:64", cache=folder, options={})
        return Supervised(opener, processes=1)


@pytest.fixture
async def supervised() -> AsyncIterator[Supervised]:
    opened = Supervised(partial(open_dying, 8), processes=2, timeout=30)
    yield opened
    await opened.aclose()


def pids(supervised: Supervised) -> list[int]:
    return [worker.process.pid or 0 for worker in supervised._workers]


async def test_a_process_that_dies_is_replaced(supervised: Supervised, tmp_path: Path) -> None:
    """A call whose process dies under it is answered by another, and listeners hear of it."""
    heard: list[dict[str, object]] = []
    stop = telemetry.listen(
        lambda point, facts: heard.append(facts) if point == telemetry.WORKER_RESTARTED else None
    )
    text = f"DIES-ONCE {tmp_path / 'died'}"
    answer = await supervised.embed([text, "a"], purpose="document")
    stop()
    np.testing.assert_array_equal(answer.vectors, seeded([text, "a"], 8))
    assert heard == [{"model": "seeded:8", "reason": "it died"}]
    assert supervised.alive() == 2


async def test_a_text_that_kills_every_process_is_given_up(supervised: Supervised) -> None:
    """After two processes a call fails for now, and the next one finds as many as before."""
    with pytest.raises(Transient, match="two processes"):
        await supervised.embed(["DIES"], purpose="document")
    assert (await supervised.embed(["a b"], purpose="document")).tokens == 2
    assert supervised.alive() == 2


async def test_a_killed_process_fails_no_call(supervised: Supervised) -> None:
    """Whatever process is killed while it works, every call gets its own vectors."""
    await asyncio.gather(*(supervised.embed([word], purpose="document") for word in "ab"))

    async def kill() -> None:
        for pid in pids(supervised):
            await asyncio.sleep(0.1)
            os.kill(pid, signal.SIGKILL)

    texts = [f"SLOW 0.02{number}" for number in range(40)]
    *answers, _ = await asyncio.gather(
        *(supervised.embed([text], purpose="document") for text in texts), kill()
    )
    for text, answer in zip(texts, answers, strict=True):
        assert isinstance(answer, Embedded)
        np.testing.assert_array_equal(answer.vectors, seeded([text], 8))


async def test_an_idle_process_that_died_is_replaced_by_the_next_call(supervised: Supervised) -> None:
    """`alive` tells that a process is gone, and the next calls bring it back."""
    await supervised.embed(["a"], purpose="document")
    for worker in supervised._workers:
        worker.process.kill()
        await asyncio.to_thread(worker.process.join, 20)
    assert supervised.alive() == 0
    await asyncio.gather(*(supervised.embed([word], purpose="document") for word in "abcdefgh"))
    assert supervised.alive() >= 1


async def test_a_process_that_hangs_is_replaced() -> None:
    """A call that takes too long ends its process, is tried once more, and fails for now; others go on meanwhile."""
    supervised = Supervised(partial(open_dying, 8), processes=2, timeout=1)
    await asyncio.gather(*(supervised.embed([word], purpose="document") for word in "ab"))
    hanging = asyncio.create_task(supervised.embed(["HANGS"], purpose="document"))
    assert (await supervised.embed(["a"], purpose="document")).tokens == 1
    assert not hanging.done()
    with pytest.raises(Transient, match="hung"):
        await hanging
    await supervised.aclose()


async def test_a_process_that_no_longer_reads_is_replaced() -> None:
    """A process that is stopped before it has read a call is replaced too, however much the call holds."""
    supervised = Supervised(partial(open_dying, 8), processes=1, timeout=1)
    await supervised.embed(["a"], purpose="document")
    os.kill(pids(supervised)[0], signal.SIGSTOP)
    texts = [f"{number} " * 1_000 for number in range(500)]  # more than fits between two processes
    async with asyncio.timeout(60):
        answer = await supervised.embed(texts, purpose="document")
    np.testing.assert_array_equal(answer.vectors, seeded(texts, 8))
    await supervised.aclose()


async def test_a_process_that_grows_is_replaced() -> None:
    """A process that holds too much memory answers, and is then replaced."""
    supervised = Supervised(partial(open_dying, 8), processes=1, memory=300 * 2**20)
    before = pids(supervised)
    np.testing.assert_array_equal(
        (await supervised.embed(["GROWS 400"], purpose="document")).vectors, seeded(["GROWS 400"], 8)
    )
    await supervised.embed(["a"], purpose="document")
    after = pids(supervised)
    await supervised.embed(["a"], purpose="document")
    assert before != after == pids(supervised)
    await supervised.aclose()


async def test_errors_travel_with_their_facts(supervised: Supervised) -> None:
    """What the embedder refuses is refused here, with all that is known of it; other failures are for now."""
    with pytest.raises(Transient, match="ZeroDivisionError"):
        await supervised.embed(["FAILS"], purpose="document")
    with pytest.raises(Transient, match="flaky"):
        await supervised.embed(["FLAKY"], purpose="document")
    with pytest.raises(Rejected) as refused:
        await supervised.embed(["a", "half \ud83d"], purpose="document")
    assert refused.value.inputs == (1,)
    assert supervised.alive() == 2


async def test_a_caller_that_gives_up_holds_nobody_up(supervised: Supervised) -> None:
    """Calls that are cancelled leave their place, and no process is lost by them."""
    before = pids(supervised)
    calls = [asyncio.create_task(supervised.embed(["SLOW 0.3"], purpose="document")) for _ in range(20)]
    await asyncio.sleep(0.05)
    for call in calls[1:]:
        call.cancel()
    answer = await supervised.embed(["a"], purpose="document")
    np.testing.assert_array_equal(answer.vectors, seeded(["a"], 8))
    await calls[0]
    assert pids(supervised) == before


async def test_closing_lets_calls_end() -> None:
    """What was under way is answered, and no process is left."""
    supervised = Supervised(partial(open_dying, 8), processes=1)
    await supervised.embed(["a"], purpose="document")
    call = asyncio.create_task(supervised.embed(["SLOW 0.3"], purpose="document"))
    await asyncio.sleep(0.05)
    await supervised.aclose()
    assert (await call).tokens == 2
    assert supervised.alive() == 0


async def test_joined_calls_survive_a_text_that_kills(supervised: Supervised) -> None:
    """Of calls that were joined, only the one whose text kills processes fails."""
    coalesced = Coalesced(supervised)
    calls = [["a"], ["b"], ["DIES"], ["c"], ["d", "e"]]
    outcomes = await asyncio.gather(
        *(coalesced.embed(texts, purpose="document") for texts in calls), return_exceptions=True
    )
    for texts, outcome in zip(calls, outcomes, strict=True):
        if texts == ["DIES"]:
            assert isinstance(outcome, Transient)
        else:
            assert isinstance(outcome, Embedded)
            np.testing.assert_array_equal(outcome.vectors, seeded(texts, 8))


def test_what_cannot_be_opened_is_told_at_once(tmp_path: Path) -> None:
    """A model that is not there is refused before any process is started."""
    with pytest.raises(Misconfigured):
        Supervised(partial(open_embedder, "nobody:x", cache=tmp_path, options={}), processes=1)


def test_processes_end_with_the_one_that_started_them() -> None:
    """When the owner is killed outright, its processes do not stay behind."""
    script = (
        "import asyncio, functools, sys, time\n"
        "from flowbed.embedding.supervised import Supervised\n"
        "from flowbed.testing.dying import open_dying\n"
        "if __name__ == '__main__':\n"
        "    supervised = Supervised(functools.partial(open_dying, 8), processes=2)\n"
        "    asyncio.run(supervised.embed(['a'], purpose='document'))\n"
        "    print(*(worker.process.pid for worker in supervised._workers), flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        left = [psutil.Process(int(pid)) for pid in owner.stdout.readline().split()]
        assert len(left) == 2
        owner.kill()
    _, alive = psutil.wait_procs(left, timeout=20)
    assert not alive
