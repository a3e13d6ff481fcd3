"""What every ledger must do for the server and the workers."""
