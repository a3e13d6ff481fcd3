"""`python -m flowbed.cli` is `flowbed`."""

from flowbed.cli import main

main()
