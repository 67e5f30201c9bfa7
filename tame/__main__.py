"""``python -m tame``: the same as the command `tame`."""

import sys

from tame.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
