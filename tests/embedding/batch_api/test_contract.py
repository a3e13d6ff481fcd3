"""The Batch API of every provider passes the contract."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.testing.jobs import BatchApiContract
from flowbed.testing.provider import KEY
from flowbed.testing.simulators import OpenAI, Voyage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowbed.testing.simulators.wire import Api


class TestOpenAI(BatchApiContract):
    """OpenAI."""

    model = "openai:text-embedding-3-small"

    def api(self) -> Api:
        """Make the simulated API."""
        return OpenAI(keys=[KEY])

    def options(self, url: str) -> Mapping[str, str]:
        """Use the simulator, with vectors of another size than the model's own."""
        return {"base_url": f"{url}/v1", "dimensions": "64"}


class TestCompatible(BatchApiContract):
    """A server that speaks OpenAI's API, and has a Batch API too."""

    model = "compatible:text-embedding-3-small"

    def api(self) -> Api:
        """Make the simulated API."""
        return OpenAI(keys=[KEY])

    def options(self, url: str) -> Mapping[str, str]:
        """Use the simulator, with a prompt before each text."""
        return {"base_url": f"{url}/v1", "batch": "true", "document_prompt": "passage: "}


class TestVoyage(BatchApiContract):
    """Voyage."""

    model = "voyage:voyage-4"
    says_expired = False

    def api(self) -> Api:
        """Make the simulated API."""
        return Voyage(keys=[KEY])

    def options(self, url: str) -> Mapping[str, str]:
        """Use the simulator, with vectors of another size than the model's own."""
        return {"base_url": f"{url}/v1", "dimensions": "256"}
