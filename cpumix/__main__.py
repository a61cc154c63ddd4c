"""Let `python -m cpumix` do what `cpumix` does."""

from cpumix.cli.main import main

main()
