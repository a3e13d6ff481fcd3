"""One module per aggregate of the ledger, as tables of a SQL database."""
