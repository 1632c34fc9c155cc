"""`python -m distbp` is `distbp`."""

from distbp.cli import main

main()
