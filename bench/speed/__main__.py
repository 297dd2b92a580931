"""`python -m bench.speed`."""

import sys

from bench.speed.command import entry

if __name__ == "__main__":
    sys.exit(entry())
