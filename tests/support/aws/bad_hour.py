"""What functions see of the services of AWS in a bad hour: they throttle, are slow, and deny what they did."""

from __future__ import annotations

from flowbed.testing.s3proxy import CUT, INTERNAL_ERROR, SLOW_DOWN, THROTTLED, S3Fault


def bad_hour(bucket: str) -> list[S3Fault]:
    """Return the faults of a bad hour of DynamoDB, of SQS, and of the buckets that a pattern names."""
    return [
        fault
        for key in ("DynamoDB*", bucket, "AmazonSQS*")
        for fault in (
            S3Fault(key=key, probability=0.06, before=SLOW_DOWN if key == bucket else THROTTLED),
            S3Fault(key=key, probability=0.04, before=CUT),
            S3Fault(key=key, probability=0.04, after=CUT),
            S3Fault(key=key, probability=0.03, after=INTERNAL_ERROR),
            S3Fault(key=key, probability=0.10, delay=0.02, jitter=True),
        )
    ]
