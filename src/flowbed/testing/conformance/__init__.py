"""Is a server one that OpenAI's clients can use? Asked through the official SDK, check by check.

    python -m flowbed.testing.conformance http://127.0.0.1:8080/v1

    report = await examine(Target(url="http://127.0.0.1:8080/v1"))
    assert report.conforms

The checks are in groups: embeddings, and files and batches where the server offers them. The server may be anybody's.
Its model need not be known: whose vector is whose is told by what the server answers to each text alone.
"""

from flowbed.testing.conformance.examining import CHECKS, examine
from flowbed.testing.conformance.records import GROUPS, Check, Outcome, Report, Target

__all__ = ["CHECKS", "GROUPS", "Check", "Outcome", "Report", "Target", "examine"]
