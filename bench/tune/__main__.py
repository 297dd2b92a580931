"""`python -m bench.tune`."""

import sys

from bench.tune.command import entry

if __name__ == "__main__":
    sys.exit(entry())
