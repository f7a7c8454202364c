"""`python -m whyfeed` is the command `whyfeed`."""

from whyfeed.ui.cli.main import main

main()
