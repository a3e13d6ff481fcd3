"""The event-driven flow: a batch file that was written is embedded without a command."""
