"""The three papers as recipes, each readable in one sitting; see docs/."""

import sys

from memkit.quiet import quiet_libraries

if sys.argv[:1] == ["-m"]:  # Python is about to run one of the commands, and has imported nothing of it yet
    quiet_libraries()
