"""Looks after a project: doctor, verify and repair, garbage collection, inspection."""
