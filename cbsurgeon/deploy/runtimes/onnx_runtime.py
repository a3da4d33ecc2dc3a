"""The ONNX Runtime back end, with the CPU, CUDA and TensorRT execution providers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from cbsurgeon.deploy.artifact import Port
from cbsurgeon.deploy.onnx import file as onnx_file
from cbsurgeon.deploy.runtimes.cuda_graph import WARM_RUNS
from cbsurgeon.deploy.runtimes.onnx_session import (
    cannot_run,
    check_placement,
    library,
    open_session,
    provider_for,
    require_tensors,
    session_options,
    with_outputs,
)
from cbsurgeon.deploy.runtimes.runtime import Runtime
from cbsurgeon.deploy.runtimes.spec import RuntimeSpec
from cbsurgeon.errors import InputFileError


class OnnxRuntime(Runtime):
    """Runs an ONNX file in an ONNX Runtime session.

    Args:
        path: the file.
        device: ``cpu`` or ``cuda``; with ``cuda``, inputs and outputs stay on the GPU (IOBinding).
        backend: ``onnxruntime``, or ``onnxruntime-tensorrt`` for its TensorRT provider.
        threads: threads within one operator; ``None`` leaves it to ONNX Runtime.
        optimize: let ONNX Runtime rewrite the graph.
        cuda_graph: record the work of :meth:`prepare` and replay it, on ``cuda``.
        extra_outputs: names of intermediate values to return as well.
        profile: prefix of the profile file that :meth:`end_profiling` writes.

    Raises:
        InputFileError: the file cannot be read or run (CB-ONNX-01, CB-ONNX-02, CB-RUN-05).
        UsageError: this installation lacks the execution provider (CB-RUN-06).
        CheckFailed: part of the model fell back to the CPU (CB-RUN-07).
        MissingPackage: onnxruntime is not installed.
    """

    backend = "onnxruntime"
    suffixes = (".onnx",)

    @classmethod
    def opened(cls, spec: RuntimeSpec) -> OnnxRuntime:
        """See :meth:`Runtime.opened`."""
        assert isinstance(spec.target, (str, Path))
        return cls(
            spec.target,
            spec.device,
            backend=spec.chosen,
            threads=spec.threads,
            optimize=spec.optimize,
            cuda_graph=spec.cuda_graph,
        )

    def __init__(
        self,
        path: str | Path,
        device: str = "cpu",
        *,
        backend: str = "onnxruntime",
        threads: int | None = None,
        optimize: bool = True,
        cuda_graph: bool = False,
        extra_outputs: Sequence[str] = (),
        profile: Path | None = None,
    ) -> None:
        self.path, self.backend, self.cuda_graph = Path(path), backend, cuda_graph
        onnx_file.require_file(self.path, "CB-ONNX-01")
        self._provider = provider_for(backend, device)
        proto = onnx_file.load(self.path)
        inputs, _ = onnx_file.ports(proto)
        dtype = _compute_type(proto, inputs)
        self._options = partial(session_options, threads, optimize)
        options = self._options(profile)
        notes: tuple[str, ...] = ()
        self._wide = dtype == "bfloat16" and self._provider == "CPUExecutionProvider"
        if self._wide:
            from cbsurgeon.deploy.runtimes.bfloat16 import round_after_every_operator

            notes = ("ONNX Runtime has no bfloat16 CPU kernels: computed in float32, rounded after every operator",)
            proto = round_after_every_operator(onnx_file.load(self.path, weights=True))
            options.graph_optimization_level = library().GraphOptimizationLevel.ORT_DISABLE_ALL
        changed = with_outputs(proto, extra_outputs) if self._wide or extra_outputs else None
        self.session = open_session(self.path, options, self._provider, proto=changed)
        require_tensors(self.session, self.path)
        names = tuple(item.name for item in self.session.get_outputs())
        super().__init__(str(self.path), device, inputs, names, dtype, notes)
        check_placement(self.session, self._provider, self.path)

    def _run(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.device.type == "cuda":
            held = {name: tensor.contiguous() for name, tensor in inputs.items()}
            binding = self._bind(self.session, held)
            self._guarded(lambda: self.session.run_with_iobinding(binding))
            binding.synchronize_outputs()
            values = binding.get_outputs()
            return {name: from_dlpack(v) for name, v in zip(self.output_names, values, strict=True)}
        feeds = {name: _to_numpy(tensor, self._wide) for name, tensor in inputs.items()}
        values = self._guarded(lambda: self.session.run(None, feeds))
        return {name: self._restore(_to_torch(value)) for name, value in zip(self.output_names, values, strict=True)}

    def _guarded(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:
            raise cannot_run(self.path, error) from error

    def _restore(self, tensor: Tensor) -> Tensor:
        return tensor.bfloat16() if self._wide and tensor.is_floating_point() else tensor

    def prepare(self, inputs: Mapping[str, Tensor]) -> Callable[[], object]:
        """See :meth:`Runtime.prepare`; inputs and outputs are bound once, so that no copy is timed."""
        fitted = self.fit(inputs)
        if self.device.type == "cuda":
            held = {name: tensor.contiguous() for name, tensor in fitted.items()}
            return (self._recorded(held) if self.cuda_graph else None) or self._bound(self.session, held)
        feeds = {name: _to_numpy(tensor, self._wide) for name, tensor in fitted.items()}
        return partial(self._guarded, partial(self.session.run, None, feeds))

    def _recorded(self, inputs: Mapping[str, Tensor]) -> Callable[[], object] | None:
        """Record a session for these shapes; return ``None`` and add a note if ONNX Runtime refuses.

        A CUDA graph reads and writes the same memory at each replay, so the outputs are bound to fixed memory. The
        batch is fixed because shape arithmetic runs on the CPU, which a CUDA graph cannot record.
        """
        outputs = {name: torch.empty_like(tensor) for name, tensor in self._run(dict(inputs)).items()}
        options = self._options()
        for port in self.inputs:
            if port.dims and isinstance(port.dims[0], str):
                options.add_free_dimension_override_by_name(port.dims[0], inputs[port.name].shape[0])
        try:
            session = open_session(self.path, options, self._provider, record=True)
            call = self._bound(session, inputs, outputs)
            for _ in range(WARM_RUNS):
                call()
        except InputFileError as error:
            self.notes = (*self.notes, f"not recorded as a CUDA graph: {error.why[:160]}")
            return None
        return call

    def _bound(
        self, session: Any, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor] | None = None
    ) -> Callable[[], object]:
        """Return a call that runs the session on these tensors and keeps them alive: a binding holds only addresses."""
        binding, kept = self._bind(session, inputs, outputs), (inputs, outputs)

        def call(_kept: object = kept) -> object:
            return self._guarded(partial(session.run_with_iobinding, binding))

        return call

    def _bind(self, session: Any, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor] | None = None) -> Any:
        """Bind contiguous tensors, after PyTorch has finished writing them. The caller keeps them alive.

        If no outputs are given, ONNX Runtime allocates them at each run.
        """
        torch.cuda.current_stream(self.device).synchronize()
        binding, device = session.io_binding(), ("cuda", self.device.index or 0)
        for name, held in inputs.items():
            binding.bind_input(name, *device, _element_type(held.dtype), tuple(held.shape), held.data_ptr())
        for name in self.output_names:
            if outputs is None:
                binding.bind_output(name, *device)
            else:
                held = outputs[name]
                binding.bind_output(name, *device, _element_type(held.dtype), tuple(held.shape), held.data_ptr())
        return binding

    def end_profiling(self) -> Path:
        """Write the profile and return its path."""
        return Path(self.session.end_profiling())


def _compute_type(proto: Any, inputs: tuple[Port, ...]) -> str:
    """Return the floating type of most weights (the inputs may all be integers)."""
    names = {1: "float32", 10: "float16", 16: "bfloat16", 11: "float64"}
    counts: dict[str, int] = {}
    for tensor in proto.graph.initializer:
        if tensor.data_type in names:
            size = 1
            for dim in tensor.dims:
                size *= dim
            counts[names[tensor.data_type]] = counts.get(names[tensor.data_type], 0) + size
    return max(counts, key=lambda name: counts[name]) if counts else onnx_file.floating(inputs)


def _to_numpy(tensor: Tensor, wide: bool) -> Any:
    if wide and tensor.is_floating_point():
        tensor = tensor.bfloat16().float()
    return tensor.contiguous().numpy()


def _to_torch(array: Any) -> Tensor:
    """Return a tensor of an array; ONNX Runtime's type of uint64 is one that equals NumPy's and that torch refuses."""
    return torch.from_numpy(array.view(array.dtype.str))


def _element_type(dtype: torch.dtype) -> Any:
    import numpy

    if dtype == torch.bfloat16:
        return onnx_file.import_onnx().TensorProto.BFLOAT16
    return numpy.dtype(str(dtype).removeprefix("torch."))
