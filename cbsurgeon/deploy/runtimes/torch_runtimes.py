"""The PyTorch back ends: the eager module, the captured program, and ``torch.compile``."""

from __future__ import annotations

import copy
import inspect
import types
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from cbsurgeon.deploy.artifact import Port
from cbsurgeon.deploy.folding.folds import fold
from cbsurgeon.deploy.runtimes.cuda_graph import record
from cbsurgeon.deploy.runtimes.runtime import Runtime, require_cuda
from cbsurgeon.deploy.runtimes.spec import RuntimeSpec
from cbsurgeon.errors import CheckFailed, UsageError
from cbsurgeon.graph import Program
from cbsurgeon.graph.capture import capture
from cbsurgeon.graph.capture.batch.axis import batch_of
from cbsurgeon.graph.capture.naming import leaves_with_paths, output_names, unused
from cbsurgeon.graph.capture.whole import refuse_training
from cbsurgeon.models.model import Model


class TorchRuntime(Runtime):
    """Base class of PyTorch's runtimes: on a CUDA device, prepared work can be recorded and replayed.

    Attributes:
        cuda_graph: record the work of :meth:`prepare` as a CUDA graph and replay it. If the model cannot be recorded,
            it runs normally and a note says so.
    """

    cuda_graph = False

    @classmethod
    def opened(cls, spec: RuntimeSpec) -> TorchRuntime:
        """See :meth:`Runtime.opened`."""
        if spec.threads is not None:
            torch.set_num_threads(spec.threads)
        runtime = cls._of(spec)
        runtime.cuda_graph = spec.cuda_graph
        return runtime

    @classmethod
    @abstractmethod
    def _of(cls, spec: RuntimeSpec) -> TorchRuntime:
        """Open the runtime of a model or a program."""

    def prepare(self, inputs: Mapping[str, Tensor]) -> Callable[[], object]:
        """See :meth:`Runtime.prepare`."""
        call = super().prepare(inputs)
        if self.device.type != "cuda":
            return call
        self.stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        if self.cuda_graph:
            try:
                return record(call, self.stream)
            except RuntimeError as error:
                why = str(error).splitlines()[0] if str(error) else type(error).__name__
                self.notes = (*self.notes, f"not recorded as a CUDA graph: {why[:160]}")
        return call


class EagerRuntime(TorchRuntime):
    """Calls the ``nn.Module`` directly."""

    backend = "eager"
    _writes = False
    """Whether forward() changes its inputs in place, so that it gets copies."""

    @classmethod
    def _of(cls, spec: RuntimeSpec) -> TorchRuntime:
        if not isinstance(spec.target, Model) or spec.target.module is None:
            raise UsageError(
                "an exported program cannot run in eager mode",
                code="CB-RUN-10",
                where=spec.target.provenance.reference if isinstance(spec.target, Model) else "the program",
                why="it has no module; eager mode calls one",
                do="use the back end program",
            )
        return cls(spec.target, spec.device)

    def __init__(self, model: Model, device: str = "cpu") -> None:
        module = model.module
        if module is None:
            raise UsageError(
                "this model cannot run in eager mode",
                code="CB-RUN-04",
                where=model.provenance.reference,
                why="it is an exported program",
                do="use the back end program",
            )
        refuse_training(module, model.provenance.reference)
        self.module = _on_device(module, device)
        args, kwargs = model.example_inputs, dict(model.example_kwargs)
        self._names, self._leaves, self._spec = _name_leaves(module, args, kwargs)
        own = [leaf.to(device, copy=True) for leaf in _tensors(self._leaves)]
        before = [leaf._version for leaf in own]
        with torch.no_grad():
            outputs = self._call(dict(zip(self._names, own, strict=True)))
        self._writes = before != [leaf._version for leaf in own]
        axes = _batch_axes(model, self._leaves)
        ports = tuple(map(_port, self._names, _tensors(self._leaves), axes))
        super().__init__(
            model.provenance.reference, device, ports, output_names(outputs), _dtype(module), _left_out(outputs)
        )
        self._forward = self._compiled()

    def _compiled(self) -> Callable[..., Any]:
        return self.module

    def _call(self, inputs: Mapping[str, Tensor]) -> Any:
        names = iter(self._names)
        filled = [inputs[next(names)] if isinstance(leaf, Tensor) else leaf for leaf in self._leaves]
        if self._writes:
            filled = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in filled]
        args, kwargs = pytree.tree_unflatten(filled, self._spec)
        forward = getattr(self, "_forward", self.module)
        return forward(*args, **kwargs)

    def _run(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        with torch.inference_mode():
            return self.differentiate(inputs)

    def differentiate(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the outputs; gradients are recorded if the caller has enabled them."""
        outputs = self._call(self.fit(inputs))
        return dict(zip(self.output_names, _tensors(pytree.tree_leaves(outputs)), strict=True))


class CompiledRuntime(EagerRuntime):
    """Runs the module through ``torch.compile``."""

    backend = "compile"

    @classmethod
    def _of(cls, spec: RuntimeSpec) -> TorchRuntime:
        if not isinstance(spec.target, Model) or spec.target.module is None:
            return ProgramRuntime._of(spec)
        return cls(spec.target, spec.device)

    def _compiled(self) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            return self.module(*args, **kwargs)

        # torch.compile caches its graphs per code object, which all modules of a class share, and by default does not
        # check hooks when it looks a graph up: an edited model would run the graph of the original. A new code object
        # starts with an empty cache. After a graph break, the modules' own code is compiled too; for that, checking
        # hooks is enabled below.
        own = types.FunctionType(call.__code__.replace(), globals(), closure=call.__closure__)
        compiled = torch.compile(own)

        def checked(*args: Any, **kwargs: Any) -> Any:
            with torch._dynamo.config.patch(skip_nnmodule_hook_guards=False):
                return compiled(*args, **kwargs)

        return _never_eager(checked)

    def _run(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        with torch.no_grad():  # inference_mode would compile a second variant
            outputs = self._call(inputs)
        return dict(zip(self.output_names, _tensors(pytree.tree_leaves(outputs)), strict=True))


class ProgramRuntime(TorchRuntime):
    """Runs a captured program: as it is, folded or compiled, according to ``backend``."""

    backend = "program"

    @classmethod
    def _of(cls, spec: RuntimeSpec) -> TorchRuntime:
        target = spec.target
        assert isinstance(target, (Model, Program))
        name = target.provenance.reference if isinstance(target, Model) else "program"
        program = capture(target) if isinstance(target, Model) else target
        if spec.chosen == "folded":
            program, _ = fold(program, plainly=True)
        return cls(program, name, spec.device, backend=spec.chosen)

    def __init__(
        self, program: Program, name: str = "program", device: str = "cpu", *, backend: str = "program"
    ) -> None:
        self.program, self.backend = program, backend
        module = _on_device(program.module(), device)
        self._forward: Callable[..., Any] = _never_eager(torch.compile(module)) if backend == "compile" else module
        ports = tuple(_port(key, tensor, program.batch_axes.get(key)) for key, tensor in program.example.items())
        super().__init__(name, device, ports, program.output_names, _dtype(module))

    def _run(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        args, kwargs = self.program.arguments(inputs)
        with torch.no_grad():
            return self.program.name_outputs(self._forward(*args, **kwargs))


def _never_eager(compiled: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a compiled function so that it raises an error where ``torch.compile`` would silently run eagerly.

    Raises:
        CheckFailed: the limit of compiled variants is reached (CB-RUN-12).
    """

    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
                return compiled(*args, **kwargs)
        except torch._dynamo.exc.FailOnRecompileLimitHit as error:
            raise CheckFailed(
                "torch.compile would run this model eagerly",
                code="CB-RUN-12",
                where="the back end compile",
                why=" ".join(str(error).split())[:200],
                do="call torch.compiler.reset(), or use one batch size per process",
            ) from error

    return call


def _on_device(module: nn.Module, device: str) -> nn.Module:
    """Return the module on a device; a copy if it has to move, so that the caller's module stays where it is."""
    if torch.device(device).type == "cpu":
        return module
    require_cuda(f"running on {device}")
    return copy.deepcopy(module).to(device)


def _name_leaves(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[str], list[Any], Any]:
    """Return the tensor inputs' names as torch.export forms them: the parameter, then the keys to the tensor."""
    leaves, spec = pytree.tree_flatten((args, kwargs))
    leaves = _distinct(leaves)  # one tensor may be given for several parameters
    args, kwargs = pytree.tree_unflatten(leaves, spec)
    bound = inspect.signature(module.forward).bind(*args, **kwargs).arguments
    named = [leaf for leaf in leaves_with_paths(dict(bound)) if isinstance(leaf[1], Tensor)]
    names: dict[int, str] = {}
    for path, tensor in named:
        names[id(tensor)] = unused("_".join(_word(key) for key in path), names.values())
    return [names[id(leaf)] for leaf in leaves if isinstance(leaf, Tensor)], leaves, spec


def _left_out(outputs: Any) -> tuple[str, ...]:
    """Return a note on outputs that are not tensors. ``None`` is not noted: it is an output that is switched off."""
    found = [leaf for leaf in pytree.tree_leaves(outputs) if leaf is not None and not isinstance(leaf, Tensor)]
    kinds = ", ".join(dict.fromkeys(type(leaf).__name__ for leaf in found))
    return (f"outputs that are not tensors are left out: {len(found)} ({kinds})",) if found else ()


def _distinct(leaves: list[Any]) -> list[Any]:
    """Return the values, in which a tensor that occurs again is replaced by a new object with the same memory."""
    seen: set[int] = set()
    found = []
    for leaf in leaves:
        again = isinstance(leaf, Tensor) and id(leaf) in seen
        seen.add(id(leaf))
        found.append(leaf.detach() if again else leaf)
    return found


def _batch_axes(model: Model, leaves: list[Any]) -> list[int | None]:
    """The batch axis of each tensor input."""
    if model.module is None or model.batch_axis is None:
        return [0] * len(_tensors(leaves))
    inputs = (tuple(model.example_inputs), dict(model.example_kwargs))
    axes = batch_of(model.module, inputs, model.batch_axis).axes
    return [axis for axis, leaf in zip(axes, leaves, strict=True) if isinstance(leaf, Tensor)]


def _word(key: Any) -> str:
    return str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))).lower()


def _tensors(leaves: list[Any]) -> list[Tensor]:
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def _port(name: str, tensor: Tensor, batch_axis: int | None) -> Port:
    dims = tuple("batch" if axis == batch_axis else size for axis, size in enumerate(tensor.shape))
    return Port(name, str(tensor.dtype).removeprefix("torch."), dims)


def _dtype(module: nn.Module) -> str:
    counts: dict[str, int] = {}
    for parameter in module.parameters():
        if parameter.is_floating_point():
            counts[str(parameter.dtype)] = counts.get(str(parameter.dtype), 0) + parameter.numel()
    return max(counts, key=lambda name: counts[name], default="torch.float32").removeprefix("torch.")
