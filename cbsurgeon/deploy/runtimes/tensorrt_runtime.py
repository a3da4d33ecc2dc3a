"""The TensorRT and TensorRT-RTX back end, with PyTorch's allocator and streams."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cbsurgeon.deploy import manifest
from cbsurgeon.deploy.artifact import Port
from cbsurgeon.deploy.onnx import file as onnx_file
from cbsurgeon.deploy.runtimes.runtime import Runtime, require_cuda
from cbsurgeon.deploy.runtimes.spec import RuntimeSpec
from cbsurgeon.deploy.tensorrt.package import TensorRT, find, logger
from cbsurgeon.errors import InputFileError, UsageError
from cbsurgeon.vocabulary import ENGINE_SUFFIXES

_WARM_RUNS = 3


class TensorRTRuntime(Runtime):
    """Runs an engine with one execution context.

    Args:
        path: the engine.
        device: a CUDA device.
        trust: run an engine that was not built here.
        cuda_graph: record the work of :meth:`prepare` as a CUDA graph and replay it.

    Raises:
        InputFileError: the engine is missing, not trusted, or the runtime refuses it (CB-ENGINE-03 to 05, 12).
        UsageError: there is no GPU (CB-RUN-03), or the batch is outside the profile (CB-RUN-08).
        MissingPackage: the TensorRT package that built it is not installed.
    """

    backend = "tensorrt"
    suffixes = ENGINE_SUFFIXES

    @classmethod
    def opened(cls, spec: RuntimeSpec) -> TensorRTRuntime:
        """See :meth:`Runtime.opened`; an engine always runs on the GPU."""
        assert isinstance(spec.target, (str, Path))
        device = spec.device if spec.device.startswith("cuda") else "cuda"
        return cls(spec.target, device, trust=spec.trust, cuda_graph=spec.cuda_graph)

    def __init__(
        self, path: str | Path, device: str = "cuda", *, trust: bool = False, cuda_graph: bool = False
    ) -> None:
        self.path, self.cuda_graph = Path(path), cuda_graph
        facts = manifest.require_trusted(self.path, trust=trust)
        self.trt = find((facts.get("package") or {}).get("name"))
        require_cuda(f"running {self.path.name} with {self.trt.name}")
        self.engine = _deserialize(self.trt, self.path)
        self.context = self._context()
        names = [self.engine.get_tensor_name(index) for index in range(self.engine.num_io_tensors)]
        mode = self.trt.module.TensorIOMode.INPUT
        inputs = tuple(self._port(name) for name in names if self.engine.get_tensor_mode(name) == mode)
        outputs = tuple(name for name in names if self.engine.get_tensor_mode(name) != mode)
        dtype = str((facts.get("model") or {}).get("dtype") or onnx_file.floating(inputs))
        super().__init__(str(self.path), device, inputs, outputs, dtype)
        self.stream = self._stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

    def _context(self) -> Any:
        """Create an execution context; TensorRT-RTX compiles kernels for the exact shapes before the first run."""
        if not self.trt.rtx:
            return self.engine.create_execution_context()
        config = self.engine.create_runtime_config()
        strategy = self.trt.module.DynamicShapesKernelSpecializationStrategy
        config.dynamic_shapes_kernel_specialization_strategy = strategy.EAGER
        if self.cuda_graph:
            config.cuda_graph_strategy = self.trt.module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        return self.engine.create_execution_context(config)

    def _port(self, name: str) -> Port:
        dims = tuple("batch" if dim < 0 else int(dim) for dim in self.engine.get_tensor_shape(name))
        return Port(name, str(_torch_type(self.trt, self.engine.get_tensor_dtype(name))).removeprefix("torch."), dims)

    def _run(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        outputs = self._bind(inputs)
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        self._enqueue()
        self._stream.synchronize()
        return outputs

    def _bind(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Pass the inputs' shapes and addresses to the context, and allocate and return the outputs."""
        self._held = {name: tensor.contiguous() for name, tensor in inputs.items()}
        for name, tensor in self._held.items():
            if not self.context.set_input_shape(name, tuple(tensor.shape)):
                low, best, high = self.engine.get_tensor_profile_shape(name, 0)
                raise UsageError(
                    f"the shape of input {name} is outside the engine's profile",
                    code="CB-RUN-08",
                    where=self.name,
                    why=f"given {list(tensor.shape)}; built for {list(low)} to {list(high)}, tuned for {list(best)}",
                    do="build the engine with a wider --batch",
                )
            self.context.set_tensor_address(name, tensor.data_ptr())
        outputs: dict[str, Tensor] = {}
        for name in self.output_names:
            dtype = _torch_type(self.trt, self.engine.get_tensor_dtype(name))
            outputs[name] = torch.empty(tuple(self.context.get_tensor_shape(name)), dtype=dtype, device=self.device)
            self.context.set_tensor_address(name, outputs[name].data_ptr())
        return outputs

    def _enqueue(self) -> None:
        if not self.context.execute_async_v3(self._stream.cuda_stream):
            raise InputFileError(
                "the engine failed while it ran",
                code="CB-ENGINE-12",
                where=self.name,
                why="execute_async_v3 returned false",
                do="build the engine again on this machine",
            )

    def prepare(self, inputs: Mapping[str, Tensor]) -> Callable[[], object]:
        """See :meth:`Runtime.prepare`; with ``cuda_graph``, the work is recorded once and replayed."""
        self._outputs = self._bind(self.fit(inputs))
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            for _ in range(_WARM_RUNS):
                self._enqueue()
        self._stream.synchronize()
        if not self.cuda_graph or self.trt.rtx:  # TensorRT-RTX records by itself, see _context
            return self._enqueue
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            self._enqueue()
        return graph.replay

    def layers(self) -> str:
        """Return the engine's layers as the engine inspector's JSON."""
        inspector = self.engine.create_engine_inspector()
        return str(inspector.get_engine_information(self.trt.module.LayerInformationFormat.JSON))

    def close(self) -> None:
        """Free the engine's device memory."""
        self._held, self._outputs = {}, {}
        self.context = self.engine = None
        super().close()


def _deserialize(trt: TensorRT, path: Path) -> Any:
    """Load an engine; TensorRT returns ``None`` if it refuses."""
    log = logger(trt)
    engine = trt.module.Runtime(log).deserialize_cuda_engine(path.read_bytes())
    if engine is not None:
        return engine
    raise InputFileError(
        f"{trt.name} {trt.version} does not accept this engine",
        code="CB-ENGINE-12",
        where=str(path),
        why=" ".join("; ".join(log.errors[-2:]).split())[:300] or "it gave no reason",
        do="build it again here; an engine only runs with the TensorRT version and the kind of GPU it was built for",
    )


def _torch_type(trt: TensorRT, dtype: Any) -> torch.dtype:
    kinds = trt.module.DataType
    table = {
        kinds.FLOAT: torch.float32,
        kinds.HALF: torch.float16,
        kinds.BF16: torch.bfloat16,
        kinds.INT64: torch.int64,
        kinds.INT32: torch.int32,
        kinds.INT8: torch.int8,
        kinds.UINT8: torch.uint8,
        kinds.BOOL: torch.bool,
    }
    return table[dtype]
