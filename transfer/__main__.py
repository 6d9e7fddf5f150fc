"""``python -m transfer``: the command line, from the working directory without installation."""

from transfer.cli import main

main()
