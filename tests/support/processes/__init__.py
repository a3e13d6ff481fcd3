"""Processes of tests: started, forked from one that has loaded, killed, cut off, interleaved."""
