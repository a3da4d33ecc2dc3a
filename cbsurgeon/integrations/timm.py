"""Registers the timm model ``cbsurgeon``, so that timm's own scripts train an edited architecture unmodified.

``timm.create_model("cbsurgeon", of=NAME, ...)`` builds the timm architecture ``NAME`` and inserts operators into it.
``train.py`` imports the modules named by ``--device-modules``, and importing this one registers the model::

    python train.py DATA --device-modules cbsurgeon.integrations.timm --model cbsurgeon \\
        --model-kwargs of=deit_small_patch16_224 layers=upper op=cb

``--model-kwargs`` takes ``of``, the fields of :class:`cbsurgeon.Choice` (``op``, ``layers``, ``pos`` ...) and
``op_NAME`` for an operator's option (``op_initial=0.1``). ``recipe=FILE.json`` replaces the choice. All other keywords
are passed to the architecture. For scripts that have no ``--device-modules``, run them through this module::

    python -m cbsurgeon.integrations.timm validate.py DATA --model cbsurgeon --model-kwargs of=... --checkpoint ...

The checkpoints these scripts save need no further flags: ``cbsurgeon ship checkpoint.pth.tar``.
"""

from __future__ import annotations

import importlib
import runpy
import sys
from pathlib import Path
from typing import Any

from torch import nn

from cbsurgeon.errors import UsageError, missing
from cbsurgeon.models.files import arguments
from cbsurgeon.options import Choice
from cbsurgeon.surgery import Recipe, insert_

__all__: list[str] = []


def cbsurgeon(pretrained: bool = False, **keywords: Any) -> nn.Module:
    """Build a timm architecture and insert operators into it.

    Args:
        pretrained: load timm's pretrained weights.
        keywords: ``of``, the choice or the recipe (see above), and the architecture's own keywords.

    Raises:
        UsageError: ``of`` is missing, or a choice is given beside a recipe (CB-REF-07).
        InputFileError: the recipe cannot be read.
        CBSurgeonError: the insertion is refused.
    """
    of, recipe, chosen = keywords.get(arguments.OF), keywords.get(arguments.RECIPE), arguments.choice(keywords)
    if not isinstance(of, str):
        raise UsageError(
            "the architecture to edit is not named",
            code="CB-REF-07",
            where="--model cbsurgeon",
            why="of=NAME is missing among its keywords",
            do="--model-kwargs of=deit_small_patch16_224 layers=upper op=cb",
        )
    if recipe is not None and chosen:
        raise UsageError(
            "a recipe and a choice were both given",
            code="CB-REF-07",
            where=f"--model-kwargs recipe={recipe} {next(iter(chosen))}=...",
            why="the recipe already says which operator goes where",
            do="leave out one of them",
        )
    module: nn.Module = _library().create_model(of, pretrained=pretrained, **arguments.architecture(keywords))
    if recipe is not None:
        return insert_(module, Recipe.from_json(Path(recipe).read_text(encoding="utf-8")))
    return insert_(module, Choice(**chosen))


def _library() -> Any:
    try:
        import timm
    except ImportError as error:
        raise missing("timm", "timm", "its training script") from error
    return timm


def _run(command: list[str]) -> None:
    """Run one of timm's scripts as if Python had been started with it."""
    if not command:
        sys.exit("usage: python -m cbsurgeon.integrations.timm SCRIPT.py [ARGUMENTS]")
    sys.argv = command
    sys.path.insert(0, str(Path(command[0]).resolve().parent))
    runpy.run_path(command[0], run_name="__main__")


if __name__ == "__main__":
    importlib.import_module("cbsurgeon.integrations.timm")  # registers the model under this module's own name
    _run(sys.argv[1:])
else:
    _library().models.register_model(cbsurgeon)
