"""What sources over an API share: cursors, pages that survive a crash, raw answers, and turns of channels."""
