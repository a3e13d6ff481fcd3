"""What runs in processes of its own: each side of a comparison, Flowbed's and its peers'."""
