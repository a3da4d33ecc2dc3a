"""transformers' ``Trainer`` on edited models: two callbacks, and one line that reads what it saved.

    model = cbs.insert_(model, op="cb_retrofit", layers="upper")
    trainer = Trainer(model, settings, train_dataset=data, callbacks=[retrofit(over=0.5), same_recipe()])
    trainer.train()
    trainer.save_model("runs/last")
    model = cbs.load("hf:runs/last").module              # in the place of from_pretrained("runs/last")

``from_pretrained`` of transformers itself knows nothing of operators: it would build the model without them. The
folder holds the recipe, and ``cbs.load("hf:FOLDER")`` inserts it before it reads the weights. A run that was
interrupted begins with the model of its checkpoint as well::

    model = cbs.load("hf:runs/checkpoint-500").module
    Trainer(model, ...).train(resume_from_checkpoint="runs/checkpoint-500")

because the Trainer reads a checkpoint by the names of its own model, while ``save_pretrained`` writes those of the hub:
for a ViT of transformers 5 these differ, and the Trainer goes on with the weights that the model has.
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
            why="it is no share of the steps",
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
    """The strength after some of all steps."""
    return FULL * min(1.0, step / max(1.0, over * steps))


def same_recipe() -> Any:
    """A callback that refuses to resume from a checkpoint of another recipe.

    The Trainer loads weights by name and warns at most: a checkpoint without CB resumes in a model with it, silently.
    Every checkpoint's ``config.json`` holds the recipe, and this compares it with the model when training begins.

    Raises:
        SurgeryError: when training begins, the recipes differ (CB-RECIPE-04).
    """

    class SameRecipe(_callback()):  # type: ignore[misc]
        """Compares before the first step."""

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
            why=f"it has {_said(noted)}, and the model {_said(own)}",
            do=f'take the model of the checkpoint: cbs.load("hf:{folder}").module; or begin anew in another folder',
        )


def _said(documents: Sequence[Mapping[str, Any]]) -> str:
    found = [Recipe.from_dict(document) for document in documents]
    return " and ".join(f"{one.op} in {len(one)} blocks ({one.position})" for one in found) or "no operator"


def _callback() -> Any:
    try:
        from transformers import TrainerCallback
    except ImportError as error:
        raise missing("transformers", "hf", "its Trainer") from error
    return TrainerCallback
