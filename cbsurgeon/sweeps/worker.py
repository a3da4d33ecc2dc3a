"""The program of a sweep's worker process: ``python -m cbsurgeon.sweeps.worker DIR``."""

from __future__ import annotations

import sys
from pathlib import Path

from cbsurgeon.sweeps.study import work

if __name__ == "__main__":
    work(Path(sys.argv[1]))
