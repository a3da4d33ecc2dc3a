"""``python -m cbsurgeon``."""

import sys

from cbsurgeon.cli import main

sys.exit(main())
