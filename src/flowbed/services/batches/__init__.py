"""The Batch API as a service: jobs over stored files, and the work on them."""
