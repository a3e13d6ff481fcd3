"""An existing table of receipts: which sources are one, and what is written into it for its other programs."""
