"""The engine of many processes and machines: tasks are kept in a database, by DBOS.

`engine` has the calls that deliver tasks; `recovery` gives back what the dead, and those that leave, were running;
`entries` translates between tasks and the rows of DBOS; `database` waits for its database and says when it is away;
`opening` configures it. What else its open package leaves to us is in `flowbed.workers.membership`: finding the dead,
handing over between versions, deleting what has ended.
"""

from __future__ import annotations

from flowbed.errors import Misconfigured

try:
    import dbos  # noqa: F401 - said here, once, for all modules of the folder
except ImportError as missing:
    raise Misconfigured(
        f"workers over Postgres need the package dbos ({missing}): pip install 'flowbed[workers]'"
    ) from missing
