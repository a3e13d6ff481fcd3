"""The suites run in an environment of their own, not here."""

collect_ignore = ["suites"]
