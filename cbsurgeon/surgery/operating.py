"""Insert into and remove from a model: its module (for training) or its program (for deployment)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from cbsurgeon.errors import NothingMatched, SurgeryError
from cbsurgeon.graph.capture import capture
from cbsurgeon.graph.capture.copying import duplicate
from cbsurgeon.graph.occupants import ON_INPUT, ON_OUTPUT
from cbsurgeon.models.model import Model
from cbsurgeon.operators.common import notes
from cbsurgeon.surgery import program
from cbsurgeon.surgery.agreement import refuse_nothing
from cbsurgeon.surgery.module import attachment
from cbsurgeon.surgery.recipe import Recipe


def insert_module(model: Model, recipe: Recipe, *, in_place: bool = False) -> Model:
    """Return a model whose module has the recipe's operators; the input model is unchanged unless ``in_place``.

    Args:
        model: a model with a module.
        recipe: the operator and its sites.
        in_place: edit ``model.module`` itself (the returned model holds the same module).

    Raises:
        NothingMatched: the recipe has no enabled site (CB-RECIPE-05).
        SurgeryError: there is no module, the structure differs, a site is occupied, or an operator did not run.
    """
    refuse_nothing(recipe)
    if model.module is None:
        raise SurgeryError(
            "the model is a program and has no module to insert into",
            code="CB-SURGERY-01",
            where=model.provenance.reference,
            why="the module editor adds hooks to the layers of a module",
            do='cbs.insert(model, recipe, on="program") or --on program',
        )
    module = model.module if in_place else duplicate(model.module)
    before = {f"{path}.{name}" for path, _, name, _ in attachment.attached(module)}
    attachment.attach(module, recipe)
    _assert_runs(module, model, recipe, before)
    return replace(model, module=module, program=None, recipes=(*model.recipes, recipe.to_dict()))


def _assert_runs(module: nn.Module, model: Model, recipe: Recipe, before: set[str]) -> None:
    """Check that every operator runs as often as its block: if a hook were bypassed, the operator would silently have
    no effect."""
    if not (model.example_inputs or model.example_kwargs):
        return
    ran = attachment.count_calls(module, model.example_inputs, model.example_kwargs)
    for site in recipe.active:
        hook = site.hooks[0]
        name = f"{hook.module}.{ON_OUTPUT if hook.when == 'output' else ON_INPUT}"
        if ran.get(name) != site.calls:
            attachment.detach_named(module, {key for key in ran if key not in before})
            raise SurgeryError(
                f"the operator of block {site.index} runs {ran.get(name, 0)} times instead of {site.calls}",
                code="CB-SURGERY-04",
                where=name,
                why="the model calls this layer's forward() directly, or iterates over its children",
                do='insert into the program instead: cbs.insert(model, recipe, on="program") or --on program',
            )


def insert_program(model: Model, recipe: Recipe) -> Model:
    """Return a model that is a program with the recipe's operators inserted.

    Raises:
        CaptureError: the model cannot be captured.
        NothingMatched: the recipe has no enabled site (CB-RECIPE-05).
        SurgeryError: the structure differs, or a site is occupied.
    """
    refuse_nothing(recipe)
    edited = program.rewrite(capture(model), recipe)
    return replace(model, module=None, program=edited.exported, recipes=(*model.recipes, recipe.to_dict()))


def noted(state: Mapping[str, Any], module: nn.Module) -> OrderedDict[str, Any]:
    """Return a state dict with the notes from which :func:`cbsurgeon.load` inserts the operators again.

    ``module.state_dict()`` has them already. A state dict made in another way is a plain dictionary without notes: by
    ``torch.distributed.checkpoint.state_dict.get_model_state_dict``, or by ``{k: v.cpu() for k, v in ...}``.

    Args:
        state: tensors by key; unchanged.
        module: the edited model that the state dict belongs to.

    Example:
        ``torch.save(cbs.noted(get_model_state_dict(model, options=options), model), "last.pt")``
    """
    result = OrderedDict(state)
    result._metadata = OrderedDict(getattr(state, "_metadata", {}))  # type: ignore[attr-defined]
    for path, _, name, operator in attachment.attached(module):
        if operator.recipe_digest is not None and operator.inserted_by is not None:
            notes.write(result, f"{path}.{name}.", operator.recipe_digest, operator.inserted_by)
    return result


def remove(model: Model) -> Model:
    """Return a model without inserted operators; weights, outputs and, for a program, the graph are the original's.

    Raises:
        NothingMatched: nothing was inserted in it.
    """
    if model.module is not None:
        module = duplicate(model.module)
        taken = attachment.detach(module)
        result = replace(model, module=module, recipes=())
    else:
        restored, taken = program.restore(capture(model))
        result = replace(model, program=restored.exported, recipes=())
    if not taken:
        raise NothingMatched(
            "there is nothing to remove",
            code="CB-REMOVE-01",
            where=model.provenance.reference,
            why="no operator inserted by cbsurgeon was found",
            do="name the edited model; cbsurgeon inspect shows what a file holds",
        )
    return result


def remove_(module: nn.Module) -> nn.Module:
    """Remove every inserted operator from a module, in place, and return the module."""
    attachment.detach(module)
    return module
