"""Simulators of embedding providers, for tests and experiments: real HTTP that follows the vendors' contracts.

    simulator = Simulator(OpenAI())
    async with running(simulator) as url:
        simulator.order(Fault(kind="rate_limited", calls=(1,), retry_after=2))
        ...  # an OpenAI client with base_url=f"{url}/v1" and any key

Vectors depend only on model, text and input type: `vector_of` computes them too.
"""

from flowbed.testing.simulators.faults import Fault
from flowbed.testing.simulators.limits import Limits
from flowbed.testing.simulators.providers.azure import Azure
from flowbed.testing.simulators.providers.cohere import Cohere
from flowbed.testing.simulators.providers.huggingface import HuggingFace
from flowbed.testing.simulators.providers.openai import OpenAI
from flowbed.testing.simulators.providers.voyage import Voyage
from flowbed.testing.simulators.serving.process import SimulatorProcess
from flowbed.testing.simulators.serving.running import running, running_thread
from flowbed.testing.simulators.simulator import Simulator
from flowbed.testing.simulators.vectors import vector_of, vectors_of

__all__ = [
    "Azure",
    "Cohere",
    "Fault",
    "HuggingFace",
    "Limits",
    "OpenAI",
    "Simulator",
    "SimulatorProcess",
    "Voyage",
    "running",
    "running_thread",
    "vector_of",
    "vectors_of",
]
