"""``cbsurgeon audit``."""

from __future__ import annotations

import click

from cbsurgeon.cli.common.completion import references
from cbsurgeon.cli.common.options import options, reference_argument, terminal_options
from cbsurgeon.cli.common.terminal import Terminal
from cbsurgeon.cli.common.verb import Verb
from cbsurgeon.errors import UsageError, did_you_mean
from cbsurgeon.options import AuditOptions, Loading

HARDWARE = "h100,h200,a100,l4,t4,rtx4090,jetson-orin,generic-cpu"
SHORT = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


@click.command("audit", cls=Verb)
@reference_argument("a", "A")
@click.argument("others", metavar="[B ...]", nargs=-1, shell_complete=references)
@click.option(
    "--roofline",
    is_flag=True,
    help="Also estimate the operators' share of latency on --hardware.",
)
@click.option(
    "--cross-check",
    is_flag=True,
    help="Also count with fvcore and explain the difference (exit 1 if not explained).",
)
@click.option(
    "--hardware",
    default=HARDWARE,
    show_default=True,
    metavar="LIST",
    help="Devices for --roofline; cpu is this processor, which is measured.",
)
@click.option(
    "--bandwidth",
    metavar="RATE",
    help="Bandwidth of your own device for --roofline, such as 3.35TB/s; with --flops.",
)
@click.option("--flops", metavar="RATE", help="Operations per second of your device, such as 989T; with --bandwidth.")
@options(AuditOptions, "how")
@click.option(
    "--dtype",
    default="float32,float16",
    show_default=True,
    metavar="LIST",
    help="Types for --roofline: float32 (fp32), float16 (fp16), bfloat16 (bf16).",
)
@options(Loading, "loading")
@terminal_options
@click.pass_context
def command(
    context: click.Context,
    terminal: Terminal,
    a: str,
    others: tuple[str, ...],
    loading: Loading,
    how: AuditOptions,
    roofline: bool,
    cross_check: bool,
    hardware: str,
    bandwidth: str | None,
    flops: str | None,
    dtype: str,
) -> None:
    """Count parameters, FLOPs and memory traffic of A, and of further models with their differences to A.

    Inserted operators are counted too. Operators without a counting rule are listed.

    \b
    Examples:
      cbsurgeon audit timm:deit_small_patch16_224 deit-cb.safetensors deit-cb.onnx
      cbsurgeon audit a.safetensors b.safetensors --roofline --hardware h200,cpu
      cbsurgeon audit a.safetensors b.safetensors --roofline \\
          --bandwidth 3.35TB/s --flops 989T --dtype fp16
    """
    dtypes = _dtypes(dtype)
    _refuse_without(context, roofline)
    from cbsurgeon import verbs

    with terminal.working() as progress:
        progress("loading the models")
        models = [verbs.open_side(reference, loading) for reference in (a, *others)]
        progress("counting")
        counted = verbs.audit(*models, batch=how.batch)
        document = counted.to_dict()
        if roofline:
            from cbsurgeon.verbs.measuring import shares_of_latency

            progress("measuring this processor" if "cpu" in hardware.split(",") else "computing the roofline")
            document["roofline"] = shares_of_latency(
                counted, hardware=hardware.split(","), dtypes=dtypes, bandwidth=bandwidth, flops=flops
            )
        checked = []
        if cross_check:
            from cbsurgeon.verbs.measuring import cross_checked

            checked = cross_checked(models, progress=progress)
            document["cross_check"] = [found.to_dict() for found in checked]
    terminal.show(document)
    for found in checked:
        found.raise_if_failed()


def _dtypes(text: str) -> tuple[str, ...]:
    kinds = tuple(SHORT.get(word, word) for word in text.split(","))
    unknown = [kind for kind in kinds if kind not in SHORT.values()]
    if unknown:
        raise UsageError(
            f"--dtype does not take {unknown[0]!r}",
            code="CB-CLI-06",
            where=f"--dtype {text}",
            why=f"the types are {', '.join(SHORT.values())}",
            do=did_you_mean(unknown[0], (*SHORT, *SHORT.values()), "--dtype ") or "--dtype float32,float16",
        )
    return kinds


def _refuse_without(context: click.Context, roofline: bool) -> None:
    """Raise an error for an option of ``--roofline`` without ``--roofline``, which would have no effect."""
    source = click.core.ParameterSource.COMMANDLINE
    given = [
        name for name in ("hardware", "bandwidth", "flops", "dtype") if context.get_parameter_source(name) is source
    ]
    if given and not roofline:
        raise UsageError(
            f"--{given[0]} needs --roofline",
            code="CB-CLI-07",
            where=f"--{given[0]}",
            why="counts are the same on every device",
            do="add --roofline",
        )
