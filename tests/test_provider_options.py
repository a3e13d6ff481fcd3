"""Access to providers, as set by `flowbed.toml` and the environment."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import flowbed
from flowbed.embedding import open_embedder
from flowbed.embedding.options import TABLE
from flowbed.embedding.providers.client import RemoteEmbedder
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
    """Read the settings of a project in an empty environment."""
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
def test_provider_options_reads_keys_from_the_vendors_variables(
    project: Callable[[str], Settings], monkeypatch: pytest.MonkeyPatch, variable: str, model: str
) -> None:
    monkeypatch.setenv(variable, "a-key")
    assert provider_options(project(""), model) == (model, {"api_key": "a-key"})


def test_provider_options_file_wins_over_vendor_variables_and_flowbed_variables_over_the_file(
    project: Callable[[str], Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers and switches become text."""
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


def test_provider_options_named_provider_gets_no_key_of_its_vendor(
    project: Callable[[str], Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
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
        {"base_url": "https://x.openai.azure.com/openai/deployments/a", TABLE: "azure"},
    )
    assert provider_options(config, "box:BAAI/bge-m3") == (
        "compatible:BAAI/bge-m3",
        {"base_url": "http://box", "send_dimensions": "true", TABLE: "box"},
    )


async def test_errors_of_a_named_provider_name_its_own_table(
    project: Callable[[str], Settings], tmp_path: Path
) -> None:
    """When it is opened, and when it answers; a table named after its vendor is named so."""
    said = '[providers.box]\nvendor = "compatible"\ndimensions = 8\n'
    model, options = provider_options(project(said), "box:m")
    with pytest.raises(Misconfigured, match=r"set base_url in \[providers\.box\]"):
        open_embedder(model, cache=tmp_path, options=options)
    for wrong in ({"base_url": "box"}, {"base_url": "http://box", "proxy": "box"}):
        with pytest.raises(Misconfigured, match=r"\[providers\.box\]"):
            open_embedder(model, cache=tmp_path, options={**options, **wrong})
    async with running(Simulator(OpenAI(keys=["sk-1"]))) as url:
        opened = open_embedder(model, cache=tmp_path, options={**options, "base_url": f"{url}/v1"})
        with pytest.raises(Misconfigured) as caught:
            await opened.embed(["a"], purpose="document")
        assert isinstance(opened, RemoteEmbedder)
        await opened.aclose()
    assert "api_key in [providers.box]" in f"{caught.value} {caught.value.advice}"
    own = {"base_url": "compatible", "dimensions": "8"}
    with pytest.raises(Misconfigured, match=r"\[providers\.compatible\]"):
        open_embedder("compatible:m", cache=tmp_path, options=own)
    with pytest.raises(Misconfigured, match=r"api_key in \[providers\.azure\]"):
        open_embedder("openai:text-embedding-3-small", cache=tmp_path, options={TABLE: "azure"})


def test_prices_override_the_built_in_ones(project: Callable[[str], Settings]) -> None:
    """By the model's bare name; an invalid amount is refused."""
    assert provider_options(project('[prices]\n"text-embedding-3-small" = 0.5'), MODEL)[1] == {"price": "0.5"}
    with pytest.raises(Misconfigured, match="prices"):
        project('[prices]\n"text-embedding-3-small" = -1')


def test_proxy_variables_apply_to_http_providers_only(
    project: Callable[[str], Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", "internal")
    config = project("")
    assert provider_options(config, MODEL)[1] == {"proxy": "http://proxy:3128", "no_proxy": "internal"}
    assert provider_options(config, "onnx:")[1] == {}


def test_repr_of_settings_hides_keys(project: Callable[[str], Settings]) -> None:
    assert "sk-private" not in repr(project('[providers.openai]\napi_key = "sk-private"'))


def test_tables_of_the_providers_page_open_a_model(
    project: Callable[[str], Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


async def test_run_with_a_provider_plans_pays_and_finds(
    project: Callable[[str], Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
