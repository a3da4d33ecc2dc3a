"""``cbsurgeon sweep``."""

from __future__ import annotations

from pathlib import Path

import click

from cbsurgeon.cli.common.options import options, output_option, reference_argument, terminal_options
from cbsurgeon.cli.common.terminal import Terminal
from cbsurgeon.cli.common.verb import Verb
from cbsurgeon.options import Loading, SweepOptions


@click.command("sweep", cls=Verb)
@reference_argument()
@options(SweepOptions, "how")
@output_option(required=True, metavar="DIR", help="Folder of the sweep; the same command continues it.")
@options(Loading, "loading")
@terminal_options
def command(terminal: Terminal, reference: str, loading: Loading, how: SweepOptions, output: Path) -> None:
    """Insert every combination of a grid into one model, and compare them.

    The table has parameters, FLOPs and bytes of every cell and, with --time, the run time of the inserted operators.
    With --run, your own command trains each cell with each seed. Finished runs are saved in --storage, and failed or
    killed runs are repeated. Several machines can share one storage.

    Exit 1: a run failed in all its attempts.

    \b
    Examples:
      cbsurgeon sweep timm:deit_small_patch16_224 -o grid \\
          --op cb,cb_s --pos front,mid,end --layers all,upper
      cbsurgeon sweep model.pt --op cb,se --seeds 0,1 --metric accuracy -o runs \\
          --run "python train.py {model} --seed {seed} --out {out}"
      cbsurgeon sweep model.pt --op cb,se --metric accuracy -o runs --workers 8 --on ray \\
          --storage postgresql://user@host/runs \\
          --run "python train.py {model} --out {out}"
    """
    from cbsurgeon import verbs

    terminal.kept = f"finished cells and runs are saved in {output}; the same command continues"
    with terminal.working() as progress:
        progress("loading the model")
        model = verbs.load(reference, loading)
        table = verbs.sweep(model, output, how, progress=progress)
    terminal.show(table.to_dict())
    table.raise_if_failed()
