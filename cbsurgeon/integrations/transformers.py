"""transformers' ``Trainer`` on edited models: two callbacks, and one line that loads the saved model.

    model = cbs.insert_(model, op="cb_retrofit", layers="upper")
    trainer = Trainer(model, settings, train_dataset=data, callbacks=[retrofit(over=0.5), same_recipe()])
    trainer.train()
    trainer.save_model("runs/last")
    model = cbs.load("hf:runs/last").module              # instead of from_pretrained("runs/last")

``from_pretrained`` of transformers does not know the operators and would build the model without them. The folder
contains the recipe, and ``cbs.load("hf:FOLDER")`` inserts the operators before it loads the weights. To resume an
interrupted run, load the model of its checkpoint in the same way::

    model = cbs.load("hf:runs/checkpoint-500").module
    Trainer(model, ...).train(resume_from_checkpoint="runs/checkpoint-500")

This is necessary because the Trainer loads a checkpoint by the parameter names of its own model, but
``save_pretrained`` writes the names of the hub. For a ViT of transformers 5 these names differ, and the Trainer would
continue with the weights that the model already has.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from cbsurgeon.errors import SurgeryError, UsageError, missing
from cbsurgeon.operators import set_strength
from cbsurgeon.operators.cb_retrofit import FULL
from cbsurgeon.surgery import Recipe
from cbsurgeon.surgery.module.attachment import recipes_of
from cbsurgeon.surgery.module.configuration import KEY


def retrofit(over: float = 0.5) -> Any:
    """A callback that moves ``cb_retrofit`` from the identity to CB, for fine-tuning a finished checkpoint.

    The strength grows evenly with the optimizer's steps and then stays at that of CB. It follows the number of the
    step, so that a resumed run goes on where it was.

    Args:
        over: share of all steps after which the operator is CB, above 0 and up to 1.

    Raises:
        UsageError: the share is out of range (CB-OP-05), or, when training begins, there is no such operator
            (CB-OP-06).
    """
    if not 0.0 < over <= 1.0:
        raise UsageError(
            "the schedule cannot be made",
            code="CB-OP-05",
            where=f"over={over}",
            why="it is not a fraction of the steps",
            do="give a number above 0 and up to 1; 0.5 reaches CB after half of the steps",
        )

    class Retrofit(_callback()):  # type: ignore[misc]
        """Sets the strength before every step."""

        def on_step_begin(self, args: Any, state: Any, control: Any, model: nn.Module, **_: Any) -> None:
            set_strength(model, strength_at(state.global_step, state.max_steps, over))

        def on_train_end(self, args: Any, state: Any, control: Any, model: nn.Module, **_: Any) -> None:
            set_strength(model, strength_at(state.global_step, state.max_steps, over))

    return Retrofit()


def strength_at(step: int, steps: int, over: float) -> float:
    """Return the strength after ``step`` of ``steps`` optimizer steps."""
    return FULL * min(1.0, step / max(1.0, over * steps))


def same_recipe() -> Any:
    """A callback that refuses to resume from a checkpoint of another recipe.

    The Trainer loads weights by name, and at most prints a warning: it would silently resume a checkpoint without CB in
    a model with CB. The ``config.json`` of every checkpoint contains the recipe. The callback compares this recipe with
    the operators of the model when training begins.

    Raises:
        SurgeryError: when training begins, the recipes differ (CB-RECIPE-04).
    """

    class SameRecipe(_callback()):  # type: ignore[misc]
        """Compares the recipes before the first step."""

        def on_train_begin(self, args: Any, state: Any, control: Any, model: nn.Module, **_: Any) -> None:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            if state.global_step and (folder / "config.json").is_file():
                compare(folder, recipes_of(model))

    return SameRecipe()


def compare(folder: Path, own: Sequence[Mapping[str, Any]]) -> None:
    """Compare the recipes that a checkpoint folder holds with those of a model.

    Raises:
        SurgeryError: they differ (CB-RECIPE-04).
    """
    noted = json.loads((folder / "config.json").read_text(encoding="utf-8")).get(KEY) or []
    there, here = (sorted(Recipe.from_dict(document).digest for document in each) for each in (noted, own))
    if there != here:
        raise SurgeryError(
            "the checkpoint was trained with another recipe",
            code="CB-RECIPE-04",
            where=str(folder),
            why=f"it has {_described(noted)}, and the model {_described(own)}",
            do=f'use the model of the checkpoint: cbs.load("hf:{folder}").module; or start again in another folder',
        )


def _described(documents: Sequence[Mapping[str, Any]]) -> str:
    found = [Recipe.from_dict(document) for document in documents]
    return " and ".join(f"{one.op} in {len(one)} blocks ({one.position})" for one in found) or "no operator"


def _callback() -> Any:
    try:
        from transformers import TrainerCallback
    except ImportError as error:
        raise missing("transformers", "hf", "its Trainer") from error
    return TrainerCallback
