"""The options of a TensorRT engine build."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cbsurgeon.deploy.artifact import Port
from cbsurgeon.errors import UsageError
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


def fitted(options: BuildOptions, inputs: Sequence[Port], axes: Mapping[str, Any], where: str) -> BuildOptions:
    """Return the build options for a file; if its batch is fixed, the engine has the same.

    Args:
        options: the options asked for.
        inputs: the inputs of the file.
        axes: the batch axis of each input; axis 0 of all if the file does not say.
        where: the file, for the message.

    Raises:
        UsageError: another batch was asked for than that of the file (CB-EXPORT-11).
    """
    places = {port: axes.get(port.name, None if axes else 0) for port in inputs}
    sizes = {
        port.dims[place] for port, place in places.items() if isinstance(place, int) and 0 <= place < len(port.dims)
    }
    fixed = next(iter(sizes)) if len(sizes) == 1 else None
    if not isinstance(fixed, int):
        return options
    if options.batch not in (ENGINE_BATCHES, (fixed,) * 3):
        raise UsageError(
            "--batch cannot change an ONNX file",
            code="CB-EXPORT-11",
            where=where,
            why=f"its batch is fixed to {fixed}",
            do=f"leave out --batch, or export the model again with --batch {','.join(map(str, options.batch))}",
        )
    return replace(options, batch=(fixed,) * 3)
