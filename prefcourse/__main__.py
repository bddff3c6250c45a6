"""`python -m prefcourse …` hands over to `prefcourse.commands`."""

import sys

from prefcourse.commands.cli import main

if __name__ == "__main__":
    sys.exit(main())
