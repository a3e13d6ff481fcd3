"""Settings of the server: in the file, in the environment, and in variables of older servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from flowbed.errors import Misconfigured
from flowbed.records.serving import Serving, TierLimits
from flowbed.settings import read_settings, serving

if TYPE_CHECKING:
    from pathlib import Path

WHOLE = """
model = "onnx:model"
[serve]
models = ["openai:small", "onnx:model"]
fallback = { "small" = ["compatible:small"] }
crossing = true
dimensions = "reduce"
allowlist = "strict"
token_arrays = "model"
cache_mb = 1
cache_seconds = 2.5
redis = "redis://localhost"
body_mb = 3
concurrency = 4
[serve.aliases]
mine = "onnx:model"
[serve.tiers.free]
requests_per_minute = 60
tokens_per_day = 1000
[serve.tiers.paid]
"""


def settled(folder: Path, text: str = 'model = "onnx:model"') -> Serving:
    """Read a file merged with the environment."""
    (folder / "flowbed.toml").write_text(text)
    return serving(read_settings(folder))


def test_serving_without_a_table_serves_the_projects_model(tmp_path: Path) -> None:
    tiers = {"free": TierLimits(embeddings=1_000), "premium": TierLimits(embeddings=10_000)}
    assert settled(tmp_path) == Serving(models=("onnx:model",), tiers=tiers)


def test_serving_table_is_converted_to_plain_values(tmp_path: Path) -> None:
    assert settled(tmp_path, WHOLE) == Serving(
        models=("openai:small", "onnx:model"),
        aliases={"mine": "onnx:model"},
        fallback={"small": ("compatible:small",)},
        crossing=True,
        dimensions="reduce",
        allowlist="strict",
        token_arrays="model",  # noqa: S106 - tokens of text
        tiers={
            "free": TierLimits(requests=60, tokens=1000, embeddings=1_000),
            "premium": TierLimits(embeddings=10_000),
            "paid": TierLimits(),
        },
        cache_bytes=2**20,
        cache_seconds=2.5,
        body_bytes=3 * 2**20,
        concurrency=4,
    )


def test_serving_reads_every_setting_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWBED_SERVE__DIMENSIONS", "ignore")
    monkeypatch.setenv("FLOWBED_SERVE__MODELS", '["seeded:8"]')
    message = settled(tmp_path)
    assert (message.dimensions, message.models) == ("ignore", ("seeded:8",))


@pytest.mark.parametrize(
    ("text", "chains"),
    [
        ("onnx:model, compatible:model", {"onnx:model": ("compatible:model",)}),
        ('{"mine": ["a:b", "c:d"]}', {"mine": ("a:b", "c:d")}),
    ],
)
def test_fallback_variable_wins_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, chains: dict[str, tuple[str, ...]]
) -> None:
    monkeypatch.setenv("FLOWBED_FALLBACK", text)
    assert settled(tmp_path, WHOLE).fallback == chains


def test_fallback_older_variable_maps_vendors_to_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "EMBEDDINGS_FALLBACK_CHAIN", '{"openai": ["local_api", "onnx:other"], "huggingface": ["onnx"]}'
    )
    assert settled(tmp_path, WHOLE).fallback == {"openai:small": ("compatible:small", "onnx:other")}
    monkeypatch.setenv("FLOWBED_FALLBACK", "onnx:model,a:b")
    assert settled(tmp_path, WHOLE).fallback == {"onnx:model": ("a:b",)}


@pytest.mark.parametrize(
    ("older", "allowlist"),
    [
        ({}, "enforce"),
        ({"EMBEDDINGS_ENFORCE_POLICY": "true"}, "enforce"),
        ({"EMBEDDINGS_ENFORCE_POLICY": "False"}, "off"),
        ({"EMBEDDINGS_ENFORCE_POLICY": "1", "EMBEDDINGS_ENFORCE_POLICY_STRICT": "yes"}, "strict"),
        ({"EMBEDDINGS_ENFORCE_POLICY_STRICT": "no"}, "enforce"),
    ],
)
def test_allowlist_older_switches_apply_unless_the_table_sets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, older: dict[str, str], allowlist: str
) -> None:
    for name, value in older.items():
        monkeypatch.setenv(name, value)
    assert settled(tmp_path).allowlist == allowlist
    assert settled(tmp_path, '[serve]\nallowlist = "off"').allowlist == "off"


def test_dimensions_older_variable_applies_unless_the_table_sets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDDINGS_DIMENSION_POLICY", "Pad")
    assert settled(tmp_path).dimensions == "pad"
    assert settled(tmp_path, '[serve]\ndimensions = "error"').dimensions == "error"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("EMBEDDINGS_DIMENSION_POLICY", "stretch"),
        ("EMBEDDINGS_ENFORCE_POLICY", "perhaps"),
        ("EMBEDDINGS_FALLBACK_CHAIN", "{not json"),
        ("FLOWBED_FALLBACK", '{"a": "b"}'),
        ("FLOWBED_FALLBACK", "a:b,,c:d"),
    ],
)
def test_older_variable_invalid_value_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(Misconfigured, match=name):
        settled(tmp_path)


@pytest.mark.parametrize(
    "text", ["dimensions = 5", "nonsense = 1", "tiers.free.tokens_per_day = -1", "concurrency = 0"]
)
def test_serve_table_invalid_setting_is_refused_by_name(tmp_path: Path, text: str) -> None:
    with pytest.raises(Misconfigured, match=r"serve\."):
        settled(tmp_path, f"[serve]\n{text}")
