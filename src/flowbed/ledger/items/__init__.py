"""Aggregates of a ledger as items of a table, on any table that does what DynamoDB does."""
