"""The vendors of models. Each is one record in one module; this table names the modules, which are loaded when used."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from flowbed.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from flowbed.embedding import Embedder
    from flowbed.embedding.batch_api import BatchApi
    from flowbed.embedding.providers.client import ProviderModel
    from flowbed.embedding.reranking import Reranker

VENDORS = {
    "cohere": "flowbed.embedding.providers.cohere:VENDOR",
    "compatible": "flowbed.embedding.providers.compatible:VENDOR",
    "huggingface": "flowbed.embedding.providers.huggingface:VENDOR",
    "onnx": "flowbed.embedding.local.onnx:open_onnx",
    "openai": "flowbed.embedding.providers.openai:VENDOR",
    "sentence_transformers": "flowbed.embedding.local.sentence_transformers:VENDOR",
    "voyage": "flowbed.embedding.providers.voyage:VENDOR",
}
# Packages add vendors through this group of entry points; each names a `Vendor`, or a function that becomes its `open`.
ENTRY_POINTS = "flowbed.embedders"


@dataclass(frozen=True, kw_only=True)
class Vendor:
    """What Flowbed knows of one vendor.

    `open(name, cache=, options=)` opens a model, and `open_jobs(name, embedder, options=)` its Batch API, if any;
    `open_reranker(name, cache=, options=)` opens a reranker.
    `models` are those with known dimensions, limits and prices. `variables` are the environment variables of the
    vendor's own packages, by option, in order of precedence. `over_http` says whether a proxy may be needed.
    """

    open: Callable[..., Embedder]
    open_jobs: Callable[..., BatchApi | None] | None = None
    open_reranker: Callable[..., Reranker] | None = None
    models: Mapping[str, ProviderModel] = field(default_factory=dict)
    variables: Mapping[str, Sequence[str]] = field(default_factory=dict)
    over_http: bool = True


def vendor_of(model: str) -> Vendor:
    """Return the vendor of a model that is named `vendor:model`.

    Raises:
        Misconfigured: the vendor is unknown.
    """
    name = model.partition(":")[0]
    found = _load(name)
    if found is None:
        known = ", ".join(sorted({*_plugins(), *VENDORS}))
        raise Misconfigured(
            f"model {model!r} names no known vendor; write it as vendor:model, with one of: {known}"
        )
    return found


def open_embedder(model: str, *, cache: Path, options: Mapping[str, str]) -> Embedder:
    """Open the embedder that `model` names as `vendor:model`; it may keep files in the folder `cache`.

    Raises:
        Misconfigured: the vendor is unknown, or its model cannot be opened.
    """
    return vendor_of(model).open(model.partition(":")[2], cache=cache, options=options)


def open_jobs(model: str, embedder: Embedder, *, options: Mapping[str, str]) -> BatchApi | None:
    """Open the Batch API of `embedder`, which `model` names as `vendor:model`; None without one.

    `options` are those that the embedder was opened with.

    Raises:
        Misconfigured: the vendor is unknown, or an option is wrong.
    """
    opener = vendor_of(model).open_jobs
    return None if opener is None else opener(model.partition(":")[2], embedder, options=options)


def known_model(name: str) -> ProviderModel | None:
    """Return what any provider's vendor publishes of the model called `name`; None for an unknown name."""
    for vendor, target in VENDORS.items():
        found = _load(vendor) if ".providers." in target else None
        if found is not None and name in found.models:
            return found.models[name]
    return None


@cache
def _load(name: str) -> Vendor | None:
    target = VENDORS.get(name) or _plugins().get(name)
    if target is None:
        return None
    module, _, attribute = target.partition(":")
    found: Any = getattr(import_module(module), attribute)
    return found if isinstance(found, Vendor) else Vendor(open=found, over_http=False)


def _plugins() -> dict[str, str]:
    from importlib.metadata import entry_points  # reads a file of every installed package

    return {point.name: point.value for point in entry_points(group=ENTRY_POINTS)}
