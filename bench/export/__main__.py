"""`python -m bench.export`."""

import sys

from bench.export.command import entry

if __name__ == "__main__":
    sys.exit(entry())
