"""`python -m tfjs_fetch`: the command line."""

from tfjs_fetch.cli import main

main()
