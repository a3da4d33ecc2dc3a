"""The base class of all runtimes: named tensors in, named tensors out, on one device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import ClassVar

import torch
from torch import Tensor

from cbsurgeon.deploy.artifact import Port
from cbsurgeon.deploy.runtimes.spec import RuntimeSpec
from cbsurgeon.errors import UsageError, did_you_mean
from cbsurgeon.vocabulary import DEVICES

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)


class Runtime(ABC):
    """Runs one model on one back end and device.

    Attributes:
        backend: name of the back end (``eager``, ``program``, ``compile``, ``onnxruntime``, ``tensorrt`` ...).
        name: the model or file it runs, as shown in messages.
        device: the device it computes on.
        inputs: names, types and dims of the inputs, in order.
        output_names: names of the outputs, in order.
        dtype: floating type it computes in, such as ``float32``.
        notes: facts that the user should know about how it computes.
        suffixes: suffixes of the files it runs; a model is exported to the first one. Empty if it runs models.
        stream: the CUDA stream that a prepared call enqueues work on, if known.
    """

    backend: str
    suffixes: ClassVar[tuple[str, ...]] = ()
    stream: torch.cuda.Stream | None = None

    def __init__(
        self,
        name: str,
        device: str,
        inputs: tuple[Port, ...],
        output_names: tuple[str, ...],
        dtype: str,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.name, self.dtype, self.notes = name, dtype, notes
        self.device = torch.device(device)
        self.inputs, self.output_names = inputs, output_names
        self._closing: list[Callable[[], None]] = []

    @classmethod
    @abstractmethod
    def opened(cls, spec: RuntimeSpec) -> Runtime:
        """Open the target of a specification: a file with one of ``suffixes``, or else a model or a program.

        Raises:
            UsageError: this back end cannot run such a target (CB-RUN-10).
            CBSurgeonError: as the constructor.
        """

    @property
    def only_batch(self) -> int | None:
        """The only batch size it accepts; ``None`` if the batch is dynamic."""
        leading = [port.dims[0] for port in self.inputs if port.dims]
        fixed = [size for size in leading if isinstance(size, int)]
        return fixed[0] if fixed and len(fixed) == len(leading) else None

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the outputs for named inputs; floating inputs are cast to the type the runtime expects.

        Returns:
            Output name → tensor, on the runtime's device.

        Raises:
            UsageError: an input is missing, unknown, or of another shape or kind of number (CB-RUN-01, CB-RUN-02,
                CB-RUN-13).
        """
        return self._run(self.fit(inputs))

    def fit(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the inputs in this runtime's order and types, on its device."""
        wanted = [port.name for port in self.inputs]
        if set(inputs) != set(wanted):
            raise UsageError(
                "these are not the model's inputs",
                code="CB-RUN-01",
                where=self.name,
                why=f"it expects {', '.join(wanted)}; given are {', '.join(inputs) or 'none'}",
                do="name the arrays in the file as the model names its inputs",
            )
        return {port.name: self._fit(port, inputs[port.name]) for port in self.inputs}

    def _fit(self, port: Port, tensor: Tensor) -> Tensor:
        fixed = [(axis, dim) for axis, dim in enumerate(port.dims) if isinstance(dim, int)]
        if port.dims and (tensor.dim() != len(port.dims) or any(tensor.shape[axis] != dim for axis, dim in fixed)):
            raise UsageError(
                f"input {port.name} has the wrong shape",
                code="CB-RUN-02",
                where=self.name,
                why=f"the model expects {list(port.dims)}; given is {list(tensor.shape)}",
                do=_advice(port, tensor),
            )
        dtype = getattr(torch, port.dtype, tensor.dtype)
        if (tensor.is_complex(), tensor.is_floating_point()) != (dtype.is_complex, dtype.is_floating_point):
            raise UsageError(
                f"input {port.name} has the wrong type",
                code="CB-RUN-13",
                where=self.name,
                why=f"the model expects {port.dtype}; given is {str(tensor.dtype).removeprefix('torch.')}",
                do=f"convert it: {port.name}.astype({port.dtype!r})",
            )
        return tensor.to(self.device, dtype)

    @abstractmethod
    def _run(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute on fitted inputs."""

    def prepare(self, inputs: Mapping[str, Tensor]) -> Callable[[], object]:
        """Return a function that runs the model once on these inputs and does nothing else, for timing.

        On a CUDA device it only enqueues the work; :meth:`synchronize` waits for it.
        """
        fitted = self.fit(inputs)
        return lambda: self._run(fitted)

    def synchronize(self) -> None:
        """Wait until all enqueued work is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def on_close(self, action: Callable[[], None]) -> Runtime:
        """Register an action to run when the runtime is closed; return the runtime."""
        self._closing.append(action)
        return self

    def close(self) -> None:
        """Release files and device memory."""
        while self._closing:
            self._closing.pop()()

    def __enter__(self) -> Runtime:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self.device}, {self.dtype})"


def require_device(device: str) -> None:
    """Raise an error if a device name is not valid.

    Raises:
        UsageError: it is not one of :data:`~cbsurgeon.vocabulary.DEVICES`, with or without a number (CB-RUN-11).
    """
    kind, colon, number = device.partition(":")
    if kind not in DEVICES or (colon and not number.isdecimal()):
        raise UsageError(
            f"unknown device {device!r}",
            code="CB-RUN-11",
            where=f"--device {device}",
            why=f"the devices are {', '.join(DEVICES)}, and cuda:1 for the second GPU",
            do=did_you_mean(kind, DEVICES, "--device ") or "--device cpu",
        )


def require_cuda(purpose: str) -> None:
    """Raise an error if this machine has no GPU.

    Raises:
        UsageError: PyTorch sees no CUDA device (CB-RUN-03).
    """
    if torch.cuda.is_available():
        return
    raise UsageError(
        f"{purpose} needs an NVIDIA GPU",
        code="CB-RUN-03",
        where=f"PyTorch {torch.__version__}",
        why="it sees no CUDA device on this machine",
        do="run it on a machine with a GPU; exporting, building engines and verifying ONNX files need none",
    )


def _advice(port: Port, tensor: Tensor) -> str:
    """Return the advice for an input of another shape; for square images with the flag for the model's size."""
    sides = (port.dims[2:], tuple(tensor.shape[2:]))
    if all(len(side) == 2 and isinstance(side[0], int) and side[0] == side[1] for side in sides):
        return (
            f"give images of the model's size: --size {sides[0][0]}; or load the model for {sides[1][0]}x{sides[1][0]}"
        )
    return "check the inputs, or export the model for this size"
