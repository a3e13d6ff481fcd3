"""Documents that callers write one by one, instead of a source that lists them."""
