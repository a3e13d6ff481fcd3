"""Texts to vectors: one protocol, one module for each vendor, wrappers that add behaviour."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
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


# Loaded by name, so that finding and submitting work never imports a vendor's package.
VENDORS = {
    "onnx": "flowbed.embedding.onnx:open_onnx",
}


def open_embedder(model: str, *, cache: Path, options: Mapping[str, str]) -> Embedder:
    """Open the embedder that `model` names as `vendor:model`; `cache` is a folder it may keep files in.

    Packages add vendors through the entry point group `flowbed.embedders`.

    Raises:
        Misconfigured: the vendor is unknown, or its model cannot be opened.

    """
    vendor, _, name = model.partition(":")
    plugins = {point.name: point.value for point in entry_points(group="flowbed.embedders")}
    target = {**plugins, **VENDORS}.get(vendor)
    if target is None:
        known = ", ".join(sorted({**plugins, **VENDORS}))
        message = f"model {model!r} names no known vendor; write it as vendor:model, with one of: {known}"
        raise Misconfigured(message)
    module, _, attribute = target.partition(":")
    opener: Callable[..., Embedder] = getattr(import_module(module), attribute)
    return opener(name, cache=cache, options=options)
