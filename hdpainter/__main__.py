"""python -m hdpainter: the command `hdpainter`."""

import sys

from hdpainter.cli import main

sys.exit(main())
