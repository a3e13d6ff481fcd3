"""What the operator settles, in the file, in the environment, and in the variables that older servers read."""

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
    """Read a file, and what the environment adds to it."""
    (folder / "flowbed.toml").write_text(text)
    return serving(read_settings(folder))


def test_the_projects_model_is_served_unless_said_otherwise(tmp_path: Path) -> None:
    """Without a table, the project's model is served, under the strictest policies."""
    assert settled(tmp_path) == Serving(models=("onnx:model",))


def test_a_table_says_everything(tmp_path: Path) -> None:
    """What the table says comes through, in the units of the code."""
    assert settled(tmp_path, WHOLE) == Serving(
        models=("openai:small", "onnx:model"),
        aliases={"mine": "onnx:model"},
        fallback={"small": ("compatible:small",)},
        crossing=True,
        dimensions="reduce",
        allowlist="strict",
        token_arrays="model",  # noqa: S106 - tokens of text
        tiers={"free": TierLimits(requests=60, tokens=1000), "paid": TierLimits()},
        cache_bytes=2**20,
        cache_seconds=2.5,
        body_bytes=3 * 2**20,
        concurrency=4,
    )


def test_the_environment_says_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each setting is also a variable, tables as JSON."""
    monkeypatch.setenv("FLOWBED_SERVE__DIMENSIONS", "ignore")
    monkeypatch.setenv("FLOWBED_SERVE__MODELS", '["seeded:8"]')
    said = settled(tmp_path)
    assert (said.dimensions, said.models) == ("ignore", ("seeded:8",))


@pytest.mark.parametrize(
    ("text", "chains"),
    [
        ("onnx:model, compatible:model", {"onnx:model": ("compatible:model",)}),
        ('{"mine": ["a:b", "c:d"]}', {"mine": ("a:b", "c:d")}),
    ],
)
def test_a_chain_can_be_a_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, chains: dict[str, tuple[str, ...]]
) -> None:
    """`FLOWBED_FALLBACK` names models in order, or several chains as JSON, and wins over the file."""
    monkeypatch.setenv("FLOWBED_FALLBACK", text)
    assert settled(tmp_path, WHOLE).fallback == chains


def test_older_chains_lead_from_vendor_to_vendor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chains of vendors are those of the models they serve: the same model, unless one is named."""
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
def test_older_switches_set_the_allowlist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, older: dict[str, str], allowlist: str
) -> None:
    """The older switches mean off, enforced and strict; what the table says wins over them."""
    for name, value in older.items():
        monkeypatch.setenv(name, value)
    assert settled(tmp_path).allowlist == allowlist
    assert settled(tmp_path, '[serve]\nallowlist = "off"').allowlist == "off"


def test_the_older_dimension_policy_is_honoured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The older variable sets the policy, unless the table does."""
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
def test_variables_that_mean_nothing_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """A value that cannot be is refused by the variable's name, and never passed over."""
    monkeypatch.setenv(name, value)
    with pytest.raises(Misconfigured, match=name):
        settled(tmp_path)


@pytest.mark.parametrize(
    "text", ["dimensions = 5", "nonsense = 1", "tiers.free.tokens_per_day = -1", "concurrency = 0"]
)
def test_a_table_that_means_nothing_is_refused(tmp_path: Path, text: str) -> None:
    """A setting that is not known, or cannot have its value, is refused by name."""
    with pytest.raises(Misconfigured, match=r"serve\."):
        settled(tmp_path, f"[serve]\n{text}")
