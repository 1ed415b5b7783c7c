"""`python -m mmlm` is the command line."""

import sys

from mmlm.cli import main

if __name__ == "__main__":
    sys.exit(main())
