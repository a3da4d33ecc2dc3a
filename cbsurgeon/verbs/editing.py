"""Loading models and recipes, ``inspect`` and ``insert``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from cbsurgeon import graph, models, surgery
from cbsurgeon.errors import InputFileError, UsageError
from cbsurgeon.graph import Inspection
from cbsurgeon.graph.capture.copying import duplicate
from cbsurgeon.graph.capture.refusals import refuse_lost_operators
from cbsurgeon.models import Model
from cbsurgeon.models.files import strict_json
from cbsurgeon.operators.registry import needs_import
from cbsurgeon.options import Choice, InsertOptions, Loading, documented, fields_of, resolve
from cbsurgeon.report import notebook
from cbsurgeon.surgery import Recipe, insert_, plan, remove
from cbsurgeon.vocabulary import ON_LOAD

__all__ = [
    "insert",
    "insert_",
    "inspect",
    "load",
    "plan",
    "read_recipe",
    "refuse_foreign_code",
    "remove",
    "repeat",
    "save",
]

notebook.install(Inspection, Model, Recipe)


def save(model: Model, path: str | Path, *, force: bool = False, inputs: Iterable[str | Path] = ()) -> Path:
    """Write a model's weights and what is needed to build it again; see :func:`cbsurgeon.models.save`.

    Args:
        model: the model.
        path: the destination; its suffix decides the format (``.safetensors``, ``.pt``, ``.pth``, ``.pt2``).
        force: replace an existing file.
        inputs: files the result was made from, besides the one the model was loaded from; none may be the destination.

    Returns:
        The path written.

    Raises:
        SurgeryError: a layer was replaced after an insertion, and its operator is gone (CB-SURGERY-11): the file's
            recipe would insert it again.
        UsageError: unknown suffix, or ``.pt2`` without a program (CB-SAVE-01).
        OutputFileError: the destination is refused, or the file read back differs.
    """
    if model.module is not None:
        refuse_lost_operators(model.module, model.recipes, model.provenance.reference)
    return models.save(model, path, force=force, inputs=inputs)


@documented(Loading)
def load(reference: str | Path, loading: Loading | None = None, /, **keywords: Any) -> Model:
    """Load a model. If a checkpoint contains recipes, their operators are inserted before its weights are loaded.

    Args:
        reference: a file, or ``timm:NAME``, ``torchvision:NAME``, ``hf:CLASS``, ``hf:DIRECTORY``,
            ``mod:package.module:factory``.
        loading: how to read it; or its fields as keywords. ``recipe`` may be a :class:`Recipe` or its file.

    Raises:
        UsageError: an unknown reference.
        InputFileError: the file cannot be read safely, or does not match its architecture.
        SurgeryError: its recipes do not match its architecture.
        MissingPackage: the package of the reference is not installed.
    """
    how = resolve(Loading, loading, keywords, "load")
    recipe = read_recipe(how.recipe) if isinstance(how.recipe, str | Path) else how.recipe
    documents = () if recipe is None else (recipe.to_dict(),)
    with models.opened(reference, replace(how, recipe=None), recipes=documents) as content:
        model = content.finish(repeat(content.architecture(), content.recipes, trust=how.trust))
    if how.batch_axis is not None:
        model = models.with_batch_axis(model, how.batch_axis, made=how.input is not None)
    if listener := ON_LOAD.get():
        listener(model.provenance)
    return model


def read_recipe(path: str | Path) -> Recipe:
    """Read a recipe file.

    Raises:
        InputFileError: it cannot be read (CB-RECIPE-*).
    """
    file = Path(path)
    make = "make one with `cbsurgeon insert REF --dry-run --recipe-out recipe.json`"
    try:
        return Recipe.from_json(strict_json.head(file, strict_json.LARGEST + 1).decode())
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or str(error)[:120]
        raise InputFileError(
            "the recipe cannot be read", code="CB-RECIPE-01", where=str(file), why=why, do=make
        ) from error
    except UsageError as error:
        raise InputFileError(error.what, code=error.code, where=str(file), why=error.why, do=make) from error


def repeat(model: Model, recipes: Sequence[Mapping[str, Any]], *, trust: bool = False) -> Model:
    """Insert the operators of recipes into a newly built model, oldest recipe first; a module is edited in place.

    Raises:
        SurgeryError: a recipe does not match the model.
        InputFileError: without ``trust``, a recipe names a user's own operator that has not been imported.
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
    """Raise an error if a recipe's operator would have to be imported; a file must not decide what is imported.

    Raises:
        InputFileError: the operator is not built in, not imported yet, and not trusted (CB-TRUST-01).
    """
    if trust or not needs_import(recipe.op):
        return
    raise InputFileError(
        "the recipe names code to import",
        code="CB-TRUST-01",
        where=f"{file}: op {recipe.op}",
        why="importing a module runs it",
        do="import that module before loading, or add --trust if the file is your own",
    )


def inspect(model: Model | nn.Module, example_inputs: tuple[Any, ...] = ()) -> Inspection:
    """Find the MLP blocks of a model by reading its graph.

    The model is captured but not run: the captured program is not compared with the model here.

    Args:
        model: a :class:`Model`, or a module together with ``example_inputs``.
        example_inputs: positional inputs of the module, batch first.

    Raises:
        CaptureError: the model cannot be captured.
    """
    return graph.inspect(_model(model, example_inputs), check=False)


@documented(InsertOptions, Choice)
def insert(
    model: Model, what: Recipe | Choice | None = None, how: InsertOptions | None = None, /, **keywords: Any
) -> Model:
    """Return a new model with inserted operators; ``model`` is not modified.

    Args:
        model: the model to edit.
        what: a recipe, from :func:`plan` or read from JSON; or a choice of operator, position and layers; or the
            choice's fields as keywords: ``insert(model, op="cb", layers="upper")``.
        how: whether to edit the module or the program; or its fields as keywords.

    Raises:
        SurgeryError: the recipe does not match the model, or a site is occupied.
        NothingMatched: no block, or not every requested block, exists.
        UsageError: ``on="module"`` for a model that is a program (CB-INSERT-01), or an unknown keyword (CB-OPTION-01).
    """
    if isinstance(what, Recipe):
        how, recipe = resolve(InsertOptions, how, keywords, "insert"), what
    else:
        own = {name: keywords.pop(name) for name in fields_of(InsertOptions) if name in keywords}
        how = resolve(InsertOptions, how, own, "insert")
        recipe = plan(inspect(model), resolve(Choice, what, keywords, "insert"))
    editor = how.on or ("program" if model.module is None else "module")
    if editor == "module" and model.module is None:
        raise UsageError(
            "the model is a program and has no module",
            code="CB-INSERT-01",
            where=model.provenance.reference,
            why="the module editor adds hooks to the layers of a module",
            do='insert(model, recipe, on="program")',
        )
    if editor == "program":
        return surgery.insert_program(model, recipe)
    return surgery.insert_module(_sharing(model) if how.share else model, recipe, in_place=how.share)


def _sharing(model: Model) -> Model:
    """Return a copy of the model that shares its weights."""
    if model.module is None:
        return model
    return replace(model, module=duplicate(model.module, share=True))


def _model(model: Model | nn.Module, example_inputs: tuple[Any, ...]) -> Model:
    return model if isinstance(model, Model) else Model(model, tuple(example_inputs))
