"""Black-box probes of a model: can a token see later tokens, or padding?

The graph decides whether an insertion is allowed (:mod:`cbsurgeon.graph.attention.causality`). These probes use inputs
and outputs only, so they also work for models that were not edited by cbsurgeon.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from cbsurgeon.checks.leaks.result import Gap, Leak
from cbsurgeon.errors import UsageError, pass_out_of_memory
from cbsurgeon.graph.capture.naming import output_names
from cbsurgeon.graph.capture.parts import example
from cbsurgeon.graph.capture.tracing import input_names
from cbsurgeon.graph.capture.writing import copied
from cbsurgeon.graph.program import wrap
from cbsurgeon.models.model import Model

COARSE = 1e-4
"""Outputs of a type with a larger machine epsilon (half precision) are not compared: rounding could hide a leak."""

SEED = 0


def future_leak(model: Model, *, sequence: str | None = None, axis: int = 1) -> Leak:
    """Change the last half of a sequence and check whether outputs of the first half change.

    For causal models. In a model whose tokens see all others, this reports a leak.

    Args:
        model: a module with example inputs, or a program.
        sequence: name of the input with the sequence; by default the first one with that axis.
        axis: the token axis of that input and of the outputs.

    Raises:
        UsageError: no such input (CB-LEAK-04), or no output depends on the change at all (CB-LEAK-05).
    """
    inputs, call = _callable(model)
    name = _sequence(model, inputs, sequence, axis)
    length = inputs[name].shape[axis]
    cut = length - length // 2
    before = call(inputs)
    after = call({**inputs, name: _other(inputs[name], axis, cut)})
    gaps: list[Gap] = []
    not_run: dict[str, str] = {}
    seen = False
    for output, plain in before.items():
        if _coarse(plain):
            not_run[output] = _coarse(plain)
            continue
        if plain.dim() <= axis or plain.shape[axis] != length:
            not_run[output] = (
                f"shape {list(plain.shape)} has no axis for the {length} positions along axis {axis} of {name}"
            )
            continue
        gaps.append(_gap("suffix", output, plain.narrow(axis, 0, cut), after[output].narrow(axis, 0, cut), plain))
        seen |= not torch.equal(plain, after[output])
    what = f"tokens {cut} to {length - 1} of {name} were changed"
    if not seen:
        raise _nothing_to_compare(model, what, not_run)
    return Leak("future", model.provenance.reference, what, tuple(gaps), not_run)


def padding_leak(model: Model, *, mask: str, axis: int = 1, valid: int = 1) -> Leak:
    """Mark the last quarter of one sample as padding and check whether outputs of its other tokens change.

    There are three probes. ``filler``: the padding is replaced by other values. ``length``: the padding is removed from
    the whole batch. ``alone``: the sample runs without the rest of the batch and without its padding. In all of them,
    the outputs of the sample's other tokens must not change.

    Args:
        model: a module with example inputs, or a program.
        mask: name of the padding mask among the inputs, ``[batch, tokens]``.
        axis: the token axis of all inputs that are as long as the mask, and of the outputs.
        valid: the value (1 or 0) that marks a token; the other marks padding.

    Raises:
        UsageError: no such input, or it is not a mask (CB-LEAK-04), or nothing could be compared (CB-LEAK-05).
    """
    inputs, call = _callable(model)
    length = _mask_length(model, inputs, mask, axis)
    kept = length - max(1, length // 4)
    follows = [n for n, t in inputs.items() if n != mask and t.dim() > axis and t.shape[axis] == length]
    open_mask = torch.full_like(inputs[mask], bool(valid))
    hidden = open_mask.clone()
    hidden[-1].narrow(axis - 1, kept, length - kept).fill_(not valid)
    padded = {**inputs, mask: hidden}
    before = call(padded)
    gaps: list[Gap] = []
    not_run: dict[str, str] = {}
    filled = call({**padded, **{name: _other(inputs[name], axis, kept, only_last=True) for name in follows}})
    cut = {**inputs, **{name: inputs[name].narrow(axis, 0, kept) for name in follows}}
    cut[mask] = open_mask.narrow(axis, 0, kept)
    samples = len(open_mask)
    others = {"filler": filled}
    for probe, shorter in (("length", cut), ("alone", {name: _last(one, samples) for name, one in cut.items()})):
        try:
            others[probe] = call(shorter)
        except Exception as error:  # any error of a model that requires a fixed number of tokens or samples
            pass_out_of_memory(error)
            not_run[probe] = f"the model does not run with {kept} tokens: {str(error).splitlines()[0][:120]}"
    for output, plain in before.items():
        own = _own(plain, axis, length, kept)
        if own is None or _coarse(plain):
            unknown = f"shape {list(plain.shape)} does not show which values belong to the sample's tokens"
            not_run[output] = _coarse(plain) or unknown
            continue
        for probe, other in others.items():
            got = _own(other[output], axis, length if probe == "filler" else kept, kept) if output in other else None
            if got is not None and got.shape == own.shape:
                gaps.append(_gap(probe, output, own, got, plain))
    what = f"tokens {kept} to {length - 1} of one sample were marked as padding by {mask}"
    if not gaps:
        raise _nothing_to_compare(model, what, not_run)
    return Leak("padding", model.provenance.reference, what, tuple(gaps), not_run)


def _last(tensor: Tensor, samples: int) -> Tensor:
    """Return the last sample of an input; an input without a batch axis is returned unchanged."""
    return tensor[-1:] if tensor.dim() and len(tensor) == samples else tensor


def _own(output: Tensor, axis: int, length: int, kept: int) -> Tensor | None:
    """Return the part of an output that belongs to the last sample's tokens: their rows, or its vector."""
    if output.dim() > axis and output.shape[axis] == length:
        return output[-1].narrow(axis - 1, 0, kept)
    return output[-1] if output.dim() == 2 else None


def _gap(probe: str, output: str, before: Tensor, after: Tensor, whole: Tensor) -> Gap:
    # NaN before and after is no change; NaN in only one of them is an infinite change.
    moved = (before.double() - after.double()).abs()
    moved = torch.where(before.isnan() & after.isnan(), 0.0, moved).nan_to_num(nan=float("inf"))
    scale = whole.double().abs().nan_to_num(posinf=0.0, neginf=0.0)
    return Gap(probe, output, float(moved.max()), float(scale.max()), _eps(whole))


def _eps(tensor: Tensor) -> float:
    return float(torch.finfo(tensor.dtype).eps) if tensor.is_floating_point() else 0.0


def _coarse(tensor: Tensor) -> str:
    """Return why an output is not compared; empty if it is."""
    kind = str(tensor.dtype).removeprefix("torch.")
    return f"rounding in {kind} could hide a leak: probe the float32 model" if _eps(tensor) > COARSE else ""


def _other(tensor: Tensor, axis: int, begin: int, *, only_last: bool = False) -> Tensor:
    """Return a copy with different values of the same kind from ``begin`` on."""
    changed = tensor.clone()
    part = changed.narrow(axis, begin, tensor.shape[axis] - begin)
    part = part[-1:] if only_last else part
    generator = torch.Generator().manual_seed(SEED)
    if tensor.is_floating_point():
        spread = float(tensor.double().std()) or 1.0
        part += (torch.randn(part.shape, generator=generator, dtype=torch.float64) * spread).to(tensor)
        return changed
    known = torch.unique(tensor)  # only values that the model is known to accept
    position = torch.searchsorted(known, part.contiguous())
    step = torch.randint(1, max(len(known), 2), part.shape, generator=generator)
    part.copy_(known[(position + step) % len(known)])
    return changed


def _callable(model: Model) -> tuple[dict[str, Tensor], Callable[[Mapping[str, Tensor]], dict[str, Tensor]]]:
    """Return a model's example inputs by name, and the model as a function of such inputs."""
    if model.module is None:
        assert model.program is not None
        program = wrap(model.program)
        return dict(program.example), program.run
    module = model.module
    leaves, spec = pytree.tree_flatten(example(model))
    names = input_names(model)
    tensors = {name: leaf for name, leaf in zip(names, leaves, strict=True) if isinstance(leaf, Tensor)}

    def call(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        filled = [inputs.get(name, leaf) for name, leaf in zip(names, leaves, strict=True)]
        args, kwargs = copied(*pytree.tree_unflatten(filled, spec))
        with torch.no_grad():
            outputs = module(*args, **kwargs)
        return dict(zip(output_names(outputs), _tensors(outputs), strict=True))

    return tensors, call


def _tensors(outputs: Any) -> Iterator[Tensor]:
    return (leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor))


def _sequence(model: Model, inputs: Mapping[str, Tensor], name: str | None, axis: int) -> str:
    able = [key for key, tensor in inputs.items() if tensor.dim() > axis and tensor.shape[axis] > 1]
    if name is None and able:
        return able[0]
    if name in able:
        return str(name)
    raise UsageError(
        f"{name!r} is not a sequence among the inputs" if name else "no input is a sequence",
        code="CB-LEAK-04",
        where=f"{model.provenance.reference}: {', '.join(inputs) or 'no tensors'}",
        why=f"a sequence has at least two tokens along axis {axis}",
        do=f"use one of {', '.join(able)}" if able else "give another axis",
    )


def _mask_length(model: Model, inputs: Mapping[str, Tensor], mask: str, axis: int) -> int:
    tensor = inputs.get(mask)
    if (
        tensor is not None
        and tensor.dim() > axis
        and tensor.shape[axis] > 1
        and bool(((tensor == 0) | (tensor == 1)).all())
    ):
        return int(tensor.shape[axis])
    why = "there is no such input" if tensor is None else f"shape {list(tensor.shape)}, not zeros and ones over tokens"
    raise UsageError(
        f"{mask!r} is not a padding mask of this model",
        code="CB-LEAK-04",
        where=f"{model.provenance.reference}: {', '.join(inputs) or 'no tensors'}",
        why=why,
        do="name the input that is 1 for a token and 0 for padding; it must be among the example inputs",
    )


def _nothing_to_compare(model: Model, what: str, not_run: Mapping[str, str]) -> UsageError:
    return UsageError(
        "the leak probe has nothing to compare",
        code="CB-LEAK-05",
        where=model.provenance.reference,
        why=f"{what}, and no output depends on them; " + "; ".join(f"{name}: {why}" for name, why in not_run.items()),
        do="let the model return its tokens, or name another input or axis",
    )
