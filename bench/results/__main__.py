"""`python -m bench.results`."""

import sys

from bench.results.command import main

if __name__ == "__main__":
    sys.exit(main())
