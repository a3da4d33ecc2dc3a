"""The main command. A verb's file is imported when the verb is used, so that ``--help`` answers at once."""

from __future__ import annotations

import importlib

import click

from cbsurgeon.errors import UsageError, did_you_mean
from cbsurgeon.version import __version__

VERBS = {
    "inspect": "Show the MLP blocks of a model, and what was rejected.",
    "insert": "Put Context Broadcasting into the blocks you choose.",
    "remove": "Take the inserted operators out again, bit for bit.",
    "export": "Write ONNX, a TensorRT engine or a .pt2 program.",
    "verify": "Prove that two models compute the same thing.",
    "audit": "Count parameters, FLOPs and bytes, with the operators counted.",
    "bench": "Measure which of two models is slower, and how sure that is.",
    "analyze": "Show what the attention does on real images, and the difference between two models.",
    "evaluate": "Measure accuracy on real data, and the difference between two models.",
    "sweep": "Insert a grid of operators, positions and layers; compare cost and training.",
    "report": "Turn JSON results into one HTML file or terminal tables.",
    "ship": "The whole job: insert, export, verify, audit, bench, report.",
    "explain": "Explain an error code: what it means, usual causes, what to do.",
}


NO_COMMAND = 2


class LazyGroup(click.Group):
    """A group whose commands live in files named after them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs, in the order of a session."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the verb's file and take its command."""
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"cbsurgeon.cli.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it, but an unknown command is answered with the nearest one."""
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
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


START = """\
cbsurgeon finds the MLP blocks of a transformer or MLP-Mixer and puts Context Broadcasting into them. Three commands to
start with; each takes any timm: or torchvision: name, or a checkpoint of yours (FILE --arch timm:NAME):

  cbsurgeon inspect timm:deit_small_patch16_224
      show its MLP blocks, and what the graph says about its attention
  cbsurgeon insert timm:deit_small_patch16_224 --layers upper -o deit-cb.safetensors
      put the operator into the upper half, and write weights that train and load like the old ones
  cbsurgeon ship timm:deit_small_patch16_224 -o shipped
      the whole job: insert, export to ONNX, prove that it is the same, measure, and write a report

All commands: cbsurgeon --help. One of them: cbsurgeon VERB --help. An error code: cbsurgeon explain CODE."""

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
Completion of verbs, options and model names, in the start-up file of the shell:
  bash  eval "$(_CBSURGEON_COMPLETE=bash_source cbsurgeon)"
  zsh   eval "$(_CBSURGEON_COMPLETE=zsh_source cbsurgeon)"
  fish  _CBSURGEON_COMPLETE=fish_source cbsurgeon | source

\b
Exit codes: 0 done and true; 1 a check failed or nothing matched; 2 the command
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
    """Find the MLP blocks of a transformer or MLP-Mixer by reading its graph, put Context Broadcasting into
    the ones you choose, and take the result to ONNX and TensorRT with proof.
    """
    if context.invoked_subcommand is not None:
        return None
    click.echo(START)
    return NO_COMMAND
