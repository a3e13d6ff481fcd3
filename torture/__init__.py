"""Processes killed at random moments, and many at work on one project at once: `python -m torture --help`."""
