"""What Chroma's clients ask for, answered from the index: collections, filters, rows, and the rows near a vector."""
