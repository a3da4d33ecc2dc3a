"""Check that samples do not influence each other along the axis that is assumed to be the batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, fx
from torch.export.graph_signature import TensorArgument

from cbsurgeon.errors import CaptureError
from cbsurgeon.graph import aten
from cbsurgeon.graph.attention.probing.influence import replaced_small_parameters
from cbsurgeon.graph.attention.probing.order import CLOSED
from cbsurgeon.graph.axes.flow import Flow
from cbsurgeon.graph.axes.table import BATCH, PRIME, Dim
from cbsurgeon.graph.capture.execution import Execution
from cbsurgeon.graph.capture.refusals import one_type
from cbsurgeon.graph.program import Program, parts

ROUNDINGS = 50
"""A difference below this many units of rounding does not count as an influence, because a kernel may add the values of
one sample in another order when another sample changes."""


def attention_along_batch(flow: Flow) -> str:
    """Return a clause that names the first attention whose keys lie along the batch axis; empty if there is none."""
    for node in flow.order:
        keys = _keys(flow, node)
        if keys is not None and _holds_samples(flow.of(keys[0])[keys[1]]):
            return f"the attention {aten.path(node) or node.name} attends along this axis"
    return ""


def _holds_samples(dim: Dim) -> bool:
    return any(factor.axis == BATCH and factor.size % PRIME == 0 for factor in dim)


def _keys(flow: Flow, node: fx.Node) -> tuple[fx.Node, int] | None:
    """Return the tensor and the axis of an attention's keys; ``None`` for other nodes."""
    name = aten.name(node)
    if name == "scaled_dot_product_attention" and isinstance(node.args[1], fx.Node):
        source, axis = node.args[1], -2
    elif name in ("softmax", "_softmax") and isinstance(node.args[0], fx.Node):
        source, axis = node.args[0], int(aten.argument(node, 1, "dim", -1))  # type: ignore[call-overload]
    else:
        return None
    return (source, axis) if source in flow.table.dims and flow.is_activation(node) else None


def influence(program: Program, axes: Mapping[str, int] | None = None) -> str:
    """Return a clause that names an output of which one sample changes although only another sample of the inputs was
    changed; empty if there is none.

    Args:
        program: the captured program.
        axes: the axis of each input to try instead of the batch axis; the axis of the outputs has the same number and
            size.

    Raises:
        CaptureError: the program cannot be run on the example inputs (CB-CAPTURE-09).
    """
    for name, others, _ in _changes(program, axes):
        if others:
            return f"{name if name == 'output' else f'output {name}'} of one sample changes with the values of another"
    return ""


def apart(program: Program, axes: Mapping[str, int]) -> bool:
    """Return whether the values along some axes of the inputs change the outputs at the same place, and at no other."""
    found = list(_changes(program, axes))
    return any(own for _, _, own in found) and not any(others for _, others, _ in found)


def _changes(program: Program, axes: Mapping[str, int] | None) -> Iterator[tuple[str, bool, bool]]:
    """Yield, for each output and each of two changes, its name, whether other samples change, and whether the sample
    itself changes.

    The first and the last sample are changed in turn, and all others are compared: along an axis of tokens, a causal
    model passes values on in one direction, and a convolution passes them to neighbours.
    """
    own_axes = program.batch_axes if axes is None else axes
    sizes = [program.example[name].shape[axis] for name, axis in own_axes.items()]
    outputs = _outputs(program) if axes is None else _outputs_along(program, axes)
    if not sizes or not outputs:
        return
    parameters = replaced_small_parameters(program)
    try:
        execution = Execution(program)
        before = execution.values(program.example, outputs, parameters)
    except RuntimeError as error:
        raise CaptureError(
            "capture failed because the captured program cannot be run",
            code="CB-CAPTURE-09",
            where=", ".join(name for name, _ in outputs.values()),
            why=f"run one by one on the example inputs, its operators raise {type(error).__name__}: {str(error)[:200]}",
            do=one_type(error, program.exported.state_dict.values())
            or "write that part of forward() without torch.vmap, torch.func and flex_attention; "
            "scaled_dot_product_attention with a mask can be captured",
        ) from error
    for place in (sizes[0] - 1, 0):
        changed = {
            name: one_changed(tensor, own_axes[name], place) if name in own_axes else tensor
            for name, tensor in program.example.items()
        }
        try:
            after = execution.values(changed, outputs, parameters)
        except (IndexError, RuntimeError, ValueError):
            continue  # the model does not accept the changed values, so they show nothing
        for node, (name, where) in outputs.items():
            others = others_change(before[node], after[node], where, sizes[0], place)
            yield name, others, not torch.equal(before[node], after[node])


def others_change(before: Tensor, after: Tensor, axes: tuple[int, ...], samples: int, place: int) -> bool:
    """Return whether any sample of an output changes, other than the one whose inputs were changed."""
    gap = (parts(before) - parts(after)).abs().nan_to_num()
    if any(gap.shape[axis] % samples or not gap.shape[axis] for axis in axes):
        return False
    moved = [_of_one_sample(gap, axes, samples, one) for one in range(samples)]
    own = moved.pop(place)
    kind = before.dtype if before.is_floating_point() else torch.float32
    scale = float(parts(before).abs().nan_to_num(posinf=0.0, neginf=0.0).max())
    return max(moved, default=0.0) > max(CLOSED * own, ROUNDINGS * torch.finfo(kind).eps * scale)


def _of_one_sample(gap: Tensor, axes: tuple[int, ...], samples: int, place: int) -> float:
    """Return the largest value of a sample: with several batch axes (contrastive logits, one value for each pair of
    samples), that of the sample with itself."""
    for axis in axes:
        each = gap.shape[axis] // samples
        gap = gap.narrow(axis, place * each, each)
    return float(gap.max())


def _outputs(program: Program) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the name and the batch axes of each output that has one, by the name of its node."""
    nodes = {node.name: node.meta.get("val") for node in program.exported.graph.nodes}
    found = {}
    for node, name in zip(_user_outputs(program), program.output_names, strict=False):
        value = nodes.get(node)
        axes = tuple(axis for axis, size in enumerate(getattr(value, "shape", ())) if isinstance(size, torch.SymInt))
        if axes and isinstance(value, Tensor) and value.numel():
            found[node] = (name, axes)
    return found


def _outputs_along(program: Program, axes: Mapping[str, int]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the name and one axis of each output whose axis has the number and the size of an input's axis."""
    (name, axis), *_ = axes.items()
    size = program.example[name].shape[axis]
    known = zip(_user_outputs(program), program.output_names, strict=False)
    values = {node.name: node.meta.get("val") for node in program.exported.graph.nodes}
    return {
        node: (name, (axis,))
        for node, name in known
        if isinstance(value := values.get(node), Tensor) and value.dim() > axis and _is(value.shape[axis], size)
    }


def _is(size: int | torch.SymInt, number: int) -> bool:
    """Whether a size is a number, or had this value when the program was captured."""
    return bool((size if isinstance(size, int) else size.node.hint) == number)


def _user_outputs(program: Program) -> list[str]:
    """Return the names of the nodes that are tensor outputs, in order."""
    return [
        spec.arg.name
        for spec in program.exported.graph_signature.output_specs
        if spec.kind.name == "USER_OUTPUT" and isinstance(spec.arg, TensorArgument)
    ]


def _rolled(sample: Tensor) -> Tensor:
    """Return a sample rolled by one along the first axis whose values differ, so that the rows stay whole."""
    for axis in range(sample.dim()):
        turned = sample.roll(1, axis)
        if not torch.equal(turned, sample):
            return turned
    return sample


def one_changed(tensor: Tensor, axis: int, place: int) -> Tensor:
    """Return the tensor with the values of one sample in another order.

    Values in another order stay valid (token ids, masks). If all of them are equal, noise is added to floats.
    """
    result = tensor.clone()
    one = result.select(axis, place)
    turned = _rolled(one)
    if torch.equal(turned, one) and tensor.is_floating_point():
        noise = torch.randn(one.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
        turned = turned + noise.to(tensor)
    one.copy_(turned)
    return result
