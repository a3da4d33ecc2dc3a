"""Options that several verbs share, each group as one decorator."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from cbsurgeon.cli.terminal import Terminal
from cbsurgeon.errors import UsageError

Command = TypeVar("Command", bound=Callable[..., Any])

OPERATORS = "cb, cb_s, cb_gate, cb_hybrid, cb_retrofit, se"
POSITIONS = ("front", "mid", "end")
PLACES = ("mlp", "msa", "both")


def terminal_options(function: Command) -> Command:
    """``--json``, ``-q``, ``-v``, ``--debug``; the verb gets ``terminal``."""

    def flag(*names: str, help: str) -> Callable[[Command], Command]:
        attribute = names[-1].removeprefix("--")

        def switch(context: click.Context, _: click.Parameter, value: bool) -> None:
            if value:
                setattr(context.find_object(Terminal), attribute, True)

        return click.option(*names, is_flag=True, is_eager=True, expose_value=False, callback=switch, help=help)

    @functools.wraps(function)
    def with_terminal(*args: Any, **kwargs: Any) -> Any:
        terminal = click.get_current_context().find_object(Terminal)
        return function(*args, terminal=terminal, **kwargs)

    decorated: Any = with_terminal
    for decorate in (
        flag("--debug", help="Show the traceback of an error."),
        flag("-v", "--verbose", help="Progress as plain lines, and what libraries print."),
        flag("-q", "--quiet", help="Only the result and errors."),
        flag("--json", help="Print the result as one JSON document on stdout."),
    ):
        decorated = decorate(decorated)
    return decorated  # type: ignore[no-any-return]


def model_options(function: Command) -> Command:
    """How a REF is loaded; the verb gets them as one mapping, ``how``, for :func:`cbsurgeon.load`."""

    @functools.wraps(function)
    def with_how(
        *args: Any,
        arch: str | None,
        input: str | None,
        inputs: Path | None,
        trust: bool,
        model_option: tuple[str, ...],
        entry: str | None,
        trained_with: Path | None,
        **kwargs: Any,
    ) -> Any:
        how = {
            "arch": arch,
            "input": input,
            "inputs": inputs,
            "trust": trust,
            "entry": entry,
            "recipe": trained_with,
            "options": pairs(model_option, "--model-option"),
        }
        return function(*args, how=how, **kwargs)

    decorated: Any = with_how
    for decorate in (
        click.option(
            "--trust",
            is_flag=True,
            help="Read files that can run code (pickled modules, .pt2, engines). Only for files you made yourself: "
            "opening one runs whatever it contains, with your rights.",
        ),
        click.option(
            "--model-option",
            metavar="KEY=VALUE",
            multiple=True,
            help="Keyword for the model's constructor, such as num_classes=10 (JSON values; repeatable).",
        ),
        click.option(
            "--trained-with",
            type=click.Path(path_type=Path),
            metavar="RECIPE.json",
            help="The recipe a training checkpoint, or an hf: folder, was trained with; the files of this tool carry "
            "theirs.",
        ),
        click.option(
            "--entry", metavar="NAME", help="Which entry of a training checkpoint to take, such as state_dict_ema."
        ),
        click.option(
            "--inputs", type=click.Path(path_type=Path), metavar="FILE.npz", help="Example inputs, by input name."
        ),
        click.option("--input", metavar="CxHxW", help="Shape of one example input, such as 3x224x224."),
        click.option(
            "--arch",
            metavar="REF",
            help="Architecture of a file that does not name its own, such as timm:vit_base_patch16_224.",
        ),
    ):
        decorated = decorate(decorated)
    return decorated  # type: ignore[no-any-return]


def for_side(how: dict[str, Any], reference: str) -> dict[str, Any]:
    """The loading options for one of two sides: ``--arch`` is meant for one that is a file, ``--trained-with`` for one
    that brings weights.
    """
    if Path(reference).exists():
        return how
    is_folder = reference.startswith("hf:") and Path(reference.removeprefix("hf:")).is_dir()
    return {**how, "arch": None, "recipe": how["recipe"] if is_folder else None}


def choice_options(function: Command) -> Command:
    """Which operator goes where; the verb gets one mapping, ``choice``, for :func:`cbsurgeon.plan`."""

    @functools.wraps(function)
    def with_choice(
        *args: Any,
        op: str,
        layers: str,
        pos: str,
        at: str,
        exclude: str | None,
        kinds: str | None,
        allow_partial: bool,
        op_option: tuple[str, ...],
        tokens: str | None,
        causal: bool,
        masked: bool,
        **kwargs: Any,
    ) -> Any:
        flags = {name: True for name, given in (("causal", causal), ("masked", masked)) if given}
        form = {**({"tokens": tokens} if tokens else {}), **flags}
        choice = {
            "op": op,
            "layers": layers,
            "pos": pos,
            "at": at,
            "exclude": exclusions(exclude) if exclude else (),
            "kinds": tuple(kinds.split(",")) if kinds else None,
            "allow_partial": allow_partial,
            "options": {**pairs(op_option, "--op-option"), **form},
        }
        return function(*args, choice=choice, **kwargs)

    decorated: Any = with_choice
    for decorate in (
        click.option(
            "--op-option",
            metavar="KEY=VALUE",
            multiple=True,
            help="Option of the operator, such as initial=0.1 for cb_s (repeatable).",
        ),
        click.option(
            "--causal", is_flag=True, help="Each token gets the mean of those up to it; for causal models (cb, cb_s)."
        ),
        click.option(
            "--masked",
            is_flag=True,
            help="The mean of the tokens that are no padding; for models with a padding mask (cb, cb_s).",
        ),
        click.option("--tokens", metavar="SLICE", help="Only among these tokens, such as 1: or :40 (cb, cb_s)."),
        click.option("--allow-partial", is_flag=True, help="Leave out blocks that have no such position."),
        click.option(
            "--kinds",
            metavar="LIST",
            help="Block kinds to choose from, such as mlp,token-mlp.  [default: channel MLPs]",
        ),
        click.option(
            "--at",
            type=click.Choice(PLACES),
            default="mlp",
            show_default=True,
            help="The MLP branches (the paper's place), the attention branches, or both.",
        ),
        click.option(
            "--exclude",
            metavar="LIST",
            help="Leave these out of --layers: block indices such as 7,11, and taps for the blocks whose stream is "
            "also an output (a feature pyramid reads it).",
        ),
        click.option(
            "--pos",
            type=click.Choice(POSITIONS),
            default="end",
            show_default=True,
            help="Before the first projection, at the input of the last, or after the last and its dropout.",
        ),
        click.option(
            "--layers",
            default="upper",
            show_default=True,
            metavar="SELECTOR",
            help="all, upper (last half), lower, last:3, 6-11, 0,2,4, or a stack's name; STACK:SELECTOR for one stack.",
        ),
        click.option(
            "--op",
            default="cb",
            show_default=True,
            metavar="NAME",
            help=f"Operator: {OPERATORS}; or mod:package.module:Class.",
        ),
    ):
        decorated = decorate(decorated)
    return decorated  # type: ignore[no-any-return]


def output_option(*, required: bool, metavar: str, help: str) -> Callable[[Command], Command]:
    """``-o``."""
    return click.option(
        "-o", "--output", type=click.Path(path_type=Path), required=required, metavar=metavar, help=help
    )


force_option = click.option("--force", is_flag=True, help="Replace the output if it exists.")

batches_option = click.option(
    "--batches",
    default="1,2,7",
    show_default=True,
    metavar="LIST",
    callback=lambda _context, _parameter, value: whole_numbers(value, "--batches"),
    help="Batch sizes to compare on.",
)


def reference_argument(
    name: str = "reference", metavar: str = "REF", required: bool = True
) -> Callable[[Command], Command]:
    """A model given on the command line."""
    return click.argument(name, metavar=metavar, required=required)


def pairs(words: tuple[str, ...], option: str) -> dict[str, Any]:
    """``KEY=VALUE`` words as a mapping; a value that is JSON is read as JSON, anything else is text.

    Raises:
        UsageError: a word has no ``=``.
    """
    read: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise UsageError(
                f"{option} takes KEY=VALUE", code="CB-CLI-06", where=f"{option} {word}", do=f"{option} num_classes=10"
            )
        try:
            read[key] = json.loads(value)
        except json.JSONDecodeError:
            read[key] = value
    return read


def exclusions(text: str) -> tuple[int | str, ...]:
    """``7,11,taps`` as block indices and that word.

    Raises:
        UsageError: something else is written there.
    """
    words = [word.strip() for word in text.split(",")]
    numbers = ",".join(word for word in words if word != "taps")
    return (*(whole_numbers(numbers, "--exclude", least=0) if numbers else ()), *(w for w in words if w == "taps"))


def whole_numbers(text: str, option: str, least: int = 1) -> tuple[int, ...]:
    """``1,2,7`` as integers from ``least`` on.

    Raises:
        UsageError: something else is written there.
    """
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < least:
        raise UsageError(
            f"{option} takes whole numbers from {least} on, separated by commas",
            code="CB-CLI-06",
            where=f"{option} {text}",
            do=f"{option} 1,2,7",
        )
    return numbers
