"""Texts to vectors: one protocol, one module for each vendor, wrappers that add behaviour."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from flowbed.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from flowbed.records import Embedded, Purpose, Space


class Embedder(Protocol):
    """Texts to vectors of one space.

    `items` is the largest number of texts one call may carry, `tokens` about how many tokens it should; `price` is US
    dollars per million tokens.
    """

    space: Space
    items: int
    tokens: int
    price: float

    async def embed(self, texts: Sequence[str], *, purpose: Purpose) -> Embedded:
        """Embed every text or none.

        Raises:
            Transient: the same call may succeed later.
            Rejected: a text will never be accepted; `inputs` says which, where the vendor does.
            Misconfigured: no call can succeed until a setting changes.
        """
        ...

    def count(self, text: str) -> int:
        """Count the tokens of `text` as the model's own tokenizer does, without special tokens."""
        ...


@runtime_checkable
class Bills(Protocol):
    """An embedder that bills a text with other than its own tokens: with a prompt, or without what it cuts off."""

    def bill(self, text: str, tokens: int) -> int:
        """Tell the tokens that embedding `text` as a document is billed with; `tokens` is what `count` says of it."""
        ...


@runtime_checkable
class Closes(Protocol):
    """An embedder that holds connections or processes, and lets go of them when it is asked to."""

    async def aclose(self) -> None:
        """Let go of them; nothing is embedded after that."""
        ...


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What a provider lets one key do in a minute; None is not known, so not kept to.

    An embedder of a provider says so in `rates`, and in `matryoshka` whether its vectors may be cut shorter.
    """

    requests: int | None = None
    inputs: int | None = None
    tokens: int | None = None


@runtime_checkable
class Rated(Embedder, Protocol):
    """An embedder of a provider elsewhere, which says how much it does in a minute; what runs here does not."""

    rates: Rates


# Loaded by name, so that finding and submitting work never imports a vendor's package.
VENDORS = {
    "cohere": "flowbed.embedding.providers.cohere:open_cohere",
    "compatible": "flowbed.embedding.providers.compatible:open_compatible",
    "huggingface": "flowbed.embedding.providers.huggingface:open_huggingface",
    "onnx": "flowbed.embedding.local.onnx:open_onnx",
    "openai": "flowbed.embedding.providers.openai:open_openai",
    "sentence_transformers": "flowbed.embedding.local.sentence_transformers:open_sentence_transformers",
    "voyage": "flowbed.embedding.providers.voyage:open_voyage",
}


def open_embedder(model: str, *, cache: Path, options: Mapping[str, str]) -> Embedder:
    """Open the embedder that `model` names as `vendor:model`; `cache` is a folder it may keep files in.

    Packages add vendors through the entry point group `flowbed.embedders`.

    Raises:
        Misconfigured: the vendor is unknown, or its model cannot be opened.
    """
    vendor, _, name = model.partition(":")
    target, plugins = VENDORS.get(vendor), {}
    if target is None:  # only then, as it reads a file of every package that is installed
        from importlib.metadata import entry_points  # slow, and rarely asked for

        plugins = {point.name: point.value for point in entry_points(group="flowbed.embedders")}
        target = plugins.get(vendor)
    if target is None:
        known = ", ".join(sorted({*plugins, *VENDORS}))
        raise Misconfigured(
            f"model {model!r} names no known vendor; write it as vendor:model, with one of: {known}"
        )
    module, _, attribute = target.partition(":")
    opener: Callable[..., Embedder] = getattr(import_module(module), attribute)
    return opener(name, cache=cache, options=options)
