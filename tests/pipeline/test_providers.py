"""A run keeps to its provider's limits, and uses a fallback of the same space where it is down."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import flowbed
from flowbed.embedding.wrappers.limits import RateLimited
from flowbed.errors import Misconfigured
from flowbed.testing.simulators import Fault, Limits, OpenAI, Simulator, Voyage, running

if TYPE_CHECKING:
    from pathlib import Path

MODEL = "text-embedding-3-small"


def write(folder: Path, *urls: str, more: str = "") -> None:
    """Write a project whose model is at the first address, with the others as fallbacks."""
    names = ["openai", *(f"other{place}" for place in range(1, len(urls)))]
    chain = ", ".join(f'"{name}:{MODEL}"' for name in names[1:])
    lines = [f'model = "openai:{MODEL}"', f'serve.fallback = {{"openai:{MODEL}" = [{chain}]}}', more]
    for name, url in zip(names, urls, strict=True):
        lines += [
            f"[providers.{name}]",
            'vendor = "openai"',
            f'base_url = "{url}/v1"',
            'api_key = "any"',
            'tokens_per_minute = "120000"',
        ]
    folder.joinpath("flowbed.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    folder.joinpath("docs").mkdir(exist_ok=True)
    for number in range(40):
        folder.joinpath("docs", f"{number}.md").write_text(f"# Page {number}\n\n" + f"word{number} " * 100)


async def test_run_keeps_to_the_providers_limits(tmp_path: Path) -> None:
    """With more texts than the provider's rate limit allows, no request is refused."""
    simulator = Simulator(OpenAI(), limits=Limits(tokens=120_000, burst=16.0))
    async with running(simulator) as url:
        write(tmp_path, url)
        async with await flowbed.aopen(tmp_path) as bed:
            await bed.add("docs", kind="files", location="docs")
            report = await bed.run()
    assert (report.failed, report.embedded) == (0, 40)
    assert set(simulator.account.totals().statuses) == {200}


async def test_run_provider_down_continues_at_its_fallback(tmp_path: Path) -> None:
    """Where the first provider is down, the second embeds, and everything is in one space."""
    down = Simulator(OpenAI(), faults=[Fault(kind="error", status=503)])
    up = Simulator(OpenAI())
    async with running(down) as first, running(up) as second:
        write(tmp_path, first, second)
        async with await flowbed.aopen(tmp_path) as bed:
            await bed.add("docs", kind="files", location="docs")
            report = await bed.run()
            hits = await bed.search("word7 word7", limit=1)
    assert (report.failed, report.embedded) == (0, 40)
    assert len(hits) == 1
    assert set(down.account.totals().statuses) == {503}


async def test_run_answered_by_a_cheaper_fallback_costs_its_price(tmp_path: Path) -> None:
    """What a run cost is what the provider that answered bills; estimates and budgets count with the highest price."""
    down, up = Simulator(OpenAI(), faults=[Fault(kind="error", status=503)]), Simulator(OpenAI())
    async with running(down) as first, running(up) as second:
        write(tmp_path, first, second)
        path = tmp_path.joinpath("flowbed.toml")
        text = path.read_text("utf-8").replace("[providers.other1]", '[providers.other1]\nprice = "0.005"')
        path.write_text(text, encoding="utf-8")
        async with await flowbed.aopen(tmp_path) as bed:
            await bed.add("docs", kind="files", location="docs")
            report = await bed.run()
            spent = await bed.spending()
            price = await bed.price()
    billed = up.account.totals().billed
    assert (report.embedded, report.tokens) == (40, billed)
    assert report.cost_usd == pytest.approx(billed * 0.005 / 1e6)
    assert sum(each.cost_usd for each in spent) == pytest.approx(billed * 0.005 / 1e6)
    assert price == 0.02


@pytest.mark.parametrize("name", [MODEL, "small"])
async def test_run_fallback_of_the_models_own_name_or_alias_is_used(tmp_path: Path, name: str) -> None:
    """A chain is found by any name of the model, as the server finds it."""
    down, up = Simulator(OpenAI(), faults=[Fault(kind="error", status=503)]), Simulator(OpenAI())
    async with running(down) as first, running(up) as second:
        write(tmp_path, first, second, more=f'serve.aliases = {{"small" = "{MODEL}"}}')
        path = tmp_path.joinpath("flowbed.toml")
        text = path.read_text("utf-8")
        path.write_text(text.replace(f'{{"openai:{MODEL}" =', f'{{"{name}" ='), encoding="utf-8")
        async with await flowbed.aopen(tmp_path) as bed:
            await bed.add("docs", kind="files", location="docs")
            report = await bed.run()
    assert (report.failed, report.embedded) == (0, 40)


async def test_run_fallback_of_another_space_is_refused(tmp_path: Path) -> None:
    """A model of another space is refused as a fallback, unless crossing is on, which applies to requests only."""
    down, other = Simulator(OpenAI(), faults=[Fault(kind="error", status=503)]), Simulator(OpenAI())
    async with running(down) as first, running(other) as second:
        write(tmp_path, first, second)
        text = tmp_path.joinpath("flowbed.toml").read_text("utf-8")
        text = text.replace(
            'vendor = "openai"\nbase_url = "' + second,
            'vendor = "openai"\ndimensions = "64"\nbase_url = "' + second,
        )
        tmp_path.joinpath("flowbed.toml").write_text(text, encoding="utf-8")
        async with await flowbed.aopen(tmp_path) as bed:
            await bed.add("docs", kind="files", location="docs")
            with pytest.raises(Misconfigured, match="another vector space"):
                await bed.run()
        tmp_path.joinpath("flowbed.toml").write_text("serve.crossing = true\n" + text, encoding="utf-8")
        async with await flowbed.aopen(tmp_path) as bed:
            assert isinstance(bed._embedders.cached().wrapped, RateLimited)
    assert not other.account.totals().requests


async def test_run_provider_asks_to_wait_for_hours_ends(tmp_path: Path) -> None:
    """It says when the provider may be asked again, and a later run does the rest."""
    busy = Simulator(OpenAI(), faults=[Fault(kind="error", status=429, retry_after=30_000.0)])
    ready = Simulator(OpenAI())
    async with running(busy) as first, running(ready) as second:
        for url, done in ((first, 0), (second, 40)):
            write(tmp_path, url, more=f'[sources.docs]\nkind = "files"\nlocation = "{tmp_path / "docs"}"')
            async with await flowbed.aopen(tmp_path) as bed:
                report = await bed.run()
            assert report.embedded == done
            told = [each.reason for each in report.failures if each.subject == "embedding"]
            assert ["500 minutes" in reason for reason in told] == [True] * (not done)
    assert busy.account.totals().requests == 1


@pytest.mark.parametrize("said", ["variable", "table"])
async def test_open_fallback_of_the_server_alone_does_not_stop_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, said: str
) -> None:
    """With crossing, a fallback without a key is passed over with a warning; without, the error names it."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    lines = ['model = "seeded:32"']
    if said == "variable":
        monkeypatch.setenv("FLOWBED_FALLBACK", f"seeded:32,openai:{MODEL}")
    else:
        lines.append(f'serve.fallback = {{"seeded:32" = ["openai:{MODEL}"]}}')
    tmp_path.joinpath("docs").mkdir()
    tmp_path.joinpath("docs", "one.txt").write_text("a word")
    settings = tmp_path / "flowbed.toml"
    settings.write_text("\n".join([*lines, "serve.crossing = true"]) + "\n")
    async with await flowbed.aopen(tmp_path) as bed:
        await bed.add("docs", kind="files", location="docs")
        await bed.run()
        assert [hit.document for hit in await bed.search("a word")] == ["a word"]
    assert f"fallback openai:{MODEL} of seeded:32 is skipped: there is no key" in caplog.text
    settings.write_text(settings.read_text().replace("crossing = true", "crossing = false"))
    async with await flowbed.aopen(tmp_path) as bed:
        with pytest.raises(
            Misconfigured, match=rf"openai:{MODEL}, the fallback of seeded:32, .*FLOWBED_FALLBACK"
        ):
            await bed.search("a word")


async def test_plan_and_run_survive_three_requests_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan says how long the limit makes it take; the run sends few large requests, and none is refused."""
    simulator = Simulator(Voyage(), limits=Limits(requests=3, burst=1.0))
    async with running(simulator) as url:
        tmp_path.joinpath("flowbed.toml").write_text(
            'model = "voyage:voyage-4"\nvector_cache_mb = 0\n[providers.voyage]\n'
            f'base_url = "{url}/v1"\napi_key = "any"\nrequests_per_minute = 3\n'
        )
        lines = [f'{{"id": "{number}", "text": "line {number}"}}\n' for number in range(200)]
        tmp_path.joinpath("lines.jsonl").write_text("".join(lines))
        async with await flowbed.aopen(tmp_path) as bed:
            await bed.add("lines", kind="jsonl", location="lines.jsonl")
            plan = await bed.plan()
            assert plan.lanes["realtime"] is not None
            assert plan.lanes["realtime"].seconds == 40.0  # three requests, 20 s apart
            # From here on a minute has 0.6 s, on both sides.
            for module in ("flowbed.embedding.wrappers.limits", "flowbed.testing.simulators.limits"):
                monkeypatch.setattr(f"{module}.MINUTE", 0.6)
            report = await bed.run()
    assert (report.failed, report.embedded) == (0, 200)
    totals = simulator.account.totals()
    assert totals.statuses == {200: 3}
