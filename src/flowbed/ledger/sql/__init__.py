"""The ledger in SQL: SQLite for one machine, Postgres for many."""

# Defined here rather than in `schema` or `migrations`, so that reading them loads neither SQLAlchemy (0.25 s) nor
# Alembic (0.5 s).
HEAD = "0011"  # the newest revision in `migrations/versions`
VERSION_TABLE = "ledger_version"  # not Alembic's default name: a database of another program may use that
