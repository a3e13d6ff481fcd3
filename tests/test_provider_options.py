"""How providers are reached, as `flowbed.toml` and the environment say it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import flowbed
from flowbed.embedding import open_embedder
from flowbed.embedding.vendors import VENDORS, vendor_of
from flowbed.errors import Misconfigured
from flowbed.settings import provider_options, read_settings
from flowbed.settings.environment import PROXY
from flowbed.testing.simulators import OpenAI, Simulator, running

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowbed.settings import Settings

MODEL = "openai:text-embedding-3-small"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Settings]:
    """Read the settings of a project, with an environment that says nothing."""
    known = [vendor_of(vendor).variables for vendor in VENDORS]
    for names in [names for variables in (*known, PROXY) for names in variables.values()]:
        for name in names:
            monkeypatch.delenv(name, raising=False)

    def read(said: str = "") -> Settings:
        (tmp_path / "flowbed.toml").write_text(said)
        return read_settings(tmp_path)

    return read


@pytest.mark.parametrize(
    ("variable", "model"),
    [
        ("OPENAI_API_KEY", MODEL),
        ("VOYAGE_API_KEY", "voyage:voyage-4"),
        ("CO_API_KEY", "cohere:embed-v4.0"),
        ("COHERE_API_KEY", "cohere:embed-v4.0"),
        ("HF_TOKEN", "huggingface:BAAI/bge-m3"),
        ("FLOWBED_PROVIDERS__OPENAI__API_KEY", MODEL),
        ("FLOWBED_PROVIDERS__COMPATIBLE__API_KEY", "compatible:m"),
    ],
)
def test_keys_are_read_from_the_usual_variables(
    project: Callable[[str], Settings], monkeypatch: pytest.MonkeyPatch, variable: str, model: str
) -> None:
    """Those of the vendors' own packages, and Flowbed's own."""
    monkeypatch.setenv(variable, "a-key")
    assert provider_options(project(""), model) == (model, {"api_key": "a-key"})


def test_flowbeds_own_settings_win(
    project: Callable[[str], Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file over the vendors' variables, Flowbed's variables over the file; numbers and switches become text."""
    monkeypatch.setenv("OPENAI_API_KEY", "vendors")
    monkeypatch.setenv("OPENAI_BASE_URL", "https://vendors")
    monkeypatch.setenv("FLOWBED_PROVIDERS__OPENAI__PROJECT", "own")
    said = """
[providers.openai]
base_url = "https://file"
project = "file"
items = 96
timeout = 1.5
"""
    assert provider_options(project(said), MODEL)[1] == {
        "api_key": "vendors",
        "base_url": "https://file",
        "project": "own",
        "items": "96",
        "timeout": "1.5",
    }


def test_a_provider_of_another_name_has_its_vendor_and_no_key_but_its_own(
    project: Callable[[str], Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two servers that speak one API stand side by side, and a vendor's key is sent to the vendor alone."""
    monkeypatch.setenv("OPENAI_API_KEY", "vendors")
    said = """
[providers.azure]
vendor = "openai"
base_url = "https://x.openai.azure.com/openai/deployments/a"
[providers.box]
vendor = "compatible"
base_url = "http://box"
send_dimensions = true
"""
    config = project(said)
    assert provider_options(config, "azure:text-embedding-3-small") == (
        MODEL,
        {"base_url": "https://x.openai.azure.com/openai/deployments/a"},
    )
    assert provider_options(config, "box:BAAI/bge-m3") == (
        "compatible:BAAI/bge-m3",
        {"base_url": "http://box", "send_dimensions": "true"},
    )


def test_prices_override_the_table(project: Callable[[str], Settings]) -> None:
    """By the model's bare name; an amount that is none is refused."""
    assert provider_options(project('[prices]\n"text-embedding-3-small" = 0.5'), MODEL)[1] == {"price": "0.5"}
    with pytest.raises(Misconfigured, match="prices"):
        project('[prices]\n"text-embedding-3-small" = -1')


def test_a_proxy_is_for_what_is_asked_over_http(
    project: Callable[[str], Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found where other programs find it; a local model is told of none."""
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", "internal")
    config = project("")
    assert provider_options(config, MODEL)[1] == {"proxy": "http://proxy:3128", "no_proxy": "internal"}
    assert provider_options(config, "onnx:")[1] == {}


def test_keys_are_not_shown_with_the_settings(project: Callable[[str], Settings]) -> None:
    """Settings end up in logs and tracebacks."""
    assert "sk-private" not in repr(project('[providers.openai]\napi_key = "sk-private"'))


def test_the_settings_of_the_documentation_can_be_used(
    project: Callable[[str], Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each table of docs/providers.md is read, and opens a model."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    page = (Path(__file__).parent.parent / "docs" / "providers.md").read_text("utf-8")
    found = [
        block
        for block in re.findall(r"^```toml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
        if "[providers." in block
    ]
    assert len(found) == 4
    for block in found:
        config = project(block)
        model = config.model if "model =" in block else f"{next(iter(config.providers))}:anything"
        target, options = provider_options(config, model)
        assert open_embedder(target, cache=tmp_path, options=options).space.dimensions in (
            512,
            1_024,
            384,
            1_536,
        )


async def test_a_project_is_embedded_by_a_provider(
    project: Callable[[str], Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the settings to the index and back: planned with a price, billed, and found again."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "keys.md").write_text("Keys are rotated each month.")
    simulator = Simulator(OpenAI(keys=["sk-1"]))
    async with running(simulator) as url:
        project(f'model = "{MODEL}"\n[providers.openai]\nbase_url = "{url}/v1"\n')
        async with await flowbed.aopen(tmp_path) as bed:
            await bed.add("texts", kind="files", location="texts")
            planned = await bed.plan()
            report = await bed.run(plan=planned.plan_id)
            found = await bed.search("Keys are rotated each month.")
    assert planned.tokens == report.tokens == 6
    lane = planned.lanes["realtime"]
    assert lane is not None
    assert lane.cost_usd == report.cost_usd == pytest.approx(6 * 0.02 / 1e6)
    assert found[0].document == "Keys are rotated each month."
    assert len(simulator.account.exchanges) == 2, "the run's one request, and the search's"
