"""Load, inspect, plan, insert, remove, save."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from cbsurgeon import graph, models, surgery
from cbsurgeon.errors import InputFileError, UsageError
from cbsurgeon.graph import Inspection
from cbsurgeon.graph.capture import capture
from cbsurgeon.graph.capture.copying import duplicate
from cbsurgeon.models import Model
from cbsurgeon.operators.registry import needs_import
from cbsurgeon.surgery import Recipe


def load(
    reference: str,
    *,
    arch: str | None = None,
    input: str | None = None,
    inputs: Path | None = None,
    trust: bool = False,
    batch: int = 2,
    options: Mapping[str, Any] | None = None,
    entry: str | None = None,
    recipe: Recipe | str | Path | None = None,
    lying: bool = False,
) -> Model:
    """Load a model; a checkpoint that carries recipes gets its insertions replayed before its weights.

    Args:
        reference: a file, or ``timm:NAME``, ``torchvision:NAME``, ``hf:CLASS``, ``hf:DIRECTORY``,
            ``mod:package.module:factory``.
        arch: the architecture of a file that does not name its own, as a reference.
        input: shape of one example input, such as ``3x224x224``.
        inputs: ``.npz`` file of example inputs by name.
        trust: read files that can run code.
        batch: samples in the example inputs.
        options: keywords of the model's constructor.
        entry: which entry of a training checkpoint to take, such as ``state_dict_ema``.
        recipe: the insertion the weights were trained with, or its file, for a training checkpoint or an
            ``hf:DIRECTORY``, which carry none.
        lying: leave the weights in the file, mapped, instead of reading them: for a model that is read and written
            again, while nobody else writes the file. They must not be changed.

    Raises:
        UsageError: an unknown reference.
        InputFileError: a file that cannot be read safely, or does not fit its architecture.
        SurgeryError: its recipes do not fit its architecture.
        MissingPackage: the package of the reference is not installed.
    """
    if isinstance(recipe, str | Path):
        recipe = read_recipe(Path(recipe))
    return models.load(
        reference,
        arch=arch,
        input=input,
        inputs=inputs,
        trust=trust,
        batch=batch,
        options=options,
        entry=entry,
        replay=functools.partial(replay, trust=trust),
        recipes=() if recipe is None else (recipe.to_dict(),),
        lying=lying,
    )


def read_recipe(path: str | Path) -> Recipe:
    """Read a recipe file.

    Raises:
        InputFileError: it cannot be read (CB-RECIPE-*).
    """
    file = Path(path)
    make = "make one with `cbsurgeon insert REF --dry-run --recipe-out recipe.json`"
    try:
        return Recipe.from_json(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or str(error)[:120]
        raise InputFileError(
            "the recipe cannot be read", code="CB-RECIPE-01", where=str(file), why=why, do=make
        ) from error
    except UsageError as error:
        raise InputFileError(error.what, code=error.code, where=str(file), why=error.why, do=make) from error


def replay(model: Model, recipes: Sequence[Mapping[str, Any]], *, trust: bool = False) -> Model:
    """Repeat insertions on a freshly built architecture, oldest first, in place where it is a module.

    Raises:
        SurgeryError: a recipe does not fit the model.
        InputFileError: a recipe names a user's own operator whose module nobody has imported, without ``trust``.
    """
    for document in recipes:
        recipe = Recipe.from_dict(document)
        refuse_foreign_code(recipe, model.provenance.reference, trust=trust)
        if model.module is None:
            model = surgery.insert_program(model, recipe)
        else:
            model = surgery.insert_module(model, recipe, in_place=True)
    return model


def refuse_foreign_code(recipe: Recipe, file: str, *, trust: bool) -> None:
    """A file must not decide what is imported: an operator of the user's own has to be imported already, or trusted.

    Raises:
        InputFileError: it is neither (CB-TRUST-01).
    """
    if trust or not needs_import(recipe.op):
        return
    raise InputFileError(
        "the recipe names code to import",
        code="CB-TRUST-01",
        where=f"{file}: op {recipe.op}",
        why="importing a module runs it",
        do="import that module before loading, or --trust if the file is your own",
    )


def inspect(model: Model | nn.Module, example_inputs: tuple[Any, ...] = ()) -> Inspection:
    """Find the MLP blocks of a model by reading its graph.

    The model is captured and not run: a program whose numbers are used is compared with its model where it is made.

    Args:
        model: a :class:`Model`, or a module together with ``example_inputs``.
        example_inputs: positional inputs of the module, batch first.

    Raises:
        CaptureError: the model cannot be captured.
    """
    return graph.inspect(_model(model, example_inputs), check=False)


def plan(
    found: Inspection,
    *,
    op: str = "cb",
    layers: str = "upper",
    pos: str = "end",
    at: str = "mlp",
    exclude: str | Iterable[int | str] = (),
    kinds: Iterable[str] | None = None,
    allow_partial: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Recipe:
    """Choose blocks, a position and an operator.

    Args:
        found: what :func:`inspect` returned.
        op: ``cb``, ``cb_s``, ``cb_gate``, ``cb_hybrid``, ``cb_retrofit``, ``se``, or ``mod:package.module:Class``.
        layers: ``all``, ``upper``, ``lower``, ``last:3``, ``6-11``, ``0,2,4``, or a stack's name.
        pos: ``front``, ``mid`` or ``end`` of the branch.
        at: ``mlp``, ``msa`` (attention) or ``both``.
        exclude: indices of blocks to leave out, and ``taps`` for those whose stream is also an output.
        kinds: block kinds to choose from instead of the default ones.
        allow_partial: leave out blocks where the position does not exist, instead of refusing.
        options: of the operator, such as ``{"initial": 0.1}`` for ``cb_s``, ``{"tokens": "1:"}``, ``{"causal": True}``.

    Raises:
        NothingMatched: no block, or not every requested block, exists.
        UsageError: an unknown operator, position or selector.
        SurgeryError: the operator would leak the future of a causal model, or padding.
    """
    return surgery.plan(
        found,
        op=op,
        layers=layers,
        pos=pos,
        at=at,
        exclude=exclude,
        kinds=kinds,
        allow_partial=allow_partial,
        **(options or {}),
    )


def insert(
    model: Model, recipe: Recipe, *, on: Literal["module", "program"] | None = None, share: bool = False
) -> Model:
    """A new model with the recipe's operators; ``model`` is untouched.

    Args:
        model: what to edit.
        recipe: from :func:`plan`, or read from JSON.
        on: edit the ``nn.Module`` (to train it) or the exported program; the module where there is one by default.
        share: let both models hold the same weights, instead of a copy each: training one then trains both.

    Raises:
        SurgeryError: the recipe does not fit, or a site is occupied.
        UsageError: ``on="module"`` for a model that is a program (CB-INSERT-01).
    """
    way = on or ("program" if model.module is None else "module")
    if way == "module" and model.module is None:
        raise UsageError(
            "the model is a program and has no module",
            code="CB-INSERT-01",
            where=model.provenance.reference,
            do='insert(model, recipe, on="program")',
        )
    if way == "program":
        return surgery.insert_program(model, recipe)
    return surgery.insert_module(_sharing(model) if share else model, recipe, in_place=share)


def _sharing(model: Model) -> Model:
    """The same model with modules of its own and the same weights in them."""
    if model.module is None:
        return model
    return replace(model, module=duplicate(model.module, share=True))


def insert_(module: nn.Module, recipe: Recipe) -> nn.Module:
    """Insert in place, into a module the caller owns; returned for chaining.

    Do it before the optimizer is made (CB_S has parameters), before DDP, FSDP or ``torch.compile`` wrap the module.

    Raises:
        SurgeryError: the recipe does not fit, or a site is occupied; the module is untouched.
    """
    return surgery.insert_(module, recipe)


def remove(model: Model) -> Model:
    """A new model without the inserted operators, bit-equal to the original; ``model`` is untouched.

    Raises:
        SurgeryError: nothing is inserted.
    """
    return surgery.remove(model)


def save(model: Model, path: str | Path, *, force: bool = False) -> Path:
    """Write weights, recipe and architecture as one file (``.safetensors``, ``.pt``, ``.pth`` or ``.pt2``).

    Raises:
        OutputFileError: it cannot be written there; nothing was.
        UsageError: an unknown suffix.
    """
    return models.save(model, Path(path), force=force)


def captured(model: Model) -> Model:
    """The same model with its program, so that several steps need one capture."""
    return model if model.program is not None else replace(model, program=capture(model).exported)


def _model(model: Model | nn.Module, example_inputs: tuple[Any, ...]) -> Model:
    return model if isinstance(model, Model) else Model(model, tuple(example_inputs))
