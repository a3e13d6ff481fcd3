"""The providers that can be simulated, by name, and the settings to use the simulator."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from flowbed.testing.simulators.providers.azure import Azure
from flowbed.testing.simulators.providers.cohere import Cohere
from flowbed.testing.simulators.providers.huggingface import HuggingFace
from flowbed.testing.simulators.providers.openai import MODELS, OpenAI
from flowbed.testing.simulators.providers.voyage import Voyage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flowbed.testing.simulators.wire import Api

KEY = "simulated"  # any key is accepted


@dataclass(frozen=True, kw_only=True)
class Vendor:
    """One provider: Flowbed can use `model`, at `path` of the simulator's address.

    One that `has_jobs` also takes `batch_seconds`, `cancel_seconds` and `queue_tokens`.
    """

    open: Callable[..., Api]
    model: str
    path: str = ""
    has_jobs: bool = False
    more: Mapping[str, str] = field(default_factory=dict)

    @property
    def provider(self) -> str:
        """The name of its table in flowbed.toml, `[providers.NAME]`."""
        return self.model.partition(":")[0]

    def options(self, url: str) -> dict[str, str]:
        """Return the options with which Flowbed uses the simulator at `url`."""
        return {"base_url": url + self.path, "api_key": KEY, **self.more}


SMALL = "text-embedding-3-small"
VENDORS: dict[str, Vendor] = {
    "openai": Vendor(open=OpenAI, model=f"openai:{SMALL}", path="/v1", has_jobs=True),
    "azure": Vendor(
        open=partial(Azure, deployments={name: name for name in MODELS}),
        model=f"openai:{SMALL}",
        path=f"/openai/deployments/{SMALL}",
        more={"api_version": "2024-10-21"},
    ),
    "voyage": Vendor(open=Voyage, model="voyage:voyage-4", path="/v1", has_jobs=True),
    "cohere": Vendor(open=Cohere, model="cohere:embed-v4.0"),
    "huggingface": Vendor(
        open=HuggingFace, model="huggingface:sentence-transformers/all-MiniLM-L6-v2", path="/hf-inference"
    ),
}
