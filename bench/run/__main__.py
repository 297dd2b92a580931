"""`python -m bench.run`."""

import sys

from bench.run.command import main

if __name__ == "__main__":
    sys.exit(main())
