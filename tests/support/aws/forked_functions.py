"""Functions of the emulator, forked off a server that has loaded what they load: each starts without doing so.

    with ForkServer(PROGRAM) as server:
        Functions(..., server=server.path)

A fork runs AWS's own runtime client, and can be killed, as a process that loads everything itself. It has loaded what
others have not, so tests of what a function loads start their own.
"""

from __future__ import annotations

import gc
import socket
import sys
import warnings

from tests.support.processes.preloaded import serve

PROGRAM = "tests.support.aws.forked_functions"
# Not the runtime client: where it finds the function's calls, it reads once, when it is loaded.
LOADED = (
    *("boto3.session", "botocore.client", "flowbed.bed", "flowbed.ledger.dynamodb"),
    *("flowbed.aws.compaction_queue", "flowbed.aws.queues", "flowbed.embedding.providers.openai"),
    *(
        "flowbed.index.compaction",
        "flowbed.lanes.batch.poll",
        "flowbed.lanes.batch.submit",
        "flowbed.lanes.embed",
    ),
    *(
        "flowbed.pipeline.changes",
        "flowbed.pipeline.release",
        "flowbed.wiring.sources",
        "flowbed.wiring.search",
    ),
    *(
        f"flowbed.aws.handlers.{name}"
        for name in ("compaction", "data_fetcher", "embedder", "find_unembedded")
    ),
    *(f"flowbed.aws.handlers.{name}" for name in ("line_polling", "list_pending", "stream_processor")),
    *(f"flowbed.aws.handlers.{name}" for name in ("process_receipt_realtime", "submit_openai")),
)


def main() -> None:
    """Load what functions use, and serve."""
    # Lance warns of every fork because its threads would be missing; it has none before it is first used.
    warnings.filterwarnings("ignore", "lance is not fork-safe")
    listening = socket.socket(fileno=int(sys.argv[1]))
    for name in LOADED:
        __import__(name)
    gc.collect()
    gc.freeze()
    serve(listening)


if __name__ == "__main__":
    main()
