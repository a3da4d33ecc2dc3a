"""Worker processes for the sweep: each measures many models, and is killed and replaced if a model takes too long."""

from __future__ import annotations

import json
import queue
import select
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

#: A worker is replaced after this many models, or above this size, because models do not release all of their memory.
MODELS_PER_WORKER = 25
WORKER_LIMIT_MB = 4000

Measured = Callable[[str, dict[str, Any]], None]


def sweep(script: Path, names: Iterable[str], *, workers: int, timeout: float, report: Measured) -> None:
    """Measure every name in a pool of workers; ``report`` is called once per name, from one thread at a time."""
    waiting: queue.Queue[str] = queue.Queue()
    for name in names:
        waiting.put(name)
    lock = threading.Lock()

    def drain() -> None:
        worker = Worker(script)
        try:
            while True:
                try:
                    name = waiting.get_nowait()
                except queue.Empty:
                    return
                result = worker.measure(name, timeout)
                with lock:
                    report(name, result)
        finally:
            worker.stop()

    threads = [threading.Thread(target=drain) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class Worker:
    """A process that reads names and writes results, one JSON document per line."""

    def __init__(self, script: Path) -> None:
        self.script = script
        self.process: subprocess.Popen[str] | None = None
        self.measured = 0

    def measure(self, name: str, timeout: float) -> dict[str, Any]:
        """Return the result for a name; it contains an error if the worker ended or took too long."""
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(name + "\n")
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], timeout)
        line = process.stdout.readline() if ready else ""
        if not line:
            why = f"the worker ended with code {process.poll()}" if ready else f"took longer than {timeout:.0f} s"
            self.stop()
            return {"error": why}
        result: dict[str, Any] = json.loads(line)
        self.measured += 1
        if self.measured >= MODELS_PER_WORKER or result.get("peak_mb", 0) > WORKER_LIMIT_MB:
            self.stop()
        return result

    def stop(self) -> None:
        """End the process if it is running."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.process, self.measured = None, 0

    def _running(self) -> subprocess.Popen[str]:
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, str(self.script), "--worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        return self.process
