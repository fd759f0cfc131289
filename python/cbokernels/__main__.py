"""`python -m cbokernels` is the command `cbokernels`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
