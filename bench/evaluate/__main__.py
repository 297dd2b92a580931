"""`python -m bench.evaluate`."""

import sys

from bench.evaluate.command import main

if __name__ == "__main__":
    sys.exit(main())
