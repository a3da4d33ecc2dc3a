"""Opening a runtime to be timed, and preparing one call on generated inputs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from cbsurgeon.checks.latency.device import clock_of, timer_of
from cbsurgeon.checks.latency.sampling import Call, Timed
from cbsurgeon.deploy import RuntimeSpec, open_spec
from cbsurgeon.deploy.artifact import Port
from cbsurgeon.deploy.runtimes import Runtime
from cbsurgeon.errors import UsageError


@dataclass(frozen=True)
class RuntimeFactory:
    """Opens a runtime and prepares one call on generated inputs; picklable if its target is.

    Attributes:
        spec: what to open.
        batch: samples per call.
        examples: integer inputs by name, which cannot be drawn at random.
        sites: module paths with an inserted operator, in graph order.
        expected: relative L2 distance of its eager outputs from the baseline's; ``None`` if unknown.
    """

    spec: RuntimeSpec
    batch: int
    examples: tuple[tuple[str, Tensor], ...] = ()
    sites: tuple[str, ...] = ()
    expected: float | None = None

    def __call__(self) -> Timed:
        """Open the runtime and prepare a call.

        Raises:
            UsageError: its batch is fixed to another size (CB-BENCH-03).
        """
        runtime = open_spec(self.spec)
        call = self.prepare(runtime)
        recorded = self.spec.cuda_graph and not any("not recorded" in note for note in runtime.notes)
        return Timed(
            call,
            runtime.synchronize,
            runtime.close,
            timer_of(runtime, call),
            clock_of(runtime),
            mode=f"{self.spec.chosen} on {runtime.device}{', recorded as a CUDA graph' if recorded else ''}",
            expected=self.expected,
        )

    @property
    def device(self) -> str:
        """The device it computes on."""
        return self.spec.device

    def prepare(self, runtime: Runtime) -> Call:
        """Return a call on generated inputs.

        Raises:
            UsageError: the runtime's batch is fixed to another size (CB-BENCH-03); the runtime is then closed.
        """
        if runtime.only_batch not in (None, self.batch):
            runtime.close()
            raise UsageError(
                f"{runtime.name} only accepts batches of {runtime.only_batch}",
                code="CB-BENCH-03",
                where=f"--batch {self.batch}",
                why="its batch size is fixed",
                do=f"--batch {runtime.only_batch}, or export it with a dynamic batch",
            )
        return runtime.prepare(self.inputs(runtime))

    def inputs(self, runtime: Runtime) -> dict[str, Tensor]:
        """Return inputs of the batch size; equal in every call in this process, drawn ones even the same tensors."""
        given = dict(self.examples)
        return {
            port.name: _repeated(given[port.name], port, self.batch)
            if port.name in given
            else drawn(port.shape(self.batch), port.dtype, seed)
            for seed, port in enumerate(runtime.inputs)
        }


def _repeated(example: Tensor, port: Port, batch: int) -> Tensor:
    axis = next((place for place, dim in enumerate(port.dims) if not isinstance(dim, int)), 0)
    return example.index_select(axis, torch.arange(batch) % example.shape[axis])


@cache
def drawn(shape: tuple[int, ...], dtype: str, seed: int) -> Tensor:
    """Return normal values for floating types, zeros for integers, and ones (nothing masked) for booleans."""
    kind = getattr(torch, dtype)
    if not kind.is_floating_point:
        return torch.full(shape, kind is torch.bool, dtype=kind)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(kind)
