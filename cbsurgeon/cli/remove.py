"""``cbsurgeon remove``."""

from __future__ import annotations

from pathlib import Path

import click

from cbsurgeon.cli.common.options import force_option, options, output_option, reference_argument, terminal_options
from cbsurgeon.cli.common.terminal import Terminal
from cbsurgeon.cli.common.verb import Verb
from cbsurgeon.options import Loading


@click.command("remove", cls=Verb)
@reference_argument()
@output_option(required=True, metavar="OUT", help="The model without the operators, .safetensors or .pt.")
@force_option
@options(Loading, "loading")
@terminal_options
def command(terminal: Terminal, reference: str, loading: Loading, output: Path, force: bool) -> None:
    """Remove every inserted operator; weights and outputs are bit-equal to the original's.

    Weights that were trained with the operators stay as trained: the original structure is restored, not the function
    before training.

    \b
    Examples:
      cbsurgeon remove deit-cb.safetensors -o original.safetensors
      cbsurgeon remove edited.pt -o plain.pt --force
    """
    from cbsurgeon import verbs
    from cbsurgeon.models.files import atomic
    from cbsurgeon.models.saving import require_suffix

    require_suffix(output)
    atomic.check(output, force=force)
    with terminal.working() as progress:
        progress("loading the model")
        model = verbs.load(reference, loading)
        progress("removing")
        plain = verbs.remove(model)
        progress("writing")
        verbs.save(plain, output, force=force)
    terminal.show(verbs.removal(model, output))
    terminal.warn(
        "weights that were trained with these operators stay as trained; without the operators, the model computes "
        "another function. Fine-tune it, or use the weights from before the training."
    )
