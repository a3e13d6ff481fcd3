"""The ledger in DynamoDB: one table, shared by any number of functions and machines."""

from flowbed.ledger.dynamodb.opening import open_dynamodb

__all__ = ["open_dynamodb"]
