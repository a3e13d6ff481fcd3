"""Engines: `local` for one process, `durable` for many, over DBOS."""
