"""`python -m flowbed` is `flowbed`."""

from flowbed.cli import main

main()
