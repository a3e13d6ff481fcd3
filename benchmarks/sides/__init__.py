"""The sides of comparisons, Flowbed's and its peers', each run in its own process."""
