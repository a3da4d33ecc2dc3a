"""The program of a sweep's worker process: ``python -m cbsurgeon.sweeps.worker DIR``."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from cbsurgeon.sweeps.study import work

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the command ends as after Ctrl-C
    work(Path(sys.argv[1]))
