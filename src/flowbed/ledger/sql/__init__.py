"""The ledger in SQL: SQLite for one machine, Postgres for many."""
