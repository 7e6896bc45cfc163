"""`python -m exgate`: the same as the command `exgate`."""

import sys

from exgate.cli import main

sys.exit(main())
