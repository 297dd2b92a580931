"""`python -m bench.sweep`."""

import sys

from bench.sweep.command import entry

if __name__ == "__main__":
    sys.exit(entry())
