"""Options of a sweep: what varies, and what runs in each cell of the grid."""

from __future__ import annotations

from dataclasses import dataclass

from cbsurgeon.options.flags import option
from cbsurgeon.options.texts import duration, numbers, selectors, words
from cbsurgeon.vocabulary import DEFAULT_OPSET, SWEEP_HOSTS


@dataclass(frozen=True)
class SweepOptions:
    """The grid of :func:`cbsurgeon.sweep`, and the measurements and command of each cell."""

    op: tuple[str, ...] = option(("cb",), "Operators, such as cb,cb_s.", "--op", metavar="LIST", read=words, shown="cb")
    pos: tuple[str, ...] = option(
        ("end",), "Positions: front,mid,end.", "--pos", metavar="LIST", read=words, shown="end"
    )
    at: tuple[str, ...] = option(("mlp",), "Branches: mlp,msa,both.", "--at", metavar="LIST", read=words, shown="mlp")
    layers: tuple[str, ...] = option(
        ("upper",),
        "Selectors, such as all,upper,lower; give a selector that contains commas (0,2,4) in a separate --layers.",
        "--layers",
        metavar="LIST",
        read=selectors,
        repeatable=True,
        shown="upper",
    )
    seeds: tuple[int, ...] = option(
        (0,),
        "Seeds to run the command with, such as 0,1,2.",
        "--seeds",
        metavar="LIST",
        read=lambda text: numbers(text, 0),
        shown="0",
    )
    time: float | None = option(
        None,
        "Export every cell to ONNX and measure the operators' own time for this many seconds.",
        "--time",
        metavar="SECONDS",
        number=float,
        least=0.1,
        shown="not measured",
    )
    opset: int = option(DEFAULT_OPSET, "ONNX operator set of --time.")
    run: str | None = option(
        None,
        'Command to run in every cell and with every seed, such as "python train.py {model} --seed {seed} --out {out}".'
        " {model} is the file of the edited model, {recipe} the file of its recipe, {out} a folder for this run.",
        "--run",
        metavar="COMMAND",
    )
    metric: str | None = option(
        None,
        "Name of the number that the command writes into {out}/metrics.json, such as accuracy.",
        "--metric",
        metavar="NAME",
    )
    minimize: bool = option(False, "A smaller metric is better, as for a loss.", "--minimize")
    retries: int = option(
        1, "How often a failed or killed run is repeated.", "--retries", metavar="N", number=int, least=0, shown="1"
    )
    workers: int = option(
        1, "Number of processes that run the command.", "--workers", metavar="N", number=int, least=1, shown="1"
    )
    on: str = option(
        "here",
        "Where the workers run: here (this machine), or ray (the Ray cluster of RAY_ADDRESS, else a new one on this "
        "machine), each with one CPU and, if there are GPUs, one GPU.",
        "--on",
        choices=SWEEP_HOSTS,
        shown="here",
    )
    budget: float | None = option(
        None,
        "Start no run after this time, such as 40m; in Python, seconds. The first seed of every cell runs before any "
        "second seed. The table shows the finished runs, and the same command continues the sweep.",
        "--budget",
        metavar="TIME",
        read=duration,
        shown="until all are done",
    )
    storage: str | None = option(
        None,
        "Optuna storage of the runs, such as postgresql://user@host/name; machines with the same storage share a "
        "sweep.",
        "--storage",
        metavar="URL",
        shown="a SQLite file in the folder",
    )
