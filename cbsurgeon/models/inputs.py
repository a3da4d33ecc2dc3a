"""Example inputs: made from shapes, read from an ``.npz`` file, or taken from the model's own configuration."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from cbsurgeon.errors import UsageError, did_you_mean
from cbsurgeon.models.model import BatchAxis, Model
from cbsurgeon.models.seed import SEED

_SHAPE = re.compile(r"([0-9]{1,6}(?:x[0-9]{1,6})*)(?::([a-z0-9]+))?")
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}
_DTYPES |= {"int64": torch.int64, "int32": torch.int32, "uint8": torch.uint8, "bool": torch.bool}
MOST_ELEMENTS = 1 << 30
"""Largest number of elements of one example input, batch included."""


@dataclass(frozen=True)
class Spec:
    """Shape of one input without its batch axis, and its dtype, if one was given."""

    shape: tuple[int, ...]
    dtype: torch.dtype | None = None


def parse(text: str) -> list[Spec]:
    """Parse ``3x224x224`` or ``3x224x224,16:int64``.

    Raises:
        UsageError: it does not parse, or an extent is zero (``CB-INPUT-01``).
    """
    specs = []
    for part in text.replace(" ", "").split(","):
        found = _SHAPE.fullmatch(part)
        dtype = _DTYPES.get(found[2]) if found and found[2] else None
        shape = tuple(int(extent) for extent in found[1].split("x")) if found else ()
        if not found or (found[2] and dtype is None) or 0 in shape:
            raise UsageError(
                f"{part!r} is not an input shape",
                code="CB-INPUT-01",
                where=f"--input {text}",
                why=f"the types are {', '.join(_DTYPES)}" if found else "it is not sizes joined by x",
                do=did_you_mean(found[2], _DTYPES, f"--input {found[1]}:")
                if found and found[2]
                else "write the sizes without the batch, such as --input 3x224x224 or --input 3x224x224,16:int64",
            )
        specs.append(Spec(shape, dtype))
    return specs


def image(batch: int, *shape: int) -> torch.Tensor:
    """Return normally distributed numbers; the same shape gives the same numbers."""
    return tensor(batch, Spec(tuple(shape)))


def spelled(model: Model) -> str:
    """Return the shapes of a model's inputs as :func:`parse` reads them; empty if they cannot be written so.

    That is the case for keyword inputs, values that are not tensors, and a batch that is not the first axis.
    """
    values = model.example_inputs
    if (
        model.example_kwargs
        or model.batch_axis not in (None, 0)
        or not all(isinstance(v, torch.Tensor) for v in values)
    ):
        return ""
    names = {dtype: name for name, dtype in _DTYPES.items()}
    if any(value.dim() < 2 or value.dtype not in names or 0 in value.shape for value in values):
        return ""
    parts = ["x".join(map(str, value.shape[1:])) for value in values]
    if len(parts) == 1 and values[0].dtype == torch.float32:
        return parts[0]
    return ",".join(f"{part}:{names[value.dtype]}" for part, value in zip(parts, values, strict=True))


def tensor(batch: int, spec: Spec, like: torch.Tensor | None = None) -> torch.Tensor:
    """Return an example of ``spec`` with a batch axis in front; ``like`` gives the dtype and the range of integers.

    Raises:
        UsageError: it would have more than :data:`MOST_ELEMENTS` elements (``CB-INPUT-01``).
    """
    shape = (batch, *spec.shape)
    if math.prod(shape) > MOST_ELEMENTS:
        raise UsageError(
            "the example input is too large",
            code="CB-INPUT-01",
            where="x".join(map(str, shape)),
            why=f"{math.prod(shape)} elements, at most {MOST_ELEMENTS}",
            do="give a smaller --input or batch",
        )
    dtype = spec.dtype or (like.dtype if like is not None else torch.float32)
    generator = torch.Generator().manual_seed(SEED)
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator, device="cpu").to(dtype)
    if dtype == torch.bool:
        return torch.ones(shape, dtype=dtype, device="cpu")
    if like is not None and like.numel():
        low, high = int(like.min()), int(like.max()) + 1
    else:
        low, high = 0, 2
    return torch.randint(low, high, shape, generator=generator, device="cpu").to(dtype)


def override(model: Model, *, input: str | None, inputs: Path | None, batch: int) -> Model:
    """Return the model with the inputs that the user gave; shapes keep the model's own input names and dtypes.

    Raises:
        UsageError: both are given, or they do not fit ``forward`` (``CB-INPUT-01``, ``CB-INPUT-02``).
        InputFileError: the file cannot be read safely (``CB-INPUT-03``).
    """
    if input is not None and inputs is not None:
        raise UsageError(
            "--input and --inputs exclude each other",
            code="CB-INPUT-01",
            where=f"--input {input} and --inputs {inputs}",
            why="both give the example inputs",
            do="leave out --input",
        )
    if inputs is not None:
        from cbsurgeon.models.files.arrays import read_arrays

        return _by_name(model, {name: torch.from_numpy(array) for name, array in read_arrays(inputs).items()}, inputs)
    specs = parse(input or "")
    own = _flat(model)
    _refuse_commas(specs, own, input or "")
    if own is not None and len(own) == len(specs):
        made = [tensor(batch, spec, like) for spec, like in zip(specs, own, strict=True)]
        count = len(model.example_inputs)
        keywords = dict(zip(model.example_kwargs, made[count:], strict=True))
        return replace(model, example_inputs=tuple(made[:count]), example_kwargs=keywords)
    return replace(model, example_inputs=tuple(tensor(batch, spec) for spec in specs), example_kwargs={})


def with_batch_axis(model: Model, stated: BatchAxis, *, made: bool) -> Model:
    """The model with its batch axis stated.

    Args:
        model: a module with example inputs.
        stated: the axis.
        made: the inputs were made from shapes, batch first; the batch is moved where it belongs.

    Raises:
        UsageError: a program, which knows its batch axis (``CB-LOAD-23``).
    """
    if model.module is None:
        raise UsageError(
            "--batch-axis has no meaning for an exported program",
            code="CB-LOAD-23",
            where=model.provenance.reference,
            why="the program itself defines its dynamic axis",
            do="leave out --batch-axis",
        )
    if not made:
        return replace(model, batch_axis=stated)

    def place(name: str, value: Any) -> Any:
        axis = stated.get(name, 0) if isinstance(stated, Mapping) else stated
        fits = isinstance(value, torch.Tensor) and isinstance(axis, int) and 0 < axis < value.dim()
        return value.movedim(0, axis).contiguous() if fits else value

    names = inspect.signature(model.module.forward).parameters
    positional = tuple(place(*pair) for pair in zip(names, model.example_inputs, strict=False))
    keywords = {name: place(name, value) for name, value in model.example_kwargs.items()}
    positional += model.example_inputs[len(positional) :]  # what *args takes
    return replace(model, batch_axis=stated, example_inputs=positional, example_kwargs=keywords)


def _refuse_commas(specs: list[Spec], own: list[torch.Tensor] | None, text: str) -> None:
    """Refuse ``3,224,224``: three inputs of one size each, where one image was meant."""
    vectors = len(specs) > 1 and all(len(spec.shape) == 1 and spec.dtype is None for spec in specs)
    if vectors and (len(specs) != len(own) if own else len(specs) > 2):
        joined = "x".join(str(spec.shape[0]) for spec in specs)
        typed = ",".join(f"{spec.shape[0]}:float32" for spec in specs)
        raise UsageError(
            f"--input {text} means {len(specs)} inputs of one axis each",
            code="CB-INPUT-01",
            where=f"--input {text}",
            why="commas separate inputs, x the sizes of one" + (f"; the model takes {len(own)}" if own else ""),
            do=f"did you mean --input {joined}? For {len(specs)} inputs give each a type: --input {typed}",
        )


def require(model: Model, tried: str = "") -> Model:
    """Return the model if it has example inputs; ``tried`` is its error on guessed inputs, for the message.

    Raises:
        UsageError: it has none (``CB-INPUT-02``).
    """
    if model.example_inputs or model.example_kwargs:
        return model
    raise UsageError(
        "the inputs of this model are not known",
        code="CB-INPUT-02",
        where=model.provenance.reference,
        why=f"its forward takes {_signature(model)}; {tried or 'nothing in the model describes their shapes'}",
        do="pass --input 3x224x224 (shapes without the batch), or --inputs FILE.npz with one array per parameter",
    )


def _by_name(model: Model, arrays: Mapping[str, torch.Tensor], where: Path) -> Model:
    if model.module is None:
        return replace(model, example_inputs=(), example_kwargs=dict(arrays))
    parameters = inspect.signature(model.module.forward).parameters
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    unknown = [name for name in arrays if name not in parameters]
    if not arrays or (unknown and not open_ended):
        raise UsageError(
            f"{unknown[0]!r} is not an input of the model" if unknown else "the file holds no array",
            code="CB-INPUT-02",
            where=str(where),
            why=f"forward takes {_signature(model)}",
            do="name the arrays after the parameters: numpy.savez(file, x=...)",
        )
    positional: list[torch.Tensor] = []
    for name, parameter in parameters.items():
        if name not in arrays or parameter.kind not in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            break
        positional.append(arrays[name])
    taken = list(parameters)[: len(positional)]
    keywords = {name: value for name, value in arrays.items() if name not in taken}
    return replace(model, example_inputs=tuple(positional), example_kwargs=keywords)


def _flat(model: Model) -> list[torch.Tensor] | None:
    """The example tensors in order, or ``None`` when some input is not a tensor."""
    values = [*model.example_inputs, *model.example_kwargs.values()]
    return values if all(isinstance(value, torch.Tensor) for value in values) else None


def _signature(model: Model) -> str:
    if model.module is None:
        return "the program's inputs"
    names: list[Any] = list(inspect.signature(model.module.forward).parameters)
    return f"({', '.join(names)})"
