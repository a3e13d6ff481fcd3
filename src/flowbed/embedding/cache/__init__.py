"""The vector cache: vectors that were paid for, in memory, on disk or in Redis."""
