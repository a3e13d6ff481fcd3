"""What the page at `/` shows and does, without HTTP."""
