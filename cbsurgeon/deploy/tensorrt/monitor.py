"""Reporting the progress of an engine build, and cancelling it on Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

from cbsurgeon.deploy.tensorrt.package import TensorRT
from cbsurgeon.vocabulary import Progress


class Cancellation:
    """A request to stop the build.

    Attributes:
        requested: whether the build should stop.
        error: the exception of the progress callback, if that is the reason.
    """

    def __init__(self) -> None:
        self.requested = False
        self.error: BaseException | None = None
        self._wakeup: int | None = None

    def poll(self) -> bool:
        """Return whether to stop; also checks for a Ctrl-C that arrived while the builder blocked the main thread."""
        if self._wakeup is not None and not self.requested:
            with contextlib.suppress(BlockingIOError):
                self.requested = signal.SIGINT in os.read(self._wakeup, 64)
        return self.requested

    @contextlib.contextmanager
    def on_interrupt(self) -> Iterator[None]:
        """Context manager in which Ctrl-C sets ``requested`` instead of raising. No effect outside the main thread.

        Python runs signal handlers only between its own instructions, and a builder may stay in native code for
        minutes. So the interrupt is read from the wakeup file descriptor, which the native handler writes to.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._wakeup, written = os.pipe()
        os.set_blocking(self._wakeup, False)
        os.set_blocking(written, False)
        old_handler = signal.signal(signal.SIGINT, self._interrupted)
        old_wakeup = signal.set_wakeup_fd(written, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(old_wakeup)
            signal.signal(signal.SIGINT, old_handler)
            os.close(self._wakeup)
            os.close(written)
            self._wakeup = None

    def _interrupted(self, *_: object) -> None:
        self.requested = True


def monitor(trt: TensorRT, progress: Progress | None, cancellation: Cancellation) -> Any:
    """Return a progress monitor that reports the outermost phases in percent and stops the build on request."""

    class Watched(trt.module.IProgressMonitor):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.module.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}
            self.depth: dict[str, int] = {}
            self.told = ""

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = max(num_steps, 1)
            self.depth[phase_name] = self.depth.get(parent_phase, 0) + 1 if parent_phase else 0
            self._tell(phase_name, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._tell(phase_name, step + 1)
            return not cancellation.poll()

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

        def _tell(self, phase: str, step: int) -> None:
            if progress is None or self.depth.get(phase, 0) > 1 or cancellation.requested:
                return
            tenth = 10 * step // self.steps.get(phase, 1)
            text = f"building the engine: {phase.lower()}, {10 * tenth} %"
            if text == self.told:
                return
            self.told = text
            try:
                progress(text)
            except BaseException as error:  # an exception must not propagate through the builder's native frames
                cancellation.error, cancellation.requested = error, True

    return Watched()
