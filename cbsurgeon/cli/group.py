"""The main command. A verb's file is imported only when the verb is used, so that ``--help`` is fast."""

from __future__ import annotations

import importlib
import os
import sys

import click

from cbsurgeon.errors import UsageError, did_you_mean
from cbsurgeon.version import __version__

GROUPS = {
    "The whole job": {
        "ship": "Insert, export, verify, audit, bench and report in one step.",
    },
    "Edit a model": {
        "inspect": "Show the MLP blocks of a model, and the rejected candidates.",
        "insert": "Insert Context Broadcasting into the blocks you choose.",
        "remove": "Remove inserted operators and restore the original model bit for bit.",
    },
    "Deploy and check": {
        "export": "Export to ONNX, a TensorRT engine or a .pt2 program.",
        "verify": "Check that two models compute the same outputs.",
        "audit": "Count parameters, FLOPs and bytes, including inserted operators.",
        "bench": "Measure whether one model is slower than another, with a confidence interval.",
    },
    "Study": {
        "analyze": "Measure attention entropy, distance and gradients on images, for one or two models.",
        "evaluate": "Measure accuracy on a dataset, for one model or the difference of two.",
        "sweep": "Insert a grid of operators, positions and layers; compare cost and training.",
    },
    "Results and errors": {
        "report": "Combine JSON results in one HTML file or in tables.",
        "explain": "Explain an error code: what it means, usual causes, what to do.",
    },
}
"""The verbs with their descriptions, in the groups and the order of the help."""

VERBS = tuple(verb for verbs in GROUPS.values() for verb in verbs)

NO_COMMAND = 2

TIMED = ("bench", "sweep")
"""Verbs that may time PyTorch. For them, the waiting policy of its threads is that of the user's own programs."""


class LazyGroup(click.Group):
    """A group whose commands are in files of the same name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs, in the order of the help."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the verb's file and return its command."""
        if cmd_name not in VERBS:
            return None
        if cmd_name not in TIMED:
            _sleep_while_waiting()
        command: click.Command = importlib.import_module(f"cbsurgeon.cli.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolve a command as click does; the error for an unknown command suggests the nearest one."""
        word = args[0]
        if word in VERBS or word.startswith("-"):
            return super().resolve_command(ctx, args)
        raise UsageError(
            f"there is no command {word!r}",
            code="CB-CLI-01",
            where="cbsurgeon",
            why=f"the commands are {', '.join(VERBS)}",
            do=f"{did_you_mean(word, VERBS)} see `cbsurgeon --help`".strip(),
        )

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing their files."""
        width = max(map(len, VERBS))
        for heading, verbs in GROUPS.items():
            with formatter.section(heading):
                formatter.write_dl([(verb.ljust(width), text) for verb, text in verbs.items()])


START = """\
cbsurgeon finds the MLP blocks of a transformer or MLP-Mixer and inserts Context
Broadcasting into them. Three commands to start with; each accepts a timm: or
torchvision: name, or your own checkpoint (FILE --arch timm:NAME):

  cbsurgeon inspect timm:deit_small_patch16_224
      show its MLP blocks and attention layers
  cbsurgeon insert timm:deit_small_patch16_224 --layers upper
      insert the operator into the upper half of the blocks and write the weights
  cbsurgeon ship timm:deit_small_patch16_224 -o shipped
      insert, export to ONNX, verify, measure and write a report in one step

All commands: cbsurgeon --help. One command: cbsurgeon VERB --help.
An error code: cbsurgeon explain CODE."""

EPILOG = """\b
Examples:
  cbsurgeon inspect timm:deit_small_patch16_224
  cbsurgeon insert timm:deit_small_patch16_224 --layers upper --pos end
  cbsurgeon ship timm:deit_small_patch16_224 --layers upper --pos end -o shipped

\b
REF, the model, is a file (.safetensors, .pt, .pth, .tar; with --trust also
pickled modules and .pt2) or timm:NAME, torchvision:NAME, hf:CLASS,
hf:DIRECTORY, mod:package.module:factory, mod:path/to/file.py:factory.

\b
Completion of verbs, options and model names; add to the shell's start-up file:
  bash  eval "$(_CBSURGEON_COMPLETE=bash_source cbsurgeon)"
  zsh   eval "$(_CBSURGEON_COMPLETE=zsh_source cbsurgeon)"
  fish  _CBSURGEON_COMPLETE=fish_source cbsurgeon | source

\b
Exit codes: 0 success; 1 a check failed or nothing matched; 2 the command
or the input file is wrong; 3 an optional package is missing; 70 a fault in
cbsurgeon; 130 interrupted; 143 ended by SIGTERM.
"""


@click.group(
    cls=LazyGroup,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    invoke_without_command=True,
)
@click.version_option(__version__, prog_name="cbsurgeon", message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context) -> int | None:
    """Find the MLP blocks of a transformer or MLP-Mixer by reading its graph, insert Context Broadcasting into
    the ones you choose, and export the result to ONNX and TensorRT with checks.
    """
    if context.invoked_subcommand is not None:
        return None
    click.echo(START)
    return NO_COMMAND


def _sleep_while_waiting() -> None:
    """Let the threads of PyTorch sleep while they wait for each other, unless the user has chosen otherwise.

    By default, waiting threads run a loop. On a machine that is busy with other work, this loop takes processor time
    from the thread that they wait for. OpenMP reads the environment variable when PyTorch is imported.
    """
    if "torch" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
