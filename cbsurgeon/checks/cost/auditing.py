"""``audit``: counting the cost of models and ONNX files, and comparing the counts."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from cbsurgeon.checks.cost.counts import Audit, Count, Tally
from cbsurgeon.checks.cost.inserted import Group, fused_bytes, groups
from cbsurgeon.checks.cost.nodes import NodeCost, Sizes, batch_symbols, blocks, node_costs
from cbsurgeon.checks.cost.onnx.graph import OnnxGraph
from cbsurgeon.errors import UsageError
from cbsurgeon.graph import Program
from cbsurgeon.graph.capture import capture
from cbsurgeon.models.model import Model

_WEIGHT_KINDS = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)


Side = Model | str | Path
"""A model, or the path of an ``.onnx`` file."""


def audit(
    a: Side,
    b: Side | None = None,
    *more: Side,
    batch: int = 1,
    programs: Sequence[Program | None] = (),
    progress: Callable[[str], None] | None = None,
) -> Audit:
    """Count parameters, arithmetic and bytes of a model, and of others to compare with it.

    Args:
        a: a model, or the path of an ``.onnx`` file.
        b, more: models or files to compare with A, usually A with operators inserted, or an export of it.
        batch: batch size of the counts.
        programs: the captured programs of the models, in their order, if the caller has them already.
        progress: called with a message for each model.

    Raises:
        CaptureError: a model cannot be captured.
        UsageError: a file is not an ONNX file (CB-AUDIT-06), or cannot be counted at this batch (CB-AUDIT-05).
        InputFileError: a file does not exist or cannot be read.
    """
    counts, dtypes = [], []
    for side, program in zip_longest((a, b, *more), programs):
        if side is None:
            continue
        if progress:
            progress(f"counting {side.provenance.reference if isinstance(side, Model) else side}")
        if isinstance(side, Model):
            counts.append(count(side, batch=batch, program=program))
            dtypes.append(_dtype(side))
        else:
            found, dtype = count_file(Path(side), batch=batch)
            counts.append(found)
            dtypes.append(dtype)
    return Audit(counts[0], counts[1] if len(counts) > 1 else None, batch, dtypes[0], tuple(counts[2:]))


def count_file(path: Path, *, batch: int = 1) -> tuple[Count, str]:
    """Count an ``.onnx`` file; inserted operators are counted in the form they were exported in.

    Returns:
        The count, and the floating type of the weights.

    Raises:
        UsageError: it is not an ``.onnx`` file (CB-AUDIT-06), or cannot be counted at this batch (CB-AUDIT-05).
        InputFileError: it does not exist or cannot be read.
        MissingPackage: onnx is not installed.
    """
    if path.suffix.lower() != ".onnx":
        raise UsageError(
            "only models and .onnx files can be counted",
            code="CB-AUDIT-06",
            where=str(path),
            why="other files, such as engines, do not contain a graph of operators",
            do="audit the ONNX file it was built from",
        )
    graph = OnnxGraph(path, batch)
    return _summed(str(path), list(graph.costs()), graph.groups(), graph.parameters(), batch), graph.dtype


def count(model: Model, *, batch: int = 1, program: Program | None = None) -> Count:
    """Count one model.

    Args:
        model: the model.
        batch: batch size.
        program: its captured program, if the caller has it already.

    Raises:
        CaptureError: the model cannot be captured.
    """
    captured = program or capture(model, check=False)
    exported = captured.exported
    weights = frozenset(spec.arg.name for spec in exported.graph_signature.input_specs if spec.kind in _WEIGHT_KINDS)
    costs = list(node_costs(exported.graph_module, Sizes(batch_symbols(exported.graph_module.graph, batch)), weights))
    found = groups(model, exported)
    return _summed(_reference(model), costs, found, parameters(model, exported), batch)


def _reference(model: Model) -> str:
    """Return the model's reference followed by the names of inserted operators."""
    names = [str(recipe.get("op", "")) for recipe in model.recipes]
    return " + ".join([model.provenance.reference, *filter(None, names)])


def parameters(model: Model, exported: ExportedProgram) -> dict[str, int]:
    """Return parameter name → number of values; a parameter with several names is counted under the first."""
    held: Iterable[tuple[str, torch.Tensor]]
    if model.module is not None:
        held = model.module.named_parameters()
    else:
        state = exported.state_dict
        held = ((name, state[name]) for name in exported.graph_signature.parameters)
    seen: set[int] = set()
    values: dict[str, int] = {}
    for name, tensor in held:
        if id(tensor) not in seen:
            seen.add(id(tensor))
            values[name] = tensor.numel()
    return values


def _summed(
    reference: str, costs: list[NodeCost], found: tuple[Group, ...], values: Mapping[str, int], batch: int
) -> Count:
    """Sum the costs of nodes and parameters; an inserted operator's formula replaces the costs of its nodes."""
    owner = {name: group for group in found for name in group.nodes}
    inserted = [group.inserted(costs, batch) for group in found]
    block_of = dict(zip((cost.name for cost in costs), blocks([cost.stack for cost in costs]), strict=True))
    by_block: dict[str, Tally] = defaultdict(Tally)
    by_operator: dict[str, Tally] = defaultdict(Tally)
    calls: Counter[str] = Counter()
    for cost in costs:
        if cost.kind == "counted":
            by_block[block_of[cost.name]] += Tally()  # creates the entry, so that blocks stay in graph order
        if cost.kind != "counted" or cost.name in owner:
            continue
        part = Tally(0, cost.flops, cost.operations, cost.bytes, fused_bytes(cost))
        by_block[block_of[cost.name]] += part
        by_operator[cost.operator] += part
        calls[cost.operator] += 1
    for group, item in zip(found, inserted, strict=True):
        part = replace(item.tally, params=0)
        by_block[block_of[group.nodes[0]]] += part
        by_operator[item.op] += item.tally
        calls[item.op] += item.calls
    _place_parameters(values, by_block)
    total = sum(by_block.values(), Tally())
    return Count(
        reference,
        total,
        dict(by_block),
        dict(by_operator),
        dict(calls),
        _listed(costs, "uncounted", owner),
        _listed(costs, "free", owner),
        tuple(inserted),
        sum(cost.weights for cost in costs),
    )


def _place_parameters(values: Mapping[str, int], by_block: dict[str, Tally]) -> None:
    """Add each parameter to the innermost block that contains it, or to its top-level module."""
    for name, size in values.items():
        parts = name.split(".")
        paths = [".".join(parts[:depth]) for depth in range(len(parts) - 1, 0, -1)]
        block = next((path for path in paths if path in by_block), parts[0] if len(parts) > 1 else "(model)")
        by_block[block] = by_block.get(block, Tally()) + Tally(params=size)


def _listed(costs: list[NodeCost], kind: str, owner: Mapping[str, Group]) -> dict[str, int]:
    return dict(Counter(cost.operator for cost in costs if cost.kind == kind and cost.name not in owner).most_common())


def _dtype(model: Model) -> str:
    tensors: Iterable[torch.Tensor] = ()
    if model.module is not None:
        tensors = model.module.parameters()
    elif model.program is not None:
        tensors = model.program.parameters()
    kinds = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in tensors if tensor.is_floating_point())
    return kinds.most_common(1)[0][0] if kinds else "float32"
