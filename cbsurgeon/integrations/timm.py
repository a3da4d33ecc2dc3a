"""timm's scripts, unmodified: ``timm.create_model("cbsurgeon", of=NAME, ...)`` is the architecture with operators.

``train.py`` imports modules that ``--device-modules`` names, and this one registers the model::

    python train.py DATA --device-modules cbsurgeon.integrations.timm --model cbsurgeon \\
        --model-kwargs of=deit_small_patch16_224 layers=upper op=cb

``--model-kwargs`` takes ``of``, the fields of :class:`cbsurgeon.Choice` (``op``, ``layers``, ``pos`` ...), ``op_NAME``
for an operator's option (``op_initial=0.1``), or ``recipe=FILE.json`` in their place. All others go to the
architecture. Scripts without ``--device-modules`` are run by this module::

    python -m cbsurgeon.integrations.timm validate.py DATA --model cbsurgeon --model-kwargs of=... --checkpoint ...

Their checkpoints are read with nothing else said: ``cbsurgeon ship checkpoint.pth.tar``.
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
    """An architecture of timm with operators in it.

    Args:
        pretrained: with timm's weights.
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
    """Run a script of timm as if it had been started itself."""
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
