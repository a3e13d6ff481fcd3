"""Kills processes at random moments, and runs many on one project at once: `python -m torture --help`."""
