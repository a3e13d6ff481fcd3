"""One module for each aggregate of the ledger, as tables of an SQL database."""
