"""The index: deltas, commit, search, versions and compaction. The only importer of Lance."""
