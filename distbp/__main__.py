"""`python -m distbp` is `distbp`."""

from distbp.cli.main import main

main()
