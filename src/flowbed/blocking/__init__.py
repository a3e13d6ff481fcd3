"""The synchronous API: the calls of `flowbed.bed.Flowbed`, run on one event loop in a background thread."""

from flowbed.blocking.jobs import BlockingJobs
from flowbed.blocking.opening import Blocking, open, pull  # noqa: A004 - read as `flowbed.open`

__all__ = ["Blocking", "BlockingJobs", "open", "pull"]
