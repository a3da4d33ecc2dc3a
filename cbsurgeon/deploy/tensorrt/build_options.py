"""The options of a TensorRT engine build."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from cbsurgeon.options import ExportOptions
from cbsurgeon.vocabulary import ENGINE_BATCHES

Batch = tuple[int, int, int]


DEFAULT_WORKSPACE = 4 << 30


@dataclass(frozen=True)
class BuildOptions:
    """How to build an engine.

    Attributes:
        batch: smallest, most common and largest batch the engine accepts.
        package: ``tensorrt`` or ``tensorrt_rtx``; ``None`` chooses the one that fits this machine.
        workspace: bytes of GPU memory that a layer may use as scratch space.
        targets: compute capabilities to build for (``SM86`` ...; TensorRT-RTX only), empty for the package's default.
        timing_cache: file of kernel timings to read and extend (``tensorrt`` only).
        level: the builder's optimization level, 0 to 5.
    """

    batch: Batch = ENGINE_BATCHES
    package: str | None = None
    workspace: int = DEFAULT_WORKSPACE
    targets: tuple[str, ...] = ()
    timing_cache: Path | None = None
    level: int | None = None

    @property
    def only_batch(self) -> int | None:
        """The only batch size the engine accepts; ``None`` if it accepts several."""
        return self.batch[0] if self.batch[0] == self.batch[2] else None


def profiled(build: BuildOptions, how: ExportOptions) -> BuildOptions:
    """Return the build options with the batch of the export options, if they have one."""
    if how.batch is None or how.batch == ENGINE_BATCHES:
        return build
    return replace(build, batch=(how.batch,) * 3 if isinstance(how.batch, int) else how.batch)
