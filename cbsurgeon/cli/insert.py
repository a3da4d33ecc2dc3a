"""``cbsurgeon insert``."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cbsurgeon.cli.common.options import (
    force_option,
    options,
    output_option,
    reference_argument,
    terminal_options,
    typed_flags,
)
from cbsurgeon.cli.common.outputs import OutputPath
from cbsurgeon.cli.common.terminal import Terminal
from cbsurgeon.cli.common.verb import Verb
from cbsurgeon.errors import UsageError
from cbsurgeon.options import Choice, InsertOptions, Loading
from cbsurgeon.vocabulary import OPERATORS

if TYPE_CHECKING:
    from cbsurgeon.graph import Inspection
    from cbsurgeon.surgery.recipe import Recipe


@click.command("insert", cls=Verb)
@reference_argument()
@options(Choice, "choice")
@click.option(
    "--recipe",
    type=click.Path(path_type=Path),
    metavar="FILE.json",
    help="Use this recipe instead of --op, --layers, --pos and --exclude.",
)
@click.option(
    "--recipe-out",
    type=OutputPath(),
    metavar="FILE.json",
    help="Also write the recipe to this file (for --recipe).",
)
@options(InsertOptions, "how")
@click.option("--dry-run", is_flag=True, help="Show what would be inserted, but write no model.")
@output_option(
    required=False, metavar="OUT", help="Edited model, .safetensors or .pt.  [default: <name>-<op>.safetensors]"
)
@force_option
@options(Loading, "loading")
@terminal_options
@click.pass_context
def command(
    context: click.Context,
    terminal: Terminal,
    reference: str,
    loading: Loading,
    choice: Choice,
    how: InsertOptions,
    recipe: Path | None,
    recipe_out: Path | None,
    dry_run: bool,
    output: Path | None,
    force: bool,
) -> None:
    """Insert Context Broadcasting into the chosen blocks; write weights, recipe and architecture to one safe file.

    No state-dict key changes: cb adds none, cb_s adds only its scale vectors. cb_s starts as the identity. cb changes
    the function, so the model must be trained or fine-tuned with it.

    \b
    Examples:
      cbsurgeon insert timm:deit_small_patch16_224 --layers upper --pos end
      cbsurgeon insert model.pt --arch timm:mixer_s16_224 --op cb_s --layers all
      cbsurgeon insert model.safetensors --layers 6-11 --recipe-out recipe.json
    """
    if recipe is not None:
        _refuse_both(context)
    made = None if recipe is None else _read(recipe, trust=loading.trust)
    target = output or _default_output(reference, how.on, choice.op if made is None else made.op)
    _refuse_losing_the_program(how.on, target)
    from cbsurgeon import verbs
    from cbsurgeon.checks import leaks_of
    from cbsurgeon.operators.registry import operator_class
    from cbsurgeon.verbs.results import cautions

    operator_class(choice.op)  # an unknown name is reported before the model is loaded
    _check_outputs(recipe_out, None if dry_run else target, force=force)
    with terminal.working() as progress:
        progress("loading the model")
        model = verbs.load(reference, replace(loading, mapped=True))
        progress("reading its graph")
        found = verbs.inspect(model)
        made = verbs.plan(found, choice) if made is None else _fitting(made, found)
        progress("inserting")
        edited = verbs.insert(model, made, replace(how, share=True))
        leaks = leaks_of(model, edited, made)
        for leak in leaks:
            leak.raise_if_failed()
        if recipe_out is not None:
            verbs.write_text(recipe_out, made.to_json(), force=force)
        if not dry_run:
            progress("writing")
            verbs.save(edited, target, force=force)
    written = None if dry_run else target
    terminal.show(verbs.insertion(model, edited, made, blocks=len(found), output=written, leaks=leaks))
    for caution in cautions(made, found):
        terminal.warn(caution)


def _check_outputs(recipe: Path | None, weights: Path | None, *, force: bool) -> None:
    """Raise an error if a file could not be written in the end."""
    from cbsurgeon.models.files import atomic
    from cbsurgeon.models.saving import require_suffix

    if weights is not None:
        require_suffix(weights)
    for path in (recipe, weights):
        if path is not None:
            atomic.check(path, force=force)


def _read(file: Path, *, trust: bool) -> Recipe:
    """Return the recipe of a file, which may name an operator of the user only if it is trusted."""
    from cbsurgeon import verbs
    from cbsurgeon.verbs.editing import refuse_foreign_code

    recipe = verbs.read_recipe(file)
    refuse_foreign_code(recipe, str(file), trust=trust)
    return recipe


def _fitting(recipe: Recipe, found: Inspection) -> Recipe:
    """Return a recipe whose sites the model has."""
    from cbsurgeon.surgery.agreement import refuse_other_sites

    refuse_other_sites(found, recipe)
    return recipe


def _default_output(reference: str, on: str | None, op: str) -> Path:
    """Return the default output in the current folder: ``timm:deit_small`` → ``deit_small-cb.safetensors``."""
    from cbsurgeon.models.reference import Reference, parse

    found = parse(reference)
    name = re.split(r"[/:]", found.name.rstrip("/"))[-1] if isinstance(found, Reference) else found.name.split(".")[0]
    suffix = ".pt2" if on == "program" or reference.endswith(".pt2") else ".safetensors"
    return Path(f"{name or 'model'}-{op if op in OPERATORS else 'edited'}{suffix}")


def _refuse_losing_the_program(on: str | None, target: Path) -> None:
    """Raise an error if an edited program would be written as weights, which cannot store a program."""
    if on == "program" and target.suffix != ".pt2":
        raise UsageError(
            "an edited program must be written as .pt2",
            code="CB-CLI-07",
            where=f"--on program with -o {target}",
            why="a weights file stores no graph, so the operators would be inserted into the module when it is loaded",
            do=f"-o {target.with_suffix('.pt2')}, or leave out --on program",
        )


def _refuse_both(context: click.Context) -> None:
    given = typed_flags(context, Choice)
    if given:
        raise UsageError(
            "a recipe and a choice were both given",
            code="CB-CLI-07",
            where=f"--recipe with {', '.join(given)}",
            why="the recipe already says which operator goes where",
            do="edit the recipe, or leave it out",
        )
