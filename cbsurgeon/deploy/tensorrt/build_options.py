"""How a TensorRT engine is built."""

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
        batch: smallest, most common and largest batch the engine serves.
        package: ``tensorrt`` or ``tensorrt_rtx``; ``None`` takes what fits this machine.
        workspace: bytes of GPU memory a layer may use for scratch.
        targets: compute capabilities to build for (``SM86`` ...; TensorRT-RTX only), empty for the package's default.
        timing_cache: file of measured kernels to read and extend (``tensorrt`` only).
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
        """The one batch size the engine serves, ``None`` where it serves several."""
        return self.batch[0] if self.batch[0] == self.batch[2] else None


def profiled(build: BuildOptions, how: ExportOptions) -> BuildOptions:
    """The build options with the batch that the export options ask for, where they ask for one."""
    if how.batch is None or how.batch == ENGINE_BATCHES:
        return build
    return replace(build, batch=(how.batch,) * 3 if isinstance(how.batch, int) else how.batch)
