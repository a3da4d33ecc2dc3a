"""The memory that a run takes at least, estimated without running; a run that needs more than there is, is refused."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from cbsurgeon.checks.cost.onnx.graph import OnnxGraph
from cbsurgeon.data import Data
from cbsurgeon.errors import UsageError
from cbsurgeon.graph import Program
from cbsurgeon.graph.capture.batch.axis import batch_of
from cbsurgeon.graph.capture.copying import duplicate
from cbsurgeon.models import memory
from cbsurgeon.models.model import Model

CHECKED_FROM = 16
"""Smallest batch that is estimated. Smaller ones take little more than the batch of 2 that every capture runs."""

Target = Model | Program | str | Path


@dataclass(frozen=True)
class Need:
    """Lower bounds of the memory of one run, in bytes.

    Attributes:
        inputs: the inputs.
        values: the largest sum of values that exist at the same time; 0 if unknown.
    """

    inputs: int
    values: int


def require(
    targets: Iterable[Target], batch: int, *, sets: float = 1.0, limit: int | None = None, where: str = ""
) -> None:
    """Refuse a batch size for which one of the models needs more memory than there is.

    Args:
        targets: models and files; engines are not estimated.
        batch: samples of the largest run.
        sets: how many sets of inputs of this size are held at the same time.
        limit: the limit in bytes that the user gave; by default the memory that is free.
        where: the option that sets the batch size.

    Raises:
        UsageError: the run needs more (CB-RUN-14).
    """
    if batch < CHECKED_FROM:
        return
    free = memory.free() if limit is None else limit
    for target in targets:
        found = need(target, batch)
        total = int(found.inputs * sets) + found.values
        if total > free:
            raise UsageError(
                "the run would take too much memory",
                code="CB-RUN-14",
                where=where,
                why=f"at least {memory.shown(total)}: {memory.shown(int(found.inputs * sets))} of inputs and "
                f"{memory.shown(found.values)} of values computed from them; "
                + (f"{memory.shown(free)} are free" if limit is None else f"the limit is {memory.shown(free)}"),
                do=f"use a batch size of at most {max(1, batch * free // total)}"
                + ("" if limit is None else f"; or raise the limit: --max-memory {memory.above(total)}GB"),
            )


def require_reading(
    targets: Sequence[Target],
    shapes: Sequence[Sequence[Sequence[int]]],
    batch: int,
    count: int | None,
    *,
    sets: int = 1,
    limit: int | None = None,
) -> None:
    """Refuse a batch size of a dataset for which one of the models needs more memory than there is.

    Args:
        targets: models, programs and files.
        shapes: for each target, the shapes of one sample of the dataset, or their ends. A model whose example inputs
            have other shapes is not estimated.
        batch: samples of a batch.
        count: samples of the dataset; ``None``, if unknown: nothing is estimated, as a batch may never be full.
        sets: how often a batch contains every sample.
        limit: the limit in bytes that the user gave; by default the memory that is free.

    Raises:
        UsageError: the run needs more (CB-RUN-14).
    """
    if count is not None:
        largest = min(batch, count)
        known = [target for target, ends in zip(targets, shapes, strict=True) if _alike(target, ends)]
        require(known, largest, sets=sets, limit=limit, where=f"batch size {largest}")


def require_dataset(targets: Sequence[Target], views: Sequence[int], data: Data, limit: int | None) -> None:
    """Refuse an opened dataset for whose batches one of the models needs more memory than there is.

    Args:
        targets: models, programs and files.
        views: for each target, the number of the preprocessing that makes its images.
        data: the dataset; each of its batches contains every image once per preprocessing.
        limit: the limit in bytes that the user gave; ``None`` for the memory that is free.

    Raises:
        UsageError: the run needs more (CB-RUN-14).
    """
    shapes, sets = [data.shapes(view) for view in views], max(1, len(data.views))
    require_reading(targets, shapes, data.batch, data.source.count, sets=sets, limit=limit)


def _alike(target: Target, ends: Sequence[Sequence[int]]) -> bool:
    """Whether each sample has the shape of an example input of the model; a file states its shapes itself."""
    if isinstance(target, str | Path):
        return True
    leaves = (
        target.example.values()
        if isinstance(target, Program)
        else pytree.tree_leaves((target.example_inputs, target.example_kwargs))
    )
    known = [tuple(leaf.shape) for leaf in leaves if isinstance(leaf, Tensor)]
    return bool(ends) and all(any(shape[-len(end) :] == tuple(end) for shape in known) for end in ends if end)


def need(target: Target, batch: int) -> Need:
    """Return the memory that a run of a model or file takes at least."""
    if isinstance(target, Program):
        inputs = {name: _resized(value, target.batch_axes.get(name), batch) for name, value in target.example.items()}
        return _of_call(target.module(), *target.arguments(inputs))
    if isinstance(target, Model):
        return _of_model(target, batch)
    return _of_file(Path(target), batch) if Path(target).suffix.lower() == ".onnx" else Need(0, 0)


def _of_model(model: Model, batch: int) -> Need:
    inputs = (tuple(model.example_inputs), dict(model.example_kwargs))
    leaves, spec = pytree.tree_flatten(inputs)
    module = _spare(model)
    if module is None or not leaves:
        return Need(0, 0)
    axes = batch_of(module, inputs, model.batch_axis).axes
    args, kwargs = pytree.tree_unflatten(
        [_resized(leaf, axis, batch) for leaf, axis in zip(leaves, axes, strict=True)], spec
    )
    return _of_call(module, args, kwargs)


def _spare(model: Model) -> nn.Module | None:
    """Return a module of the model that may be run on tensors without memory: a copy with the same parameters.

    What ``forward`` counts in a buffer would otherwise change, and what it keeps in other attributes, such as a mask
    for the last batch size, would stay in the model without its values. ``None`` if the module cannot be copied.
    """
    if model.module is None:
        return model.program.module() if model.program is not None else None
    try:
        copied = duplicate(model.module, share=True)
    except Exception:  # a class of the model may refuse to be copied in any way
        return None
    own = {id(buffer): buffer.clone() for buffer in copied.buffers()}
    for part in copied.modules():
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = own[id(buffer)]
    return copied


def _of_file(path: Path, batch: int) -> Need:
    """Return the memory of an ONNX file by the shapes of its values; those that only rename a value are not counted."""
    try:
        graph = OnnxGraph(path, batch)
    except UsageError:  # its batch is fixed, or a size is unknown
        return Need(0, 0)
    given = [value.name for value in graph.proto.graph.input if value.name not in graph.initializers]
    sizes = {name: tensor.bytes for name, tensor in graph.tensors.items() if name not in graph.initializers}
    copies = {node.output[0] for node in graph.proto.graph.node if node.op_type in ("Reshape", "Squeeze", "Unsqueeze")}
    steps = [
        (name, 0 if name in copies else sizes.get(name, 0), tuple(node.input))
        for node in graph.proto.graph.node
        for name in node.output
    ]
    return Need(sum(sizes.get(name, 0) for name in given), largest_sum(steps))


def largest_sum(steps: Sequence[tuple[str, int, Sequence[str]]]) -> int:
    """Return the largest sum of sizes that exist at the same time, if each value is dropped after its last reader.

    Args:
        steps: name, size and operands of each value, in the order in which they are computed.
    """
    last = {name: place for place, (own, _, reads) in enumerate(steps) for name in (*reads, own)}
    held: dict[str, int] = {}
    most = 0
    for place, (name, size, reads) in enumerate(steps):
        held[name] = size
        most = max(most, sum(held.values()))
        for gone in (*reads, name):
            if last[gone] == place:
                held.pop(gone, None)
    return most


def _resized(leaf: Any, axis: int | None, batch: int) -> Any:
    """Return a tensor of another batch size that has no memory."""
    if not isinstance(leaf, Tensor):
        return leaf
    shape = [batch if place == axis else size for place, size in enumerate(leaf.shape)]
    return torch.empty(shape, dtype=leaf.dtype, device="meta")


def _of_call(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Need:
    """Return the memory of a call, by running it on tensors without memory."""
    given = [leaf for leaf in pytree.tree_leaves((args, dict(kwargs))) if isinstance(leaf, Tensor)]
    inputs = sum(tensor.nbytes for tensor in given)
    tally = _Tally()
    try:
        with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True), tally:
            fake = pytree.tree_map_only(Tensor, lambda t: torch.empty(t.shape, dtype=t.dtype), (args, dict(kwargs)))
            tally.clear()
            module(*fake[0], **fake[1])
    except Exception:  # the code of a model may raise anything without values; what was counted is still a lower bound
        return Need(inputs, tally.most)
    return Need(inputs, tally.most)


class _Living:
    """The bytes of the tensors that exist."""

    def __init__(self) -> None:
        self.total = 0
        self.known: dict[int, weakref.ref[Any]] = {}


class _Tally(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the bytes of the tensors that operators make, as long as each exists."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most, self._living = 0, _Living()

    def clear(self) -> None:
        """Forget the tensors made so far."""
        self.most, self._living = 0, _Living()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        own = [returned.alias_info is None for returned in function._schema.returns]
        results = result if isinstance(result, list | tuple) else (result,)
        for place, tensor in enumerate(results):
            if isinstance(tensor, Tensor) and own[min(place, len(own) - 1)]:
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        living, key, size = self._living, id(storage), storage.nbytes()
        if key in living.known:
            return

        def gone(_: object) -> None:
            living.total -= size
            living.known.pop(key, None)

        living.known[key] = weakref.ref(storage, gone)
        living.total += size
        self.most = max(self.most, living.total)
