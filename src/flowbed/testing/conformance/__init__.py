"""Check through the official SDK whether a server is compatible with OpenAI's clients.

    python -m flowbed.testing.conformance http://127.0.0.1:8080/v1

    report = await examine(Target(url="http://127.0.0.1:8080/v1"))
    assert report.conforms

The checks are in groups: embeddings, and files and batches if the server offers them. They work with any server, and
need no knowledge of its model: each vector is compared with the one the server returns for the text alone.
"""

from flowbed.testing.conformance.examining import CHECKS, examine
from flowbed.testing.conformance.records import GROUPS, Check, Outcome, Report, Target

__all__ = ["CHECKS", "GROUPS", "Check", "Outcome", "Report", "Target", "examine"]
