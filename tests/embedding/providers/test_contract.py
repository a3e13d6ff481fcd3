"""Every provider passes the contract, against a simulator of its API."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.testing.provider import KEY, IndexedProviderContract, ProviderContract
from flowbed.testing.simulators import Cohere, HuggingFace, OpenAI, Voyage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowbed.testing.simulators.wire import Api


class TestOpenAI(IndexedProviderContract):
    """OpenAI."""

    model = "openai:text-embedding-3-small"
    window = 8_192

    def api(self) -> Api:
        return OpenAI(keys=[KEY])

    def options(self, url: str) -> Mapping[str, str]:
        return {"base_url": f"{url}/v1"}


class TestVoyage(IndexedProviderContract):
    """Voyage."""

    model = "voyage:voyage-law-2"
    window = 16_000

    def api(self) -> Api:
        return Voyage(keys=[KEY])

    def options(self, url: str) -> Mapping[str, str]:
        return {"base_url": f"{url}/v1"}


class TestCohere(ProviderContract):
    """Cohere."""

    model = "cohere:embed-english-v3.0"
    window = 512
    names_long_texts = False

    def api(self) -> Api:
        return Cohere(keys=[KEY])

    def options(self, url: str) -> Mapping[str, str]:
        return {"base_url": url}


class TestHuggingFace(ProviderContract):
    """Hugging Face, with a model that returns one vector per text."""

    model = "huggingface:BAAI/bge-small-en-v1.5"
    window = 512

    def api(self) -> Api:
        return HuggingFace(keys=[KEY])

    def options(self, url: str) -> Mapping[str, str]:
        return {"base_url": f"{url}/hf-inference"}


class TestTokenVectors(TestHuggingFace):
    """Hugging Face, with a model that returns one vector per token."""

    model = "huggingface:google-bert/bert-base-uncased"

    def options(self, url: str) -> Mapping[str, str]:
        return {"base_url": f"{url}/hf-inference", "dimensions": "768"}


class TestCompatible(IndexedProviderContract):
    """A self-hosted server that speaks OpenAI's API."""

    model = "compatible:text-embedding-3-small"
    window = 8_192

    def api(self) -> Api:
        return OpenAI(keys=[KEY])

    def options(self, url: str) -> Mapping[str, str]:
        return {"base_url": f"{url}/v1"}
