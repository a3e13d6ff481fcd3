"""Compares what a fetch lists with the ledger: what has changed, and what is gone."""
