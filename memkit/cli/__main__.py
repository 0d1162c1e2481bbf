"""``python -m memkit.cli``: the command ``memkit``."""

import sys

from memkit.cli.command import main

if __name__ == "__main__":
    sys.exit(main())
