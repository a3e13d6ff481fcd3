"""line_polling: ask about one submission, and write its results as deltas."""

from __future__ import annotations

from typing import Any

from flowbed.aws.invocation import Invocation, lambda_handler
from flowbed.aws.polling import poll_submission


@lambda_handler
async def handler(event: Any, call: Invocation) -> dict[str, Any]:
    """Poll, and answer the delta of lines first."""
    return await poll_submission(event, call, "lines")
