"""A budget holds when responses are lost: what a provider may have billed counts as spent."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import stamina

import flowbed
from flowbed.embedding import Closes, Rates, open_embedder
from flowbed.embedding.cache.cached import Cached
from flowbed.embedding.wrappers.breaker import Breaker, CircuitBreaking
from flowbed.embedding.wrappers.buckets import MemoryBuckets
from flowbed.embedding.wrappers.fallback import Fallback
from flowbed.embedding.wrappers.limits import RateLimited
from flowbed.errors import Misconfigured
from flowbed.lanes.budget import Budget
from flowbed.lanes.outcome import UNANSWERED, Outcome
from flowbed.lanes.realtime import embed
from flowbed.records import text_hash
from flowbed.testing.simulators import Fault, OpenAI, Simulator, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from flowbed.embedding import Embedder
    from flowbed.testing.simulators.faults import Kind

MODEL = "text-embedding-3-small"
TEXTS = [f"About {number}: " + f"word{number} " * 20 for number in range(80)]
LOSING: tuple[Kind, ...] = ("cut", "truncated", "garbled", "wrong_index", "missing", "not_finite", "slow")


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    """Retry at once."""
    stamina.set_testing(testing=True, attempts=4, cap=True)
    yield
    stamina.set_testing(testing=False)


@asynccontextmanager
async def provider(simulator: Simulator, folder: Path, *, silence: float = 30.0) -> AsyncIterator[Embedder]:
    """Open OpenAI's model at a simulator, eight texts a request, in the wrappers of a run."""
    async with running(simulator) as url:
        options = {"base_url": f"{url}/v1", "api_key": "any", "dimensions": "16", "timeout": str(silence)}
        embedder = open_embedder(f"openai:{MODEL}", cache=folder, options=options)
        embedder.items = 8
        limited = RateLimited(embedder, Rates(requests=10**6, tokens=10**9), MemoryBuckets(), name="any")
        yield CircuitBreaking(limited, Breaker("any", failures=10**6))
        assert isinstance(embedder, Closes)
        await embedder.aclose()


async def within(budget: Budget | None, embedder: Embedder) -> Outcome:
    """Embed all texts within a budget."""
    named = {text_hash(text): text for text in TEXTS}
    planned = {key: embedder.count(text) for key, text in named.items()}
    return await embed(
        named,
        embedder=Cached(embedder, []),
        index=None,
        concurrency=4,
        budget=budget,
        planned=planned,
    )


def billed(*simulators: Simulator) -> float:
    """Add up what simulators have billed, in US dollars."""
    return sum(each.account.totals().billed for each in simulators) * 0.02 / 1e6


@pytest.mark.parametrize("probability", [0.3, 0.7, 1.0])
@pytest.mark.parametrize("kind", LOSING)
async def test_budget_any_fault_never_exceeds_it(tmp_path: Path, kind: Kind, probability: float) -> None:
    """However responses are lost, billed is at most spent, and spent is at most the budget."""
    fault = Fault(kind=kind, probability=probability, delay=0.5 if kind == "slow" else 0.0)
    simulator = Simulator(OpenAI(), faults=[fault], seed=3)
    async with provider(simulator, tmp_path, silence=0.2 if kind == "slow" else 30.0) as embedder:
        cost = sum(map(embedder.count, TEXTS)) * embedder.price / 1e6
        budget = Budget(cost)
        outcome = await within(budget, embedder)
    assert billed(simulator) <= budget.spent_usd + 1e-12
    assert budget.spent_usd <= cost + 1e-12
    assert budget.perhaps_usd > 0
    assert (
        billed(simulator) > 0 or kind == "slow"
    )  # the simulator does not bill a client that has disconnected
    spent = outcome.tokens + sum(outcome.perhaps_billed)
    assert spent * 0.02 / 1e6 == pytest.approx(budget.spent_usd)
    assert budget.exhausted
    assert len(outcome.vectors) + len(outcome.failures) + len(outcome.unsent) == len(TEXTS)
    assert outcome.unsent


async def test_budget_unbilled_request_is_not_counted(tmp_path: Path) -> None:
    """Refusals of any kind, and a provider that is down, leave the budget unchanged."""
    faults = [
        Fault(kind="error", probability=0.3),
        Fault(kind="rate_limited", probability=0.3, retry_after=0.0),
    ]
    simulator = Simulator(OpenAI(), faults=faults, seed=5)
    async with provider(simulator, tmp_path) as embedder:
        budget = Budget(1.0)
        outcome = await within(budget, embedder)
    assert (budget.perhaps_usd, outcome.perhaps_billed) == (0.0, [])
    assert budget.spent_usd == pytest.approx(billed(simulator))
    assert len(outcome.vectors) > 0

    options = {"base_url": "http://127.0.0.1:9/v1", "api_key": "any", "dimensions": "16"}
    absent = open_embedder(f"openai:{MODEL}", cache=tmp_path, options=options)
    budget = Budget(1.0)
    outcome = await within(budget, absent)
    assert (budget.spent_usd, outcome.perhaps_billed, len(outcome.failures)) == (0.0, [], len(TEXTS))
    assert isinstance(absent, Closes)
    await absent.aclose()


async def test_budget_unusable_vectors_are_counted(tmp_path: Path) -> None:
    """A response with wrong dimensions ends the run, and its cost counts as spent."""
    simulator = Simulator(OpenAI(), faults=[Fault(kind="wrong_dimension", calls=(3,))])
    async with provider(simulator, tmp_path) as embedder:
        budget = Budget(1.0)
        with pytest.raises(Misconfigured):
            await within(budget, embedder)
    assert budget.perhaps_usd > 0
    assert billed(simulator) <= budget.spent_usd + 1e-12


@pytest.mark.parametrize("kind", ["cut", "garbled"])
async def test_budget_fallback_is_asked_only_within_it(tmp_path: Path, kind: Kind) -> None:
    """Where one provider loses the response and the next is asked, both count towards the budget."""
    simulators = [
        Simulator(OpenAI(), faults=[Fault(kind=kind, probability=0.6)], seed=seed) for seed in (1, 2)
    ]
    async with AsyncExitStack() as stack:
        chain = Fallback(
            [await stack.enter_async_context(provider(each, tmp_path)) for each in simulators],
            names=["one", "two"],
        )
        cost = sum(map(chain.count, TEXTS)) * chain.price / 1e6
        budget = Budget(1.5 * cost)
        outcome = await within(budget, chain)
    assert simulators[1].account.totals().billed > 0
    assert 0 < billed(*simulators) <= budget.spent_usd + 1e-12
    assert budget.spent_usd <= 1.5 * cost + 1e-12
    assert outcome.vectors


async def test_run_lost_response_reports_what_may_be_billed(tmp_path: Path) -> None:
    """The report and the spending show what may have been billed without a response, beside what was billed."""
    simulator = Simulator(OpenAI(), faults=[Fault(kind="cut", calls=(1,))])
    docs = tmp_path / "docs"
    docs.mkdir()
    for number, text in enumerate(TEXTS[:10]):
        docs.joinpath(f"{number}.txt").write_text(text)
    async with running(simulator) as url:
        tmp_path.joinpath("flowbed.toml").write_text(
            f'model = "openai:{MODEL}"\n[providers.openai]\nbase_url = "{url}/v1"\napi_key = "any"\n'
            '[sources.docs]\nkind = "files"\nlocation = "docs"\n'
        )
        async with await flowbed.aopen(tmp_path) as bed:
            report = await bed.run()
            spent = {each.name: each for each in await bed.spending("lane")}
    assert (report.chunks, report.failed) == (10, 0)
    assert report.perhaps_billed_usd == pytest.approx(report.cost_usd)
    assert report.cost_usd + report.perhaps_billed_usd == pytest.approx(billed(simulator))
    assert set(spent) == {"realtime", UNANSWERED}
    lost = spent[UNANSWERED]
    assert (lost.texts, lost.planned, lost.billed) == (10, 0, report.tokens)
    assert lost.cost_usd == pytest.approx(report.perhaps_billed_usd)
