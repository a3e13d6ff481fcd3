"""Texts of files that are no text: documents and source code, parsed in a child process."""
