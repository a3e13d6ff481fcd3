"""What `flowbed aws` does with a deployment: packages its functions, changes its stack, reports on it and prices it."""
