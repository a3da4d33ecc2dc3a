"""``attention_maps``: the attention maps of a model on one batch, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn
from torch.export import ExportedProgram

from cbsurgeon.analysis.tapping import Tapped
from cbsurgeon.errors import UsageError
from cbsurgeon.graph import Program
from cbsurgeon.graph.capture import capture
from cbsurgeon.graph.capture.image_size import is_image
from cbsurgeon.graph.heads import Attention
from cbsurgeon.graph.program import wrap
from cbsurgeon.models import Model

Batch = Tensor | Sequence[Tensor] | Mapping[str, Tensor]
"""Inputs of one call: one tensor, positional tensors, or tensors by the names of the model's inputs."""


def attention_maps(
    model: Model | nn.Module | Program | ExportedProgram, batch: Batch, *, mixed: bool = False
) -> Iterator[tuple[Attention, Tensor]]:
    """Yield the attentions of a model with their maps on a batch, in the order of the forward pass.

    A map is the output of the softmax, with masks and biases, before dropout. If a projection mixes heads after the
    softmax (talking heads, CaiT), it is the map before that projection. Maps are computed in float32, whatever the
    model's dtype. Only one map exists at a time: copy what you need before you ask for the next.

    Args:
        model: a model, a module in evaluation mode, or a captured program.
        batch: inputs on the model's device: a tensor, a tuple of positional inputs, or tensors by input name.
        mixed: return the map after the mixing of heads, which multiplies the values; its rows need not sum to 1.

    Yields:
        an attention and its map, float32 ``[B, heads, queries, keys]``. For window attention, ``B`` is samples times
        windows, with the windows of one sample consecutive.

    Raises:
        CaptureError: the model cannot be captured.
        UsageError: the batch does not have the model's inputs (CB-ANALYZE-01).
    """
    program = captured(model, batch)
    yield from ((tap.attention, weights) for tap, weights in Tapped(program, mixed=mixed).run(named(program, batch)))


def captured(model: Model | nn.Module | Program | ExportedProgram, batch: Batch | None = None) -> Program:
    """Return the captured program of a model; a bare module is captured with the batch as example.

    Raises:
        CaptureError: it cannot be captured.
    """
    if isinstance(model, Program):
        return model
    if isinstance(model, ExportedProgram):
        return wrap(model)
    if isinstance(model, nn.Module):
        args = (batch,) if isinstance(batch, Tensor) else tuple(batch) if isinstance(batch, Sequence) else ()
        model = Model(model, args, example_kwargs=dict(batch) if isinstance(batch, Mapping) else {})
    return capture(model, check=False)


def named(program: Program, batch: Batch) -> dict[str, Tensor]:
    """Return a batch by the names of a program's inputs, checked and cast to their floating types.

    Raises:
        UsageError: the inputs or their shapes are not those of the program (CB-ANALYZE-01).
    """
    names = program.input_names
    if isinstance(batch, Tensor):
        batch = (batch,)
    given = dict(batch) if isinstance(batch, Mapping) else dict(zip(names, batch, strict=False))
    count = len(batch)
    if set(given) != set(names) or count != len(names):
        shown = ", ".join(map(str, given)) if isinstance(batch, Mapping) else f"{count} tensors"
        raise _wrong(f"the model has {', '.join(names)}; the batch has {shown}")
    for name in names:
        example, tensor = program.example[name], given[name]
        free = program.batch_axes.get(name)
        sizes = [
            (have, want)
            for axis, (have, want) in enumerate(zip(tensor.shape, example.shape, strict=False))
            if axis != free
        ]
        if tensor.dim() != example.dim() or any(have != want for have, want in sizes):
            wanted = ["batch" if axis == free else str(size) for axis, size in enumerate(example.shape)]
            why = f"{name} has shape {list(tensor.shape)}; the model expects [{', '.join(wanted)}]"
            raise _wrong(why, _other_size(tensor, example))
        if tensor.is_floating_point() and example.is_floating_point():
            given[name] = tensor.to(example.dtype)
    return given


def _other_size(tensor: Tensor, example: Tensor) -> str:
    """Return the advice for images of another size than the model's; empty for any other difference."""
    if not (is_image(tensor) and is_image(example)) or tensor.shape[-3] != example.shape[-3]:
        return ""
    have, want = tensor.shape[-2:], example.shape[-2:]
    size = str(want[0]) if want[0] == want[1] else f"{want[0]}x{want[1]}"
    return (
        f"read the images at --size {size}, or build the model for theirs, in timm: --model-option img_size={have[0]}"
    )


def _wrong(why: str, advice: str = "") -> UsageError:
    return UsageError(
        "the batch does not match the model's inputs",
        code="CB-ANALYZE-01",
        where="batch",
        why=why,
        do=advice or "give the arguments of the model's forward()",
    )
